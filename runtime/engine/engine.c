#include "runtime/engine/engine.h"

#include <stdlib.h>
#include <string.h>

#include "adapters/activation.h"
#include "runtime/base/clock.h"
#include "runtime/engine/batch.h"
#include "runtime/engine/step_pace.h"

/* A row of logits and what is wanted of it. */
typedef struct logit_item {
    rt_choice *choice;
    uint32_t position;   /* of the row; it tells of the token at position + 1 */
    bool is_picked;      /* by the device */
} logit_item;

/* A step that the device was told of, until its tokens are taken. */
typedef struct begun_step {
    logit_item *items;   /* [rows_max] in the order of its logit rows; choice NULL: it ended meanwhile */
    uint32_t items_count;
    bool runs_ahead;     /* the next one may begin before this one's tokens are known */
    bool follows;        /* it began behind one that ran ahead, so the device had no pause before it */
    rt_step step;        /* else its logits can be asked for */
} begun_step;

enum { STEPS = RT_STEPS_AHEAD + 1 };

struct rt_engine {
    rt_engine_options o;
    kv *cache;
    adapter_registry *adapters;
    rt_sched *sched;
    rt_batch *batch;
    rt_choice **choice_of;   /* [seqs_max] by the scheduler's index */
    begun_step steps[STEPS];
    begun_step *latest;      /* of them */
    begun_step *begun;       /* the latest, where its tokens are still to be taken; else NULL */
    rt_step_pace pace;
    rt_pick *picks;          /* [rows_max] what is wanted of the latest, for the device */
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
           o->seqs_max * sizeof(rt_choice *) + o->rows_max * (STEPS * sizeof(logit_item) + sizeof(rt_pick)) +
           o->exec.parts * rt_sampler_scratch_bytes(o->exec.vocab);
}

static rc_code create_arrays(rt_engine *e, rc_msg *msg)
{
    e->scratch_bytes = (rt_sampler_scratch_bytes(e->o.exec.vocab) + 63) & ~(size_t)63;
    e->choice_of = calloc(e->o.seqs_max, sizeof *e->choice_of);
    logit_item *items = calloc(e->o.rows_max, STEPS * sizeof *items);
    for (uint32_t i = 0; items && i < STEPS; i++) e->steps[i].items = items + (size_t)i * e->o.rows_max;
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

/* What the device has begun for it, nobody wants any more. A choice whose token has just been taken has one
 * row in the step behind; one that is cancelled may have had more, of its prompt. */
static void forget_items(rt_engine *e, const rt_choice *c)
{
    begun_step *s = e->latest;
    if (c->item < s->items_count && s->items[c->item].choice == c) s->items[c->item].choice = NULL;
    if (!e->begun || e->begun->runs_ahead) return;
    for (uint32_t i = 0; i < s->items_count; i++)
        if (s->items[i].choice == c) s->items[i].choice = NULL;
}

static void end_choice(rt_engine *e, rt_choice *c, mica_finish finish)
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
 * the last token's. UINT32_MAX: none. */
static uint32_t first_logit(const rt_choice *c, const rt_sched_entry *entry)
{
    const rt_request *r = c->request;
    uint32_t end = entry->position + entry->rows, known = r->prompt_count + c->begun_count;
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
                               : rt_choice_next(c);
}

/* How many of the best it is wanted with; -1: no log probabilities. */
static int32_t tops_of(const logit_item *item, uint32_t vocab)
{
    const rt_request *r = item->choice->request;
    int32_t tops = scores_prompt(item) ? r->prompt_logprobs : r->logprobs;
    return tops > 0 && (uint32_t)tops > vocab ? (int32_t)vocab : tops;
}

static rt_history history_of(const rt_choice *c, uint32_t generated_count)
{
    return (rt_history){c->tokens, c->request->prompt_count, generated_count};
}

static rt_pick pick_of(const logit_item *item, uint32_t vocab)
{
    rt_pick p = {.token = scores_prompt(item) ? token_of(item)->id : 0, .tops = tops_of(item, vocab)};
    if (scores_prompt(item)) return p;
    rt_sampling s = item->choice->request->sampling;
    s.choice = item->choice->index;
    p.sampling = &item->choice->request->sampling;
    p.history = history_of(item->choice, item->choice->begun_count);
    p.uniform = rt_uniform(&s, &p.history);
    return p;
}

/* A step whose every row draws a token, on the device, is short, and the next one needs to know nothing of it
 * but that: so it may run ahead. Behind a longer one whoever comes meanwhile would wait for two. */
static void add_item(rt_engine *e, rt_choice *c, uint32_t position)
{
    begun_step *s = e->latest;
    logit_item *item = &s->items[s->items_count];
    rt_pick *p = &e->picks[s->items_count];
    *item = (logit_item){.choice = c, .position = position};
    c->item = s->items_count++;
    if (!e->o.exec.picked) return;
    *p = pick_of(item, e->o.exec.vocab);
    s->runs_ahead = s->runs_ahead && p->sampling && rt_pick_list_words(p) <= e->o.exec.lists_max;
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
        rt_history history = history_of(item->choice, item->choice->generated_count);
        s.choice = item->choice->index;
        t->id = rt_sample(logits, vocab, &s, &history, scratch);
    }
    if (tops < 0) return;
    t->top_count = (uint32_t)tops;
    rt_logprobs(logits, vocab, t->id, t->top_count, &t->logprob, &t->rank, (mica_top *)t->top);
}

typedef struct logits_task {
    const rt_engine *e;
    const logit_item *items;
    const float *logits;
    uint32_t count;
} logits_task;

static void read_logits(void *arg, uint32_t part, uint32_t parts)
{
    const logits_task *t = arg;
    uint32_t vocab = t->e->o.exec.vocab;
    for (uint32_t i = part; i < t->count; i += parts) {
        const float *logits = t->logits + (size_t)i * vocab;
        read_row(&t->items[i], logits, vocab, t->e->scratch + part * t->e->scratch_bytes);
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

/* A token that is being drawn is one that the choice has, though nobody knows it. */
static void expect_token(rt_engine *e, rt_choice *c)
{
    c->tokens[c->request->prompt_count + c->begun_count++] = rt_token_to_come(c->item);
    if (c->begun_count < c->request->max_tokens) rt_sched_append(e->sched, c->seq);
}

static void take_token(rt_engine *e, rt_choice *c)
{
    int32_t token = rt_choice_next(c)->id;
    mica_finish finish;
    c->tokens[c->request->prompt_count + c->generated_count++] = token;
    e->stats.generated_tokens++;
    finish = finish_of(e, c, token);
    if (finish != MICA_RUNNING) end_choice(e, c, finish);
    else tell(e, c);
}

static void take_item(rt_engine *e, const begun_step *s, const logit_item *item)
{
    rt_choice *c = item->choice;
    if (!c) return;
    rt_request *r = c->request;
    if (scores_prompt(item)) {
        r->prompt_scored = item->position + 1;
        if (r->prompt_scored + 1 == r->prompt_count) rt_sched_allow_cache(e->sched, c->seq);
        return;
    }
    if (c->generated_count == 0 && c == &r->choices[0]) {
        r->cached_tokens = rt_sched_first_hit(e->sched, c->seq);
        e->stats.prompt_tokens += r->prompt_count;
        e->stats.cached_tokens += r->cached_tokens;
    }
    if (!s->runs_ahead) expect_token(e, c);
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
    item->is_picked = !item->choice || picked->token >= 0;
    if (!item->choice || !item->is_picked) return;
    mica_token *t = token_of(item);
    int32_t tops = tops_of(item, vocab);
    RC_ASSERT((uint32_t)picked->token < vocab);
    t->id = picked->token;
    if (tops < 0) return;
    t->logprob = picked->logprob;
    t->rank = picked->rank;
    t->top_count = (uint32_t)tops;
    if (tops) memcpy((mica_top *)t->top, picked + 1, (size_t)tops * sizeof *picked);
}

static bool take_picks(rt_engine *e, const begun_step *s)
{
    const rt_exec *x = &e->o.exec;
    uint32_t stride;
    if (!x->picked || !s->items_count) return true;
    device_works(e, true);
    const mica_top *picked = x->picked(x->ctx, &stride);
    device_works(e, false);
    if (!device_is_well(e)) return false;
    for (uint32_t i = 0; i < s->items_count; i++)
        take_picked(&s->items[i], picked + (size_t)i * stride, x->vocab);
    return true;
}

/* How many rows from `first` on are the host's, as far as their logits can be had at once. */
static uint32_t rows_of_host(const rt_engine *e, const begun_step *s, uint32_t first)
{
    uint32_t count = 0;
    for (uint32_t i = first; i < s->items_count && count < e->o.exec.logits_max; i++, count++)
        if (s->items[i].is_picked) break;
    return count;
}

static bool read_host_rows(rt_engine *e, const begun_step *s)
{
    const rt_exec *x = &e->o.exec;
    for (uint32_t first = 0, count; first < s->items_count; first += count ? count : 1) {
        count = rows_of_host(e, s, first);
        if (!count) continue;
        device_works(e, true);
        logits_task task = {e, s->items + first, x->logits(x->ctx, &s->step, first, count), count};
        device_works(e, false);
        if (!device_is_well(e)) return false;
        device_works(e, true);
        x->parallel(x->ctx, read_logits, &task);
        device_works(e, false);
    }
    return s->items_count || device_is_well(e);
}

/* Waits for it. */
static bool end_step(rt_engine *e, const begun_step *s)
{
    if (!take_picks(e, s) || (!s->runs_ahead && !read_host_rows(e, s))) return false;
    for (uint32_t i = 0; i < s->items_count; i++) take_item(e, s, &s->items[i]);
    return true;
}

static begun_step *begin_step(rt_engine *e, const rt_sched_entry *entries, uint32_t count)
{
    begun_step *s = e->latest = &e->steps[e->latest == e->steps];
    rt_step *step = &s->step;
    s->items_count = 0;
    s->runs_ahead = e->o.exec.picked != NULL;
    rt_batch_begin(e->batch, kv_tables(e->cache));
    for (uint32_t i = 0; i < count; i++) add_entry(e, &entries[i]);
    *step = *rt_batch_end(e->batch);
    RC_ASSERT(s->items_count == step->logit_rows_count);
    s->runs_ahead = s->runs_ahead && s->items_count == step->rows;
    step->is_picked = e->o.exec.picked && s->items_count;
    step->picks = e->picks;
    device_works(e, true);
    e->o.exec.forward(e->o.exec.ctx, step);
    device_works(e, false);
    for (uint32_t i = 0; s->runs_ahead && i < s->items_count; i++) expect_token(e, s->items[i].choice);
    e->stats.steps++;
    e->stats.rows += step->rows;
    return s;
}

int64_t rt_engine_next_at(const rt_engine *e)
{
    return e->begun && e->begun->runs_ahead ? rt_step_pace_next_at(&e->pace, e->begun->follows) : 0;
}

/* Behind a step that runs ahead the next one begins before its tokens are taken: what it needs of them is on
 * the device. A choice that turns out to have ended has had a row in vain. The next one's tokens are for the
 * next call, so that these are handed out meanwhile. */
bool rt_engine_step(rt_engine *e)
{
    const rt_sched_entry *entries;
    begun_step *before = e->begun, *now = NULL;
    int64_t asked_ns = rt_now_ns();
    uint32_t count = 0;
    e->begun = NULL;
    if (before && !before->runs_ahead) return end_step(e, before);
    if (!e->is_lost) count = rt_sched_plan(e->sched, &entries);
    if (!count && !before) {
        if (!e->is_lost) (void)device_is_well(e); /* an idle one may be lost, too */
        return false;
    }
    if (count) now = begin_step(e, entries, count);
    if (now) {
        now->follows = before != NULL;
        rt_step_pace_told(&e->pace, asked_ns, rt_now_ns());
    }
    if (before && !end_step(e, before)) return false;
    if (before) rt_step_pace_ended(&e->pace, before->follows, rt_now_ns());
    for (uint32_t i = 0; i < count; i++) rt_sched_committed(e->sched, &entries[i]);
    if (now && !before && !now->runs_ahead) return end_step(e, now);
    e->begun = now;
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
