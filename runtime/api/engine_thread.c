#include "runtime/api/mica_internal.h"

void mica__wake(void *arg)
{
    mica *m = arg;
    pthread_mutex_lock(&m->lock);
    m->woken = true;
    pthread_cond_signal(&m->work);
    pthread_mutex_unlock(&m->lock);
}

/* Carries out the commands of one request: a few list operations, so the lock stays held. */
static void take_command(mica *m)
{
    rt_request *r = m->commands;
    m->commands = r->next_command;
    if (!m->commands) m->commands_tail = NULL;
    if (r->wants_submit) rt_engine_submit(m->engine, r);
    if (r->wants_cancel) rt_engine_cancel(m->engine, r);
    for (uint32_t i = 0; i < r->choices_count; i++)
        if (r->choices[i].wants_cancel) rt_engine_cancel_choice(m->engine, &r->choices[i]);
    r->in_commands = r->wants_submit = r->wants_cancel = false;
    mica__forget_if_over(m, r);
}

static void run_op(mica *m)
{
    mica__op *op = m->op;
    adapter_registry *r = rt_engine_adapters(m->engine);
    switch (op->kind) {
    case MICA__ADD:
        op->code = adapter_registry_add(r, op->name, op->weights, &op->msg);
        if (op->code == RC_OK) op->content = adapter_registry_find(r, op->name);
        break;
    case MICA__REMOVE: op->code = adapter_registry_remove(r, op->name, &op->msg); break;
    case MICA__KEEP: op->code = adapter_registry_keep(r, op->name, &op->msg); break;
    }
    op->done = true;
    m->op = NULL;
    pthread_cond_broadcast(&m->op_ended);
}

/* Jobs of the registry go to the loader's thread, and what it has done comes back. */
static void serve_adapters(mica *m)
{
    adapter_registry *r = rt_engine_adapters(m->engine);
    adapter_job job;
    bool ok;
    while (rt_loader_take_done(m->loader, &job, &ok)) {
        adapter_content *content = job.content;
        if (!ok && content) rt_engine_fail_adapter(m->engine, content);
        adapter_registry_job_done(r, &job, ok);
    }
    while (adapter_registry_next_job(r, &job)) rt_loader_give(m->loader, &job);
}

static void update_stats(mica *m)
{
    rt_engine_stats s = rt_engine_get_stats(m->engine);
    uint32_t resident = 0;
    for (uint32_t i = 0; i < m->names_count; i++) {
        mica__name *n = &m->names[i];
        n->is_resident = adapter_content_slot(n->content) != ADAPTER_NO_SLOT;
        n->is_awaited = adapter_is_awaited(n->content);
        resident += n->is_resident;
    }
    m->stats = (mica_stats){.running = s.sched.running,
                            .waiting = s.sched.waiting,
                            .prompt_tokens = s.prompt_tokens,
                            .generated_tokens = s.generated_tokens,
                            .cached_prompt_tokens = s.cached_tokens,
                            .computed_tokens = s.rows,
                            .steps = s.steps,
                            .preemptions = s.sched.preemptions,
                            .blocks_total = m->plan.engine.blocks_max,
                            .blocks_live = s.cache.blocks_live,
                            .blocks_cached = s.cache.blocks_cached,
                            .adapters_known = m->names_count,
                            .adapters_resident = resident};
}

/* The lock is held. */
static void notice_loss(mica *m)
{
    if (m->is_lost || rt_engine_status(m->engine, &m->why_lost) == RC_OK) return;
    m->is_lost = true;
}

void mica__device_works(void *arg, bool begins)
{
    mica *m = arg;
    if (begins) pthread_mutex_unlock(&m->engine_lock);
    else pthread_mutex_lock(&m->engine_lock);
}

/* The lock is held, but while this waits. */
static void wait_for_company(mica *m)
{
    int64_t at = rt_engine_next_at(m->engine);
    if (!at) return;
    struct timespec until = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};
    pthread_mutex_unlock(&m->lock);
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    pthread_mutex_lock(&m->lock);
}

void *mica__run(void *arg)
{
    mica *m = arg;
    bool ran = false;
    pthread_setname_np(pthread_self(), "engine");
    pthread_mutex_lock(&m->lock);
    while (!m->stopping) {
        while (!ran && !m->stopping && !m->woken && !m->commands && !m->op)
            pthread_cond_wait(&m->work, &m->lock);
        wait_for_company(m);
        m->woken = false;
        pthread_mutex_lock(&m->engine_lock);
        while (m->commands) take_command(m);
        if (m->op) run_op(m);
        pthread_mutex_unlock(&m->lock);
        serve_adapters(m);
        ran = rt_engine_step(m->engine);
        serve_adapters(m);
        if (m->kv_queue) mica__kv_queue_end(m->kv_queue);
        rt_choice *news = rt_engine_take_news(m->engine);
        pthread_mutex_unlock(&m->engine_lock);
        pthread_mutex_lock(&m->lock);
        update_stats(m);
        notice_loss(m);
        mica__publish(m, news);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}
