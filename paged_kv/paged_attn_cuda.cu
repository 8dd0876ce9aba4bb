/* Attention over blocks on tensor cores. One item and one K/V head a thread block: four warps of 16 vectors,
 * a vector being a row and one of the query heads that share the K/V head. Where columns are too many for one
 * warp's registers, a second four warps have the upper half of O, and compute S for themselves.
 *
 *     per tile of 64 positions, in shared memory:   K [64][D], V [64][D] as bf16, moved as they are used
 *         S = Q K^T        16 x 64 a warp, mma.m16n8k16 over D
 *         P = 2^(S - max)  rounded to bf16 in the registers that held S
 *         O = O c + P V    16 x D
 *     per segment of 8 tiles: (max, sum, O) begin empty, and are merged into the row's
 */
#include "paged_kv/paged_attn_cuda.h"
#include "paged_kv/paged_attn_cuda_plan.h"
#include "paged_kv/paged_attn_cuda_rows.cuh"
#include "paged_kv/paged_attn_cuda_tile.cuh"

enum { WARPS = 4, VECTORS = 16 * WARPS, PAD = TILE_PAD, COLUMNS_MAX = 128 };

/* What a warp keeps of its 16 vectors. A lane has vectors lane / 4 and lane / 4 + 8, of them columns
 * 2 (lane % 4), + 1 of each run of 8 of the warp's. */
template <int D> struct state {
    enum { HALVES = D > COLUMNS_MAX ? 2 : 1, COLUMNS = D / HALVES, THREADS = 32 * WARPS * HALVES };
    float o[COLUMNS / 8][4];
    float m[2], l[2];
};

/* Which of the item's vectors, and which columns, are the warp's. */
__device__ __forceinline__ uint32_t first_vector()
{
    return threadIdx.x / 32 % WARPS * 16;
}

template <int D> __device__ __forceinline__ uint32_t first_column()
{
    return threadIdx.x / 32 / WARPS * state<D>::COLUMNS;
}

template <int D> __device__ __forceinline__ void clear(state<D> &s)
{
#pragma unroll
    for (int j = 0; j < state<D>::COLUMNS / 8; j++) s.o[j][0] = s.o[j][1] = s.o[j][2] = s.o[j][3] = 0;
    s.m[0] = s.m[1] = -INFINITY;
    s.l[0] = s.l[1] = 0;
}

__device__ __forceinline__ uint32_t pair(float low, float high)
{
    return (uint32_t)bf16_bits(low) | (uint32_t)bf16_bits(high) << 16;
}

/* Columns from head_dim to D are zeros, so that any even width is a run of pairs. */
template <int D>
__device__ __forceinline__ void load_queries(const kv_cuda_attn &a, const kv_cuda_item &item, uint32_t first,
                                             uint16_t *q)
{
    uint32_t group = a.heads / a.layout.kv_heads, count = item.rows * group, dim = a.layout.head_dim;
    for (uint32_t i = threadIdx.x; i < VECTORS * D; i += state<D>::THREADS) {
        uint32_t v = first + i / D, d = i % D;
        float x = 0;
        if (v < count && d < dim)
            x = a.q[(item.row + v / group) * a.q_stride + (blockIdx.y * group + v % group) * dim + d] *
                a.scale;
        q[i / D * (D + PAD) + d] = bf16_bits(x);
    }
}

/* scores[j]: columns 8 j .. 8 j + 7 of the tile. */
template <int D>
__device__ __forceinline__ void score(const uint16_t *q, const uint16_t *k, float (*scores)[4])
{
    uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < KV_TILE / 8; j++) scores[j][0] = scores[j][1] = scores[j][2] = scores[j][3] = 0;
    for (int d = 0; d < D; d += 16) {
        uint32_t x[4];
        ldmatrix_x4(x, q + lane % 16 * (D + PAD) + d + lane / 16 * 8);
#pragma unroll
        for (int j = 0; j < KV_TILE / 8; j += 2) {
            uint32_t y[4]; /* of positions 8 j .. + 7, then + 8 .. + 15 */
            ldmatrix_x4(y, k + (j * 8 + lane / 16 * 8 + lane % 8) * (D + PAD) + d + lane / 8 % 2 * 8);
            mma_m16n8k16_bf16(scores[j], x, y);
            mma_m16n8k16_bf16(scores[j + 1], x, y + 2);
        }
    }
}

__device__ __forceinline__ float across_columns(float x, int is_sum)
{
    for (int lanes = 1; lanes <= 2; lanes *= 2) {
        float other = __shfl_xor_sync(~0u, x, lanes);
        x = is_sum ? x + other : fmaxf(x, other);
    }
    return x;
}

/* Scores become weights; what was summed before is brought to the new maximum. h: vectors lane / 4 + 8 h. */
template <int D>
__device__ __forceinline__ void weigh(state<D> &s, float (*scores)[4], int h, uint32_t first, uint32_t seen)
{
    float top = s.m[h], sum = 0;
    uint32_t column = first + threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < KV_TILE / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float x = column + 8 * j + i < seen ? scores[j][2 * h + i] : -INFINITY;
            scores[j][2 * h + i] = x;
            top = fmaxf(top, x);
        }
    top = across_columns(top, 0);
    float base = top == -INFINITY ? 0 : top; /* nothing is seen yet: all weights are 2^-inf */
#pragma unroll
    for (int j = 0; j < KV_TILE / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float p = exp2f(scores[j][2 * h + i] - base);
            scores[j][2 * h + i] = p;
            sum += p;
        }
    float c = exp2f(s.m[h] - base);
    s.l[h] = fmaf(s.l[h], c, across_columns(sum, 1));
    s.m[h] = top;
#pragma unroll
    for (int j = 0; j < state<D>::COLUMNS / 8; j++) {
        s.o[j][2 * h] *= c;
        s.o[j][2 * h + 1] *= c;
    }
}

template <int D>
__device__ __forceinline__ void gather(state<D> &s, const float (*weights)[4], const uint16_t *v)
{
    uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < KV_TILE / 16; k++) {
        const float *low = weights[2 * k], *high = weights[2 * k + 1];
        uint32_t x[4] = {pair(low[0], low[1]), pair(low[2], low[3]), pair(high[0], high[1]),
                         pair(high[2], high[3])};
#pragma unroll
        for (int j = 0; j < state<D>::COLUMNS / 16; j++) {
            uint32_t y[4]; /* of columns 16 j .. + 7, then + 8 .. + 15 */
            uint32_t column = first_column<D>() + j * 16 + lane / 16 * 8;
            ldmatrix_x4_trans(y, v + (k * 16 + lane % 16) * (D + PAD) + column);
            mma_m16n8k16_bf16(s.o[2 * j], x, y);
            mma_m16n8k16_bf16(s.o[2 * j + 1], x, y + 2);
        }
    }
}

/* Calls f(vector of the item, column, which of the lane's four values, h) for what this lane has. */
template <int D, class F>
__device__ __forceinline__ void each_value(uint32_t first, uint32_t count, uint32_t dim, F f)
{
    uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint32_t v = first + first_vector() + lane / 4 + 8 * h;
        if (v >= count) continue;
#pragma unroll
        for (int j = 0; j < state<D>::COLUMNS / 8; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint32_t d = first_column<D>() + j * 8 + lane % 4 * 2 + i;
                if (d < dim) f(v, d, j, 2 * h + i, h);
            }
    }
}

template <int D> __device__ __forceinline__ void merge(state<D> &total, const state<D> &more)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        merge_weights w = merge_states(total.m[h], total.l[h], more.m[h], more.l[h]);
#pragma unroll
        for (int j = 0; j < state<D>::COLUMNS / 8; j++)
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++)
                total.o[j][i] = merge_values(w, total.o[j][i], more.o[j][i]);
    }
}

/* What the lane has of the answer, or of a partial. */
template <int D>
__device__ __forceinline__ void store(const kv_cuda_attn &a, const kv_cuda_item &item, uint32_t first,
                                      const state<D> &s)
{
    uint32_t group = a.heads / a.layout.kv_heads, count = item.rows * group, dim = a.layout.head_dim;
    uint32_t head = blockIdx.y * group;
    if (item.partial == KV_CUDA_WHOLE) {
        each_value<D>(first, count, dim, [&](uint32_t n, uint32_t d, int j, int i, int h) {
            a.out[(item.row + n / group) * a.out_stride + (head + n % group) * dim + d] = s.o[j][i] / s.l[h];
        });
        return;
    }
    each_value<D>(first, count, dim, [&](uint32_t n, uint32_t d, int j, int i, int h) {
        float *to = a.partials + partial_offset(a, item.partial + n / group, head + n % group);
        to[2 + d] = s.o[j][i];
        if (d == 0) to[0] = s.m[h];
        if (d == 0) to[1] = s.l[h];
    });
}

/* Vectors [first, first + 64) of the item. V is on its way while K is used, and the next K while V is. A warp
 * without vectors only moves tiles. */
template <int D>
__device__ void attend(const kv_cuda_attn &a, const kv_cuda_item &item, uint32_t first, uint16_t *shared)
{
    enum { EACH = KV_SEGMENT / KV_TILE };
    uint16_t *q = shared, *k = q + VECTORS * (D + PAD), *v = k + KV_TILE * (D + PAD);
    uint32_t lane = threadIdx.x % 32, own = first_vector();
    uint32_t group = a.heads / a.layout.kv_heads, count = item.rows * group;
    bool works = first + own < count;
    uint32_t seen[2]; /* positions that the lane's vectors see */
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint32_t mine = first + own + lane / 4 + 8 * h;
        seen[h] = mine < count ? a.rows[item.row + mine / group].position + 1 : 0;
    }
    uint32_t last = a.rows[item.row + item.rows - 1].position + 1, table = a.rows[item.row].table;
    uint32_t tile = item.segment * EACH, end = (item.segment + item.segments) * EACH;
    if (end > (last + KV_TILE - 1) / KV_TILE) end = (last + KV_TILE - 1) / KV_TILE;
    state<D> total, segment;
    clear(total);
    clear(segment);
    __syncthreads(); /* what came before may still be in use */
    load_queries<D>(a, item, first, q);
    tile_begin<D>(a, table, tile, last, 0, k);
    for (; tile < end; tile++) {
        float scores[KV_TILE / 8][4];
        tile_wait();
        tile_begin<D>(a, table, tile, last, 1, v);
        if (works) {
            score<D>(q + own * (D + PAD), k, scores);
#pragma unroll
            for (int h = 0; h < 2; h++) weigh(segment, scores, h, tile * KV_TILE, seen[h]);
        }
        tile_wait();
        if (tile + 1 < end) tile_begin<D>(a, table, tile + 1, last, 0, k);
        if (works) gather(segment, scores, v);
        if ((tile + 1) % EACH == 0 || tile + 1 == end) {
            merge(total, segment);
            clear(segment);
        }
    }
    store(a, item, first, total); /* one segment, merged into nothing, is itself */
}

template <int D> __device__ __forceinline__ void run_item(const kv_cuda_attn &a, uint16_t *shared)
{
    kv_cuda_item item = a.items[blockIdx.x];
    uint32_t count = item.rows * (a.heads / a.layout.kv_heads);
    for (uint32_t first = 0; first < count; first += VECTORS) attend<D>(a, item, first, shared);
}

#define PAIR_KERNEL(D)                                                                                       \
    __global__ void __launch_bounds__(state<D>::THREADS) kv_attn_pairs_##D(kv_cuda_attn a)                   \
    {                                                                                                        \
        KSMEM_DYN(uint16_t, shared);                                                                         \
        run_item<D>(a, shared);                                                                              \
    }                                                                                                        \
    KREGISTER(kv_attn_pairs_##D)
PAIR_KERNEL(32);
PAIR_KERNEL(64);
PAIR_KERNEL(96);
PAIR_KERNEL(128);
PAIR_KERNEL(256);

static size_t shared_bytes(uint32_t d)
{
    return (size_t)(VECTORS + 2 * KV_TILE) * (d + PAD) * sizeof(uint16_t);
}

typedef void (*pair_kernel)(kv_cuda_attn);
static const struct {
    uint32_t dim, threads;
    pair_kernel kernel;
} pair_kernels[] = {{32, state<32>::THREADS, kv_attn_pairs_32},
                    {64, state<64>::THREADS, kv_attn_pairs_64},
                    {96, state<96>::THREADS, kv_attn_pairs_96},
                    {128, state<128>::THREADS, kv_attn_pairs_128},
                    {256, state<256>::THREADS, kv_attn_pairs_256}};

cudaError_t kv_cuda_prepare(void)
{
    for (auto &p : pair_kernels) {
        cudaError_t error = cudaFuncSetAttribute(
            (const void *)p.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes(p.dim));
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

static cudaError_t launch_items(const kv_cuda_attn &a, uint32_t items, cudaStream_t stream)
{
    dim3 grid(items, a.layout.kv_heads);
    if (a.layout.element_bytes == 4 || a.layout.head_dim > KV_CUDA_PAIR_DIM_MAX)
        return kv_cuda_attention_plain(a, items, stream);
    for (auto &p : pair_kernels)
        if (a.layout.head_dim <= p.dim)
            return kl(p.kernel, grid, dim3(p.threads), shared_bytes(p.dim), stream, a);
    return cudaErrorInvalidValue;
}

cudaError_t kv_cuda_attention(const kv_attn *a, const kv_cuda_plan *plan, const uint32_t *device_words,
                              void *device_scratch, cudaStream_t stream)
{
    kv_cuda_attn all = {*a->layout,
                        a->layer,
                        a->heads,
                        a->scale * (float)M_LOG2E,
                        a->q,
                        a->q_stride,
                        a->out,
                        a->out_stride,
                        (const unsigned char *)a->kv,
                        device_words + plan->tables_at,
                        (const kv_cuda_row *)(device_words + plan->rows_at),
                        (const kv_cuda_item *)(device_words + plan->items_at),
                        (const kv_cuda_merge *)(device_words + plan->merges_at),
                        (float *)device_scratch};
    if (!plan->items) return cudaSuccess;
    cudaError_t error = launch_items(all, plan->items, stream);
    if (error == cudaSuccess && plan->merges) error = kv_cuda_merge_partials(all, plan->merges, stream);
    return error;
}
