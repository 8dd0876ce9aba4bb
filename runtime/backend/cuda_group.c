/* Ranks by NCCL, brought together by the host's group. A rank that waits for its stream looks now and then
 * whether its group has failed, since a kernel of NCCL waits for a lost rank forever. */
#include <sched.h>

#include "runtime/backend/cuda_device.h"
#include "runtime/base/clock.h"

static uint32_t most_columns(size_t columns, uint32_t world)
{
    return (uint32_t)((columns + world - 1) / world);
}

size_t rt_cuda__sums_bytes(const rt_device_options *o)
{
    if (o->world < 2) return 0;
    /* Shares are rounded up, so a row of all ranks has less than a float more for each. */
    return (o->host_floats + (size_t)o->rows_max * o->world) * 2 * sizeof(float);
}

static rc_code nccl_code(const rt_device *d, ncclResult_t result, const char *what, rc_msg *msg)
{
    if (result == ncclSuccess) return RC_OK;
    return rc_fail(RC_UNAVAILABLE, msg, "rank %u, CUDA device %u: %s: %s", d->options.group->rank,
                   d->options.ordinal, what, ncclGetErrorString(result));
}

rc_code rt_cuda__join(rt_device *d, rc_msg *msg)
{
    rt_group *g = d->options.group;
    ncclUniqueId id;
    if (!g || g->world < 2) return RC_OK;
    rt_cuda__enter(d);
    if (g->rank == 0) {
        rc_code code = nccl_code(d, ncclGetUniqueId(&id), "NCCL's id", msg);
        if (code != RC_OK) {
            g->ops->fail(g, msg->text);
            return code;
        }
    }
    if (!g->ops->broadcast(g, &id, sizeof id)) return g->ops->status(g, msg);
    rc_code code = nccl_code(d, ncclCommInitRank(&d->comm, (int)g->world, id, (int)g->rank), "NCCL", msg);
    if (code == RC_OK) return rt_cuda__sums_prepare(d, msg);
    g->ops->fail(g, msg->text);
    return code;
}

void rt_cuda__leave(rt_device *d)
{
    if (d->given_up) __atomic_store_n(d->given_up, 1, __ATOMIC_RELEASE);
    rt_cuda__graphs_destroy(d); /* NCCL would wait for those that hold collectives */
    if (d->comm) ncclCommAbort(d->comm);
    d->comm = NULL;
}

static void check(rt_device *d, ncclResult_t result, const char *what)
{
    rc_msg msg;
    if (nccl_code(d, result, what, &msg) != RC_OK) rt_cuda__fail(d, msg.text);
}

/* Rows between their places and the scratch, where they lie one behind the other. */
static void move_rows(rt_device *d, float *to, size_t to_stride, const float *from, size_t from_stride,
                      uint32_t rows, uint32_t width)
{
    if (d->has_failed || !rows || !width) return;
    rt_cuda__check(d,
                   cudaMemcpy2DAsync(to, to_stride * sizeof *to, from, from_stride * sizeof *to,
                                     width * sizeof *to, rows, cudaMemcpyDeviceToDevice, d->stream),
                   "rows of ranks");
}

void rt_cuda__sum(rt_device *d, const float *x, size_t stride, uint32_t rows, uint32_t width)
{
    size_t floats = (size_t)rows * width;
    RC_ASSERT(rows <= d->options.rows_max && width <= d->options.sums_width);
    move_rows(d, d->summed, width, x, stride, rows, width);
    if (d->has_failed) return;
    check(d, ncclAllReduce(d->summed, d->summed, floats, ncclFloat, ncclSum, d->comm, d->stream),
          "all-reduce");
}

void rt_cuda__all_reduce(rt_device *d, float *x, size_t stride, uint32_t rows, uint32_t width)
{
    if (!d->comm || !rt_cuda__launches(d)) return;
    rt_cuda__sum(d, x, stride, rows, width);
    move_rows(d, x, stride, d->summed, width, rows, width);
}

/* Equal shares, padded, of all ranks behind the rank's own. */
void rt_cuda__gather_columns(rt_device *d, float *y, size_t stride, uint32_t rows, uint32_t width)
{
    const rt_group *g = d->options.group;
    if (!d->comm || !rt_cuda__launches(d) || !rows) return;
    uint32_t most = most_columns(width, g->world), first, end;
    size_t share = (size_t)rows * most;
    float *all = d->sums + share;
    rt_group_share(width, g->rank, g->world, &first, &end);
    move_rows(d, d->sums, most, y + first, stride, rows, end - first);
    check(d, ncclAllGather(d->sums, all, share, ncclFloat, d->comm, d->stream), "gather");
    for (uint32_t r = 0; g->rank == 0 && r < g->world; r++) {
        rt_group_share(width, r, g->world, &first, &end);
        if (r) move_rows(d, y + first, stride, all + r * share, most, rows, end - first);
    }
}

void rt_cuda__spread_drawn(rt_device *d, uint32_t count)
{
    if (!d->comm || !rt_cuda__launches(d) || !count) return;
    check(d, ncclBroadcast(d->drawn, d->drawn, count, ncclInt32, 0, d->comm, d->stream), "tokens");
}

rc_code rt_cuda__status(rt_device *d, rc_msg *msg)
{
    const rt_group *g = d->options.group;
    if (d->has_failed) {
        pthread_mutex_lock(&d->lock);
        if (msg) *msg = d->why;
        pthread_mutex_unlock(&d->lock);
        return RC_UNAVAILABLE;
    }
    return g ? g->ops->status((rt_group *)g, msg) : RC_OK;
}

/* False: the group has failed. */
static bool wait_in_group(rt_device *d, cudaEvent_t event)
{
    rt_group *g = d->options.group;
    int64_t looked = rt_now_ns() / 1000000;
    cudaError_t error;
    while ((error = cudaEventQuery(event)) == cudaErrorNotReady) {
        int64_t now = rt_now_ns() / 1000000;
        if (now != looked && g->ops->status(g, NULL) != RC_OK) return false;
        looked = now;
        sched_yield();
    }
    rt_cuda__check(d, error, "step");
    return !d->has_failed && g->ops->status(g, NULL) == RC_OK;
}

void rt_cuda__wait(rt_device *d, cudaEvent_t event)
{
    if (!d->comm) {
        if (!d->has_failed) rt_cuda__check(d, cudaEventSynchronize(event), "step");
        return;
    }
    rc_msg why;
    if (!d->has_failed && wait_in_group(d, event)) return;
    if (d->options.group->ops->status(d->options.group, &why) != RC_OK) rt_cuda__lost(d, &why);
    rt_cuda__leave(d);
    (void)cudaStreamSynchronize(
        d->stream); /* what was begun ends now, before anything that it reads is freed */
}

/* A stream takes about a thousand launches, and who launches one more waits inside CUDA, where nobody looks
 * at the group. A step can have more: so each rank waits here, long before, for some of them to end. */
void rt_cuda__pace(rt_device *d, uint32_t launches)
{
    if (!d->comm || d->captures || !rt_cuda__launches(d)) return;
    d->launched += launches;
    if (d->launched < RT_CUDA_MARK_LAUNCHES) return;
    d->launched = 0;
    cudaEvent_t mark = d->marks[d->marked++ % RT_CUDA_MARKS];
    rt_cuda__wait(d, mark);
    if (!d->has_failed) rt_cuda__check(d, cudaEventRecord(mark, d->stream), "mark");
}
