#define XXH_INLINE_ALL
#include <xxhash.h>

#include "paged_kv/prefix_index.h"
#include "paged_kv/siblings.h"
#include "paged_kv/watch.h"

/* Blocks whose hashes are computed, then probed, then compared together: enough for the misses of
 * one pass to overlap (11.4 us for 8k tokens; 13.0 with 16, 12.1 with 64; bench_block_manager on a Xeon
 * with 2 MiB of L2), few enough to waste little where nothing is found. */
enum { KV_AHEAD = 32 };

/* Hash of a full block's rows. Token bytes and adapter are never in one hashed string. */
static uint64_t content_hash(const kv *m, kv_rows rows)
{
    uint64_t seed = 0;
    if (rows.first_adapted < m->options.block_tokens) {
        uint64_t adapted[3] = {rows.adapter, rows.first_adapted, m->options.adapter_domain};
        seed = XXH3_64bits(adapted, sizeof adapted);
    }
    return XXH3_64bits_withSeed(rows.tokens, sizeof(int32_t) << m->shift, seed);
}

static inline uint64_t chain_hash(uint64_t parent, uint64_t content)
{
    uint64_t h = (parent ^ (content << 23 | content >> 41)) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

static inline uint32_t slot_hash(uint64_t chain) { return (uint32_t)chain; }

uint64_t kv__root_chain(const void *salt, size_t bytes) { return XXH3_64bits(salt, bytes); }

static bool is_same(const kv *m, uint32_t block, uint32_t parent, kv_rows rows)
{
    const kv_node *n = &m->nodes[block];
    return n->parent == parent && n->first_adapted == rows.first_adapted && n->adapter == rows.adapter &&
           memcmp(kv__tokens(m, block), rows.tokens, sizeof(int32_t) << m->shift) == 0;
}

/* The full child of `parent` with these rows. */
static uint32_t find_full(const kv *m, uint64_t chain, uint32_t parent, kv_rows rows)
{
    uint32_t hash = slot_hash(chain), at = hash, id;
    while ((id = kv__id_next(&m->index, hash, &at)) != KV_NONE)
        if (is_same(m, id, parent, rows)) return id;
    return KV_NONE;
}

/* Follows full blocks from match->parent on for up to `count` <= KV_AHEAD blocks.
 * Gives whether all of them were found. */
static bool match_ahead(const kv *m, const int32_t *tokens, uint32_t count, kv_identity identity,
                        uint64_t *chain, uint32_t *table, kv_match *match)
{
    kv_rows rows[KV_AHEAD];
    uint64_t chains[KV_AHEAD];
    uint32_t block_tokens = m->options.block_tokens, first = match->blocks;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t position = (first + i) * block_tokens;
        rows[i] = kv__rows_at(m, identity, position, tokens + position, block_tokens);
        *chain = chains[i] = chain_hash(*chain, content_hash(m, rows[i]));
        __builtin_prefetch(&m->index.slots[slot_hash(*chain) & m->index.mask]);
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t hash = slot_hash(chains[i]), at = hash, id = kv__id_next(&m->index, hash, &at);
        if (id == KV_NONE) {
            count = i;
            break;
        }
        __builtin_prefetch(&m->nodes[id]);
        __builtin_prefetch(kv__tokens(m, id));
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t id = find_full(m, chains[i], match->parent, rows[i]);
        if (id == KV_NONE) return false;
        if (table) table[match->blocks] = id;
        match->blocks++;
        match->cached += m->nodes[id].state == KV_CACHED;
        match->parent = id;
    }
    return match->blocks == first + count;
}

void kv__match(const kv *m, const int32_t *tokens, uint32_t limit, kv_identity identity,
               uint32_t *table, kv_match *match)
{
    *match = (kv_match){.parent = kv__root(m, identity.salt), .source = KV_NONE};
    uint64_t chain = m->nodes[match->parent].chain;
    uint32_t full = limit >> m->shift;
    while (match->blocks < full) {
        uint32_t count = full - match->blocks < KV_AHEAD ? full - match->blocks : KV_AHEAD;
        uint32_t expected = match->blocks + count;
        match_ahead(m, tokens, count, identity, &chain, table, match);
        if (match->blocks < expected) break;
    }
    uint32_t position = match->blocks << m->shift, left = limit - position;
    if (left > m->options.block_tokens) left = m->options.block_tokens;
    if (left == 0) return;
    kv_rows rows = kv__rows_at(m, identity, position, tokens + position, left);
    match->source = kv__siblings_longest(m, match->parent, rows, &match->rows);
}

uint32_t kv__index_twin(kv *m, uint32_t block)
{
    kv_node *n = &m->nodes[block];
    kv_rows rows = kv__rows_of(m, block);
    RC_ASSERT(rows.count == m->options.block_tokens);
    n->chain = chain_hash(m->nodes[n->parent].chain, content_hash(m, rows));
    return find_full(m, n->chain, n->parent, rows);
}

uint32_t kv__index_insert(kv *m, uint32_t block)
{
    kv_node *n = &m->nodes[block];
    RC_ASSERT(n->rows > 0);
    uint32_t before = kv__tree_before(m, block), covered = KV_NONE;
    if (before != KV_NONE && m->nodes[before].state == KV_CACHED) {
        kv_rows rows = kv__rows_of(m, before);
        if (kv__rows_common(rows, kv__rows_of(m, block)) == rows.count) {
            kv__tree_remove(m, before);
            covered = before;
        }
    }
    kv__tree_insert(m, block);
    if (n->rows < m->options.block_tokens) return covered;
    kv__id_insert(&m->index, slot_hash(n->chain), block);
    if (m->watcher) kv__tell_stored(m, block);
    return covered;
}

void kv__index_remove(kv *m, uint32_t block)
{
    kv_node *n = &m->nodes[block];
    RC_ASSERT(n->children == KV_NONE);
    RC_ASSERT(n->tails == KV_NONE);
    kv__tree_remove(m, block);
    if (n->rows < m->options.block_tokens) return;
    kv__id_remove(&m->index, slot_hash(n->chain), block);
    if (m->watcher) kv__tell_removed(m, block);
}

void kv__index_check(const kv *m, uint32_t block)
{
    const kv_node *n = &m->nodes[block];
    kv_rows rows = kv__rows_of(m, block);
    RC_ASSERT(n->chain == chain_hash(m->nodes[n->parent].chain, content_hash(m, rows)));
    RC_ASSERT(find_full(m, n->chain, n->parent, rows) == block);
}
