#include "runtime/sched/scheduler.h"

#include <stdlib.h>

enum { FREE = 0, WAITING = 1, RUNNING = 2 };
enum { BEGUN = 4 }; /* one row in so many is for a prompt that has begun, while others wait */

typedef struct seq {
    rt_sched_seq what;
    uint32_t state;
    uint32_t prev, next;     /* in the queue of its state; free list by next */
    uint64_t arrival;
    uint32_t passes;         /* steps in which others passed it for want of a slot */
    uint32_t first_hit;
    kv_seq cache;            /* while running */
    uint32_t computed;
    uint32_t slot;
    uint32_t entry;          /* its place in the step being planned, or RT_SEQ_NONE */
} seq;

typedef struct queue {
    uint32_t head, tail, count;
} queue;

struct rt_sched {
    rt_sched_options o;
    seq *seqs;
    uint32_t free_head;
    queue waiting, running;
    rt_sched_entry *entries;
    uint32_t entries_count;
    uint64_t arrivals, preemptions;
};

/* ---- queues: doubly linked by index, kept in order ---- */

static bool before(const rt_sched *s, const seq *a, const seq *b)
{
    if (s->o.by_priority && a->what.priority != b->what.priority) return a->what.priority < b->what.priority;
    return a->arrival < b->arrival;
}

static void queue_insert(rt_sched *s, queue *q, uint32_t i)
{
    uint32_t after = q->tail;
    while (after != RT_SEQ_NONE && before(s, &s->seqs[i], &s->seqs[after])) after = s->seqs[after].prev;
    uint32_t next = after == RT_SEQ_NONE ? q->head : s->seqs[after].next;
    s->seqs[i].prev = after;
    s->seqs[i].next = next;
    *(after == RT_SEQ_NONE ? &q->head : &s->seqs[after].next) = i;
    *(next == RT_SEQ_NONE ? &q->tail : &s->seqs[next].prev) = i;
    q->count++;
}

static void queue_remove(rt_sched *s, queue *q, uint32_t i)
{
    seq *x = &s->seqs[i];
    *(x->prev == RT_SEQ_NONE ? &q->head : &s->seqs[x->prev].next) = x->next;
    *(x->next == RT_SEQ_NONE ? &q->tail : &s->seqs[x->next].prev) = x->prev;
    q->count--;
}

/* ---- life ---- */

size_t rt_sched_bytes(const rt_sched_options *o)
{
    return sizeof(rt_sched) + o->seqs_max * sizeof(seq) + o->running_max * sizeof(rt_sched_entry);
}

rc_code rt_sched_create(const rt_sched_options *o, rt_sched **out, rc_msg *msg)
{
    RC_ASSERT(o->seqs_max > 0 && o->running_max > 0 && o->rows_max > 0);
    rt_sched *s = calloc(1, sizeof *s);
    seq *seqs = calloc(o->seqs_max, sizeof *seqs);
    rt_sched_entry *entries = calloc(o->running_max, sizeof *entries);
    if (!s || !seqs || !entries) {
        free(s);
        free(seqs);
        free(entries);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a scheduler of %u sequences", o->seqs_max);
    }
    s->o = *o;
    s->seqs = seqs;
    s->entries = entries;
    s->waiting.head = s->waiting.tail = s->running.head = s->running.tail = RT_SEQ_NONE;
    for (uint32_t i = 0; i < o->seqs_max; i++) seqs[i].next = i + 1 < o->seqs_max ? i + 1 : RT_SEQ_NONE;
    *out = s;
    return RC_OK;
}

void rt_sched_destroy(rt_sched *s)
{
    if (!s) return;
    free(s->seqs);
    free(s->entries);
    free(s);
}

uint32_t rt_sched_add(rt_sched *s, const rt_sched_seq *what)
{
    uint32_t i = s->free_head;
    RC_ASSERT(what->tokens_count > 0);
    if (i == RT_SEQ_NONE) return RT_SEQ_NONE;
    s->free_head = s->seqs[i].next;
    s->seqs[i] = (seq){ .what = *what, .state = WAITING, .arrival = s->arrivals++, .first_hit = RT_SEQ_NONE,
                        .slot = ADAPTER_NO_SLOT, .entry = RT_SEQ_NONE };
    queue_insert(s, &s->waiting, i);
    return i;
}

/* Takes what a running sequence holds. */
static void release(rt_sched *s, seq *x)
{
    kv_seq_close(s->o.cache, x->cache);
    if (x->what.adapter) adapter_unpin(s->o.adapters, x->what.adapter);
    x->slot = ADAPTER_NO_SLOT;
    x->computed = 0;
}

void rt_sched_remove(rt_sched *s, uint32_t i)
{
    seq *x = &s->seqs[i];
    RC_ASSERT(x->state != FREE);
    if (x->entry != RT_SEQ_NONE) s->entries[x->entry].rows = 0;
    if (x->state == RUNNING) release(s, x);
    queue_remove(s, x->state == RUNNING ? &s->running : &s->waiting, i);
    x->state = FREE;
    x->next = s->free_head;
    s->free_head = i;
}

/* ---- planning a step ---- */

static void preempt(rt_sched *s, uint32_t i, uint32_t *budget)
{
    seq *x = &s->seqs[i];
    if (x->entry != RT_SEQ_NONE) {
        *budget += s->entries[x->entry].rows;
        s->entries[x->entry].rows = 0;
        x->entry = RT_SEQ_NONE;
    }
    release(s, x);
    queue_remove(s, &s->running, i);
    x->state = WAITING;
    queue_insert(s, &s->waiting, i);
    s->preemptions++;
}

/* Makes room for `rows` more positions, at the cost of sequences later in order. False: i itself yielded. */
static bool make_room(rt_sched *s, uint32_t i, uint32_t rows, uint32_t *budget)
{
    seq *x = &s->seqs[i];
    while (kv_seq_reserve(s->o.cache, x->cache, x->computed + rows) != RC_OK) {
        uint32_t last = s->running.tail;
        preempt(s, last, budget);
        if (last == i) return false;
    }
    return true;
}

static void take_rows(rt_sched *s, uint32_t i, uint32_t rows, uint32_t *budget)
{
    seq *x = &s->seqs[i];
    RC_ASSERT(s->entries_count < s->o.running_max);
    x->entry = s->entries_count++;
    s->entries[x->entry] = (rt_sched_entry){ i, x->computed, rows, x->slot };
    *budget -= rows;
}

static bool shares_steps(const rt_sched *s) { return !s->o.in_order && !s->o.prefill_first; }
static uint32_t part_of_step(const rt_sched *s) { return (s->o.rows_max + BEGUN - 1) / BEGUN; }

/* Of a prompt in one step: a part of it where others wait for their first rows, so that nobody waits for the
 * whole of a long prompt that came before. */
static uint32_t chunk_max(const rt_sched *s)
{
    bool others_wait = s->waiting.count && s->running.count < s->o.running_max;
    return others_wait && shares_steps(s) ? part_of_step(s) : s->o.rows_max;
}

/* Rows for running sequences that need exactly one (decodes), or for those that need more. */
static void plan_running(rt_sched *s, bool decodes, uint32_t *budget)
{
    uint32_t most = decodes ? 1 : chunk_max(s);
    for (uint32_t i = s->running.head, next; i != RT_SEQ_NONE && *budget; i = next) {
        seq *x = &s->seqs[i];
        uint32_t need = x->what.tokens_count - x->computed;
        if (x->entry == RT_SEQ_NONE && need > 0 && (need == 1) == decodes) {
            uint32_t rows = need < most ? need : most;
            if (rows > *budget) rows = *budget;
            if (make_room(s, i, rows, budget)) take_rows(s, i, rows, budget);
            else return; /* it was the last in order, so nobody is left to plan */
        }
        next = x->next;
    }
}

/* Leading rows that two sequences name alike. */
static uint32_t common_rows(const seq *a, const seq *b)
{
    const kv_identity *x = &a->what.identity, *y = &b->what.identity;
    uint32_t limit =
        a->what.tokens_count < b->what.tokens_count ? a->what.tokens_count : b->what.tokens_count;
    uint32_t adapted = x->adapted_from < y->adapted_from ? x->adapted_from : y->adapted_from, i = 0;
    if (x->salt != y->salt) return 0;
    if ((x->adapter != y->adapter || x->adapted_from != y->adapted_from) && adapted < limit) limit = adapted;
    while (i < limit && a->what.tokens[i] == b->what.tokens[i]) i++;
    return i;
}

/* Whether a running sequence is about to compute rows that x could share beyond its hit. */
static bool prefix_is_coming(const rt_sched *s, const seq *x, uint32_t hit)
{
    for (uint32_t i = s->running.head; i != RT_SEQ_NONE; i = s->seqs[i].next) {
        const seq *r = &s->seqs[i];
        uint32_t common;
        if (r->what.tokens_count - r->computed <= 1) continue;
        common = common_rows(x, r);
        if (common >= x->what.tokens_count) common = x->what.tokens_count - 1;
        if (common > hit && common > r->computed) return true;
    }
    return false;
}

/* Opens x's sequence with as much of the cache as it may take. */
static bool open_cached(rt_sched *s, seq *x, uint32_t found)
{
    uint32_t reuse = found;
    const int32_t *tokens = x->what.tokens;
    uint32_t count = x->what.tokens_count;
    kv_hit hit;
    rc_code code = kv_seq_open(s->o.cache, tokens, count, x->what.identity, reuse, &x->cache, &hit);
    if (code != RC_OK && reuse % s->o.block_tokens) { /* no block for a copy: whole blocks alone need none */
        reuse -= reuse % s->o.block_tokens;
        code = kv_seq_open(s->o.cache, tokens, count, x->what.identity, reuse, &x->cache, &hit);
    }
    if (code != RC_OK) return false;
    if (hit.copy_rows) {
        s->o.copy_rows(s->o.copy_ctx, hit.copy_from, hit.copy_to, hit.copy_rows);
        kv_seq_copied(s->o.cache, x->cache);
    }
    x->computed = hit.tokens;
    return true;
}

/* PASSED: others may be admitted before it; FULL: nobody else now. */
typedef enum admit_result { ADMITTED, PASSED, FULL } admit_result;

/* Begins one with `least` rows or all that it needs. */
static admit_result admit(rt_sched *s, uint32_t i, bool adapters_may_pass, uint32_t least, uint32_t *budget)
{
    seq *x = &s->seqs[i];
    uint32_t hit, rows, need;
    if (x->what.adapter && !adapters_may_pass) return PASSED;
    hit = x->what.computes_all ? 0
                               : kv_find(s->o.cache, x->what.tokens, x->what.tokens_count, x->what.identity);
    if (s->o.waits_for_prefix && !x->what.computes_all && prefix_is_coming(s, x, hit)) return PASSED;
    if (*budget < least && *budget < x->what.tokens_count - hit) return FULL;
    if (x->what.adapter) {
        x->slot = adapter_pin(s->o.adapters, x->what.adapter);
        if (x->slot == ADAPTER_NO_SLOT) {
            x->passes++;
            return s->o.in_order && adapter_is_coming(x->what.adapter) ? FULL : PASSED;
        }
    }
    if (!open_cached(s, x, hit)) goto fail_unpin;
    need = x->what.tokens_count - x->computed;
    rows = need < *budget ? need : *budget;
    if (kv_seq_reserve(s->o.cache, x->cache, x->computed + rows) != RC_OK) goto fail_close;
    if (x->first_hit == RT_SEQ_NONE) x->first_hit = x->computed;
    queue_remove(s, &s->waiting, i);
    x->state = RUNNING;
    queue_insert(s, &s->running, i);
    take_rows(s, i, rows, budget);
    return ADMITTED;
fail_close:
    kv_seq_close(s->o.cache, x->cache);
    x->computed = 0;
fail_unpin:
    if (x->what.adapter) adapter_unpin(s->o.adapters, x->what.adapter);
    x->slot = ADAPTER_NO_SLOT;
    return FULL;
}

static void plan_waiting(rt_sched *s, uint32_t least, uint32_t *budget)
{
    bool adapters_may_pass = true;
    uint32_t passed = 0;
    for (uint32_t i = s->waiting.head, next; i != RT_SEQ_NONE; i = next) {
        next = s->seqs[i].next;
        if (!*budget || s->running.count == s->o.running_max) return;
        switch (admit(s, i, adapters_may_pass, least, budget)) {
        case ADMITTED: break;
        case FULL: return;
        case PASSED:
            if (++passed == RT_SCHED_LOOKAHEAD) return;
            if (s->seqs[i].passes > RT_SCHED_PASSES_MAX) adapters_may_pass = false;
        }
    }
}

/* What nobody who waits could take goes to prompts that got a part. */
static void fill_up(rt_sched *s, uint32_t *budget)
{
    for (uint32_t i = s->running.head; i != RT_SEQ_NONE && *budget; i = s->seqs[i].next) {
        seq *x = &s->seqs[i];
        if (x->entry == RT_SEQ_NONE) continue;
        rt_sched_entry *e = &s->entries[x->entry];
        uint32_t more = x->what.tokens_count - x->computed - e->rows;
        if (more > *budget) more = *budget;
        if (!more || kv_seq_reserve(s->o.cache, x->cache, x->computed + e->rows + more) != RC_OK) continue;
        e->rows += more;
        *budget -= more;
    }
}

/* Those that no step has room for yet find their adapters in place when it is their turn. */
static void prefetch_waiting(rt_sched *s)
{
    uint32_t i = s->waiting.head;
    for (uint32_t seen = 0; i != RT_SEQ_NONE && seen < RT_SCHED_LOOKAHEAD; i = s->seqs[i].next, seen++) {
        adapter_content *c = s->seqs[i].what.adapter;
        if (c && !adapter_prefetch(s->o.adapters, c)) return;
    }
}

/* Drops the entries of sequences that yielded after they were planned. */
static void compact(rt_sched *s)
{
    uint32_t kept = 0;
    for (uint32_t e = 0; e < s->entries_count; e++) {
        if (!s->entries[e].rows) continue;
        s->entries[kept] = s->entries[e];
        s->seqs[s->entries[kept].seq].entry = kept;
        kept++;
    }
    s->entries_count = kept;
}

uint32_t rt_sched_plan(rt_sched *s, const rt_sched_entry **entries)
{
    uint32_t budget = s->o.rows_max, decodes, least = 1;
    uint64_t preempted = s->preemptions;
    s->entries_count = 0;
    if (!s->o.prefill_first) plan_running(s, true, &budget);
    decodes = s->entries_count;
    if (decodes < s->running.count) plan_running(s, false, &budget);
    if (s->entries_count > decodes && shares_steps(s)) least = part_of_step(s);
    if (preempted == s->preemptions) plan_waiting(s, least, &budget);
    if (!s->o.prefill_first) fill_up(s, &budget);
    prefetch_waiting(s);
    if (s->o.prefill_first && s->entries_count == 0) plan_running(s, true, &budget);
    if (preempted != s->preemptions) compact(s);
    *entries = s->entries;
    return s->entries_count;
}

void rt_sched_committed(rt_sched *s, const rt_sched_entry *entry)
{
    seq *x = &s->seqs[entry->seq];
    if (!entry->rows) return;
    RC_ASSERT(x->entry != RT_SEQ_NONE);
    kv_seq_commit(s->o.cache, x->cache, x->what.tokens + entry->position, entry->rows);
    x->computed += entry->rows;
    x->entry = RT_SEQ_NONE;
}

void rt_sched_append(rt_sched *s, uint32_t i) { s->seqs[i].what.tokens_count++; }
void rt_sched_allow_cache(rt_sched *s, uint32_t i) { s->seqs[i].what.computes_all = false; }
uint32_t rt_sched_computed(const rt_sched *s, uint32_t i) { return s->seqs[i].computed; }
uint32_t rt_sched_first_hit(const rt_sched *s, uint32_t i) { return s->seqs[i].first_hit; }

kv_seq rt_sched_kv(const rt_sched *s, uint32_t i)
{
    RC_ASSERT(s->seqs[i].state == RUNNING);
    return s->seqs[i].cache;
}

rt_sched_stats rt_sched_get_stats(const rt_sched *s)
{
    return (rt_sched_stats){ s->waiting.count, s->running.count, s->preemptions };
}

static uint32_t check_queue(const rt_sched *s, const queue *q, uint32_t state)
{
    uint32_t count = 0;
    for (uint32_t i = q->head; i != RT_SEQ_NONE; i = s->seqs[i].next, count++) {
        const seq *x = &s->seqs[i];
        RC_ASSERT(x->state == state);
        RC_ASSERT(x->next == RT_SEQ_NONE ? q->tail == i : s->seqs[x->next].prev == i);
        RC_ASSERT(x->next == RT_SEQ_NONE || before(s, x, &s->seqs[x->next]));
        RC_ASSERT(state != RUNNING || kv_seq_length(s->o.cache, x->cache) == x->computed);
        RC_ASSERT(state != RUNNING || (x->slot != ADAPTER_NO_SLOT) == (x->what.adapter != NULL));
        RC_ASSERT(x->computed < x->what.tokens_count || x->entry == RT_SEQ_NONE);
    }
    RC_ASSERT(count == q->count);
    return count;
}

void rt_sched_check(const rt_sched *s)
{
    uint32_t known = check_queue(s, &s->waiting, WAITING) + check_queue(s, &s->running, RUNNING);
    RC_ASSERT(s->running.count <= s->o.running_max);
    for (uint32_t i = s->free_head; i != RT_SEQ_NONE; i = s->seqs[i].next, known++)
        RC_ASSERT(s->seqs[i].state == FREE);
    RC_ASSERT(known == s->o.seqs_max);
}
