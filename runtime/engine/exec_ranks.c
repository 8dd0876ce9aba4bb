#include "runtime/engine/exec_ranks.h"

#include <stdlib.h>

#include "runtime/backend/pool.h"

struct rt_exec_ranks {
    rt_pool *team; /* part r is rank r */
    uint32_t count, parts;
    rt_exec ranks[];
};

/* What all ranks do at once. */
typedef struct rank_call {
    rt_exec_ranks *x;
    const rt_step *step;
    uint32_t first, count; /* of the logits */
    const float *logits;   /* rank 0's, as what follows */
    const mica_top *picked;
    uint32_t picked_stride;
    uint32_t from_block, to_block, rows;
    rt_task task;
    void *arg;
} rank_call;

static void copy_rows_of(void *arg, uint32_t rank, uint32_t ranks)
{
    const rank_call *c = arg;
    const rt_exec *r = &c->x->ranks[rank];
    (void)ranks;
    r->copy_rows(r->ctx, c->from_block, c->to_block, c->rows);
}

static void copy_rows(void *ctx, uint32_t from_block, uint32_t to_block, uint32_t rows)
{
    rt_exec_ranks *x = ctx;
    rank_call c = {.x = x, .from_block = from_block, .to_block = to_block, .rows = rows};
    rt_pool_run(x->team, copy_rows_of, &c);
}

static void forward_of(void *arg, uint32_t rank, uint32_t ranks)
{
    const rank_call *c = arg;
    const rt_exec *r = &c->x->ranks[rank];
    (void)ranks;
    r->forward(r->ctx, c->step);
}

static void forward(void *ctx, const rt_step *step)
{
    rt_exec_ranks *x = ctx;
    rank_call c = {.x = x, .step = step};
    rt_pool_run(x->team, forward_of, &c);
}

static void logits_of(void *arg, uint32_t rank, uint32_t ranks)
{
    rank_call *c = arg;
    const rt_exec *r = &c->x->ranks[rank];
    (void)ranks;
    const float *found = r->logits(r->ctx, c->step, c->first, c->count);
    if (rank == 0) c->logits = found;
}

static const float *logits(void *ctx, const rt_step *step, uint32_t first, uint32_t count)
{
    rt_exec_ranks *x = ctx;
    rank_call c = {.x = x, .step = step, .first = first, .count = count};
    rt_pool_run(x->team, logits_of, &c);
    return c.logits;
}

static void picked_of(void *arg, uint32_t rank, uint32_t ranks)
{
    rank_call *c = arg;
    const rt_exec *r = &c->x->ranks[rank];
    uint32_t stride;
    (void)ranks;
    const mica_top *found = r->picked(r->ctx, &stride);
    if (rank) return;
    c->picked = found;
    c->picked_stride = stride;
}

static const mica_top *picked(void *ctx, uint32_t *stride)
{
    rt_exec_ranks *x = ctx;
    rank_call c = {.x = x};
    rt_pool_run(x->team, picked_of, &c);
    *stride = c.picked_stride;
    return c.picked;
}

static rc_code status(void *ctx, rc_msg *msg)
{
    rt_exec_ranks *x = ctx;
    for (uint32_t i = 0; i < x->count; i++) RC_TRY(x->ranks[i].status(x->ranks[i].ctx, msg));
    return RC_OK;
}

static void detach_first(rt_exec_ranks *x, uint32_t count, uint32_t slot)
{
    for (uint32_t i = 0; i < count; i++) x->ranks[i].adapter_detach(x->ranks[i].ctx, slot);
}

static rc_code adapter_attach(void *ctx, uint32_t slot, const adapter_weights *w, rc_msg *msg)
{
    rt_exec_ranks *x = ctx;
    for (uint32_t i = 0; i < x->count; i++) {
        rc_code code = x->ranks[i].adapter_attach(x->ranks[i].ctx, slot, w, msg);
        if (code == RC_OK) continue;
        detach_first(x, i, slot);
        return code;
    }
    return RC_OK;
}

static void adapter_detach(void *ctx, uint32_t slot)
{
    rt_exec_ranks *x = ctx;
    detach_first(x, x->count, slot);
}

/* A rank's parts of a task that all ranks' threads share. */
typedef struct rank_parts {
    const rank_call *call;
    uint32_t first;
} rank_parts;

static void run_part(void *arg, uint32_t part, uint32_t parts)
{
    const rank_parts *p = arg;
    (void)parts;
    p->call->task(p->call->arg, p->first + part, p->call->x->parts);
}

static void parallel_of(void *arg, uint32_t rank, uint32_t ranks)
{
    const rank_call *c = arg;
    const rt_exec *r = &c->x->ranks[rank];
    rank_parts p = {.call = c};
    (void)ranks;
    for (uint32_t i = 0; i < rank; i++) p.first += c->x->ranks[i].parts;
    r->parallel(r->ctx, run_part, &p);
}

static void parallel(void *ctx, rt_task task, void *arg)
{
    rt_exec_ranks *x = ctx;
    rank_call c = {.x = x, .task = task, .arg = arg};
    rt_pool_run(x->team, parallel_of, &c);
}

rc_code rt_exec_ranks_create(const rt_exec *ranks, uint32_t count, rt_exec_ranks **out, rt_exec *exec,
                             rc_msg *msg)
{
    rt_exec_ranks *x = calloc(1, sizeof *x + count * sizeof *ranks);
    if (!x) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for %u ranks", count);
    x->count = count;
    memcpy(x->ranks, ranks, count * sizeof *ranks);
    for (uint32_t i = 0; i < count; i++) x->parts += ranks[i].parts;
    rc_code code = rt_pool_create(count, &x->team, msg);
    if (code != RC_OK) {
        rt_exec_ranks_destroy(x);
        return code;
    }
    *exec = (rt_exec){.ctx = x,
                      .vocab = ranks[0].vocab,
                      .logits_max = ranks[0].logits_max,
                      .lists_max = ranks[0].lists_max,
                      .copy_rows = copy_rows,
                      .forward = forward,
                      .logits = logits,
                      .picked = ranks[0].picked ? picked : NULL,
                      .status = status,
                      .adapter_attach = adapter_attach,
                      .adapter_detach = adapter_detach,
                      .parallel = parallel,
                      .parts = x->parts};
    *out = x;
    return RC_OK;
}

void rt_exec_ranks_destroy(rt_exec_ranks *x)
{
    if (!x) return;
    rt_pool_destroy(x->team);
    free(x);
}
