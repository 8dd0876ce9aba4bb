/* paged_kv/paged_attn_cuda_tile.cuh - tiles of K and V on their way into shared memory, as bf16.
 *
 * bf16 rows of whole 16-byte runs are copied while the warps calculate (cp.async); int8 rows go through
 * registers, eight numbers at a time; other widths go pair by pair. What no row sees is zeros: it may be
 * anything.
 */
#ifndef PAGED_KV_PAGED_ATTN_CUDA_TILE_CUH
#define PAGED_KV_PAGED_ATTN_CUDA_TILE_CUH

#include "paged_kv/paged_attn_cuda_rows.cuh"

enum {
    TILE_PAD = 8, /* elements between rows, so that they start in other banks */
    TILE_RUN = 8  /* elements that are moved at once */
};

/* Whether every row begins where TILE_RUN elements of it can be read at once. The buffer is 16-byte aligned.
 */
__device__ __forceinline__ bool has_runs(const kv_layout &l)
{
    return l.head_dim % TILE_RUN == 0 && (l.element_bytes == 2 || l.block_tokens % 2 == 0);
}

__device__ __forceinline__ uint32_t scaled_pair(float scale, uint32_t numbers)
{
    uint32_t low = bf16_bits(scale * (float)(int8_t)numbers);
    return low | (uint32_t)bf16_bits(scale * (float)(int8_t)(numbers >> 8)) << 16;
}

__device__ __forceinline__ void move_run(const kv_cuda_attn &a, uint32_t table, uint32_t position,
                                         int is_value, uint32_t d, uint16_t *to)
{
    const kv_layout &l = a.layout;
    const unsigned char *head = head_of(a, table, position, is_value);
    uint32_t row = position % l.block_tokens;
    size_t at = (size_t)row * l.head_dim + d;
    if (l.element_bytes == 2) {
        cp_async16(to, (const uint16_t *)head + at);
        return;
    }
    float scale = scale_at(l, head, row);
    uint2 n = *(const uint2 *)(head + at);
    *(uint4 *)to = make_uint4(scaled_pair(scale, n.x), scaled_pair(scale, n.x >> 16), scaled_pair(scale, n.y),
                              scaled_pair(scale, n.y >> 16));
}

template <int D>
__device__ __forceinline__ void move_pairs(const kv_cuda_attn &a, uint32_t table, uint32_t tile, uint32_t end,
                                           int is_value, uint16_t *to)
{
    for (uint32_t i = threadIdx.x; i < KV_TILE * (D / 2); i += blockDim.x) {
        uint32_t position = tile * KV_TILE + i / (D / 2), d = i % (D / 2) * 2;
        uint32_t both = 0;
        if (position < end && d < a.layout.head_dim) both = kv_pair_at(a, table, position, is_value, d);
        *(uint32_t *)(to + i / (D / 2) * (D + TILE_PAD) + d) = both;
    }
}

/* Rows of K or V at 64 positions to [64][D + TILE_PAD]: begun by all threads of a block, and there for all of
 * them after tile_wait. Columns from head_dim to D are zeros, and so are positions from `end`. */
template <int D>
__device__ __forceinline__ void tile_begin(const kv_cuda_attn &a, uint32_t table, uint32_t tile, uint32_t end,
                                           int is_value, uint16_t *to)
{
    enum { RUNS = D / TILE_RUN };
    if (!has_runs(a.layout)) {
        move_pairs<D>(a, table, tile, end, is_value, to);
        return;
    }
    for (uint32_t i = threadIdx.x; i < KV_TILE * RUNS; i += blockDim.x) {
        uint32_t position = tile * KV_TILE + i / RUNS, d = i % RUNS * TILE_RUN;
        uint16_t *run = to + i / RUNS * (D + TILE_PAD) + d;
        if (position < end && d < a.layout.head_dim)
            move_run(a, table, position, is_value, d, run);
        else
            *(uint4 *)run = make_uint4(0, 0, 0, 0);
    }
    cp_async_commit();
}

/* Also: all threads of the block are done with what they did before. */
__device__ __forceinline__ void tile_wait()
{
    cp_async_wait<0>();
    __syncthreads();
}

#endif
