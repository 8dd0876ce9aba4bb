/* Products with few rows of x. A thread block has four rows of W, of which its threads take 16 bytes each in
 * turn, and asks for all of AT_ONCE turns before it uses the first. W is read past the cache, where x stays.
 */
#include "proto/cuda_port.cuh"
#include "runtime/backend/cuda_few.h"

enum { THREADS = 128, WARPS = THREADS / 32, ROWS_OF_W = 4, AT_ONCE = 2 };

template <bool IS_BF16> struct vector { /* of 16 bytes */
    enum { COUNT = IS_BF16 ? 8 : 4 };
    float values[COUNT];
};

template <bool IS_BF16> __device__ __forceinline__ vector<IS_BF16> numbers_of(uint4 raw)
{
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
    vector<IS_BF16> v;
    for (int i = 0; i < vector<IS_BF16>::COUNT; i++)
        v.values[i] = __uint_as_float(!IS_BF16 ? words[i]
                                      : i % 2  ? words[i / 2] & 0xffff0000u
                                               : words[i / 2] << 16);
    return v;
}

/* Vector `at` of a row of x, zero from k on: what is behind a row of x need not be a number. */
template <bool IS_BF16>
__device__ __forceinline__ vector<IS_BF16> x_of(const rt_cuda_few &p, uint32_t row, uint32_t at)
{
    const int COUNT = vector<IS_BF16>::COUNT;
    const char *x = (const char *)p.x + row * p.x_stride * (16 / COUNT);
    vector<IS_BF16> v = numbers_of<IS_BF16>(((const uint4 *)x)[at]);
    if (at * COUNT + COUNT > p.k)
        for (int i = 0; i < COUNT; i++)
            if (at * COUNT + i >= p.k) v.values[i] = 0;
    return v;
}

template <bool IS_BF16, int ROWS>
__device__ __forceinline__ void add_products(const rt_cuda_few &p, const uint4 (&raw)[ROWS_OF_W], uint32_t at,
                                             float (&sums)[ROWS][ROWS_OF_W])
{
    vector<IS_BF16> w[ROWS_OF_W];
#pragma unroll
    for (int n = 0; n < ROWS_OF_W; n++) w[n] = numbers_of<IS_BF16>(raw[n]);
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        vector<IS_BF16> x = x_of<IS_BF16>(p, row, at);
#pragma unroll
        for (int n = 0; n < ROWS_OF_W; n++)
#pragma unroll
            for (int i = 0; i < vector<IS_BF16>::COUNT; i++) sums[row][n] += w[n].values[i] * x.values[i];
    }
}

/* The thread's share of the sums over k. */
template <bool IS_BF16, int ROWS>
__device__ __forceinline__ void add_share(const rt_cuda_few &p, float (&sums)[ROWS][ROWS_OF_W])
{
    const int COUNT = vector<IS_BF16>::COUNT;
    uint32_t vectors = (p.k + COUNT - 1) / COUNT;
    const uint4 *w[ROWS_OF_W];
    for (int i = 0; i < ROWS_OF_W; i++) {
        uint32_t n = blockIdx.x * ROWS_OF_W + i;
        w[i] = (const uint4 *)((const char *)p.w + (n < p.n ? n : p.n - 1) * p.w_stride * (16 / COUNT));
    }
    for (uint32_t first = threadIdx.x; first < vectors; first += AT_ONCE * THREADS) {
        uint4 raw[AT_ONCE][ROWS_OF_W];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
#pragma unroll
            for (int i = 0; i < ROWS_OF_W; i++)
                if (first + j * THREADS < vectors) raw[j][i] = load_once16(w[i] + first + j * THREADS);
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
            if (first + j * THREADS < vectors)
                add_products<IS_BF16, ROWS>(p, raw[j], first + j * THREADS, sums);
    }
}

template <bool IS_BF16, int ROWS>
__device__ __forceinline__ void multiply(const rt_cuda_few &p,
                                         float (*shared)[ROWS * ROWS_OF_W]) /* [WARPS] */
{
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float sums[ROWS][ROWS_OF_W] = {};
    add_share<IS_BF16, ROWS>(p, sums);
#pragma unroll
    for (int i = 0; i < ROWS * ROWS_OF_W; i++) {
        float sum = sums[i / ROWS_OF_W][i % ROWS_OF_W];
        for (int other = 16; other; other /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
        if (lane == 0) shared[warp][i] = sum;
    }
    __syncthreads();
    uint32_t i = threadIdx.x, row = i / ROWS_OF_W, n = blockIdx.x * ROWS_OF_W + i % ROWS_OF_W;
    if (i >= ROWS * ROWS_OF_W || n >= p.n) return;
    float sum = 0;
    for (int w = 0; w < WARPS; w++) sum += shared[w][i];
    p.y[row * p.y_stride + n] = p.bias ? sum + p.bias[n] : sum;
}

#define MULTIPLY(NAME, IS_BF16, ROWS)                                                                        \
    __global__ void __launch_bounds__(THREADS) multiply_few_##NAME##_##ROWS(rt_cuda_few p)                   \
    {                                                                                                        \
        __shared__ float shared[WARPS][ROWS * ROWS_OF_W];                                                    \
        multiply<IS_BF16, ROWS>(p, shared);                                                                  \
    }                                                                                                        \
    KREGISTER(multiply_few_##NAME##_##ROWS)
#define MULTIPLY_ALL(NAME, IS_BF16)                                                                          \
    MULTIPLY(NAME, IS_BF16, 1);                                                                              \
    MULTIPLY(NAME, IS_BF16, 2);                                                                              \
    MULTIPLY(NAME, IS_BF16, 4);                                                                              \
    MULTIPLY(NAME, IS_BF16, 8)
MULTIPLY_ALL(bf16, true);
MULTIPLY_ALL(f32, false);

#define LAUNCH(NAME, ROWS) kl(multiply_few_##NAME##_##ROWS, grid, dim3(THREADS), 0, stream, *p)
#define LAUNCH_ROWS(NAME)                                                                                    \
    rows == 1 ? LAUNCH(NAME, 1) : rows == 2 ? LAUNCH(NAME, 2) : rows == 4 ? LAUNCH(NAME, 4) : LAUNCH(NAME, 8)

cudaError_t rt_cuda_few_multiply(const rt_cuda_few *p, uint32_t rows, bool is_bf16, cudaStream_t stream)
{
    dim3 grid((p->n + ROWS_OF_W - 1) / ROWS_OF_W);
    if (!rt_cuda_few_takes(rows)) return cudaErrorInvalidValue;
    return is_bf16 ? LAUNCH_ROWS(bf16) : LAUNCH_ROWS(f32);
}
