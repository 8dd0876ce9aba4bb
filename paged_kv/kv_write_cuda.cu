/* Rotating q and k and writing K/V rows into blocks, and copying rows of a block, on a CUDA device. */
#include "paged_kv/paged_attn_cuda_rows.cuh"

enum { THREADS = 128, WARPS = THREADS / 32 };

/* Where a head of the step's row is written, and what. blockIdx.x: the row; a warp: a head of q, K or V. */
struct kv_cuda_row_write {
    kv_layout layout;
    uint32_t layer;
    const float *k, *v;
    size_t stride;
    unsigned char *kv;
    const uint32_t *tables;
    const kv_cuda_row *rows;
    kv_cuda_rope rope;
};

__device__ __forceinline__ void rotate(const kv_cuda_rope &r, float *x, uint32_t position, uint32_t dim)
{
    uint32_t half = dim / 2;
    for (uint32_t i = threadIdx.x % 32; i < half; i += 32) {
        size_t angle = (size_t)position * half + i;
        float c = r.device_cos[angle], s = r.device_sin[angle], low = x[i], high = x[half + i];
        x[i] = low * c - high * s;
        x[half + i] = high * c + low * s;
    }
    __syncwarp();
}

/* As on the CPU: the largest magnitude becomes 127; a row with an infinity or a NaN has the scale NaN. */
__device__ void store_int8(const float *from, uint32_t dim, int8_t *to, float *scale)
{
    uint32_t lane = threadIdx.x % 32;
    float largest = 0, odd = 0;
    for (uint32_t d = lane; d < dim; d += 32) {
        largest = fmaxf(largest, fabsf(from[d]));
        odd += from[d] - from[d];
    }
    for (int lanes = 16; lanes; lanes /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, lanes));
        odd += __shfl_xor_sync(~0u, odd, lanes);
    }
    float s = largest / 127 + odd;
    if (s < 0x1p-126f) s = 0;
    if (lane == 0) *scale = s;
    float factor = 127 / largest;
    for (uint32_t d = lane; d < dim; d += 32) to[d] = s > 0 ? (int8_t)rintf(from[d] * factor) : 0;
}

/* h counts a layer's K and V in turn. */
__device__ __forceinline__ void write_head(const kv_cuda_row_write &w, kv_cuda_row row, uint32_t h,
                                           const float *from)
{
    const kv_layout &l = w.layout;
    uint32_t at = row.position % l.block_tokens, dim = l.head_dim;
    uint32_t block = w.tables[row.table + row.position / l.block_tokens];
    size_t head_bytes = l.block_tokens * ((size_t)dim * l.element_bytes + (l.element_bytes == 1 ? 4 : 0));
    size_t layer = ((size_t)block * l.layers + w.layer) * 2 * l.kv_heads;
    unsigned char *head = w.kv + (layer + h) * head_bytes;
    if (l.element_bytes == 1)
        store_int8(from, dim, (int8_t *)head + (size_t)at * dim,
                   (float *)(head + (size_t)l.block_tokens * dim) + at);
    for (uint32_t d = threadIdx.x % 32; l.element_bytes > 1 && d < dim; d += 32) {
        size_t to = (size_t)at * dim + d;
        if (l.element_bytes == 4)
            ((float *)head)[to] = from[d];
        else
            ((uint16_t *)head)[to] = bf16_bits(from[d]);
    }
}

__global__ void __launch_bounds__(THREADS) kv_write_rows(kv_cuda_row_write w)
{
    kv_cuda_row row = w.rows[blockIdx.x];
    uint32_t h = blockIdx.y * WARPS + threadIdx.x / 32, dim = w.layout.head_dim;
    size_t x = blockIdx.x * w.stride;
    if (row.position == KV_CUDA_NO_ROW) return;
    if (h < w.rope.heads) {
        rotate(w.rope, w.rope.q + x + h * dim, row.position, dim);
        return;
    }
    h -= w.rope.heads;
    if (h >= 2 * w.layout.kv_heads) return;
    x += h / 2 * dim;
    if (w.rope.heads && h % 2 == 0) rotate(w.rope, w.rope.k + x, row.position, dim);
    write_head(w, row, h, h % 2 ? w.v + x : w.k + x);
}
KREGISTER(kv_write_rows);

cudaError_t kv_cuda_write(const kv_write *w, const kv_cuda_rope *rope, const kv_cuda_plan *plan,
                          const uint32_t *device_words, cudaStream_t stream)
{
    kv_cuda_row_write all = {*w->layout,
                             w->layer,
                             w->k,
                             w->v,
                             w->stride,
                             (unsigned char *)w->kv,
                             device_words + plan->tables_at,
                             (const kv_cuda_row *)(device_words + plan->rows_at),
                             *rope};
    uint32_t heads = rope->heads + 2 * w->layout->kv_heads;
    if (!plan->rows) return cudaSuccess;
    return kl(kv_write_rows, dim3(plan->rows, (heads + WARPS - 1) / WARPS), dim3(THREADS), 0, stream, all);
}

/* blockIdx.x: a head of K or V of a layer. */
__global__ void __launch_bounds__(THREADS)
    kv_copy_head_rows(kv_layout l, unsigned char *kv, uint32_t from, uint32_t to, uint32_t rows)
{
    size_t row_bytes = (size_t)l.head_dim * l.element_bytes;
    size_t head_bytes = l.block_tokens * (row_bytes + (l.element_bytes == 1 ? 4 : 0));
    size_t block_bytes = 2 * (size_t)l.layers * l.kv_heads * head_bytes;
    const unsigned char *source = kv + from * block_bytes + blockIdx.x * head_bytes;
    unsigned char *target = kv + to * block_bytes + blockIdx.x * head_bytes;
    for (size_t i = threadIdx.x * 2; i < rows * row_bytes; i += THREADS * 2)
        *(uint16_t *)(target + i) = *(const uint16_t *)(source + i);
    if (l.element_bytes > 1) return;
    size_t scales = l.block_tokens * row_bytes;
    for (uint32_t i = threadIdx.x; i < rows; i += THREADS)
        ((float *)(target + scales))[i] = ((const float *)(source + scales))[i];
}
KREGISTER(kv_copy_head_rows);

cudaError_t kv_cuda_copy_rows(const kv_layout *l, void *device_kv, uint32_t from_block, uint32_t to_block,
                              uint32_t rows, cudaStream_t stream)
{
    if (!rows) return cudaSuccess;
    return kl(kv_copy_head_rows, dim3(2 * l->layers * l->kv_heads), dim3(THREADS), 0, stream, *l,
              (unsigned char *)device_kv, from_block, to_block, rows);
}
