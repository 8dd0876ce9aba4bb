/* Attention in float32 for any width and any K/V, and the merging of partials. A warp has one vector (a row
 * and a head) at a time: a lane scores positions lane and lane + 32 of a tile, then sums every 32nd column.
 */
#include "paged_kv/paged_attn_cuda_rows.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS };

__device__ __forceinline__ float over_warp(float x, int is_sum)
{
    for (int lanes = 16; lanes; lanes /= 2) {
        float other = __shfl_xor_sync(~0u, x, lanes);
        x = is_sum ? x + other : fmaxf(x, other);
    }
    return x;
}

/* A warp's shared memory. */
struct vector_memory {
    float *q, *segment, *total; /* [head_dim] */
    float *weights;             /* [KV_TILE] */
};

__device__ __forceinline__ float score_at(const kv_cuda_attn &a, const vector_memory &v, uint32_t table,
                                          uint32_t position)
{
    float sum = 0;
    for (uint32_t d = 0; d < a.layout.head_dim; d++)
        sum = fmaf(v.q[d], kv_value_at(a, table, position, 0, d), sum);
    return sum;
}

/* Folds the positions below `seen` of a tile into (m, l, v.segment). */
__device__ void fold(const kv_cuda_attn &a, const vector_memory &v, uint32_t table, uint32_t tile,
                     uint32_t seen, float &m, float &l)
{
    uint32_t lane = threadIdx.x % 32, first = tile * KV_TILE;
    float s[2], top = m, sum = 0;
    for (int i = 0; i < 2; i++) {
        uint32_t position = first + lane + 32 * i;
        s[i] = position < seen ? score_at(a, v, table, position) : -INFINITY;
        top = fmaxf(top, s[i]);
    }
    top = over_warp(top, 0);
    for (int i = 0; i < 2; i++) {
        v.weights[lane + 32 * i] = exp2f(s[i] - top);
        sum += v.weights[lane + 32 * i];
    }
    float c = exp2f(m - top);
    l = fmaf(l, c, over_warp(sum, 1));
    m = top;
    __syncwarp();
    uint32_t end = seen - first < KV_TILE ? seen - first : (uint32_t)KV_TILE;
    for (uint32_t d = lane; d < a.layout.head_dim; d += 32) {
        float o = v.segment[d] * c;
        for (uint32_t i = 0; i < end; i++) o = fmaf(v.weights[i], kv_value_at(a, table, first + i, 1, d), o);
        v.segment[d] = o;
    }
    __syncwarp();
}

__device__ void attend(const kv_cuda_attn &a, const kv_cuda_item &item, uint32_t n, const vector_memory &v)
{
    uint32_t lane = threadIdx.x % 32, dim = a.layout.head_dim, group = a.heads / a.layout.kv_heads;
    uint32_t row = item.row + n / group, head = blockIdx.y * group + n % group;
    uint32_t seen = a.rows[row].position + 1, table = a.rows[row].table;
    float m = -INFINITY, l = 0, segment_m = -INFINITY, segment_l = 0;
    for (uint32_t d = lane; d < dim; d += 32) {
        v.q[d] = a.q[row * a.q_stride + head * dim + d] * a.scale;
        v.total[d] = 0;
    }
    __syncwarp();
    for (uint32_t g = item.segment; g < item.segment + item.segments; g++) {
        segment_m = -INFINITY;
        segment_l = 0;
        for (uint32_t d = lane; d < dim; d += 32) v.segment[d] = 0;
        __syncwarp();
        for (uint32_t t = g * (KV_SEGMENT / KV_TILE); t < (g + 1) * (KV_SEGMENT / KV_TILE); t++)
            if (t * KV_TILE < seen) fold(a, v, table, t, seen, segment_m, segment_l);
        if (item.partial != KV_CUDA_WHOLE) break;
        merge_weights w = merge_states(m, l, segment_m, segment_l);
        for (uint32_t d = lane; d < dim; d += 32) v.total[d] = merge_values(w, v.total[d], v.segment[d]);
    }
    if (item.partial == KV_CUDA_WHOLE) {
        for (uint32_t d = lane; d < dim; d += 32) a.out[row * a.out_stride + head * dim + d] = v.total[d] / l;
    } else {
        float *to = a.partials + partial_offset(a, item.partial + n / group, head);
        if (lane == 0) to[0] = segment_m;
        if (lane == 0) to[1] = segment_l;
        for (uint32_t d = lane; d < dim; d += 32) to[2 + d] = v.segment[d];
    }
    __syncwarp();
}

__global__ void __launch_bounds__(THREADS) kv_attn_plain(kv_cuda_attn a)
{
    KSMEM_DYN(float, shared);
    kv_cuda_item item = a.items[blockIdx.x];
    uint32_t dim = a.layout.head_dim, count = item.rows * (a.heads / a.layout.kv_heads),
             warp = threadIdx.x / 32;
    float *mine = shared + warp * (3 * dim + KV_TILE);
    vector_memory v = {mine, mine + dim, mine + 2 * dim, mine + 3 * dim};
    for (uint32_t n = warp; n < count; n += WARPS) attend(a, item, n, v);
}
KREGISTER(kv_attn_plain);

cudaError_t kv_cuda_attention_plain(const kv_cuda_attn &a, uint32_t items, cudaStream_t stream)
{
    size_t bytes = (size_t)WARPS * (3 * a.layout.head_dim + KV_TILE) * sizeof(float);
    return kl(kv_attn_plain, dim3(items, a.layout.kv_heads), dim3(THREADS), bytes, stream, a);
}

/* One row and head: its partials in the order of their segments. */
__global__ void __launch_bounds__(THREADS) kv_attn_merge(kv_cuda_attn a)
{
    kv_cuda_merge r = a.merges[blockIdx.x];
    uint32_t head = blockIdx.y, dim = a.layout.head_dim;
    if (!(r.shared_count + r.own_count)) return;
    for (uint32_t d = threadIdx.x; d < dim; d += THREADS) {
        float m = -INFINITY, l = 0, o = 0;
        for (uint32_t i = 0; i < r.shared_count + r.own_count; i++) {
            uint32_t partial = i < r.shared_count ? r.shared + i * r.shared_stride
                                                  : r.own + (i - r.shared_count) * r.own_stride;
            const float *from = a.partials + partial_offset(a, partial, head);
            merge_weights w = merge_states(m, l, from[0], from[1]);
            o = merge_values(w, o, from[2 + d]);
        }
        a.out[r.row * a.out_stride + head * dim + d] = o / l;
    }
}
KREGISTER(kv_attn_merge);

cudaError_t kv_cuda_merge_partials(const kv_cuda_attn &a, uint32_t merges, cudaStream_t stream)
{
    return kl(kv_attn_merge, dim3(merges, a.heads), dim3(THREADS), 0, stream, a);
}
