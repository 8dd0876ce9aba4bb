/* runtime/backend/cuda_device.h - a CUDA device that is open; shared by the files of the plugin.
 *
 *     cuda.c           the plugin, open and close      cuda_upload.c    pinned stages
 *     cuda_matrix.c    weights, their products         cuda_adapters.c  slots
 *     cuda_blas.c      products by cuBLASLt            cuda_tune.c      by which of its algorithms
 *     cuda_few.cu      those with few rows of x
 *     cuda_step.c      the step's descriptor and ops   cuda_group.c     ranks, by NCCL
 *     cuda_sum.c       their sums                      cuda_ops.cu      row kernels
 *
 * Failure  the first CUDA error is kept, with what met it; from then on the step's ops do nothing, and status
 *          says it. A rank that fails says so to its group at once, since the others wait for it.
 * Threads  the step's ops: the thread that called step_begin. Loading: any, under `lock`.
 */
#ifndef RUNTIME_BACKEND_CUDA_DEVICE_H
#define RUNTIME_BACKEND_CUDA_DEVICE_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <pthread.h>
#include <stdatomic.h>

#include "adapters/lora_cuda.h"
#include "paged_kv/paged_attn_cuda.h"
#include "runtime/backend/backend.h"
#include "runtime/backend/cuda_few.h"
#include "runtime/backend/cuda_ops.h"
#include "runtime/backend/cuda_pick.h"
#include "runtime/backend/cuda_quant.h"
#include "runtime/backend/cuda_sum.h"
#include "runtime/backend/pool.h"

enum {
    RT_CUDA_ALIGN = 8,            /* elements: rows of matrices and of bf16 x begin on 16 bytes */
    RT_CUDA_WORKSPACE = 32 << 20, /* cuBLASLt's, what NVIDIA recommends for Hopper */
    RT_CUDA_STAGES = 4,           /* pinned, for loading: about what the loading threads fill at a time */
    RT_CUDA_STAGE_BYTES = 4 << 20,
    RT_CUDA_TILE = 64,       /* rows of every product, with batch_invariant */
    RT_CUDA_DESCRIPTORS = 2, /* the host fills one while the other is still being sent */
    RT_CUDA_PICKED = RT_STEPS_AHEAD + 1,
    RT_CUDA_GRAPHS = 64,
    RT_CUDA_GRAPH_ROWS = 512, /* of a step that is one: with more the launches are little beside the work */
    RT_CUDA_ALGOS = 8,        /* of a product, that are tried at start */
    RT_CUDA_PARTS = 3,
    RT_CUDA_MARKS = 4,           /* within what a rank has launched */
    RT_CUDA_MARK_LAUNCHES = 128, /* from one to the next */
    RT_CUDA_EXPANDED = 32 << 20, /* bytes of codes that are made numbers at a time */
    RT_CUDA_CODES_MOST = 64      /* rows: with more, codes become numbers first; an estimate */
};

/* The step's plans on the device: offsets in words. */
typedef struct rt_cuda_plans {
    const kv_plan *kv; /* by whose addresses ops name them */
    const adapter_plan *adapters;
    kv_cuda_plan kv_parts;
    adapter_cuda_plan adapter_parts;
    uint32_t kv_at, adapters_at;
} rt_cuda_plans;

typedef struct rt_cuda_step {
    uint32_t rows;          /* with those that are nobody's */
    rt_cuda_plans plans[2]; /* of all rows; of those that are kept, if they are not all */
    uint32_t tokens_at, kept_at, kept_count;
    uint32_t picks_at, picks_count, picks_rows, picked_stride;
    uint32_t drawn_rows; /* picks of all ranks' step, with those that are nobody's; 0: it is not picked */
} rt_cuda_step;

/* What was picked in a step that has been launched, on its way to the host. */
typedef struct rt_cuda_picked {
    mica_top *picked; /* [rows_max][1 + RT_TOPS_MAX], pinned */
    uint32_t count, stride;
    cudaEvent_t there;
} rt_cuda_picked;

/* What the launches of a step follow from, where all its rows' logits are wanted. */
typedef struct rt_cuda_launches {
    uint32_t rows, kv_items, kv_merges, adapter_items;
} rt_cuda_launches;

typedef struct rt_cuda_graph {
    rt_cuda_launches launches;
    uint32_t used; /* in which step last; 0: it is none */
    cudaGraphExec_t exec;
} rt_cuda_graph;

/* Algorithms of products of one shape, by the number of rows. */
typedef struct rt_cuda_shape {
    struct rt_cuda_shape *next;
    uint32_t n, k;
    rc_dtype stored;
    bool has_bias;
    uint8_t *alignments;         /* [rows_max + 1], and of a tile's rows: of y, at least; 0: not known yet */
    cublasLtMatmulAlgo_t *algos; /* [rows_max + 1] */
    bool takes_few[RT_CUDA_FEW_ROWS + 1]; /* of so many rows: by our own kernel instead */
} rt_cuda_shape;

struct rt_matrix { /* row-major, rows `stride` elements apart */
    rt_device *device;
    uint32_t n, k;
    size_t stride;
    rc_dtype stored;
    const rt_quant *quant; /* NULL, or what its rows come in */
    void *data;
    rt_cuda_shape *shapes[2]; /* without and with a bias */
    /* Kept as codes: data is panels. Shapes are those of as many rows as become bf16 at a time. */
    bool has_codes;
    rt_cuda_codes codes;
    rt_cuda_shape *rest_shapes[2]; /* of the last rows, where they are fewer */
    uint8_t *packed;               /* the panels on the host, until all rows are there */
    atomic_uint filled;            /* rows */
    /* Or matrices below each other. */
    rt_matrix *parts[RT_CUDA_PARTS];
    uint32_t parts_count;
};

struct rt_device {
    rt_device_options options;
    char name[320];
    kv_cuda_limits limits;
    cudaStream_t stream, uploads;
    cublasLtHandle_t blas;
    void *workspace;
    uint16_t *expanded; /* RT_CUDA_EXPANDED: rows of codes as bf16 */
    rt_cuda_shape *shapes;
    rt_pool *pool;
    /* on the device */
    void *kv;
    float *scratch; /* [rows_max][width_max + RT_CUDA_ALIGN]: x in bf16; rows on the move */
    void *attention;
    float *lora;
    uint32_t *words;            /* the step's descriptor */
    adapter_cuda_linear *table; /* [slots_max][layers][linears] */
    void **slots;               /* [slots_max] an adapter's matrices, on the device */
    float *weights;             /* [host_floats][2] of what is drawn from; NULL: another rank picks */
    mica_top *picked;           /* [rows_max][1 + RT_TOPS_MAX] */
    int32_t *drawn, *before;    /* [rows_max] tokens of the step that is drawn, and of the one before */
    /* on the host, pinned */
    float *host;           /* [host_floats] */
    rt_cuda_picked given[RT_CUDA_PICKED];
    uint32_t ended, asked; /* steps: by step_end, by `picked` */
    uint32_t *descriptors[RT_CUDA_DESCRIPTORS];
    cudaEvent_t sent[RT_CUDA_DESCRIPTORS], done;
    void *stages[RT_CUDA_STAGES];
    uint32_t free_stages; /* bits; under lock */
    uint32_t turn;        /* of the descriptors: steps so far */
    rt_cuda_step step;
    rt_cuda_graph graphs[RT_CUDA_GRAPHS], *graph; /* the step's, from its beginning to its end; or NULL */
    bool captures, replays;  /* ops are recorded in it; they are in it, and need not be launched */
    pthread_mutex_t capture; /* held while ops are recorded: nothing else may be put into the stream */
    /* What of the last op lies in scratch as bf16, for the product that reads it next; NULL: nothing. */
    const float *rounded;
    uint32_t rounded_rows, rounded_width;
    /* ranks */
    ncclComm_t comm; /* NULL: alone, or not joined */
    cudaEvent_t marks[RT_CUDA_MARKS];
    uint32_t marked, launched; /* marks so far; launches since the last, about */
    /* With batch_invariant: x and y of a product's tile, and how many columns y has room for. */
    void *tile_x;
    float *tile_y;
    uint32_t tile_columns;
    float *sums;   /* what is gathered, [world][most columns][rows] */
    float *summed; /* [rows_max][sums_width] */
    /* Sums in one launch with what follows: of up to fused_rows rows, 0: of none. The window is NCCL's. */
    uint32_t fused_rows;
    void *window_memory;
    ncclWindow_t window;
    uint32_t *given_up; /* on the host, pinned: see rt_cuda_peers */
    rt_cuda_peers peers;
    pthread_mutex_t lock;
    pthread_cond_t stage_free;
    atomic_bool has_failed;
    rc_msg why; /* under lock */
};

static inline size_t rt_cuda_padded(size_t n)
{
    return (n + RT_CUDA_ALIGN - 1) / RT_CUDA_ALIGN * RT_CUDA_ALIGN;
}

/* Whether ops shall launch what they do. */
static inline bool rt_cuda__launches(const rt_device *d)
{
    return !d->has_failed && !d->replays;
}

/* cuda.c */
/* Makes the device this thread's. */
void rt_cuda__enter(rt_device *d);
/* The same at its end: gives the collectives up, which may never come, and waits for what is under way. */
void rt_cuda__rest(rt_device *d);
/* Keeps what failed. `what` is an op's name. */
void rt_cuda__check(rt_device *d, cudaError_t error, const char *what);
void rt_cuda__fail(rt_device *d, const char *line);
/* The same, where another rank has failed and all know it. */
void rt_cuda__lost(rt_device *d, const rc_msg *why);
/* RC_OK; RESOURCE_EXHAUSTED; INTERNAL. */
RC_MUST_CHECK rc_code rt_cuda__code(const rt_device *d, cudaError_t error, const char *what, rc_msg *msg);
RC_MUST_CHECK rc_code rt_cuda__alloc(rt_device *d, size_t bytes, void **out, const char *what, rc_msg *msg);

/* cuda_upload.c */
RC_MUST_CHECK rc_code rt_cuda__stages_create(rt_device *d, rc_msg *msg);
void rt_cuda__stages_destroy(rt_device *d);
/* A stage of RT_CUDA_STAGE_BYTES; waits for one. */
void *rt_cuda__stage_take(rt_device *d);
/* Copies its first bytes to the device, waits until they are there, and gives the stage back. */
cudaError_t rt_cuda__stage_send(rt_device *d, void *stage, void *to, size_t bytes);
/* One row of k elements, rounded to or widened to `stored`. */
void rt_cuda__convert(const void *from, rc_dtype type, uint32_t k, rc_dtype stored, void *to);
rc_code rt_cuda__buffer_create(rt_device *d, size_t floats, float **out, rc_msg *msg);
void rt_cuda__buffer_destroy(rt_device *d, float *buffer, size_t floats);
void rt_cuda__buffer_write(rt_device *d, float *buffer, const float *src, size_t floats);

/* cuda_matrix.c */
size_t rt_cuda__matrix_bytes(uint32_t n, uint32_t k, rc_dtype stored);
rc_code rt_cuda__matrix_create(rt_device *d, uint32_t n, uint32_t k, rc_dtype stored, rt_matrix **out,
                               rc_msg *msg);
void rt_cuda__matrix_fill(rt_matrix *m, uint32_t row, uint32_t rows, const void *src, rc_dtype src_type,
                          size_t src_stride);
void rt_cuda__matrix_destroy(rt_device *d, rt_matrix *m);
void rt_cuda__linear(rt_device *d, const rt_linear *l);

/* cuda_blas.c: products with a matrix that has rows, without adapters. x as the weight is stored. */
/* The shape's entry, made where there is none. NULL: no memory. */
rt_cuda_shape *rt_cuda__shape(rt_device *d, uint32_t n, uint32_t k, rc_dtype stored, bool has_bias);
void rt_cuda__shapes_destroy(rt_device *d);
/* What cuBLASLt's heuristic proposes, at most `most`, the best by its estimate first. */
cublasStatus_t rt_cuda__algos(rt_device *d, const rt_linear *l, size_t x_stride, uint32_t most,
                              cublasLtMatmulAlgo_t *out, uint32_t *count);
/* algo, here and below: NULL for cuda_few.h's. */
cublasStatus_t rt_cuda__multiply_by(rt_device *d, const rt_linear *l, const void *x, size_t x_stride,
                                    const cublasLtMatmulAlgo_t *algo);
/* From now on for as many rows as l has. */
void rt_cuda__keep_algo(const rt_linear *l, const cublasLtMatmulAlgo_t *algo);
/* By the algorithm that is kept, or else by the heuristic's first, which is kept then. */
cublasStatus_t rt_cuda__multiply(rt_device *d, const rt_linear *l, const void *x, size_t x_stride);

/* cuda_tune.c */
void rt_cuda__tune(rt_device *d, const rt_linear *products, uint32_t count);

/* cuda_quant.c */
size_t rt_cuda__quant_bytes(uint32_t n, uint32_t k, const rt_quant *format, bool rounds_x);
rc_code rt_cuda__quant_create(rt_device *d, uint32_t n, uint32_t k, const rt_quant *format, bool rounds_x,
                              rt_matrix **out, rc_msg *msg);
rc_code rt_cuda__quant_join(rt_device *d, rt_matrix *const *parts, uint32_t count, rt_matrix **out,
                            rc_msg *msg);
void rt_cuda__quant_fill(rt_matrix *m, uint32_t row, const void *blocks);
/* Of a product with many rows of x the rows of W from n on that become numbers at a time, as a product of its
 * own with `some`. */
rt_linear rt_cuda__codes_piece(rt_device *d, const rt_linear *l, uint32_t n, rt_matrix *some);
/* x: bf16 */
cublasStatus_t rt_cuda__codes_product(rt_device *d, const rt_linear *l, const void *x, size_t x_stride);

/* cuda_adapters.c */
rc_code rt_cuda__adapter_attach(rt_device *d, uint32_t slot, const adapter_weights *w, rc_dtype stored,
                                rc_msg *msg);
void rt_cuda__adapter_detach(rt_device *d, uint32_t slot);

/* cuda_step.c */
bool rt_cuda__picks(const rt_device_options *o); /* whether this rank does */
size_t rt_cuda__picked_bytes(const rt_device_options *o);
size_t rt_cuda__descriptor_words(const rt_device_options *o, const kv_cuda_limits *l);
uint32_t rt_cuda__step_begin(rt_device *d, const rt_step_plan *p);
void rt_cuda__kv_copy_rows(rt_device *d, uint32_t from_block, uint32_t to_block, uint32_t rows);
void rt_cuda__embed(rt_device *d, const rt_matrix *table, uint32_t first, const int32_t *tokens,
                    uint32_t rows, float scale, float *h, size_t h_stride);
void rt_cuda__norm(rt_device *d, const float *x, size_t x_stride, const float *weight, float epsilon,
                   uint32_t rows, uint32_t width, float *y, size_t y_stride);
void rt_cuda__kv_write(rt_device *d, const rt_rope *rope, const kv_write *w);
void rt_cuda__attention(rt_device *d, const kv_attn *a);
void rt_cuda__gated(rt_device *d, const float *gate_up, size_t stride, uint32_t rows, uint32_t width,
                    float *y, size_t y_stride);
void rt_cuda__add_residual(rt_device *d, const rt_residual *r);
void rt_cuda__keep_rows(rt_device *d, float *x, size_t stride, uint32_t width, const uint32_t *rows,
                        uint32_t count);
void rt_cuda__divided(rt_device *d, float *x, size_t stride, uint32_t rows, uint32_t width, float divisor);
void rt_cuda__pick(rt_device *d, const float *logits, uint32_t vocab, uint32_t first, uint32_t rows);
void rt_cuda__step_end(rt_device *d);
const mica_top *rt_cuda__picked(rt_device *d, uint32_t *stride);
const float *rt_cuda__host_rows(rt_device *d, const float *buffer, size_t stride, uint32_t rows);

/* cuda_graph.c */
bool rt_cuda__has_graph(const rt_device *d, const rt_step_plan *p);
uint32_t rt_cuda__padded_rows(const rt_device *d, uint32_t rows);
/* Once the step's descriptor is under way; when all that it launches was launched. */
void rt_cuda__graph_begin(rt_device *d);
void rt_cuda__graph_end(rt_device *d);
void rt_cuda__graphs_destroy(rt_device *d);

/* cuda_group.c */
size_t rt_cuda__sums_bytes(const rt_device_options *o);
rc_code rt_cuda__join(rt_device *d, rc_msg *msg);
void rt_cuda__leave(rt_device *d); /* gives the collectives up, so that nobody waits for this rank */
/* summed [rows][width] = x's sum over the ranks, by NCCL */
void rt_cuda__sum(rt_device *d, const float *x, size_t stride, uint32_t rows, uint32_t width);
void rt_cuda__all_reduce(rt_device *d, float *x, size_t stride, uint32_t rows, uint32_t width);
void rt_cuda__gather_columns(rt_device *d, float *y, size_t stride, uint32_t rows, uint32_t width);
/* The first `count` of drawn: rank 0's to all. */
void rt_cuda__spread_drawn(rt_device *d, uint32_t count);
rc_code rt_cuda__status(rt_device *d, rc_msg *msg);
/* Until the stream has come to `event`, or the device or its group has failed. */
void rt_cuda__wait(rt_device *d, cudaEvent_t event);
/* Before about so many launches of a step: waits, looking at the group, while too many are under way. */
void rt_cuda__pace(rt_device *d, uint32_t launches);

/* cuda_sum.c */
size_t rt_cuda__window_bytes(const rt_device_options *o);
/* All ranks at once, when they have met. */
RC_MUST_CHECK rc_code rt_cuda__sums_prepare(rt_device *d, rc_msg *msg);
void rt_cuda__sums_close(rt_device *d); /* what was launched has ended */
void rt_cuda__sum_residual(rt_device *d, const rt_cuda_residual *r);

#endif
