#include "runtime/backend/cuda_rows.cuh"
#include "runtime/backend/cuda_sum.h"

#include <nccl_device.h>

enum { TURNS_AT = RT_CUDA_SUM_ROWS * RT_CUDA_SUM_FLAGS * 4, ROWS_AT = TURNS_AT + RT_CUDA_SUM_ROWS * 4 };
static_assert(ROWS_AT % 16 == 0, "rows are moved in pieces of 16 bytes");

__device__ __forceinline__ uint32_t *flag_at(const rt_cuda_peers &p, uint32_t rank, uint32_t block,
                                             uint32_t setter)
{
    return (uint32_t *)p.windows[rank] + block * RT_CUDA_SUM_FLAGS + setter;
}

/* `writer`'s row of the block in a set, in `rank`'s window. */
__device__ __forceinline__ float *row_at(const rt_cuda_peers &p, uint32_t rank, uint32_t set, uint32_t block,
                                         uint32_t writer)
{
    size_t row = ((size_t)set * p.rows_most + block) * p.world + writer;
    return (float *)(p.windows[rank] + ROWS_AT) + row * p.stride;
}

__device__ __forceinline__ void give_row(const rt_cuda_peers &p, uint32_t set, uint32_t block, const float *x,
                                         uint32_t width, bool in_fours)
{
    uint32_t pieces = in_fours ? (width + 3) / 4 : width;
    for (uint32_t i = threadIdx.x; i < pieces; i += THREADS) {
        float4 four = in_fours ? ((const float4 *)x)[i] : make_float4(x[i], 0, 0, 0);
        for (uint32_t n = 1; n < p.world; n++) {
            uint32_t other = (p.rank + n) % p.world;
            float *to = row_at(p, other, set, block, p.rank);
            if (in_fours)
                ((float4 *)to)[i] = four;
            else
                to[i] = four.x;
        }
    }
}

__global__ void __launch_bounds__(THREADS, RT_CUDA_SUM_BLOCKS)
    sum_residual_rows(const __grid_constant__ rt_cuda_peers p, const __grid_constant__ rt_cuda_residual r)
{
    __shared__ float sums[WARPS];
    uint32_t block = blockIdx.x, *turns = (uint32_t *)(p.windows[p.rank] + TURNS_AT);
    uint32_t turn = turns[block] + 1, set = turn % 2, other = threadIdx.x;
    const float *x = r.rows.x + block * r.rows.x_stride;
    bool in_fours = (size_t)r.rows.x % 16 == 0 && r.rows.x_stride % 4 == 0;
    give_row(p, set, block, x, r.rows.width, in_fours);
    __syncthreads(); /* the whole row is under way, and all have read the turn */
    if (other < p.world && other != p.rank) {
        store_release_system(flag_at(p, other, block, p.rank), turn);
        wait_acquire_system(flag_at(p, p.rank, block, other), turn, p.given_up);
    }
    if (threadIdx.x == 0) turns[block] = turn;
    __syncthreads();
    add_and_norm(
        r, block, p.world,
        [&](uint32_t rank) { return rank == p.rank ? x : row_at(p, p.rank, set, block, rank); }, sums);
}
KREGISTER_WAITS(sum_residual_rows);

__global__ void find_windows(ncclWindow_t window, uint32_t world, void **out)
{
    if (threadIdx.x < world) out[threadIdx.x] = ncclGetLsaPointer(window, 0, (int)threadIdx.x);
}
KREGISTER(find_windows);

uint32_t rt_cuda_sum_rows_most(uint32_t rows_max, uint32_t width)
{
    size_t most = RT_CUDA_SUM_BYTES / (rt_cuda_sum_stride(width) * sizeof(float));
    if (most > RT_CUDA_SUM_ROWS) most = RT_CUDA_SUM_ROWS;
    return most < rows_max ? (uint32_t)most : rows_max;
}

size_t rt_cuda_sum_bytes(uint32_t rows_max, uint32_t width, uint32_t world)
{
    size_t rows = 2 * (size_t)rt_cuda_sum_rows_most(rows_max, width) * world;
    return ROWS_AT + rows * rt_cuda_sum_stride(width) * sizeof(float);
}

cudaError_t rt_cuda_find_windows(ncclWindow_t window, uint32_t world, void **out, cudaStream_t stream)
{
    return kl(find_windows, dim3(1), dim3(RT_CUDA_SUM_RANKS), 0, stream, window, world, out);
}

cudaError_t rt_cuda_sum_residual(const rt_cuda_peers *p, const rt_cuda_residual *r, cudaStream_t stream)
{
    if (r->rows.rows > p->rows_most) return cudaErrorInvalidValue;
    return kl(sum_residual_rows, dim3(r->rows.rows), dim3(THREADS), 0, stream, *p, *r);
}
