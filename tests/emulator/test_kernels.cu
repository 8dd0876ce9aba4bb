#include "tests/emulator/test_kernels.h"

#include "proto/cuda_port.cuh"

static __device__ __forceinline__ float warp_sum(float x)
{
    for (int step = 16; step; step >>= 1) x += __shfl_xor_sync(~0u, x, step);
    return x;
}

__global__ void row_sums_k(const float *x, float *y, int width)
{
    __shared__ float of_warp[32];
    float sum = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += x[(size_t)blockIdx.x * width + i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = warp_sum(threadIdx.x < blockDim.x / 32 ? of_warp[threadIdx.x] : 0);
        if (threadIdx.x == 0) y[blockIdx.x] = sum;
    }
}
KREGISTER(row_sums_k);

/* One warp; a whole operand at a time in shared memory: a [16][k], b [8][k] or [k][8]. */
__global__ void product_k(const uint16_t *a, const uint16_t *b, float *c, int k, int trans)
{
    KSMEM_DYN(uint16_t, shared);
    uint16_t *of_a = shared, *of_b = shared + TEST_M * k;
    int lane = threadIdx.x;
    for (int i = lane * 8; i < TEST_M * k; i += 32 * 8) cp_async16(of_a + i, a + i);
    for (int i = lane * 8; i < TEST_N * k; i += 32 * 8) cp_async16(of_b + i, b + i);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    float d[4] = {0, 0, 0, 0};
    for (int at = 0; at < k; at += 16) {
        uint32_t fa[4], fb[4];
        ldmatrix_x4(fa, of_a + lane % 16 * k + at + lane / 16 * 8);
        if (trans)
            ldmatrix_x4_trans(fb, of_b + (at + lane % 16) * TEST_N);
        else
            ldmatrix_x4(fb, of_b + lane % 8 * k + at + lane / 8 % 2 * 8);
        mma_m16n8k16_bf16(d, fa, fb);
    }
    int row = lane / 4, column = lane % 4 * 2;
    c[row * TEST_N + column] = d[0];
    c[row * TEST_N + column + 1] = d[1];
    c[(row + 8) * TEST_N + column] = d[2];
    c[(row + 8) * TEST_N + column + 1] = d[3];
}
KREGISTER(product_k);

__global__ void count_k(const int *x, int n, int *counts)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x, value = i < n ? x[i] & (TEST_COUNTS - 1) : -1;
    for (int v = 0; v < TEST_COUNTS; v++) {
        unsigned same = __ballot_sync(~0u, value == v);
        if (threadIdx.x % 32 == (unsigned)v) atomicAdd(&counts[v], __popc(same));
    }
}
KREGISTER(count_k);

__global__ void faulty_k(int fault, const float *x, float *y)
{
    KSMEM_DYN(float, shared);
    int t = threadIdx.x;
    if (fault == TEST_NO_SYNC) {
        shared[t] = x[t];
        y[t] = shared[63 - t];
    } else if (fault == TEST_NO_WAIT) {
        if (t < 16) cp_async16(shared + t * 4, x + t * 4);
        cp_async_commit();
        __syncthreads();
        y[t] = shared[t];
    } else if (fault == TEST_DIVERGENT) {
        if (t < 40)
            __syncthreads();
        else
            __syncwarp();
        y[t] = x[t];
    } else if (fault == TEST_WRONG_MASK) {
        y[t] = __shfl_sync(0xffffu, x[t], 0);
    } else {
        shared[t + 1] = x[t];
        y[t] = shared[t];
    }
}
KREGISTER(faulty_k);

extern "C" {

cudaError_t test_row_sums(const float *x, float *y, int rows, int width, cudaStream_t stream)
{
    return kl(row_sums_k, dim3(rows), dim3(128), 0, stream, x, y, width);
}

cudaError_t test_product(const uint16_t *a, const uint16_t *b, float *c, int k, int trans,
                         cudaStream_t stream)
{
    return kl(product_k, dim3(1), dim3(32), (TEST_M + TEST_N) * k * sizeof(uint16_t), stream, a, b, c, k,
              trans);
}

cudaError_t test_count(const int *x, int n, int *counts, cudaStream_t stream)
{
    return kl(count_k, dim3((n + 127) / 128), dim3(128), 0, stream, x, n, counts);
}

cudaError_t test_faulty(test_fault fault, const float *x, float *y, cudaStream_t stream)
{
    return kl(faulty_k, dim3(1), dim3(64), 64 * sizeof(float), stream, (int)fault, x, y);
}

} /* extern "C" */
