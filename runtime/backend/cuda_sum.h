/* runtime/backend/cuda_sum.h - rows of all ranks summed, added to the residual and normed, in one launch,
 * over memory of each rank that all can write.
 *
 * Block i of every rank's launch has row i. It writes its rank's row into the other ranks' windows, sets its
 * flag there, waits for the others' flags in its own window, and sums the ranks in the order of their
 * numbers: the same bits on all ranks, whatever the other rows.
 *
 *     a window   flags [RT_CUDA_SUM_ROWS][RT_CUDA_SUM_FLAGS], by block and the rank that sets it
 *                turns [RT_CUDA_SUM_ROWS], this rank's own: launches that a block has taken part in
 *                rows  [2][rows_most][world][stride] float32: two sets, which take turns
 *
 * A flag holds the turn that its setter has come to; nothing is ever reset, so a launch may be part of a
 * graph. Two sets suffice: who writes into a set again has seen, a turn ago, the other rank's flag of that
 * turn, and the stream had ended that rank's launch of the turn before, which was the last to read the set.
 *
 * Needs   all ranks launch the same numbers of rows in the same order. All blocks of a launch are resident at
 *         once, since each waits for one on every other rank: RT_CUDA_SUM_BLOCKS fit a multiprocessor.
 */
#ifndef RUNTIME_BACKEND_CUDA_SUM_H
#define RUNTIME_BACKEND_CUDA_SUM_H

#include <nccl.h>

#include "runtime/backend/cuda_ops.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    RT_CUDA_SUM_ROWS = 128, /* of a launch */
    RT_CUDA_SUM_BYTES =
        2 << 20, /* and those of a rank's rows: with more, other ways are quicker on any GPU */
    RT_CUDA_SUM_RANKS = 16,
    RT_CUDA_SUM_FLAGS = 32, /* a block's are on a line of their own */
    RT_CUDA_SUM_BLOCKS = 4
};

typedef struct rt_cuda_peers {
    char *windows[RT_CUDA_SUM_RANKS]; /* as this device addresses them */
    const uint32_t *given_up;         /* the host's, pinned: once it is not 0, nobody is waited for */
    uint32_t rank, world, rows_most;
    uint32_t stride; /* rt_cuda_sum_stride() */
} rt_cuda_peers;

/* Floats from a row of a window to the next: it is moved four at a time. */
static inline uint32_t rt_cuda_sum_stride(uint32_t width) { return (width + 3) / 4 * 4; }
/* Rows that a launch may have, 0: none fits. */
uint32_t rt_cuda_sum_rows_most(uint32_t rows_max, uint32_t width);
size_t rt_cuda_sum_bytes(uint32_t rows_max, uint32_t width, uint32_t world);
/* How this device addresses the windows of all ranks: `out` [world], on the device. */
cudaError_t rt_cuda_find_windows(ncclWindow_t window, uint32_t world, void **out, cudaStream_t stream);
/* As rt_cuda_add_residual, with x summed over the ranks. */
cudaError_t rt_cuda_sum_residual(const rt_cuda_peers *p, const rt_cuda_residual *r, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
