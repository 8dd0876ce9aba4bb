#include "adapters/lora_cuda.h"
#include "adapters/lora_cuda_plan.h"
#include "proto/cuda_port.cuh"

enum {
    WARPS = 8,
    THREADS = 32 * WARPS,
    ROWS = ADAPTER_CUDA_ROWS,
    RANKS = 2,   /* of a warp: x is read once for them */
    S_CHUNK = 64 /* ranks of s in shared memory at a time */
};

/* An adapter_cuda_run with its step. */
struct lora_step {
    adapter_cuda_run run;
    const adapter_cuda_item *items;
    const uint32_t *rows;
};

/* A matrix as it is read: four elements of a row at once where all rows allow it. */
struct lora_matrix {
    const void *data;
    size_t stride; /* elements */
    uint32_t width, is_bf16;
    bool has_fours;
};

__device__ __forceinline__ lora_matrix matrix_of(const void *data, size_t stride, uint32_t width,
                                                 uint32_t is_bf16)
{
    bool has_fours = (size_t)data % (is_bf16 ? 8 : 16) == 0 && stride % 4 == 0 && width % 4 == 0;
    return {data, stride, width, is_bf16, has_fours};
}

__device__ __forceinline__ float bf16_float(uint32_t bits)
{
    return __uint_as_float(bits << 16);
}

/* Elements k .. k + 3 of a row; zeros past its width. */
__device__ __forceinline__ float4 four(const lora_matrix &m, size_t row, uint32_t k)
{
    size_t at = row * m.stride + k;
    if (m.has_fours && m.is_bf16) {
        uint2 b = *(const uint2 *)((const uint16_t *)m.data + at);
        return make_float4(bf16_float(b.x), bf16_float(b.x >> 16), bf16_float(b.y), bf16_float(b.y >> 16));
    }
    if (m.has_fours) return *(const float4 *)((const float *)m.data + at);
    float x[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        x[i] = k + i >= m.width ? 0
               : m.is_bf16      ? bf16_float(((const uint16_t *)m.data)[at + i])
                                : ((const float *)m.data)[at + i];
    return make_float4(x[0], x[1], x[2], x[3]);
}

__device__ __forceinline__ float dot(float4 a, float4 b, float sum)
{
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
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

/* blockIdx.x: an item; y: a delta; z with the warp: some r. */
__global__ void __launch_bounds__(THREADS) lora_shrink(lora_step t)
{
    const adapter_cuda_run &run = t.run;
    adapter_cuda_item item = t.items[blockIdx.x];
    if (!item.rows) return;
    const adapter_cuda_linear &linear = linear_of(run, item.slot);
    uint32_t lane = threadIdx.x % 32, first = (blockIdx.z * WARPS + threadIdx.x / 32) * RANKS;
    if (blockIdx.y >= linear.count) return;
    const adapter_cuda_delta &d = linear.deltas[blockIdx.y];
    if (first >= d.rank) return;
    lora_matrix a = matrix_of(d.a, d.in, d.in, d.is_bf16), x = matrix_of(run.device_x, run.x_stride, d.in, 0);
    float sum[RANKS][ROWS] = {};
    for (uint32_t k = lane * 4; k < d.in; k += 128) {
        float4 of_a[RANKS];
#pragma unroll
        for (uint32_t r = 0; r < RANKS; r++) of_a[r] = four(a, first + r < d.rank ? first + r : first, k);
#pragma unroll
        for (uint32_t i = 0; i < ROWS; i++) {
            if (i >= item.rows) continue;
            float4 of_x = four(x, t.rows[item.first + i], k);
#pragma unroll
            for (uint32_t r = 0; r < RANKS; r++) sum[r][i] = dot(of_a[r], of_x, sum[r][i]);
        }
    }
#pragma unroll
    for (uint32_t r = 0; r < RANKS; r++)
#pragma unroll
        for (uint32_t i = 0; i < ROWS; i++) {
            float s = sum[r][i];
            for (int lanes = 16; lanes; lanes /= 2) s += __shfl_xor_sync(~0u, s, lanes);
            if (i < item.rows && first + r < d.rank && lane == 0)
                run.device_s[s_offset(run, item.first + i, blockIdx.y) + first + r] = s;
        }
}
KREGISTER(lora_shrink);

/* Ranks [from, from + S_CHUNK) of the item's rows; zeros past the delta's rank. */
__device__ __forceinline__ void load_s(const adapter_cuda_run &run, const adapter_cuda_item &item,
                                       uint32_t rank, uint32_t from, float (*s)[S_CHUNK])
{
    for (uint32_t i = threadIdx.x; i < ROWS * S_CHUNK; i += THREADS) {
        uint32_t row = i / S_CHUNK, r = from + i % S_CHUNK;
        bool is_there = row < item.rows && r < rank;
        s[row][i % S_CHUNK] = is_there ? run.device_s[s_offset(run, item.first + row, blockIdx.y) + r] : 0;
    }
}

/* blockIdx.x: an item; y: a delta; z with the thread: a column of it. */
__global__ void __launch_bounds__(THREADS) lora_expand(lora_step t)
{
    __shared__ __align__(16) float s[ROWS][S_CHUNK];
    const adapter_cuda_run &run = t.run;
    adapter_cuda_item item = t.items[blockIdx.x];
    if (!item.rows) return;
    const adapter_cuda_linear &linear = linear_of(run, item.slot);
    uint32_t column = blockIdx.z * THREADS + threadIdx.x;
    if (blockIdx.y >= linear.count) return;
    const adapter_cuda_delta &d = linear.deltas[blockIdx.y];
    if (blockIdx.z * THREADS >= d.out) return;
    lora_matrix b = matrix_of(d.b, d.rank, d.rank, d.is_bf16);
    float sum[ROWS] = {};
    for (uint32_t from = 0; from < d.rank; from += S_CHUNK) {
        __syncthreads();
        load_s(run, item, d.rank, from, s);
        __syncthreads();
        for (uint32_t r = 0; column < d.out && r < S_CHUNK && from + r < d.rank; r += 4) {
            float4 of_b = four(b, column, from + r);
#pragma unroll
            for (uint32_t i = 0; i < ROWS; i++)
                if (i < item.rows) sum[i] = dot(of_b, *(const float4 *)&s[i][r], sum[i]);
        }
    }
    if (column >= d.out) return;
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
    dim3 shrink(plan->items, ADAPTER_CUDA_DELTAS, (r->rank_max + WARPS * RANKS - 1) / (WARPS * RANKS));
    dim3 expand(plan->items, ADAPTER_CUDA_DELTAS, (r->out_max + THREADS - 1) / THREADS);
    cudaError_t error = kl(lora_shrink, shrink, dim3(THREADS), 0, stream, t);
    return error == cudaSuccess ? kl(lora_expand, expand, dim3(THREADS), 0, stream, t) : error;
}
