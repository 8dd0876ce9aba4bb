#include "runtime/engine/exec_model.h"

static void copy_rows(void *ctx, uint32_t from_block, uint32_t to_block, uint32_t rows)
{
    rt_exec_model *m = ctx;
    m->backend->kv_copy_rows(m->device, from_block, to_block, rows);
}

static void forward(void *ctx, const rt_step *step)
{
    rt_exec_model *m = ctx;
    rt_model_forward(m->model, step);
}

static const float *logits(void *ctx, const rt_step *step, uint32_t first, uint32_t count)
{
    rt_exec_model *m = ctx;
    return rt_model_logits(m->model, step, first, count);
}

static const mica_top *picked(void *ctx, uint32_t *stride)
{
    rt_exec_model *m = ctx;
    return rt_model_picked(m->model, stride);
}

static rc_code status(void *ctx, rc_msg *msg)
{
    rt_exec_model *m = ctx;
    rc_msg why;
    rc_code code = m->backend->status(m->device, &why);
    if (code == RC_OK) return code;
    if (m->group) m->group->ops->fail(m->group, why.text); /* the other ranks wait in vain */
    if (msg) *msg = why;
    return code;
}

static rc_code adapter_attach(void *ctx, uint32_t slot, const adapter_weights *w, rc_msg *msg)
{
    rt_exec_model *m = ctx;
    const rt_model_info *i = &m->info;
    adapter_weights *own;
    if (i->shard.world == 1) return m->backend->adapter_attach(m->device, slot, w, i->dtype, msg);
    RC_TRY(rt_shard_adapter(&i->config, &i->shard, w, &own, msg));
    rc_code code = m->backend->adapter_attach(m->device, slot, own, i->dtype, msg);
    adapter_weights_free(own);
    return code;
}

static void adapter_detach(void *ctx, uint32_t slot)
{
    rt_exec_model *m = ctx;
    m->backend->adapter_detach(m->device, slot);
}

static void parallel(void *ctx, rt_task task, void *arg)
{
    rt_exec_model *m = ctx;
    m->backend->parallel(m->device, task, arg);
}

void rt_exec_model_init(rt_exec *exec, rt_exec_model *m, uint32_t logits_max, uint32_t lists_max)
{
    *exec = (rt_exec){.ctx = m,
                      .vocab = m->info.config.vocab,
                      .logits_max = logits_max,
                      .lists_max = lists_max,
                      .copy_rows = copy_rows,
                      .forward = forward,
                      .logits = logits,
                      .picked = m->backend->pick ? picked : NULL,
                      .status = status,
                      .adapter_attach = adapter_attach,
                      .adapter_detach = adapter_detach,
                      .parallel = parallel,
                      .parts = m->backend->threads(m->device)};
}
