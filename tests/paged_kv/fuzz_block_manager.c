/* Random operations on the block manager against kv_model.h, with tiny limits.
 *
 * After every operation: kv_check(); every row of every open sequence holds what its tokens and identity say;
 * every hit is the longest prefix that can be found at all, no shorter and no longer; nothing that could be
 * found is lost unless a block had to be evicted; a refusal is for lack of room and changes nothing; who
 * follows the changes (kv_mirror.h; in seven seeds of eight) knows all full blocks that can be found.
 *
 *     fuzz_block_manager [--seed N] [--seeds N] [--ops N] [--long]
 */
#include "paged_kv/block_manager_internal.h"
#include "tests/paged_kv/kv_mirror.h"
#include "tests/paged_kv/kv_model.h"
#include "tests/support/prng.h"

enum { TOKENS_MAX = 256, SEQS_MAX = 6, HISTORIES = 8 };

typedef struct history {
    int32_t tokens[TOKENS_MAX];
    uint32_t count;
    uint32_t salt;
    kv_identity identity;
} history;

typedef struct open_seq {
    bool is_open, is_pending;
    kv_seq handle;
    history of; /* of.count: tokens known; committed of them: */
    uint32_t committed;
    kv_hit hit;
} open_seq;

typedef struct world {
    prng random;
    kv_options options;
    kv *m;
    kv_model *model;
    kv_mirror *mirror; /* NULL: nobody watches */
    open_seq seqs[SEQS_MAX];
    history histories[HISTORIES];
    uint32_t salt_ids[KV_MODEL_SALTS]; /* KV_NONE: not held */
    kv_stats before;
    bool is_wide;
    bool may_lose; /* the operation may have shortened a block in place */
} world;

static uint32_t id_of_salt(world *w, uint32_t number)
{
    static const char names[KV_MODEL_SALTS][4] = {"", "a", "ab", "b", "ba", "abc"};
    if (w->salt_ids[number] != KV_NONE) return w->salt_ids[number];
    rc_msg msg;
    uint32_t id, held = 0;
    for (uint32_t i = 0; i < KV_MODEL_SALTS; i++) held += w->salt_ids[i] != KV_NONE;
    for (uint32_t i = 0; i < SEQS_MAX; i++) held += w->seqs[i].is_open;
    if (kv_salt_intern(w->m, names[number], strlen(names[number]), &id, &msg) != RC_OK) {
        RC_ASSERT(held + 1 >= w->options.salts_max);
        return KV_NONE;
    }
    RC_ASSERT((id == 0) == (number == 0));
    w->salt_ids[number] = id;
    return id;
}

static void release_salt(world *w, uint32_t number)
{
    if (w->salt_ids[number] == KV_NONE) return;
    kv_salt_release(w->m, w->salt_ids[number]);
    w->salt_ids[number] = KV_NONE;
}

static kv_identity random_identity(world *w, uint32_t length)
{
    static const uint64_t adapters[] = {1, 2, UINT64_MAX};
    kv_identity identity = {.adapter = 0, .adapted_from = KV_NEVER};
    if (prng_one_in(&w->random, 3)) return identity;
    identity.adapter = adapters[prng_below(&w->random, 3)];
    identity.adapted_from = prng_one_in(&w->random, 4) ? 0 : prng_below(&w->random, length + 4);
    if (prng_one_in(&w->random, 16)) identity.adapted_from = KV_NEVER;
    if (prng_one_in(&w->random, 16)) identity.adapter = 0;
    return identity;
}

/* Mostly the same one, so that prefixes meet. */
static int32_t random_token(world *w)
{
    if (w->is_wide) return (int32_t)prng_below(&w->random, 12) - 6;
    return prng_one_in(&w->random, 8) ? (int32_t)prng_below(&w->random, 3) - 1 : 5;
}

static uint32_t short_or_long(world *w, uint32_t short_end, uint32_t long_end)
{
    return prng_below(&w->random, prng_one_in(&w->random, 2) ? short_end : long_end);
}

/* A prompt that begins like something of before, mostly, and goes on at random. */
static void random_prompt(world *w, history *h)
{
    uint32_t max = w->options.seq_tokens_max;
    *h = w->histories[prng_below(&w->random, HISTORIES)];
    open_seq *other = &w->seqs[prng_below(&w->random, SEQS_MAX)];
    if (other->is_open && prng_one_in(&w->random, 3)) *h = other->of;
    uint32_t keep = prng_one_in(&w->random, 3) ? h->count : prng_below(&w->random, h->count + 1);
    uint32_t count = keep + short_or_long(w, 4, max);
    if (count > max) count = max;
    for (uint32_t i = keep; i < count; i++) h->tokens[i] = random_token(w);
    h->count = count;
    if (prng_one_in(&w->random, 2)) h->identity = random_identity(w, count);
    if (prng_one_in(&w->random, 4)) h->salt = prng_below(&w->random, KV_MODEL_SALTS);
}

static uint32_t longest(world *w, const history *h, uint32_t limit)
{
    if (!w->options.enable_prefix_cache) return 0;
    if (limit > h->count - (h->count > 0)) limit = h->count - (h->count > 0);
    return kv_model_longest(w->model, h->tokens, limit, h->salt, h->identity);
}

static void check_unchanged(world *w)
{
    kv_stats now = kv_get_stats(w->m);
    RC_ASSERT(memcmp(&now, &w->before, sizeof now) == 0);
}

static void op_find(world *w)
{
    history h;
    random_prompt(w, &h);
    h.identity.salt = id_of_salt(w, h.salt);
    if (h.identity.salt == KV_NONE) return;
    kv_model_look(w->model, w->m);
    RC_ASSERT(kv_find(w->m, h.tokens, h.count, h.identity) == longest(w, &h, UINT32_MAX));
}

/* A fresh block for rows to come holds nothing: whatever it held before is overwritten from now on. */
static void forget_fresh(world *w, const open_seq *s)
{
    uint32_t blocks, block_tokens = w->options.block_tokens;
    const uint32_t *table = kv_seq_blocks(w->m, s->handle, &blocks);
    for (uint32_t i = 0; i < blocks; i++) {
        uint32_t start = i * block_tokens, rows = s->committed > start ? s->committed - start : 0;
        if (s->is_pending && table[i] == s->hit.copy_to) rows = 0;
        if (rows < block_tokens) kv_model_forget(w->model, table[i], rows);
    }
}

static void open_history(world *w, const history *h)
{
    uint32_t at = 0;
    while (at < SEQS_MAX && w->seqs[at].is_open) at++;
    open_seq *s = at < SEQS_MAX ? &w->seqs[at] : NULL;
    kv_identity identity = h->identity;
    identity.salt = id_of_salt(w, h->salt);
    if (identity.salt == KV_NONE) return;
    kv_model_look(w->model, w->m);
    w->before = kv_get_stats(w->m);
    uint32_t reuse_max = prng_one_in(&w->random, 4) ? prng_below(&w->random, TOKENS_MAX) : UINT32_MAX;
    uint32_t expected = longest(w, h, reuse_max);
    kv_seq handle;
    kv_hit hit;
    if (kv_seq_open(w->m, h->tokens, h->count, identity, reuse_max, &handle, &hit) != RC_OK) {
        check_unchanged(w);
        if (w->before.seqs_open == w->options.seqs_max) return;
        RC_ASSERT(expected % w->options.block_tokens > 0);
        RC_ASSERT(w->before.blocks_free == 0);
        RC_ASSERT(w->before.blocks_cached <= expected / w->options.block_tokens);
        RC_ASSERT(w->before.seqs_open > 0);
        return;
    }
    RC_ASSERT(s != NULL);
    RC_ASSERT(hit.tokens == expected);
    RC_ASSERT(kv_seq_length(w->m, handle) == expected);
    *s = (open_seq){true, hit.copy_rows > 0, handle, *h, expected, hit};
    s->of.identity.salt = identity.salt;
    if (hit.copy_rows > 0) RC_ASSERT(hit.copy_rows == expected % w->options.block_tokens);
    forget_fresh(w, s);
    w->may_lose = hit.copy_rows == 0;
}

static void op_open(world *w)
{
    history h;
    random_prompt(w, &h);
    open_history(w, &h);
    if (prng_one_in(&w->random, 2)) release_salt(w, h.salt);
}

static void copied(world *w, open_seq *s)
{
    if (!s->is_pending) return;
    for (uint32_t i = 0; i < s->hit.copy_rows; i++)
        kv_model_write(w->model, s->hit.copy_to, i, kv_model_read(w->model, s->hit.copy_from, i));
    s->is_pending = false;
    kv_seq_copied(w->m, s->handle);
}

static open_seq *random_seq(world *w)
{
    uint32_t from = prng_below(&w->random, SEQS_MAX);
    for (uint32_t i = 0; i < SEQS_MAX; i++)
        if (w->seqs[(from + i) % SEQS_MAX].is_open) return &w->seqs[(from + i) % SEQS_MAX];
    return NULL;
}

static bool is_in_use(const world *w, uint32_t block, uint32_t times)
{
    uint32_t seen = 0;
    for (uint32_t i = 0; i < SEQS_MAX; i++) {
        const open_seq *s = &w->seqs[i];
        if (!s->is_open) continue;
        uint32_t blocks;
        const uint32_t *table = kv_seq_blocks(w->m, s->handle, &blocks);
        for (uint32_t b = 0; b < blocks; b++) seen += table[b] == block;
        seen += s->is_pending && s->hit.copy_from == block;
    }
    return seen > times;
}

static bool reserve(world *w, open_seq *s, uint32_t length)
{
    uint32_t blocks, more, block_tokens = w->options.block_tokens;
    kv_seq_blocks(w->m, s->handle, &blocks);
    uint32_t needed = (length + block_tokens - 1) / block_tokens;
    needed = needed > blocks ? needed - blocks : 0;
    w->before = kv_get_stats(w->m);
    if (kv_seq_reserve(w->m, s->handle, length) != RC_OK) {
        RC_ASSERT(needed > w->before.blocks_free + w->before.blocks_cached);
        check_unchanged(w);
        return false;
    }
    const uint32_t *table = kv_seq_blocks(w->m, s->handle, &more);
    RC_ASSERT(more == blocks + needed);
    uint32_t evicted = needed > w->before.blocks_free ? needed - w->before.blocks_free : 0;
    RC_ASSERT(kv_get_stats(w->m).evictions == w->before.evictions + evicted);
    for (uint32_t i = blocks; i < more; i++) RC_ASSERT(!is_in_use(w, table[i], 1));
    forget_fresh(w, s);
    return true;
}

static void op_reserve(world *w)
{
    open_seq *s = random_seq(w);
    if (s) reserve(w, s, prng_below(&w->random, w->options.seq_tokens_max + 1));
}

/* Row that the sequence holds at each position, as its tokens and identity say. */
static uint32_t row_after(world *w, const history *h, uint32_t count)
{
    uint32_t row = kv_model_root(h->salt);
    for (uint32_t i = 0; i < count; i++) row = kv_model_add(w->model, row, h->tokens[i], i, h->identity);
    return row;
}

static void op_commit(world *w)
{
    open_seq *s = random_seq(w);
    if (!s) return;
    uint32_t max = w->options.seq_tokens_max, block_tokens = w->options.block_tokens;
    uint32_t ahead = s->of.count > s->committed ? s->of.count - s->committed : 0;
    uint32_t count = short_or_long(w, 5, ahead + 1);
    if (count > max - s->committed) count = max - s->committed;
    copied(w, s);
    if (!reserve(w, s, s->committed + count)) return;
    for (uint32_t i = s->of.count; i < s->committed + count; i++) s->of.tokens[i] = random_token(w);
    if (s->of.count < s->committed + count) s->of.count = s->committed + count;
    uint32_t blocks, row = row_after(w, &s->of, s->committed);
    const uint32_t *table = kv_seq_blocks(w->m, s->handle, &blocks);
    for (uint32_t i = s->committed; i < s->committed + count; i++) {
        row = kv_model_add(w->model, row, s->of.tokens[i], i, s->of.identity);
        kv_model_write(w->model, table[i / block_tokens], i % block_tokens, row);
    }
    kv_seq_commit(w->m, s->handle, s->of.tokens + s->committed, count);
    s->committed += count;
}

static void remember(world *w, const open_seq *s)
{
    history *h = &w->histories[prng_below(&w->random, HISTORIES)];
    *h = s->of;
    h->identity.salt = 0;
}

static void op_cut(world *w)
{
    open_seq *s = random_seq(w);
    if (!s) return;
    copied(w, s);
    if (prng_one_in(&w->random, 3)) remember(w, s);
    uint32_t all = s->committed + 1, length = s->committed - short_or_long(w, all < 4 ? all : 4, all);
    kv_identity identity = s->of.identity;
    bool was_adapted = identity.adapter != 0 && identity.adapted_from < length;
    if (!was_adapted && prng_one_in(&w->random, 2)) {
        identity = random_identity(w, length);
        identity.salt = s->of.identity.salt;
        if (identity.adapted_from < length) identity.adapted_from = length;
    }
    kv_model_look(w->model, w->m);
    w->before = kv_get_stats(w->m);
    kv_hit hit;
    if (kv_seq_cut(w->m, s->handle, length, identity, &hit) != RC_OK) {
        check_unchanged(w);
        RC_ASSERT(w->before.blocks_free + w->before.blocks_cached == 0);
        RC_ASSERT(length % w->options.block_tokens > 0);
        return;
    }
    RC_ASSERT(hit.tokens == length);
    s->of.identity = identity;
    s->of.count = s->committed = length;
    s->hit = hit;
    s->is_pending = hit.copy_rows > 0;
    forget_fresh(w, s);
    w->may_lose = hit.copy_rows == 0;
}

static void close_seq(world *w, open_seq *s)
{
    if (s->is_pending) kv_model_forget(w->model, s->hit.copy_to, 0);
    kv_seq_close(w->m, s->handle);
    s->is_open = false;
}

static void op_close(world *w)
{
    open_seq *s = random_seq(w);
    if (!s) return;
    remember(w, s);
    close_seq(w, s);
}

static void op_preempt(world *w)
{
    open_seq *s = random_seq(w);
    if (!s) return;
    history h = s->of;
    close_seq(w, s);
    open_history(w, &h);
}

static void op_copied(world *w)
{
    open_seq *s = random_seq(w);
    if (s) copied(w, s);
}

static void op_salt(world *w)
{
    uint32_t number = prng_below(&w->random, KV_MODEL_SALTS);
    if (prng_one_in(&w->random, 3))
        id_of_salt(w, number);
    else
        release_salt(w, number);
}

static void check_rows(world *w)
{
    for (uint32_t i = 0; i < SEQS_MAX; i++) {
        const open_seq *s = &w->seqs[i];
        if (!s->is_open) continue;
        uint32_t blocks, block_tokens = w->options.block_tokens, row = kv_model_root(s->of.salt);
        const uint32_t *table = kv_seq_blocks(w->m, s->handle, &blocks);
        RC_ASSERT(s->committed == kv_seq_length(w->m, s->handle));
        for (uint32_t p = 0; p < s->committed; p++) {
            uint32_t block = table[p / block_tokens];
            if (s->is_pending && block == s->hit.copy_to) block = s->hit.copy_from;
            row = kv_model_next(w->model, row, s->of.tokens[p], p, s->of.identity);
            RC_ASSERT(row != KV_MODEL_UNKNOWN);
            RC_ASSERT(kv_model_read(w->model, block, p % block_tokens) == row);
        }
    }
}

static void check_all(world *w)
{
    kv_check(w->m);
    check_rows(w);
    if (w->mirror) kv_mirror_check(w->mirror, w->m);
    kv_stats now = kv_get_stats(w->m);
    uint64_t evicted = now.evictions - w->before.evictions;
    kv_model_look(w->model, w->m);
    RC_ASSERT(now.blocks_free + now.blocks_cached + now.blocks_live == w->options.blocks_max);
    if (!w->options.enable_prefix_cache) RC_ASSERT(now.blocks_cached == 0);
    if (!w->options.enable_prefix_cache) return;
    if (evicted == 0 && kv_model_lost(w->model)) {
        RC_ASSERT(w->may_lose);
        RC_ASSERT(now.blocks_free + now.blocks_cached == 0);
    }
}

static void create_world(world *w, uint64_t seed)
{
    *w = (world){.random = {seed}};
    prng *r = &w->random;
    kv_options *o = &w->options;
    o->block_tokens = 8u << prng_below(r, 3);
    o->blocks_max = prng_one_in(r, 4) ? prng_range(r, 1, 3) : prng_range(r, 1, 24);
    /* Now and then many short sequences: a node with hundreds of children. */
    w->is_wide = prng_one_in(r, 12);
    if (w->is_wide) o->blocks_max = prng_range(r, 100, 400);
    o->seqs_max = prng_one_in(r, 4) ? 1 : prng_range(r, 1, SEQS_MAX);
    o->seq_tokens_max = prng_range(r, 1, o->blocks_max * o->block_tokens + 9);
    if (o->seq_tokens_max > TOKENS_MAX) o->seq_tokens_max = TOKENS_MAX;
    if (w->is_wide) o->seq_tokens_max = prng_range(r, 8, 40);
    o->salts_max = prng_range(r, 1, KV_MODEL_SALTS + 1);
    o->enable_prefix_cache = !prng_one_in(r, 16);
    rc_msg msg;
    RC_ASSERT(kv_create(o, &w->m, &msg) == RC_OK);
    w->model = kv_model_create(o);
    if (seed % 8) w->mirror = kv_mirror_create(o);
    if (w->mirror) kv_watch(w->m, kv_mirror_change, w->mirror);
    for (uint32_t i = 0; i < KV_MODEL_SALTS; i++) w->salt_ids[i] = KV_NONE;
    for (uint32_t i = 0; i < HISTORIES; i++) w->histories[i].identity.adapted_from = KV_NEVER;
}

static void destroy_world(world *w)
{
    for (uint32_t i = 0; i < SEQS_MAX; i++)
        if (w->seqs[i].is_open) close_seq(w, &w->seqs[i]);
    kv_check(w->m);
    RC_ASSERT(kv_get_stats(w->m).blocks_live == 0);
    if (w->mirror) kv_mirror_check(w->mirror, w->m);
    kv_destroy(w->m);
    kv_model_destroy(w->model);
    if (w->mirror) kv_mirror_destroy(w->mirror);
}

static void run(uint64_t seed, uint32_t ops)
{
    static const struct {
        void (*run)(world *);
        uint32_t weight;
    } kinds[] = {{op_open, 20}, {op_commit, 40}, {op_reserve, 6}, {op_copied, 8}, {op_cut, 8},
                 {op_close, 10}, {op_preempt, 4}, {op_find, 6},   {op_salt, 4}};
    uint32_t total = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) total += kinds[i].weight;
    static world w; /* too large for the stack of some systems */
    create_world(&w, seed);
    for (uint32_t op = 0; op < ops; op++) {
        uint32_t pick = prng_below(&w.random, total), kind = 0;
        while (pick >= kinds[kind].weight) pick -= kinds[kind++].weight;
        w.before = kv_get_stats(w.m);
        w.may_lose = false;
        kinds[kind].run(&w);
        check_all(&w);
    }
    destroy_world(&w);
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, seeds = 200;
    uint32_t ops = 4000;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--seed") == 0) seed = strtoull(value, NULL, 0), seeds = 1, i++;
        else if (strcmp(argv[i], "--seeds") == 0) seeds = strtoull(value, NULL, 0), i++;
        else if (strcmp(argv[i], "--ops") == 0) ops = (uint32_t)strtoul(value, NULL, 0), i++;
        else if (strcmp(argv[i], "--long") == 0) seeds = 5000, ops = 20000;
        else return fprintf(stderr, "usage: %s [--seed N] [--seeds N] [--ops N] [--long]\n", argv[0]), 2;
    }
    for (uint64_t i = 0; i < seeds; i++) {
        /* Said before, so that it is there whatever happens. */
        fprintf(stderr, "\rrepro: %s --seed %llu --ops %u ", argv[0], (unsigned long long)(seed + i), ops);
        run(seed + i, ops);
    }
    fprintf(stderr, "\n%llu seeds of %u operations passed\n", (unsigned long long)seeds, ops);
    return 0;
}
