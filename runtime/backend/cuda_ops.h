/* runtime/backend/cuda_ops.h - the row ops of a CUDA device as launches; what they compute, backend.h says.
 *
 * All pointers are the device's. `pairs`, where an op has it, is NULL or gets y once more as bf16, rows
 * pairs_stride apart and zero behind the width: what the next product reads.
 */
#ifndef RUNTIME_BACKEND_CUDA_OPS_H
#define RUNTIME_BACKEND_CUDA_OPS_H

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rt_cuda_rows {
    const float *x;
    size_t x_stride;
    float *y;
    size_t y_stride;
    uint32_t rows, width;
    uint16_t *pairs;
    size_t pairs_stride;
} rt_cuda_rows;

cudaError_t rt_cuda_rms_norm(const rt_cuda_rows *r, const float *weight, float epsilon, cudaStream_t stream);
/* x: gate [width], then up [width] */
cudaError_t rt_cuda_swiglu(const rt_cuda_rows *r, cudaStream_t stream);

/* h += scale x; then, with a weight, y = the norm of h. */
typedef struct rt_cuda_residual {
    rt_cuda_rows rows;
    float *h;
    size_t h_stride;
    float scale, epsilon;
    const float *weight; /* [width] or NULL */
} rt_cuda_residual;
cudaError_t rt_cuda_add_residual(const rt_cuda_residual *r, cudaStream_t stream);

/* y /= divisor */
cudaError_t rt_cuda_divide(const rt_cuda_rows *r, float divisor, cudaStream_t stream);
/* pairs alone */
cudaError_t rt_cuda_round(const rt_cuda_rows *r, cudaStream_t stream);
/* y[i] = x[index[i]] */
cudaError_t rt_cuda_gather(const rt_cuda_rows *r, const uint32_t *index, cudaStream_t stream);

typedef struct rt_cuda_table {
    const void *data; /* [n][stride] */
    size_t stride;
    uint32_t n, is_bf16;
} rt_cuda_table;
/* y = scale * row (tokens[t] - first) of the table, zero where it has none. A token below 0 is still to come:
 * before[~token]. */
cudaError_t rt_cuda_embed(const rt_cuda_rows *r, const rt_cuda_table *table, const int32_t *tokens,
                          const int32_t *before, uint32_t first, float scale, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
