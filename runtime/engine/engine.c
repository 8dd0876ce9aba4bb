#include "runtime/engine/engine.h"

#include <stdlib.h>
#include <string.h>

#include "adapters/activation.h"
#include "runtime/base/clock.h"
#include "runtime/engine/batch.h"

/* A row of logits and what is wanted of it. */
typedef struct logit_item {
    rt_choice *choice;
    uint32_t position;   /* of the row; it tells of the token at position + 1 */
    bool is_picked;      /* by the device */
} logit_item;

struct rt_engine {
    rt_engine_options o;
    kv *cache;
    adapter_registry *adapters;
    rt_sched *sched;
    rt_batch *batch;
    rt_choice **choice_of;   /* [seqs_max] by the scheduler's index */
    logit_item *items;       /* [rows_max] in the order of the step's logit rows */
    uint32_t items_count;
    rt_pick *picks;          /* [rows_max] the same for the device */
    char *scratch;           /* [exec.parts] of the sampler */
    size_t scratch_bytes;
    rt_choice *news;
    rt_engine_stats stats;
    bool is_lost;
    rc_msg why_lost;
};

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
           o->seqs_max * sizeof(rt_choice *) + o->rows_max * (sizeof(logit_item) + sizeof(rt_pick)) +
           o->exec.parts * rt_sampler_scratch_bytes(o->exec.vocab);
}

static rc_code create_arrays(rt_engine *e, rc_msg *msg)
{
    e->scratch_bytes = (rt_sampler_scratch_bytes(e->o.exec.vocab) + 63) & ~(size_t)63;
    e->choice_of = calloc(e->o.seqs_max, sizeof *e->choice_of);
    e->items = calloc(e->o.rows_max, sizeof *e->items);
    e->picks = calloc(e->o.rows_max, sizeof *e->picks);
    e->scratch = aligned_alloc(64, e->o.exec.parts * e->scratch_bytes + 64);
    if (e->choice_of && e->items && e->picks && e->scratch) return RC_OK;
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
    if (!e) return;
    free(e->scratch);
    free(e->items);
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

static void tell(rt_engine *e, rt_choice *c)
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

static void end_choice(rt_engine *e, rt_choice *c, mica_finish finish)
{
    rt_request *r = c->request;
    if (c->seq != RT_SEQ_NONE) {
        rt_sched_remove(e->sched, c->seq);
        e->choice_of[c->seq] = NULL;
        c->seq = RT_SEQ_NONE;
    }
    c->finish = finish;
    if (--r->choices_alive == 0) let_go(e, r);
    tell(e, c);
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

static void fail_request(rt_engine *e, rt_request *r)
{
    for (uint32_t i = 0; i < r->choices_count; i++)
        if (r->choices[i].finish == MICA_RUNNING) end_choice(e, &r->choices[i], MICA_FAILED);
}

void rt_engine_submit(rt_engine *e, rt_request *r)
{
    if (r->adapter) adapter_hold(e->adapters, r->adapter);
    r->salt_id = 0;
    if (e->is_lost) {
        r->error = e->why_lost;
        fail_request(e, r);
        return;
    }
    if (r->salt_bytes && kv_salt_intern(e->cache, r->salt, r->salt_bytes, &r->salt_id, &r->error) != RC_OK) {
        fail_request(e, r);
        return;
    }
    for (uint32_t i = 0; i < r->choices_count; i++) {
        if (add_choice(e, &r->choices[i])) continue;
        rc_fail(RC_RESOURCE_EXHAUSTED, &r->error, "the queue of %u sequences is full", e->o.seqs_max);
        fail_request(e, r);
        return;
    }
    e->stats.prompt_tokens += r->prompt_count;
}

void rt_engine_cancel_choice(rt_engine *e, rt_choice *c)
{
    if (c->finish == MICA_RUNNING) end_choice(e, c, MICA_CANCELLED);
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
        fail_request(e, r);
    }
}

/* ---- one step ---- */

static void device_works(const rt_engine *e, bool begins)
{
    if (e->o.device_works) e->o.device_works(e->o.device_works_ctx, begins);
}

/* First position of the entry whose row's logits are wanted: every prompt row that is still to be scored, and
 * the last known token's. UINT32_MAX: none. */
static uint32_t first_logit(const rt_choice *c, const rt_sched_entry *entry)
{
    const rt_request *r = c->request;
    uint32_t end = entry->position + entry->rows, known = r->prompt_count + c->generated_count;
    if (r->prompt_logprob && c == &r->choices[0] && r->prompt_scored + 1 < r->prompt_count)
        return entry->position > r->prompt_scored ? entry->position : r->prompt_scored;
    return end == known ? end - 1 : UINT32_MAX;
}

static bool scores_prompt(const logit_item *item)
{
    return item->position + 1 < item->choice->request->prompt_count;
}

/* Where what is wanted goes. */
static mica_token *token_of(const logit_item *item)
{
    rt_choice *c = item->choice;
    return scores_prompt(item) ? &c->request->prompt_logprob[item->position + 1]
                               : &c->generated[c->generated_count];
}

/* How many of the best it is wanted with; -1: no log probabilities. */
static int32_t tops_of(const logit_item *item, uint32_t vocab)
{
    const rt_request *r = item->choice->request;
    int32_t tops = scores_prompt(item) ? r->prompt_logprobs : r->logprobs;
    return tops > 0 && (uint32_t)tops > vocab ? (int32_t)vocab : tops;
}

static rt_history history_of(const rt_choice *c)
{
    return (rt_history){c->tokens, c->request->prompt_count, c->generated_count};
}

static rt_pick pick_of(const logit_item *item, uint32_t vocab)
{
    rt_pick p = {.token = token_of(item)->id, .tops = tops_of(item, vocab)};
    if (scores_prompt(item)) return p;
    rt_sampling s = item->choice->request->sampling;
    s.choice = item->choice->index;
    p.sampling = &item->choice->request->sampling;
    p.history = history_of(item->choice);
    p.uniform = rt_uniform(&s, &p.history);
    return p;
}

static void add_item(rt_engine *e, rt_choice *c, uint32_t position)
{
    logit_item *item = &e->items[e->items_count];
    *item = (logit_item){.choice = c, .position = position};
    if (e->o.exec.picked) e->picks[e->items_count] = pick_of(item, e->o.exec.vocab);
    e->items_count++;
}

static void add_entry(rt_engine *e, const rt_sched_entry *entry)
{
    rt_choice *c = e->choice_of[entry->seq];
    if (!c->request->admitted_ns) c->request->admitted_ns = rt_now_ns();
    rt_batch_entry row = {.tokens = c->tokens,
                          .position = entry->position,
                          .rows = entry->rows,
                          .slot = entry->slot,
                          .activation =
                              entry->slot == ADAPTER_NO_SLOT ? ADAPTER_NEVER : c->request->activation,
                          .first_logit = first_logit(c, entry)};
    row.blocks = kv_seq_blocks(e->cache, rt_sched_kv(e->sched, entry->seq), &row.blocks_count);
    rt_batch_add(e->batch, &row);
    for (uint32_t p = entry->position; p < entry->position + entry->rows; p++)
        if (p >= row.first_logit) add_item(e, c, p);
}

static void read_row(const logit_item *item, const float *logits, uint32_t vocab, void *scratch)
{
    mica_token *t = token_of(item);
    int32_t tops = tops_of(item, vocab);
    if (!scores_prompt(item)) {
        rt_sampling s = item->choice->request->sampling;
        rt_history history = history_of(item->choice);
        s.choice = item->choice->index;
        t->id = rt_sample(logits, vocab, &s, &history, scratch);
    }
    if (tops < 0) return;
    t->top_count = (uint32_t)tops;
    rt_logprobs(logits, vocab, t->id, t->top_count, &t->logprob, &t->rank, (mica_top *)t->top);
}

typedef struct logits_task {
    rt_engine *e;
    const float *logits;
    uint32_t first, count;
} logits_task;

static void read_logits(void *arg, uint32_t part, uint32_t parts)
{
    const logits_task *t = arg;
    uint32_t vocab = t->e->o.exec.vocab;
    for (uint32_t i = part; i < t->count; i += parts) {
        const float *logits = t->logits + (size_t)i * vocab;
        read_row(&t->e->items[t->first + i], logits, vocab, t->e->scratch + part * t->e->scratch_bytes);
    }
}

/* Whether the token that was just made ends the choice; a stop wins over the length. */
static mica_finish finish_of(const rt_engine *e, rt_choice *c, int32_t token)
{
    const rt_request *r = c->request;
    if (c->generated_count >= r->sampling.min_tokens) {
        for (uint32_t i = 0; !r->ignore_eos && i < e->o.eos_count; i++)
            if (e->o.eos[i] == token) return MICA_STOP;
        for (uint32_t i = 0; i < r->stop_ids_count; i++)
            if (r->stop_ids[i] == token) {
                c->stop_token = token;
                return MICA_STOP;
            }
    }
    return c->generated_count == r->max_tokens ? MICA_LENGTH : MICA_RUNNING;
}

static void take_token(rt_engine *e, rt_choice *c)
{
    int32_t token = c->generated[c->generated_count].id;
    mica_finish finish;
    c->tokens[c->request->prompt_count + c->generated_count++] = token;
    e->stats.generated_tokens++;
    finish = finish_of(e, c, token);
    if (finish != MICA_RUNNING) {
        end_choice(e, c, finish);
        return;
    }
    rt_sched_append(e->sched, c->seq);
    tell(e, c);
}

static void take_item(rt_engine *e, const logit_item *item)
{
    rt_choice *c = item->choice;
    rt_request *r = c->request;
    if (scores_prompt(item)) {
        r->prompt_scored = item->position + 1;
        if (r->prompt_scored + 1 == r->prompt_count) rt_sched_allow_cache(e->sched, c->seq);
        return;
    }
    if (c->generated_count == 0 && c == &r->choices[0]) {
        r->cached_tokens = rt_sched_first_hit(e->sched, c->seq);
        e->stats.cached_tokens += r->cached_tokens;
    }
    take_token(e, c);
}

/* False, with everything ended, where the step's results can't be believed. */
static bool device_is_well(rt_engine *e)
{
    const rt_exec *x = &e->o.exec;
    if (x->status(x->ctx, &e->why_lost) == RC_OK) return true;
    e->is_lost = true;
    for (uint32_t i = 0; i < e->o.seqs_max; i++) {
        if (!e->choice_of[i]) continue;
        e->choice_of[i]->request->error = e->why_lost;
        fail_request(e, e->choice_of[i]->request);
    }
    return false;
}

static void take_picked(logit_item *item, const mica_top *picked, uint32_t vocab)
{
    mica_token *t = token_of(item);
    int32_t tops = tops_of(item, vocab);
    if (picked->token < 0) return;
    RC_ASSERT((uint32_t)picked->token < vocab);
    item->is_picked = true;
    t->id = picked->token;
    if (tops < 0) return;
    t->logprob = picked->logprob;
    t->rank = picked->rank;
    t->top_count = (uint32_t)tops;
    if (tops) memcpy((mica_top *)t->top, picked + 1, (size_t)tops * sizeof *picked);
}

static bool pick_on_device(rt_engine *e, const rt_step *step)
{
    const rt_exec *x = &e->o.exec;
    uint32_t stride;
    if (!x->picked || !e->items_count) return true;
    device_works(e, true);
    const mica_top *picked = x->picked(x->ctx, step, &stride);
    device_works(e, false);
    if (!device_is_well(e)) return false;
    for (uint32_t i = 0; i < e->items_count; i++)
        take_picked(&e->items[i], picked + (size_t)i * stride, x->vocab);
    return true;
}

/* How many rows from `first` on are the host's, as far as their logits can be had at once. */
static uint32_t rows_of_host(const rt_engine *e, uint32_t first)
{
    uint32_t count = 0;
    for (uint32_t i = first; i < e->items_count && count < e->o.exec.logits_max; i++, count++)
        if (e->items[i].is_picked) break;
    return count;
}

static bool sample(rt_engine *e, const rt_step *step)
{
    const rt_exec *x = &e->o.exec;
    RC_ASSERT(e->items_count == step->logit_rows_count);
    if (!pick_on_device(e, step)) return false;
    for (uint32_t first = 0, count; first < e->items_count; first += count ? count : 1) {
        count = rows_of_host(e, first);
        if (!count) continue;
        device_works(e, true);
        logits_task task = { e, x->logits(x->ctx, step, first, count), first, count };
        device_works(e, false);
        if (!device_is_well(e)) return false;
        device_works(e, true);
        x->parallel(x->ctx, read_logits, &task);
        device_works(e, false);
    }
    if (!e->items_count && !device_is_well(e)) return false;
    for (uint32_t i = 0; i < e->items_count; i++) take_item(e, &e->items[i]);
    return true;
}

bool rt_engine_step(rt_engine *e)
{
    const rt_sched_entry *entries;
    uint32_t count = e->is_lost ? 0 : rt_sched_plan(e->sched, &entries);
    rt_step step;
    if (!count) {
        if (!e->is_lost) (void)device_is_well(e); /* an idle one may be lost, too */
        return false;
    }
    e->items_count = 0;
    rt_batch_begin(e->batch, kv_tables(e->cache));
    for (uint32_t i = 0; i < count; i++) add_entry(e, &entries[i]);
    step = *rt_batch_end(e->batch);
    step.picks = e->o.exec.picked ? e->picks : NULL;
    device_works(e, true);
    e->o.exec.forward(e->o.exec.ctx, &step);
    device_works(e, false);
    for (uint32_t i = 0; i < count; i++) rt_sched_committed(e->sched, &entries[i]);
    if (!sample(e, &step)) return false;
    e->stats.steps++;
    e->stats.rows += step.rows;
    return true;
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
