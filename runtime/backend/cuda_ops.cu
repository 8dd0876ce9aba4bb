/* A row is a thread block, or, where rows are independent elements, a run of 256 of them. */
#include "runtime/backend/cuda_rows.cuh"

__global__ void __launch_bounds__(THREADS) rms_norm_rows(rt_cuda_rows r, const float *weight, float epsilon)
{
    __shared__ float sums[WARPS];
    uint32_t row = blockIdx.x;
    const float *x = r.x + row * r.x_stride;
    float sum = 0;
    for (uint32_t i = threadIdx.x; i < r.width; i += THREADS) sum += x[i] * x[i];
    put_norm(r, row, x, sum, weight, epsilon, sums);
}
KREGISTER(rms_norm_rows);

__global__ void __launch_bounds__(THREADS) swiglu_rows(rt_cuda_rows r)
{
    uint32_t row = blockIdx.y, i = blockIdx.x * THREADS + threadIdx.x;
    const float *x = r.x + row * r.x_stride;
    if (i < r.width) put(r, row, i, x[i] / (1 + expf(-x[i])) * x[r.width + i]);
    if (blockIdx.x == 0) clear_tail(r, row);
}
KREGISTER(swiglu_rows);

__global__ void __launch_bounds__(THREADS) add_residual_rows(const __grid_constant__ rt_cuda_residual r)
{
    __shared__ float sums[WARPS];
    const float *x = r.rows.x + blockIdx.x * r.rows.x_stride;
    add_and_norm(r, blockIdx.x, 1, [x](uint32_t) { return x; }, sums);
}
KREGISTER(add_residual_rows);

__global__ void __launch_bounds__(THREADS) divide_rows(rt_cuda_rows r, float divisor)
{
    uint32_t row = blockIdx.y, i = blockIdx.x * THREADS + threadIdx.x;
    if (i < r.width) r.y[row * r.y_stride + i] /= divisor;
}
KREGISTER(divide_rows);

__global__ void __launch_bounds__(THREADS) round_rows(rt_cuda_rows r)
{
    uint32_t row = blockIdx.y, i = blockIdx.x * THREADS + threadIdx.x;
    if (i < r.width) r.pairs[row * r.pairs_stride + i] = bf16_of(r.x[row * r.x_stride + i]);
    if (blockIdx.x == 0) clear_tail(r, row);
}
KREGISTER(round_rows);

__global__ void __launch_bounds__(THREADS) gather_rows(rt_cuda_rows r, const uint32_t *index)
{
    uint32_t row = blockIdx.y, i = blockIdx.x * THREADS + threadIdx.x;
    if (i < r.width) r.y[row * r.y_stride + i] = r.x[index[row] * r.x_stride + i];
}
KREGISTER(gather_rows);

__global__ void __launch_bounds__(THREADS)
    embed_rows(rt_cuda_rows r, rt_cuda_table t, const int32_t *tokens, const int32_t *before, uint32_t first,
               float scale)
{
    uint32_t row = blockIdx.y, i = blockIdx.x * THREADS + threadIdx.x;
    int32_t token = tokens[row] < 0 ? before[~tokens[row]] : tokens[row];
    uint32_t at = (uint32_t)token - first;
    if (i >= r.width) return;
    float value = 0;
    if (at < t.n && t.is_bf16)
        value = scale * __uint_as_float((uint32_t)((const uint16_t *)t.data)[at * t.stride + i] << 16);
    else if (at < t.n)
        value = scale * ((const float *)t.data)[at * t.stride + i];
    r.y[row * r.y_stride + i] = value;
}
KREGISTER(embed_rows);

static dim3 elements(const rt_cuda_rows *r)
{
    return dim3((r->width + THREADS - 1) / THREADS, r->rows);
}

cudaError_t rt_cuda_rms_norm(const rt_cuda_rows *r, const float *weight, float epsilon, cudaStream_t stream)
{
    return kl(rms_norm_rows, dim3(r->rows), dim3(THREADS), 0, stream, *r, weight, epsilon);
}

cudaError_t rt_cuda_swiglu(const rt_cuda_rows *r, cudaStream_t stream)
{
    return kl(swiglu_rows, elements(r), dim3(THREADS), 0, stream, *r);
}

cudaError_t rt_cuda_add_residual(const rt_cuda_residual *r, cudaStream_t stream)
{
    return kl(add_residual_rows, dim3(r->rows.rows), dim3(THREADS), 0, stream, *r);
}

cudaError_t rt_cuda_divide(const rt_cuda_rows *r, float divisor, cudaStream_t stream)
{
    return kl(divide_rows, elements(r), dim3(THREADS), 0, stream, *r, divisor);
}

cudaError_t rt_cuda_round(const rt_cuda_rows *r, cudaStream_t stream)
{
    return kl(round_rows, elements(r), dim3(THREADS), 0, stream, *r);
}

cudaError_t rt_cuda_gather(const rt_cuda_rows *r, const uint32_t *index, cudaStream_t stream)
{
    return kl(gather_rows, elements(r), dim3(THREADS), 0, stream, *r, index);
}

cudaError_t rt_cuda_embed(const rt_cuda_rows *r, const rt_cuda_table *table, const int32_t *tokens,
                          const int32_t *before, uint32_t first, float scale, cudaStream_t stream)
{
    return kl(embed_rows, elements(r), dim3(THREADS), 0, stream, *r, *table, tokens, before, first, scale);
}
