#include "runtime/server/shares.h"

#include <inttypes.h>
#include <stdlib.h>

enum {
    MINUTE_US = 60000000,
    MILLI = 1000,
    DEBT_ROUNDS_MAX = 65536,
    KEPT_PLACES = 8, /* one in so many */
    SHORT_PROMPTS = 2 /* a tenant's take one part in so many of the window */
};

/* What a tenant may use in a minute, filled evenly. Levels are in units x microseconds, so that filling is
 * whole: a minute's worth is per_minute * MINUTE_US. */
typedef struct bucket {
    uint32_t per_minute; /* RT_NO_LIMIT: none of this is counted */
    int64_t level;
} bucket;

typedef struct share {
    char name[RT_SHARE_NAME_BYTES_MAX + 1];
    rt_share_limits limits;
    bucket requests, tokens;
    int64_t filled_us;
    int64_t deficit; /* thousandths of a unit; below 0: it has had more than its share */
    rt_share_item *first, **end;
    uint32_t held, inside;
    uint32_t in_prefill; /* prompt tokens */
    bool is_listed;
} share;

struct rt_shares {
    uint32_t requests_max, tokens_max;
    uint32_t inside, in_prefill; /* items; prompt tokens */
    uint32_t held;
    uint64_t weights;  /* of those listed */
    bool is_stuck; /* nobody could go in, and nothing has come or gone since */
    uint32_t count, last; /* last: served last, for ties */
    share *each[RT_SHARES_MAX];
};

rt_shares *rt__shares_create(uint32_t requests, uint32_t prompt_tokens)
{
    rt_shares *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->requests_max = requests;
    s->tokens_max = prompt_tokens;
    return s;
}

void rt__shares_destroy(rt_shares *s)
{
    if (!s) return;
    for (uint32_t i = 0; i < s->count; i++) free(s->each[i]);
    free(s);
}

/* ---- buckets ---- */

static int64_t full(const bucket *b)
{
    return (int64_t)b->per_minute * MINUTE_US;
}

static void fill(bucket *b, int64_t microseconds)
{
    int64_t room = full(b) - b->level;
    if (microseconds > room / b->per_minute)
        b->level = full(b);
    else
        b->level += microseconds * b->per_minute;
}

static void fill_both(share *x, int64_t now_us)
{
    if (now_us <= x->filled_us) return;
    fill(&x->requests, now_us - x->filled_us);
    fill(&x->tokens, now_us - x->filled_us);
    x->filled_us = now_us;
}

/* Microseconds until `units` fit, or as many as ever will; 0: now. */
static int64_t wait_for(const bucket *b, uint32_t units)
{
    int64_t needed = units > b->per_minute ? full(b) : (int64_t)units * MINUTE_US;
    if (b->per_minute == RT_NO_LIMIT || b->level >= needed) return 0;
    return (needed - b->level + b->per_minute - 1) / b->per_minute;
}

static void take(bucket *b, uint32_t units)
{
    if (b->per_minute != RT_NO_LIMIT) b->level -= (int64_t)units * MINUTE_US;
}

/* A bucket keeps what was taken out of it when its size changes. */
static void resize(bucket *b, uint32_t per_minute, bool is_new)
{
    int64_t missing = is_new || b->per_minute == RT_NO_LIMIT ? 0 : full(b) - b->level;
    b->per_minute = per_minute;
    b->level = full(b) - missing;
}

/* ---- the list ---- */

void rt__shares_begin_list(rt_shares *s)
{
    for (uint32_t i = 0; i < s->count; i++) s->each[i]->is_listed = false;
    s->weights = 0;
}

static bool is_forgotten(const share *x)
{
    return !x->is_listed && !x->held && !x->inside;
}

static share *find(rt_shares *s, const char *name, uint32_t *index)
{
    for (*index = 0; *index < s->count; ++*index)
        if (!strcmp(s->each[*index]->name, name)) return s->each[*index];
    return NULL;
}

/* The place of a forgotten one, or a new one. */
static share *make(rt_shares *s, const char *name, int64_t now_us, uint32_t *index)
{
    for (*index = 0; *index < s->count && !is_forgotten(s->each[*index]); ++*index) continue;
    if (*index == RT_SHARES_MAX) return NULL;
    if (*index == s->count) {
        s->each[*index] = malloc(sizeof(share));
        if (!s->each[*index]) return NULL;
        s->count++;
    }
    share *x = s->each[*index];
    *x = (share){.filled_us = now_us, .requests.per_minute = RT_NO_LIMIT, .tokens.per_minute = RT_NO_LIMIT};
    x->end = &x->first;
    snprintf(x->name, sizeof x->name, "%s", name);
    return x;
}

rc_code rt__shares_list(rt_shares *s, const char *name, const rt_share_limits *limits, int64_t now_us,
                        uint32_t *index, rc_msg *msg)
{
    share *x = find(s, name, index);
    bool is_new = !x;
    if (!x) x = make(s, name, now_us, index);
    if (!x) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "tenant '%.128s': no room for another", name);
    fill_both(x, now_us);
    s->is_stuck = false;
    if (x->is_listed) s->weights -= x->limits.weight;
    s->weights += limits->weight;
    x->is_listed = true;
    x->limits = *limits;
    resize(&x->requests, limits->requests_per_minute, is_new);
    resize(&x->tokens, limits->tokens_per_minute, is_new);
    return RC_OK;
}

/* ---- arriving ---- */

static rc_code refuse(const share *x, const char *limit, uint32_t value, int64_t retry_us, rc_msg *msg)
{
    if (!retry_us)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg,
                       "tenant '%s': %s %" PRIu32 " is reached: try again when a request has ended", x->name,
                       limit, value);
    return rc_fail(RC_RESOURCE_EXHAUSTED, msg,
                   "tenant '%s': %s %" PRIu32 " is used up: try again in %" PRId64 " s", x->name, limit,
                   value, (retry_us + 999999) / 1000000);
}

static bool is_full(const share *x)
{
    uint32_t concurrency = x->limits.max_concurrency;
    if (concurrency == RT_NO_LIMIT || x->limits.max_queue == RT_NO_LIMIT) return false;
    uint32_t free = concurrency > x->inside ? concurrency - x->inside : 0;
    return x->held >= (uint64_t)x->limits.max_queue + free;
}

rc_code rt__shares_arrive(rt_shares *s, rt_share_item *item, int64_t now_us, int64_t *retry_us, rc_msg *msg)
{
    share *x = s->each[item->share];
    const rt_share_limits *l = &x->limits;
    *retry_us = 0;
    fill_both(x, now_us);
    if (is_full(x) && l->max_queue) return refuse(x, "max_queue", l->max_queue, 0, msg);
    if (is_full(x)) return refuse(x, "max_concurrency", l->max_concurrency, 0, msg);
    *retry_us = wait_for(&x->requests, 1);
    if (*retry_us) return refuse(x, "requests_per_minute", l->requests_per_minute, *retry_us, msg);
    *retry_us = wait_for(&x->tokens, item->prompt_tokens);
    if (*retry_us) return refuse(x, "tokens_per_minute", l->tokens_per_minute, *retry_us, msg);
    take(&x->requests, 1);
    take(&x->tokens, item->prompt_tokens);
    item->state = RT_ITEM_HELD;
    item->passes = 0;
    item->next = NULL;
    item->link = x->end;
    *x->end = item;
    x->end = &item->next;
    x->held++;
    s->held++;
    s->is_stuck = false;
    return RC_OK;
}

/* ---- whose turn it is ---- */

static int64_t cost_of(const rt_share_item *item)
{
    return ((int64_t)item->prompt_tokens + item->adapter_mib + 1) * MILLI;
}

static bool has_place(const rt_shares *s, const share *x)
{
    uint32_t kept = s->requests_max / KEPT_PLACES;
    if (s->inside + kept < s->requests_max) return true;
    return s->inside < s->requests_max &&
           x->inside * s->weights < (uint64_t)x->limits.weight * s->requests_max;
}

static bool competes(const rt_shares *s, const share *x)
{
    return x->first && x->inside < x->limits.max_concurrency && has_place(s, x);
}

/* Rounds until its deficit covers its first item. */
static int64_t rounds_of(const share *x)
{
    int64_t missing = cost_of(x->first) - x->deficit;
    return missing <= 0 ? 0 : (missing + x->limits.weight - 1) / x->limits.weight;
}

/* Fewest rounds; among equals the one after who was served last. */
static share *whose_turn(const rt_shares *s, uint32_t *index)
{
    share *best = NULL;
    for (uint32_t i = 1; i <= s->count; i++) {
        uint32_t at = (s->last + i) % s->count;
        share *x = s->each[at];
        if (!competes(s, x) || (best && rounds_of(x) >= rounds_of(best))) continue;
        best = x;
        *index = at;
    }
    return best;
}

static void unlink_held(rt_shares *s, share *x, rt_share_item *item)
{
    *item->link = item->next;
    if (item->next)
        item->next->link = item->link;
    else
        x->end = item->link;
    x->held--;
    s->held--;
    if (!x->first && x->deficit > 0) x->deficit = 0; /* credit is for those who wait */
}

/* Those before the last one have been passed as often as it or more, so none waits behind one that may not be
 * passed for more than its turn. */
static rt_share_item *longest_cached(share *x, rt_share_cached cached)
{
    rt_share_item *best = x->first, *item = x->first;
    if (!item->next || item->passes == RT_SHARES_PASSES) return best;
    uint32_t most = cached(best);
    for (uint32_t i = 1; i < RT_SHARES_LOOKAHEAD && (item = item->next); i++) {
        uint32_t tokens = cached(item);
        if (tokens > most) {
            best = item;
            most = tokens;
        }
    }
    return best;
}

static rt_share_item *who_fits(const rt_shares *s, uint32_t *index, rt_share_cached cached)
{
    share *x = whose_turn(s, index);
    if (!x) return NULL;
    rt_share_item *item = longest_cached(x, cached);
    bool is_short = (uint64_t)x->in_prefill + item->prompt_tokens <= s->tokens_max / SHORT_PROMPTS;
    bool fits = !s->in_prefill || (uint64_t)s->in_prefill + item->prompt_tokens <= s->tokens_max;
    return is_short || fits ? item : NULL;
}

rt_share_item *rt__shares_next(rt_shares *s, rt_share_cached cached)
{
    uint32_t index = 0;
    rt_share_item *item = s->is_stuck ? NULL : who_fits(s, &index, cached);
    s->is_stuck = !item;
    if (!item) return NULL;
    share *x = s->each[index];
    for (rt_share_item *passed = x->first; passed != item; passed = passed->next) passed->passes++;
    int64_t rounds = rounds_of(x);
    for (uint32_t i = 0; rounds && i < s->count; i++)
        if (competes(s, s->each[i])) s->each[i]->deficit += rounds * s->each[i]->limits.weight;
    x->deficit -= cost_of(item);
    unlink_held(s, x, item);
    item->state = RT_ITEM_INSIDE;
    item->in_prefill = true;
    x->inside++;
    s->inside++;
    s->in_prefill += item->prompt_tokens;
    x->in_prefill += item->prompt_tokens;
    s->last = index;
    return item;
}

/* ---- inside ---- */

static bool others_wait(const rt_shares *s, const share *x)
{
    return s->held > x->held;
}

static void charge(const rt_shares *s, share *x, int64_t units)
{
    int64_t least = -(int64_t)x->limits.weight * DEBT_ROUNDS_MAX;
    if (!others_wait(s, x)) return;
    x->deficit -= units * MILLI;
    if (x->deficit < least) x->deficit = least;
}

static void end_prefill(rt_shares *s, rt_share_item *item)
{
    if (!item->in_prefill) return;
    s->in_prefill -= item->prompt_tokens;
    s->each[item->share]->in_prefill -= item->prompt_tokens;
    item->in_prefill = false;
    s->is_stuck = false;
}

/* What came from the cache was not computed. */
void rt__shares_first_token(rt_shares *s, rt_share_item *item, uint32_t cached_tokens)
{
    share *x = s->each[item->share];
    if (item->state != RT_ITEM_INSIDE || !item->in_prefill) return;
    end_prefill(s, item);
    x->deficit += (int64_t)cached_tokens * MILLI;
    if (!x->first && x->deficit > 0) x->deficit = 0;
}

void rt__shares_generated(rt_shares *s, const rt_share_item *item, uint32_t tokens, int64_t now_us)
{
    share *x = s->each[item->share];
    if (item->state != RT_ITEM_INSIDE) return;
    fill_both(x, now_us);
    take(&x->tokens, tokens);
    charge(s, x, tokens);
}

void rt__shares_leave(rt_shares *s, rt_share_item *item)
{
    share *x = s->each[item->share];
    if (item->state == RT_ITEM_HELD) unlink_held(s, x, item);
    if (item->state == RT_ITEM_INSIDE) {
        end_prefill(s, item);
        x->inside--;
        s->inside--;
    }
    item->state = RT_ITEM_OUT;
    s->is_stuck = false;
}

uint32_t rt__shares_held(const rt_shares *s, uint32_t index)
{
    return s->each[index]->held;
}
uint32_t rt__shares_inside(const rt_shares *s, uint32_t index)
{
    return s->each[index]->inside;
}

void rt__shares_check(const rt_shares *s)
{
    uint32_t held = 0, inside = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        const share *x = s->each[i];
        uint32_t count = 0;
        rt_share_item *const *link = &x->first;
        for (rt_share_item *item = x->first; item; link = &item->next, item = item->next, count++)
            RC_ASSERT(item->link == link && item->state == RT_ITEM_HELD && item->share == i);
        RC_ASSERT(x->end == link && count == x->held);
        RC_ASSERT(x->first || x->deficit <= 0);
        held += x->held;
        inside += x->inside;
    }
    RC_ASSERT(held == s->held && inside == s->inside && inside <= s->requests_max);
    RC_ASSERT(inside || !s->in_prefill);
}
