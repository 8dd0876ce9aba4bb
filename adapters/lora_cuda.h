/* adapters/lora_cuda.h - y += scaling * B (A x) on a CUDA device, rows grouped by adapter slot.
 *
 * An adapter lies in device memory as it was loaded (A [rank][in], B [out][rank], row-major, true rank); a
 * table in device memory says for each (slot, layer, linear) which deltas there are. The host cuts a step's
 * segments into items of at most ADAPTER_CUDA_ROWS rows of one slot, once a step; every linear of every layer
 * uses them.
 *
 *     shrink   s[row][delta][r] = A x     a warp has two r of one delta and the item's rows: A is read once
 *     expand   y[row][column] += scaling * (B s)     a thread has one column and the item's rows
 *
 * Exact  s[r]: lane l sums k = 128 i + 4 l .. + 3 in increasing order, then the lanes fold in one tree. A
 *        column's sum runs over r in increasing order. No bit depends on the other rows, on how segments are
 *        cut or on alignment. Matrices and x are read four elements at once where width, stride and address
 *        allow it.
 * Source Punica SGMV (arXiv 2310.18547) sec. 4.
 */
#ifndef ADAPTERS_LORA_CUDA_H
#define ADAPTERS_LORA_CUDA_H

#include <cuda_runtime_api.h>

#include "adapters/lora_ops.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { ADAPTER_CUDA_ROWS = 8, ADAPTER_CUDA_DELTAS = 4 /* of a linear: q k v are three */ };

typedef struct adapter_cuda_delta {
    const void *a, *b; /* device */
    uint32_t in, out, out_offset, rank;
    float scaling;
    uint32_t is_bf16; /* else float32 */
} adapter_cuda_delta;

/* Of one (slot, layer, linear). */
typedef struct adapter_cuda_linear {
    adapter_cuda_delta deltas[ADAPTER_CUDA_DELTAS];
    uint32_t count;
} adapter_cuda_linear;

/* A step's segments as words; where the parts begin is known from the number of items, which is rounded up to
 * a power of two by some that do nothing: launches follow from a number that few steps change. */
typedef struct adapter_cuda_plan {
    uint32_t items;
    uint32_t words;
} adapter_cuda_plan;

size_t adapter_cuda_plan_words(uint32_t rows_max);
/* rows: of the step, of which at most all are adapted. */
void adapter_cuda_pack(const adapter_plan *plan, uint32_t rows, uint32_t *words, adapter_cuda_plan *out);

/* One linear of a step, after the base product and its bias are in y. */
typedef struct adapter_cuda_run {
    const adapter_cuda_linear *device_table; /* [slot][layer][linear] */
    uint32_t layers, linears;                /* of the table */
    uint32_t layer, linear;
    uint32_t rank_max, out_max; /* of any delta that the linear may have */
    const float *device_x;
    size_t x_stride;
    float *device_y;
    size_t y_stride;
    float *device_s; /* [adapter_cuda_scratch_floats] */
} adapter_cuda_run;

static inline size_t adapter_cuda_scratch_floats(uint32_t rows_max, uint32_t rank_max)
{
    return (size_t)rows_max * ADAPTER_CUDA_DELTAS * rank_max;
}

cudaError_t adapter_cuda_apply(const adapter_cuda_run *r, const adapter_cuda_plan *plan,
                               const uint32_t *device_words, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
