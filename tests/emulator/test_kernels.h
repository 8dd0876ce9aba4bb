/* tests/emulator/test_kernels.h - small kernels that use what the emulator emulates, and broken ones. */
#ifndef TESTS_EMULATOR_TEST_KERNELS_H
#define TESTS_EMULATOR_TEST_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { TEST_M = 16, TEST_N = 8, TEST_COUNTS = 16 };

/* y[row] = sum of x[row][0 .. width), one block a row. */
cudaError_t test_row_sums(const float *x, float *y, int rows, int width, cudaStream_t stream);
/* c [16][8] = a [16][k] * b^T, b [8][k]: bf16, k a multiple of 16, through shared memory. trans: b is [k][8].
 */
cudaError_t test_product(const uint16_t *a, const uint16_t *b, float *c, int k, int trans,
                         cudaStream_t stream);
/* counts[x[i] % 16]++, by ballots and atomics. */
cudaError_t test_count(const int *x, int n, int *counts, cudaStream_t stream);

typedef enum test_fault {
    TEST_NO_SYNC,     /* a __syncthreads is missing: y is wrong */
    TEST_NO_WAIT,     /* an asynchronous copy is not waited for: y is wrong */
    TEST_DIVERGENT,   /* half the block waits at another barrier: the launch fails */
    TEST_WRONG_MASK,  /* a lane takes part that its mask does not name: the launch fails */
    TEST_PAST_SHARED, /* a write past dynamic shared memory: the process dies */
} test_fault;
/* y[i] = x[i], reversed in TEST_NO_SYNC; 64 threads. */
cudaError_t test_faulty(test_fault fault, const float *x, float *y, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
