/* runtime/backend/group.h - what the ranks of a tensor-parallel model say to each other, on the host.
 *
 * A rank has a shard of the model on a device of its own and a thread that drives it. All ranks make the same
 * collective calls in the same order. CPU ranks move their activations this way; another device bootstraps
 * its own collectives with it. A table of functions, so that a plugin needs no symbol of ours.
 *
 * Order    a sum is over the ranks in the order of their numbers, for every element alike: a row's bits do
 *          not depend on the batch, and all ranks get the same ones. Where ranks live in several processes,
 *          each process sums its own ranks first, then the processes' sums are added in their order.
 * Failure  sticky: a rank that fails, dies or hangs fails the group for good. From then on, and for who waits
 *          in a collective, every call gives false at once, and arrays hold anything; `status` says why.
 *          Other ranks may still be at an array then: it lives until they have returned, too.
 * Threads  a rank's collectives: its thread alone. fail and status: any.
 */
#ifndef RUNTIME_BACKEND_GROUP_H
#define RUNTIME_BACKEND_GROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/rc.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rt_group rt_group;

typedef struct rt_group_ops {
    /* Gives when all ranks have called it. */
    bool (*barrier)(rt_group *g);
    /* bytes [count], the same count everywhere: rank 0's go to all. */
    bool (*broadcast)(rt_group *g, void *bytes, size_t count);
    /* x [rows][width] at stride: becomes the sum over the ranks, in place. rows * width is at most what the
     * group was made for. */
    bool (*all_reduce)(rt_group *g, float *x, size_t stride, uint32_t rows, uint32_t width);
    /* y [rows][width] at stride: rank r holds columns rt_group_share(width, r, world). Rank 0 gets all of
     * them; elsewhere y stays as it is. */
    bool (*gather_columns)(rt_group *g, float *y, size_t stride, uint32_t rows, uint32_t width);
    /* Fails the group, if it has not failed yet, with one line that names who and why. */
    void (*fail)(rt_group *g, const char *line);
    /* RC_OK, or RC_UNAVAILABLE and the line. */
    rc_code (*status)(rt_group *g, rc_msg *msg);
} rt_group_ops;

struct rt_group { /* one rank's view */
    const rt_group_ops *ops;
    uint32_t rank, world;
};

/* Rank's range of `count` things: [first, end), in order, as even as they go. */
static inline void rt_group_share(uint64_t count, uint32_t rank, uint32_t world, uint32_t *first,
                                  uint32_t *end)
{
    *first = (uint32_t)(count * rank / world);
    *end = (uint32_t)(count * (rank + 1) / world);
}

#ifdef __cplusplus
}
#endif
#endif
