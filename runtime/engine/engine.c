#include "runtime/engine/engine.h"

#include <stdlib.h>
#include <string.h>

#include "adapters/activation.h"
#include "runtime/engine/engine_internal.h"

/* ---- life ---- */

static rt_batch_options batch_options(const rt_engine_options *o)
{
    return (rt_batch_options){ o->rows_max, o->running_max, o->blocks_max, o->block_tokens, o->slots_max };
}

static kv_options cache_options(const rt_engine_options *o)
{
    return (kv_options){.blocks_max = o->blocks_max,
                        .block_tokens = o->block_tokens,
                        .seqs_max = o->running_max,
                        .seq_tokens_max = o->max_model_len,
                        .enable_prefix_cache = o->enable_prefix_cache,
                        .adapter_domain = o->adapter_domain};
}

static rt_sched_options sched_options(const rt_engine_options *o)
{
    return (rt_sched_options){.seqs_max = o->seqs_max,
                              .running_max = o->running_max,
                              .rows_max = o->rows_max,
                              .block_tokens = o->block_tokens,
                              .by_priority = o->by_priority,
                              .in_order = o->in_order, .prefill_first = o->prefill_first,
                              .waits_for_prefix = o->enable_prefix_cache};
}

size_t rt_engine_bytes(const rt_engine_options *o)
{
    kv_options cache = cache_options(o);
    rt_batch_options batch = batch_options(o);
    rt_sched_options sched = sched_options(o);
    return sizeof(rt_engine) + kv_bytes(&cache) + rt_batch_bytes(&batch) + rt_sched_bytes(&sched) +
           o->seqs_max * sizeof(rt_choice *) +
           o->rows_max * (RT__STEPS * sizeof(rt__logit_item) + sizeof(rt_pick)) +
           o->exec.parts * rt_sampler_scratch_bytes(o->exec.vocab);
}

static rc_code create_arrays(rt_engine *e, rc_msg *msg)
{
    e->scratch_bytes = (rt_sampler_scratch_bytes(e->o.exec.vocab) + 63) & ~(size_t)63;
    e->choice_of = calloc(e->o.seqs_max, sizeof *e->choice_of);
    rt__logit_item *items = calloc(e->o.rows_max, RT__STEPS * sizeof *items);
    for (uint32_t i = 0; items && i < RT__STEPS; i++) e->steps[i].items = items + (size_t)i * e->o.rows_max;
    e->latest = e->steps;
    e->picks = calloc(e->o.rows_max, sizeof *e->picks);
    e->scratch = aligned_alloc(64, e->o.exec.parts * e->scratch_bytes + 64);
    if (e->choice_of && items && e->picks && e->scratch) return RC_OK;
    return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for an engine of %u sequences", e->o.seqs_max);
}

rc_code rt_engine_create(const rt_engine_options *o, rt_engine **out, rc_msg *msg)
{
    kv_options cache = cache_options(o);
    adapter_registry_options adapters = { o->slots_max, o->contents_max };
    rt_sched_options sched = sched_options(o);
    rt_batch_options batch = batch_options(o);
    rt_engine *e = calloc(1, sizeof *e);
    rc_code code;
    if (!e) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for an engine");
    e->o = *o;
    code = kv_create(&cache, &e->cache, msg);
    if (code == RC_OK && o->watcher) kv_watch(e->cache, o->watcher, o->watcher_ctx);
    if (code == RC_OK) code = adapter_registry_create(&adapters, &e->adapters, msg);
    sched.cache = e->cache;
    sched.adapters = e->adapters;
    sched.copy_rows = o->exec.copy_rows;
    sched.copy_ctx = o->exec.ctx;
    if (code == RC_OK) code = rt_sched_create(&sched, &e->sched, msg);
    if (code == RC_OK) code = rt_batch_create(&batch, &e->batch, msg);
    if (code == RC_OK) code = create_arrays(e, msg);
    if (code != RC_OK) {
        rt_engine_destroy(e);
        return code;
    }
    *out = e;
    return RC_OK;
}

void rt_engine_destroy(rt_engine *e)
{
    uint32_t stride;
    if (!e) return;
    if (e->begun && e->begun->step.is_picked)
        (void)e->o.exec.picked(e->o.exec.ctx, &stride); /* the device comes to rest */
    free(e->scratch);
    free(e->steps[0].items);
    free(e->picks);
    free(e->choice_of);
    rt_batch_destroy(e->batch);
    rt_sched_destroy(e->sched);
    adapter_registry_destroy(e->adapters);
    kv_destroy(e->cache);
    free(e);
}

adapter_registry *rt_engine_adapters(rt_engine *e) { return e->adapters; }

uint32_t rt_engine_find(const rt_engine *e, const int32_t *tokens, uint32_t count, const char *salt,
                        uint64_t adapter, uint32_t adapted_from)
{
    kv_identity who = {.adapter = adapter, .adapted_from = adapted_from};
    if (count > e->o.max_model_len || !kv_salt_find(e->cache, salt, strlen(salt), &who.salt)) return 0;
    return kv_find(e->cache, tokens, count, who);
}

/* ---- requests come and go ---- */

void rt__engine_tell(rt_engine *e, rt_choice *c)
{
    if (c->in_news) return;
    c->in_news = true;
    c->next_news = e->news;
    e->news = c;
}

rt_choice *rt_engine_take_news(rt_engine *e)
{
    rt_choice *news = e->news;
    e->news = NULL;
    for (rt_choice *c = news; c; c = c->next_news) c->in_news = false;
    return news;
}

static void let_go(rt_engine *e, rt_request *r)
{
    if (r->adapter) adapter_release(e->adapters, r->adapter);
    if (r->salt_id) kv_salt_release(e->cache, r->salt_id);
}

/* What the device has begun for it, nobody wants any more. A choice whose token has just been taken has one
 * row in the step behind; one that is cancelled may have had more, of its prompt. */
static void forget_items(rt_engine *e, const rt_choice *c)
{
    rt__begun_step *s = e->latest;
    if (c->item < s->items_count && s->items[c->item].choice == c) s->items[c->item].choice = NULL;
    if (!e->begun || e->begun->runs_ahead) return;
    for (uint32_t i = 0; i < s->items_count; i++)
        if (s->items[i].choice == c) s->items[i].choice = NULL;
}

void rt__engine_end_choice(rt_engine *e, rt_choice *c, mica_finish finish)
{
    rt_request *r = c->request;
    forget_items(e, c);
    if (c->seq != RT_SEQ_NONE) {
        rt_sched_remove(e->sched, c->seq);
        e->choice_of[c->seq] = NULL;
        c->seq = RT_SEQ_NONE;
    }
    c->finish = finish;
    if (--r->choices_alive == 0) let_go(e, r);
    rt__engine_tell(e, c);
}

static bool add_choice(rt_engine *e, rt_choice *c)
{
    rt_request *r = c->request;
    bool adapted = r->adapter && r->activation != ADAPTER_NEVER;
    rt_sched_seq seq = {
        .tokens = c->tokens, .tokens_count = r->prompt_count, .priority = r->priority,
        .adapter = adapted ? r->adapter : NULL,
        .computes_all = r->prompt_logprob && c == &r->choices[0] && r->prompt_count > 1,
        .identity = { .salt = r->salt_id, .adapter = adapted ? adapter_content_id(r->adapter) : 0,
                      .adapted_from = adapted ? r->activation : KV_NEVER } };
    c->seq = rt_sched_add(e->sched, &seq);
    if (c->seq == RT_SEQ_NONE) return false;
    e->choice_of[c->seq] = c;
    return true;
}

void rt__engine_fail_request(rt_engine *e, rt_request *r)
{
    for (uint32_t i = 0; i < r->choices_count; i++)
        if (r->choices[i].finish == MICA_RUNNING) rt__engine_end_choice(e, &r->choices[i], MICA_FAILED);
}

void rt_engine_submit(rt_engine *e, rt_request *r)
{
    if (r->adapter) adapter_hold(e->adapters, r->adapter);
    r->salt_id = 0;
    if (e->is_lost) {
        r->error = e->why_lost;
        rt__engine_fail_request(e, r);
        return;
    }
    if (r->salt_bytes && kv_salt_intern(e->cache, r->salt, r->salt_bytes, &r->salt_id, &r->error) != RC_OK) {
        rt__engine_fail_request(e, r);
        return;
    }
    for (uint32_t i = 0; i < r->choices_count; i++) {
        if (add_choice(e, &r->choices[i])) continue;
        rc_fail(RC_RESOURCE_EXHAUSTED, &r->error, "the queue of %u sequences is full", e->o.seqs_max);
        rt__engine_fail_request(e, r);
        return;
    }
}

void rt_engine_cancel_choice(rt_engine *e, rt_choice *c)
{
    if (c->finish == MICA_RUNNING) rt__engine_end_choice(e, c, MICA_CANCELLED);
}

void rt_engine_cancel(rt_engine *e, rt_request *r)
{
    for (uint32_t i = 0; i < r->choices_count; i++) rt_engine_cancel_choice(e, &r->choices[i]);
}

void rt_engine_fail_adapter(rt_engine *e, const adapter_content *adapter)
{
    for (uint32_t i = 0; i < e->o.seqs_max; i++) {
        rt_request *r = e->choice_of[i] ? e->choice_of[i]->request : NULL;
        if (!r || r->adapter != adapter) continue;
        rc_fail(RC_RESOURCE_EXHAUSTED, &r->error,
                "adapter '%.200s' could not be brought into a slot: no memory", r->adapter_name);
        rt__engine_fail_request(e, r);
    }
}

/* ---- queries ---- */

rc_code rt_engine_status(const rt_engine *e, rc_msg *msg)
{
    if (!e->is_lost) return RC_OK;
    if (msg) *msg = e->why_lost;
    return RC_UNAVAILABLE;
}

rt_engine_stats rt_engine_get_stats(const rt_engine *e)
{
    rt_engine_stats s = e->stats;
    s.sched = rt_sched_get_stats(e->sched);
    s.cache = kv_get_stats(e->cache);
    return s;
}

void rt_engine_check(const rt_engine *e)
{
    kv_check(e->cache);
    adapter_registry_check(e->adapters);
    rt_sched_check(e->sched);
}
