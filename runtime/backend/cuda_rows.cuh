/* runtime/backend/cuda_rows.cuh - what kernels of rows share: a row is a thread block. */
#ifndef RUNTIME_BACKEND_CUDA_ROWS_CUH
#define RUNTIME_BACKEND_CUDA_ROWS_CUH

#include "proto/cuda_port.cuh"
#include "runtime/backend/cuda_ops.h"

enum { THREADS = 256, WARPS = THREADS / 32, AT_ONCE = 4 };

__device__ __forceinline__ uint16_t bf16_of(float x)
{
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

/* Element i of a row: y and its rounded copy. */
__device__ __forceinline__ void put(const rt_cuda_rows &r, uint32_t row, uint32_t i, float value)
{
    r.y[row * r.y_stride + i] = value;
    if (r.pairs) r.pairs[row * r.pairs_stride + i] = bf16_of(value);
}

/* Products read whole strides: what is behind the width must be a number. */
__device__ __forceinline__ void clear_tail(const rt_cuda_rows &r, uint32_t row)
{
    uint32_t i = r.width + threadIdx.x;
    if (r.pairs && i < r.pairs_stride) r.pairs[row * r.pairs_stride + i] = 0;
}

__device__ __forceinline__ float sum_of_warp(float x)
{
    for (int other = 16; other; other /= 2) x += __shfl_xor_sync(0xffffffffu, x, other);
    return x;
}

/* y = the norm of x, of whose squares each thread has a sum; a thread reads elements THREADS apart. */
__device__ __forceinline__ void put_norm(const rt_cuda_rows &r, uint32_t row, const float *x, float squares,
                                         const float *weight, float epsilon, float *sums)
{
    squares = sum_of_warp(squares);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = squares;
    __syncthreads();
    squares = 0;
    for (uint32_t w = 0; w < WARPS; w++) squares += sums[w];
    float factor = 1 / sqrtf(squares / (float)r.width + epsilon);
    for (uint32_t i = threadIdx.x; i < r.width; i += THREADS) put(r, row, i, x[i] * factor * weight[i]);
    clear_tail(r, row);
}

/* The block's row of h += scale * the sum of the parts, each [width], in their order; y = its norm. Loads of
 * several elements are under way at once, which those behind a store could not be. */
template <class Part>
__device__ __forceinline__ void add_and_norm(const rt_cuda_residual &r, uint32_t row, uint32_t parts,
                                             Part part, float *sums)
{
    float *h = r.h + row * r.h_stride, squares = 0;
    uint32_t width = r.rows.width;
    for (uint32_t first = threadIdx.x; first < width; first += AT_ONCE * THREADS) {
        float sum[AT_ONCE] = {0};
        for (uint32_t p = 0; p < parts; p++) {
            const float *x = part(p);
#pragma unroll
            for (int j = 0; j < AT_ONCE; j++)
                if (first + j * THREADS < width) sum[j] += x[first + j * THREADS];
        }
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
            uint32_t i = first + j * THREADS;
            if (i >= width) break;
            float value = h[i] + r.scale * sum[j];
            h[i] = value;
            squares += value * value;
        }
    }
    if (r.weight) put_norm(r.rows, row, h, squares, r.weight, r.epsilon, sums);
}

#endif
