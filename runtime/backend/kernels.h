/* runtime/backend/kernels.h - the CPU kernels of one family, and the parameters that they take.
 *
 * Kernel files are compiled once per family; a table gathers each family's. A kernel does the share of one
 * part of the pool; none allocates, none waits.
 */
#ifndef RUNTIME_BACKEND_KERNELS_H
#define RUNTIME_BACKEND_KERNELS_H

#include "adapters/lora_ops_cpu.h"
#include "paged_kv/paged_attn.h"
#include "runtime/backend/backend.h"
#include "runtime/backend/matrix.h"

enum {
    RT_X_BYTES = 4096, /* of a row in one depth block: its block of a panel is 128 KiB and stays in L2 */
    RT_SUMS_BYTES = RT_X_BYTES / 2 / 32 * 4, /* behind it: its sums over runs of 32, for quantised weights */
    RT_X_STRIDE = RT_X_BYTES + RT_SUMS_BYTES + 64, /* an odd number of lines: rows spread over L1's sets */
    RT_ROWS_BLOCK = 516,           /* rows per pass: 43 tiles of 12 */
    RT_OPERANDS_FLOATS = RT_X_BYTES / 4 * RT_PANEL, /* a panel's depth block, widened or expanded */
    RT_WIDE_FLOATS = RT_OPERANDS_FLOATS + 2 * (RT_X_BYTES / 2 / 16) * RT_PANEL, /* its scales, minima too */
    RT_PATCH_STRIDE = 2 * RT_PANEL, /* a panel of gate's columns and one of up's, side by side */
    RT_SCRATCH_FLOATS = 2 * RT_WIDE_FLOATS + RT_ROWS_BLOCK * RT_PATCH_STRIDE
};

/* At most RT_ROWS_BLOCK rows of y = x W^T + bias. `packed` is shared by the parts: `pack` fills it, all of
 * `pack` must have ended when `dense` starts. */
typedef struct rt_dense {
    const rt_matrix *w;
    const float *bias; /* [n] or NULL */
    const float *x;
    size_t x_stride;
    float *y;
    size_t y_stride;
    uint32_t rows;
    void *packed; /* [depth blocks][rows] of RT_X_STRIDE bytes: 1024 float32, or 2048 bf16 where the family
                   * multiplies bf16 */
    float *scratch; /* [parts][RT_SCRATCH_FLOATS] */
    /* NULL, or w is gate above up, each of next->k columns, whole panels: no y is written, and
     * silu(gate) * up becomes the packed rows of the product with `next`. */
    const rt_matrix *next;
    void *next_packed;
} rt_dense;

typedef struct rt_fill {
    const void *src;
    rc_dtype src_type;
    size_t src_stride;
    uint32_t row, rows;
} rt_fill;

typedef struct rt_rows {
    const float *x;
    size_t x_stride;
    float *y;
    size_t y_stride;
    const float *weight; /* rms_norm */
    float factor;        /* epsilon, scale or divisor */
    uint32_t rows, width;
} rt_rows;

typedef struct rt_kernels {
    const char *name;
    uint32_t pass_rows; /* that one pass over bf16 or float32 takes at least, where there are twice as many */
    void (*pack)(const rt_dense *d, uint32_t part, uint32_t parts);
    void (*dense)(const rt_dense *d, uint32_t part, uint32_t parts);
    void (*quant_pack)(const rt_dense *d, uint32_t part, uint32_t parts); /* the same for quantised weights */
    void (*quant)(const rt_dense *d, uint32_t part, uint32_t parts);
    void (*fill)(rt_matrix *m, const rt_fill *f);
    void (*row)(const rt_matrix *m, uint32_t row, float scale, float *out); /* out[k] = scale * W[row][k] */
    void (*rms_norm)(const rt_rows *r, uint32_t part, uint32_t parts);
    void (*swiglu)(const rt_rows *r, uint32_t part, uint32_t parts);
    void (*add_scaled)(const rt_rows *r, uint32_t part, uint32_t parts); /* y += factor * x */
    void (*divide)(const rt_rows *r, uint32_t part, uint32_t parts);     /* y /= factor */
    void (*rope)(const rt_rope *r, uint32_t part, uint32_t parts);
    void (*lora_shrink)(const adapter_lora_run *r, uint32_t part, uint32_t parts);
    void (*lora_expand)(const adapter_lora_run *r, uint32_t part, uint32_t parts);
    void (*kv_write)(const kv_write *w, uint32_t part, uint32_t parts);
    void (*attention)(const kv_attn *a, uint32_t part, uint32_t parts, void *scratch);
} rt_kernels;

const rt_kernels *rt_kernels_portable(void);
const rt_kernels *rt_kernels_avx2(void);
const rt_kernels *rt_kernels_avx512(void);
const rt_kernels *rt_kernels_avx512_bf16(void);

#endif
