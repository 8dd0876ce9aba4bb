#include "adapters/lora_cuda.h"
#include "adapters/lora_cuda_plan.h"
#include "proto/cuda_port.cuh"

enum { WARPS = 8, THREADS = 32 * WARPS, ROWS = ADAPTER_CUDA_ROWS };

/* An adapter_cuda_run with its step. */
struct lora_step {
    adapter_cuda_run run;
    const adapter_cuda_item *items;
    const uint32_t *rows;
};

__device__ __forceinline__ float element(const void *matrix, size_t i, uint32_t is_bf16)
{
    return is_bf16 ? __bfloat162float(((const __nv_bfloat16 *)matrix)[i]) : ((const float *)matrix)[i];
}

__device__ __forceinline__ const adapter_cuda_linear &linear_of(const adapter_cuda_run &r, uint32_t slot)
{
    return r.device_table[((size_t)slot * r.layers + r.layer) * r.linears + r.linear];
}

/* Where s of a sorted row and a delta begins. */
__device__ __forceinline__ size_t s_offset(const adapter_cuda_run &r, uint32_t sorted_row, uint32_t delta)
{
    return ((size_t)sorted_row * ADAPTER_CUDA_DELTAS + delta) * r.rank_max;
}

/* blockIdx.x: an item; y: a delta; z with the warp: an r. */
__global__ void __launch_bounds__(THREADS) lora_shrink(lora_step t)
{
    const adapter_cuda_run &run = t.run;
    adapter_cuda_item item = t.items[blockIdx.x];
    const adapter_cuda_linear &linear = linear_of(run, item.slot);
    uint32_t lane = threadIdx.x % 32, r = blockIdx.z * WARPS + threadIdx.x / 32;
    if (blockIdx.y >= linear.count) return;
    const adapter_cuda_delta &d = linear.deltas[blockIdx.y];
    if (r >= d.rank) return;
    float sum[ROWS] = {0};
    for (uint32_t k = lane; k < d.in; k += 32) {
        float a = element(d.a, (size_t)r * d.in + k, d.is_bf16);
#pragma unroll
        for (uint32_t i = 0; i < ROWS; i++)
            if (i < item.rows)
                sum[i] = fmaf(a, run.device_x[t.rows[item.first + i] * run.x_stride + k], sum[i]);
    }
#pragma unroll
    for (uint32_t i = 0; i < ROWS; i++) {
        for (int lanes = 16; lanes; lanes /= 2) sum[i] += __shfl_xor_sync(~0u, sum[i], lanes);
        if (i < item.rows && lane == 0) run.device_s[s_offset(run, item.first + i, blockIdx.y) + r] = sum[i];
    }
}
KREGISTER(lora_shrink);

/* blockIdx.x: an item; y: a delta; z with the thread: a column of it. */
__global__ void __launch_bounds__(THREADS) lora_expand(lora_step t)
{
    const adapter_cuda_run &run = t.run;
    adapter_cuda_item item = t.items[blockIdx.x];
    const adapter_cuda_linear &linear = linear_of(run, item.slot);
    uint32_t column = blockIdx.z * THREADS + threadIdx.x;
    if (blockIdx.y >= linear.count) return;
    const adapter_cuda_delta &d = linear.deltas[blockIdx.y];
    if (column >= d.out) return;
    float sum[ROWS] = {0};
    for (uint32_t r = 0; r < d.rank; r++) {
        float b = element(d.b, (size_t)column * d.rank + r, d.is_bf16);
#pragma unroll
        for (uint32_t i = 0; i < ROWS; i++)
            if (i < item.rows)
                sum[i] = fmaf(b, run.device_s[s_offset(run, item.first + i, blockIdx.y) + r], sum[i]);
    }
#pragma unroll
    for (uint32_t i = 0; i < ROWS; i++) {
        if (i >= item.rows) break;
        float *y = run.device_y + t.rows[item.first + i] * run.y_stride + d.out_offset + column;
        *y = fmaf(d.scaling, sum[i], *y);
    }
}
KREGISTER(lora_expand);

cudaError_t adapter_cuda_apply(const adapter_cuda_run *r, const adapter_cuda_plan *plan,
                               const uint32_t *device_words, cudaStream_t stream)
{
    const adapter_cuda_item *items = (const adapter_cuda_item *)device_words;
    lora_step t = {*r, items, (const uint32_t *)(items + plan->items)};
    if (!plan->items) return cudaSuccess;
    dim3 shrink(plan->items, ADAPTER_CUDA_DELTAS, (r->rank_max + WARPS - 1) / WARPS);
    dim3 expand(plan->items, ADAPTER_CUDA_DELTAS, (r->out_max + THREADS - 1) / THREADS);
    cudaError_t error = kl(lora_shrink, shrink, dim3(THREADS), 0, stream, t);
    return error == cudaSuccess ? kl(lora_expand, expand, dim3(THREADS), 0, stream, t) : error;
}
