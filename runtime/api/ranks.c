#include "runtime/api/ranks.h"

#include <stdlib.h>

#include "runtime/backend/pool.h"

typedef struct rank_progress {
    const rt_model_options *model;
    uint32_t rank, ranks;
} rank_progress;

/* Ranks load one after the other, and each has about the same. */
static void tell_progress(void *ctx, uint64_t done, uint64_t total)
{
    const rank_progress *p = ctx;
    p->model->progress(p->model->progress_ctx, total * p->rank + done, total * p->ranks);
}

static rc_code open_rank(mica__ranks *r, const rt_model_options *model, mica__rank_plan *plan, uint32_t i,
                         rc_msg *msg)
{
    rt_exec_model *x = &r->models[i];
    rank_progress progress = {model, i, r->count};
    rt_model_options own = *model;
    own.rank = plan->info.shard.rank;
    own.world = plan->info.shard.world;
    if (model->progress) {
        own.progress = tell_progress;
        own.progress_ctx = &progress;
    }
    if (r->group) plan->device.group = rt_group_local_rank(r->group, i);
    *x = (rt_exec_model){.backend = r->backend, .info = plan->info, .group = plan->device.group};
    RC_TRY(r->backend->open(&plan->device, &x->device, msg));
    RC_TRY(rt_model_open(&own, &plan->info, &plan->limits, r->backend, x->device, &x->model, msg));
    rt_exec_model_init(&r->execs[i], x, plan->limits.logits_max, plan->device.lists_max);
    return RC_OK;
}

typedef struct prepare_call {
    mica__ranks *r;
    rc_code *codes; /* [count], as are the messages */
    rc_msg *messages;
} prepare_call;

static void prepare_rank(void *arg, uint32_t rank, uint32_t ranks)
{
    const prepare_call *c = arg;
    (void)ranks;
    rt_exec_model *x = &c->r->models[rank];
    rc_code code = RC_OK;
    if (c->r->group && x->backend->join) code = x->backend->join(x->device, &c->messages[rank]);
    if (code == RC_OK) code = rt_model_tune(x->model, &c->messages[rank]);
    c->codes[rank] = code;
}

/* All ranks at once: a collective begins when the last one has come. */
static rc_code prepare_ranks(mica__ranks *r, rc_msg *msg)
{
    rt_pool *team;
    rc_code code = RC_OK;
    prepare_call c = {r, calloc(r->count, sizeof *c.codes), calloc(r->count, sizeof *c.messages)};
    if (!c.codes || !c.messages)
        code = rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for %u ranks", r->count);
    if (code == RC_OK) code = rt_pool_create(r->count, &team, msg);
    if (code == RC_OK) {
        rt_pool_run(team, prepare_rank, &c);
        rt_pool_destroy(team);
    }
    for (uint32_t i = 0; code == RC_OK && i < r->count; i++) {
        code = c.codes[i];
        if (code != RC_OK && msg) *msg = c.messages[i];
    }
    free(c.codes);
    free(c.messages);
    return code;
}

rc_code mica__ranks_open(mica__ranks *r, const mica__ranks_options *o, rt_exec *exec, rc_msg *msg)
{
    rt_group_local_options group = {.ranks = o->count, .mesh = o->mesh, .floats_max = o->floats_max};
    *r = (mica__ranks){.backend = o->backend, .count = o->count};
    r->models = calloc(o->count, sizeof *r->models);
    r->execs = calloc(o->count, sizeof *r->execs);
    if (!r->models || !r->execs)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for %u ranks", o->count);
    for (uint32_t i = 0; i < o->count; i++) group.threads += o->plans[i].device.threads;
    if (o->plans[0].info.shard.world > 1) RC_TRY(rt_group_local_create(&group, &r->group, msg));
    for (uint32_t i = 0; i < o->count; i++) RC_TRY(open_rank(r, &o->model, &o->plans[i], i, msg));
    RC_TRY(prepare_ranks(r, msg));
    *exec = r->execs[0];
    return o->count > 1 ? rt_exec_ranks_create(r->execs, o->count, &r->team, exec, msg) : RC_OK;
}

void mica__ranks_close(mica__ranks *r)
{
    rt_exec_ranks_destroy(r->team);
    for (uint32_t i = 0; r->models && i < r->count; i++) {
        rt_model_close(r->models[i].model);
        if (r->models[i].device) r->backend->close(r->models[i].device);
    }
    rt_group_local_destroy(r->group);
    free(r->models);
    free(r->execs);
    *r = (mica__ranks){0};
}
