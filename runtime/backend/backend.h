/* runtime/backend/backend.h - what a device can do: one versioned table of functions.
 *
 * The CPU's table is linked in; another device's comes from a plugin. The model's layer loop is
 * written once against this table. Activations are float32 in the interface of every device-neutral
 * op; what a backend rounds to on the way into a product (bf16 operands) is its own affair, fixed by
 * dtype and device, never by the batch.
 *
 * Memory   weights, K/V and activations live in the backend; the host reads logits, or what was picked from
 *          them. Nothing is allocated by the step's ops (from `embed` on).
 * Threads  ops are called by one thread (the engine's) and run in order. adapter_attach may run on
 *          another thread at the same time as ops that do not use that slot.
 * Exact    CPU: a row of any op's output depends on that row's inputs alone, bit for bit (design: same
 *          request, same bits); sums over K have one fixed order whatever T is.
 */
#ifndef RUNTIME_BACKEND_BACKEND_H
#define RUNTIME_BACKEND_BACKEND_H

#include <stdbool.h>

#include "adapters/lora_ops.h"
#include "adapters/weights.h"
#include "paged_kv/paged_attn.h"
#include "proto/dtype.h"
#include "proto/rc.h"
#include "runtime/backend/group.h"
#include "runtime/backend/pick.h"
#include "runtime/backend/quant.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { RT_BACKEND_ABI = 14 };

typedef struct rt_device rt_device; /* an open backend */
typedef struct rt_matrix rt_matrix; /* a weight matrix [N][K] in the backend's own layout */

typedef struct rt_device_options {
    uint32_t threads;    /* 0: all cores */
    const char *kernels; /* CPU family: "auto", "portable", "avx2", "avx512", "avx512_bf16" */
    uint32_t rows_max;   /* T of any step */
    uint32_t width_max;  /* widest K or N of any product but the head's */
    uint32_t sums_width; /* of the rows that are summed over ranks */
    uint32_t slots_max;  /* adapter slots */
    uint32_t layers;     /* of the model; an adapter slot has one entry for each */
    uint32_t linears;    /* adaptable linears per layer */
    uint32_t lora_rank_max;
    kv_layout kv; /* blocks' geometry */
    uint32_t kv_blocks;       /* that open takes; 0: kv_create will */
    uint32_t heads;           /* query heads */
    uint32_t world;           /* ranks of the group; 0 or 1: alone */
    rt_group *group;          /* NULL: alone; else the other ranks, each with a shard of its own. Borrowed */
    uint32_t ordinal;         /* which of the host's devices; the CPU is one */
    uint32_t table_words_max; /* block ids that the sequences of a step have in all */
    size_t host_floats;       /* most that host_rows is asked for, and logits that pick is given at once */
    uint32_t draws_max;       /* rows of a step for which a token is drawn */
    uint32_t lists_max;   /* words of the lists that such a row may bring to `pick` (rt_pick_list_words) */
    bool eager;           /* no graphs of launches */
    bool plain_sums;      /* over ranks: no kernels of our own for them */
    bool batch_invariant; /* a row's bits must not depend on the batch, at some cost; the CPU's never do */
} rt_device_options;

enum { RT_STEPS_AHEAD = 1 }; /* that may begin before it is asked what was picked in the last */

/* A step, told before its ops are called, which then name the plans by these pointers. */
typedef struct rt_step_plan {
    uint32_t rows;
    const int32_t *tokens;     /* [rows], or what is to come of the step before */
    const kv_plan *kv;
    const adapter_plan *adapters;
    /* Of the last layer: what keep_rows is called with, and the plans from then on. The same plans where all
     * rows are kept. */
    const uint32_t *kept; /* [kept_count] */
    uint32_t kept_count;
    const kv_plan *kept_kv;
    const adapter_plan *kept_adapters;
    bool is_picked; /* `pick` and `step_end` will be called; else the kept rows' logits will be asked for */
    const rt_pick *picks; /* [kept_count] of the kept rows' logits; rank 0's alone are read */
} rt_step_plan;

/* A product y = x W^T (+ bias), and the adapters' deltas on top. */
typedef struct rt_linear {
    const rt_matrix *weight; /* [N][K] */
    const float *bias;       /* [N] or NULL */
    const float *x;          /* [rows][K] */
    size_t x_stride;
    float *y; /* [rows][N] */
    size_t y_stride;
    uint32_t rows;
    const adapter_plan *adapters; /* NULL or no segments: base only */
    uint32_t layer, linear;       /* which deltas of a slot apply */
} rt_linear;

typedef struct rt_rope {
    float *q, *k; /* [rows][stride]; heads at h*D; rotated in place, rotate-half order */
    size_t stride;
    uint32_t rows, heads, kv_heads, head_dim;
    const uint32_t *positions; /* [rows] */
    const float *cos, *sin;    /* [positions][D/2] */
} rt_rope;

/* h += scale * (x summed over the device's group); then, with a weight, y = rms_norm of h. */
typedef struct rt_residual {
    float *h; /* [rows][width], as are x and y */
    size_t h_stride;
    float *x; /* anything afterwards */
    size_t x_stride;
    float scale;
    uint32_t rows, width;
    const float *weight; /* [width], or NULL: y stays as it is */
    float epsilon;
    float *y;
    size_t y_stride;
} rt_residual;

/* A task for all threads: called once for each part in [0, parts). */
typedef void (*rt_task)(void *arg, uint32_t part, uint32_t parts);

typedef struct rt_backend {
    uint32_t abi;
    const char *name;

    RC_MUST_CHECK rc_code (*open)(const rt_device_options *o, rt_device **out, rc_msg *msg);
    void (*close)(rt_device *d);
    const char *(*describe)(const rt_device *d); /* "avx512, 2 threads"; for the start-up line */
    /* Bytes that open takes with these options, K/V included. */
    size_t (*bytes)(const rt_device_options *o);

    /* Plain float32 arrays on the device (activations, norms, tables); 64-byte aligned, zeroed. */
    RC_MUST_CHECK rc_code (*buffer_create)(rt_device *d, size_t floats, float **out, rc_msg *msg);
    void (*buffer_destroy)(rt_device *d, float *buffer, size_t floats);
    /* Copies host floats into a buffer, or into part of one (norms, biases, tables; at load). Any threads at
     * once on disjoint parts. */
    void (*buffer_write)(rt_device *d, float *buffer, const float *src, size_t floats);

    /* A matrix of `stored` precision (RC_F32 or RC_BF16). Rows are filled by matrix_fill, from any
     * threads at once on disjoint row ranges that start at multiples of 32. src is row-major,
     * src_stride elements a row, and need not be aligned. A bf16 matrix rounds; an F32 one is exact. */
    size_t (*matrix_bytes)(uint32_t n, uint32_t k, rc_dtype stored);
    RC_MUST_CHECK rc_code (*matrix_create)(rt_device *d, uint32_t n, uint32_t k, rc_dtype stored,
                                           rt_matrix **out, rc_msg *msg);
    void (*matrix_fill)(rt_matrix *m, uint32_t row, uint32_t rows, const void *src, rc_dtype src_type,
                        size_t src_stride);
    void (*matrix_destroy)(rt_device *d, rt_matrix *m);

    /* A matrix in a quantised format (quant.h), K a multiple of its group, in about the bytes of a file.
     * rounds_x: products may round x to bf16. quant_fill takes one row as a GGUF file stores it, once, from
     * any threads at once on disjoint runs of 32 rows. */
    size_t (*quant_bytes)(uint32_t n, uint32_t k, const rt_quant *format, bool rounds_x);
    RC_MUST_CHECK rc_code (*quant_create)(rt_device *d, uint32_t n, uint32_t k, const rt_quant *format,
                                          bool rounds_x, rt_matrix **out, rc_msg *msg);
    void (*quant_fill)(rt_matrix *m, uint32_t row, const void *blocks);
    /* One matrix of 2 or 3 quantised ones below each other, each in its own format, with one K and rounds_x;
     * all but the last have whole groups of 32 rows. Takes them over unless it fails. NULL: not on this
     * device. */
    RC_MUST_CHECK rc_code (*quant_join)(rt_device *d, rt_matrix *const *parts, uint32_t count,
                                        rt_matrix **out, rc_msg *msg);

    /* Brings an adapter's deltas into a slot, at true rank / drops them. dtype: how A and B are kept. */
    RC_MUST_CHECK rc_code (*adapter_attach)(rt_device *d, uint32_t slot, const adapter_weights *w,
                                            rc_dtype stored, rc_msg *msg);
    void (*adapter_detach)(rt_device *d, uint32_t slot);

    /* K/V of a device that was opened with none, when it is known what everything else takes of its memory;
     * once, before the first step. NULL: open takes it. */
    RC_MUST_CHECK rc_code (*kv_create)(rt_device *d, uint32_t blocks, rc_msg *msg);
    void *(*kv_buffer)(rt_device *d);
    /* The first `rows` rows of a block, in every layer, to another, whose later rows may change, too. */
    void (*kv_copy_rows)(rt_device *d, uint32_t from_block, uint32_t to_block, uint32_t rows);

    /* The step's ops. */
    /* First of a step: a device with memory of its own sends all plans there at once. Gives the number of
     * rows that the ops are to be called for, p->rows or, where all rows are kept and picked from, some more,
     * which are nobody's. NULL: nothing to do, and p->rows. */
    uint32_t (*step_begin)(rt_device *d, const rt_step_plan *p);
    /* table holds the rows of tokens first, first + 1, ...; any other token's row of h becomes zero. */
    void (*embed)(rt_device *d, const rt_matrix *table, uint32_t first, const int32_t *tokens, uint32_t rows,
                  float scale, float *h, size_t h_stride);
    void (*rms_norm)(rt_device *d, const float *x, size_t x_stride, const float *weight, float epsilon,
                     uint32_t rows, uint32_t width, float *y, size_t y_stride);
    void (*linear)(rt_device *d, const rt_linear *l);
    /* linear, swiglu, linear, without leaving what is between in memory: down->x and gate_up->y hold anything
     * afterwards. False, and always where NULL: nothing was done, and the three are to do it. */
    bool (*feed_forward)(rt_device *d, const rt_linear *gate_up, const rt_linear *down);
    /* Rotates q and k first, unless rope is NULL; then its k is w's. k holds anything afterwards. */
    void (*kv_write)(rt_device *d, const rt_rope *rope, const kv_write *w);
    void (*attention)(rt_device *d, const kv_attn *a);
    /* y[t][i] = silu(gate_up[t][i]) * gate_up[t][width + i] */
    void (*swiglu)(rt_device *d, const float *gate_up, size_t stride, uint32_t rows, uint32_t width, float *y,
                   size_t y_stride);
    void (*add_residual)(rt_device *d, const rt_residual *r);
    /* x[i] = x[rows[i]] for i < count, in place: rows increase. */
    void (*keep_rows)(rt_device *d, float *x, size_t stride, uint32_t width, const uint32_t *rows,
                      uint32_t count);
    /* x /= divisor, a true division; rows of `width` at `stride` */
    void (*divide)(rt_device *d, float *x, size_t stride, uint32_t rows, uint32_t width, float divisor);
    /* Of a device in a group: what its collectives need first. All ranks at once; NULL: nothing to do. */
    RC_MUST_CHECK rc_code (*join)(rt_device *d, rc_msg *msg);
    /* Weights are there, ranks have met, no step has begun: the products that steps will have, each with as
     * many rows as there can be, so that the device may find out how it does them best. x and y hold anything
     * afterwards. NULL: nothing to do. */
    void (*tune)(rt_device *d, const rt_linear *products, uint32_t count);
    /* Over all ranks of the device's group, which call them in one order (group.h says what they give, and in
     * which order a sum is made); no-ops for a device that is alone. */
    void (*all_reduce)(rt_device *d, float *x, size_t stride, uint32_t rows, uint32_t width);
    void (*gather_columns)(rt_device *d, float *y, size_t stride, uint32_t rows, uint32_t width);
    /* Host view of `rows` rows of a device buffer, valid until the next op that writes them. */
    const float *(*host_rows)(rt_device *d, const float *buffer, size_t stride, uint32_t rows);

    /* Sampling on the device; all NULL: the host does it, from host_rows. pick: of logits [rows][vocab],
     * which are those of the step's picks [first, first + rows). step_end: last of a step that is picked;
     * what was is on its way to the host then, and its tokens to all ranks, whose next step may read them.
     * picked: waits for the oldest such step that was not asked for yet, at most RT_STEPS_AHEAD before the
     * last, and gives the host all of its picks, *stride apart, until the next step_begin: the token and the
     * best behind it. A token of -1 is for the host to do: its lists are longer than lists_max. Of a group
     * rank 0 picks; for others picked only waits. */
    void (*pick)(rt_device *d, const float *logits, uint32_t vocab, uint32_t first, uint32_t rows);
    void (*step_end)(rt_device *d);
    const mica_top *(*picked)(rt_device *d, uint32_t *stride);

    /* RC_OK, or why no result since the last RC_OK can be believed: the device failed, or another rank of
     * its group did. For good: a device that failed can only be closed. Asked once a step, after its results
     * are on the host; waits for nothing. */
    RC_MUST_CHECK rc_code (*status)(rt_device *d, rc_msg *msg);

    /* Host work spread over the device's threads (sampling). */
    void (*parallel)(rt_device *d, rt_task task, void *arg);
    uint32_t (*threads)(const rt_device *d);
} rt_backend;

const rt_backend *rt_backend_cpu(void);

#ifdef __cplusplus
}
#endif
#endif
