/* A step: planned, told to the device, waited for, and its logits or picks taken as tokens. */
#include <string.h>

#include "adapters/activation.h"
#include "runtime/base/clock.h"
#include "runtime/engine/engine_internal.h"

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

static bool scores_prompt(const rt__logit_item *item)
{
    return item->position + 1 < item->choice->request->prompt_count;
}

/* Where what is wanted goes. */
static mica_token *token_of(const rt__logit_item *item)
{
    rt_choice *c = item->choice;
    return scores_prompt(item) ? &c->request->prompt_logprob[item->position + 1]
                               : rt_choice_next(c);
}

/* How many of the best it is wanted with; -1: no log probabilities. */
static int32_t tops_of(const rt__logit_item *item, uint32_t vocab)
{
    const rt_request *r = item->choice->request;
    int32_t tops = scores_prompt(item) ? r->prompt_logprobs : r->logprobs;
    return tops > 0 && (uint32_t)tops > vocab ? (int32_t)vocab : tops;
}

static rt_history history_of(const rt_choice *c, uint32_t generated_count)
{
    return (rt_history){c->tokens, c->request->prompt_count, generated_count};
}

static rt_pick pick_of(const rt__logit_item *item, uint32_t vocab)
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
    rt__begun_step *s = e->latest;
    rt__logit_item *item = &s->items[s->items_count];
    rt_pick *p = &e->picks[s->items_count];
    *item = (rt__logit_item){.choice = c, .position = position};
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

static void read_row(const rt__logit_item *item, const float *logits, uint32_t vocab, void *scratch)
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
    const rt__logit_item *items;
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
    if (finish != MICA_RUNNING) rt__engine_end_choice(e, c, finish);
    else rt__engine_tell(e, c);
}

static void take_item(rt_engine *e, const rt__begun_step *s, const rt__logit_item *item)
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
        rt__engine_fail_request(e, e->choice_of[i]->request);
    }
    return false;
}

static void take_picked(rt__logit_item *item, const mica_top *picked, uint32_t vocab)
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

static bool take_picks(rt_engine *e, const rt__begun_step *s)
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
static uint32_t rows_of_host(const rt_engine *e, const rt__begun_step *s, uint32_t first)
{
    uint32_t count = 0;
    for (uint32_t i = first; i < s->items_count && count < e->o.exec.logits_max; i++, count++)
        if (s->items[i].is_picked) break;
    return count;
}

static bool read_host_rows(rt_engine *e, const rt__begun_step *s)
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
static bool end_step(rt_engine *e, const rt__begun_step *s)
{
    if (!take_picks(e, s) || (!s->runs_ahead && !read_host_rows(e, s))) return false;
    for (uint32_t i = 0; i < s->items_count; i++) take_item(e, s, &s->items[i]);
    return true;
}

static rt__begun_step *begin_step(rt_engine *e, const rt_sched_entry *entries, uint32_t count)
{
    rt__begun_step *s = e->latest = &e->steps[e->latest == e->steps];
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
    rt__begun_step *before = e->begun, *now = NULL;
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
