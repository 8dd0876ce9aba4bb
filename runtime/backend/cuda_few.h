/* runtime/backend/cuda_few.h - products with few rows of x on a CUDA device: y = x W^T (+ bias), where all
 * that takes time is reading W once. One of the ways of a product among cuBLASLt's (cuda_tune.c).
 *
 * All pointers are the device's. Rows of W and x begin on 16 bytes and may be read up to the next 16.
 */
#ifndef RUNTIME_BACKEND_CUDA_FEW_H
#define RUNTIME_BACKEND_CUDA_FEW_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { RT_CUDA_FEW_ROWS = 8 };

typedef struct rt_cuda_few {
    const void *w; /* [n][w_stride], elements of one type with x: bf16 or float32 */
    size_t w_stride;
    const void *x; /* [rows][x_stride] */
    size_t x_stride;
    const float *bias; /* [n] or NULL */
    float *y;          /* [rows][y_stride] */
    size_t y_stride;
    uint32_t n, k;
} rt_cuda_few;

/* As decode steps have them: 1, 2, 4, 8. */
static inline bool rt_cuda_few_takes(uint32_t rows)
{
    return rows && rows <= RT_CUDA_FEW_ROWS && !(rows & (rows - 1));
}
cudaError_t rt_cuda_few_multiply(const rt_cuda_few *p, uint32_t rows, bool is_bf16, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
