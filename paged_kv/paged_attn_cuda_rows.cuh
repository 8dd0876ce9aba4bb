/* paged_kv/paged_attn_cuda_rows.cuh - what the attention kernels share: rows of K/V as they are stored, and
 * the merging of two parts of a softmax. */
#ifndef PAGED_KV_PAGED_ATTN_CUDA_ROWS_CUH
#define PAGED_KV_PAGED_ATTN_CUDA_ROWS_CUH

#include <math.h>

#include "paged_kv/paged_attn_cuda.h"
#include "paged_kv/paged_attn_cuda_plan.h"
#include "proto/cuda_port.cuh"

/* A kv_attn as a kernel takes it; pointers are the device's. */
struct kv_cuda_attn {
    kv_layout layout;
    uint32_t layer, heads;
    float scale; /* times log2(e): softmax in powers of two */
    const float *q;
    size_t q_stride;
    float *out;
    size_t out_stride;
    const unsigned char *kv;
    const uint32_t *tables;
    const kv_cuda_row *rows;
    const kv_cuda_item *items;
    const kv_cuda_merge *merges;
    float *partials;
};

cudaError_t kv_cuda_attention_plain(const kv_cuda_attn &a, uint32_t items, cudaStream_t stream);
cudaError_t kv_cuda_merge_partials(const kv_cuda_attn &a, uint32_t merges, cudaStream_t stream);

__device__ __forceinline__ uint16_t bf16_bits(float x)
{
    __nv_bfloat16 rounded = __float2bfloat16(x);
    return *reinterpret_cast<uint16_t *>(&rounded);
}

__device__ __forceinline__ float bf16_value(uint16_t bits)
{
    return __bfloat162float(*reinterpret_cast<__nv_bfloat16 *>(&bits));
}

/* The head's rows in the block that holds a position; blockIdx.y is the K/V head. */
__device__ __forceinline__ const unsigned char *head_of(const kv_cuda_attn &a, uint32_t table,
                                                        uint32_t position, int is_value)
{
    const kv_layout &l = a.layout;
    uint32_t block = a.tables[table + position / l.block_tokens];
    size_t layer = ((size_t)block * l.layers + a.layer) * 2 * l.kv_heads;
    size_t row = (size_t)l.head_dim * l.element_bytes + (l.element_bytes == 1 ? sizeof(float) : 0);
    return a.kv + (layer + 2 * blockIdx.y + is_value) * l.block_tokens * row;
}

__device__ __forceinline__ float scale_at(const kv_layout &l, const unsigned char *head, uint32_t row)
{
    return *(const float *)(head + (size_t)l.block_tokens * l.head_dim + row * sizeof(float));
}

/* Element d of K or V at a position, as stored. */
__device__ __forceinline__ float kv_value_at(const kv_cuda_attn &a, uint32_t table, uint32_t position,
                                             int is_value, uint32_t d)
{
    const unsigned char *head = head_of(a, table, position, is_value);
    uint32_t row = position % a.layout.block_tokens;
    size_t at = (size_t)row * a.layout.head_dim + d;
    if (a.layout.element_bytes == 4) return ((const float *)head)[at];
    if (a.layout.element_bytes == 2) return bf16_value(((const uint16_t *)head)[at]);
    return scale_at(a.layout, head, row) * (float)((const int8_t *)head)[at];
}

/* Elements d, d + 1 as bf16; d is even. */
__device__ __forceinline__ uint32_t kv_pair_at(const kv_cuda_attn &a, uint32_t table, uint32_t position,
                                               int is_value, uint32_t d)
{
    const unsigned char *head = head_of(a, table, position, is_value);
    uint32_t row = position % a.layout.block_tokens;
    size_t at = (size_t)row * a.layout.head_dim + d;
    if (a.layout.element_bytes == 2) return *(const uint32_t *)((const uint16_t *)head + at);
    float scale = scale_at(a.layout, head, row);
    const int8_t *numbers = (const int8_t *)head + at;
    return (uint32_t)bf16_bits(scale * (float)numbers[0]) | (uint32_t)bf16_bits(scale * (float)numbers[1])
                                                                << 16;
}

__device__ __forceinline__ size_t partial_offset(const kv_cuda_attn &a, uint32_t partial, uint32_t head)
{
    return ((size_t)partial * a.heads + head) * (a.layout.head_dim + 2);
}

/* Two parts of a softmax, in order: sums are brought to the larger maximum. Written with fmaf, so that no
 * compiler contracts it in one place and not in another. */
struct merge_weights {
    float before, more;
};

__device__ __forceinline__ merge_weights merge_states(float &m, float &l, float more_m, float more_l)
{
    float top = fmaxf(m, more_m), base = top == -INFINITY ? 0 : top;
    merge_weights w = {exp2f(m - base), exp2f(more_m - base)};
    float scaled = more_l * w.more;
    l = fmaf(l, w.before, scaled);
    m = top;
    return w;
}

__device__ __forceinline__ float merge_values(merge_weights w, float o, float more)
{
    return fmaf(more, w.more, o * w.before);
}

#endif
