#include "paged_kv/block_pool.h"
#include "paged_kv/prefix_index.h"
#include "paged_kv/salt_table.h"
#include "paged_kv/siblings.h"

static void check_state(const kv *m, const kv_node *n, uint32_t refs)
{
    RC_ASSERT(n->refs == refs);
    RC_ASSERT((n->state == KV_LIVE) == (refs > 0));
    RC_ASSERT(n->rows <= m->options.block_tokens);
    if (n->state == KV_CACHED) RC_ASSERT(n->place == KV_TREE);
    if (n->state == KV_FREE) RC_ASSERT(n->place == KV_NOWHERE);
    if (n->state == KV_FREE) RC_ASSERT(n->rows == 0);
}

/* What hangs from a node says so, too. */
static void check_links(const kv *m, uint32_t id)
{
    const kv_node *nodes = m->nodes, *n = &nodes[id];
    bool is_full = n->place == KV_TREE && n->rows == m->options.block_tokens;
    if (!is_full && !kv__is_root(m, id)) {
        RC_ASSERT(n->children == KV_NONE);
        RC_ASSERT(n->tails == KV_NONE);
    }
    uint32_t first[2] = {n->children, n->tails};
    for (int i = 0; i < 2; i++) {
        if (first[i] == KV_NONE) continue;
        RC_ASSERT(nodes[first[i]].parent == id);
        RC_ASSERT(nodes[first[i]].place == (i == 0 ? KV_TREE : KV_TAIL));
    }
    uint32_t sides[2] = {n->left, n->right};
    for (int i = 0; i < 2; i++) {
        if (sides[i] == KV_NONE || kv__is_root(m, id)) continue;
        RC_ASSERT(n->place != KV_NOWHERE);
        RC_ASSERT(nodes[sides[i]].place == n->place);
        RC_ASSERT(nodes[sides[i]].parent == n->parent);
    }
}

static void check_content(const kv *m, uint32_t block)
{
    const kv_node *n = &m->nodes[block];
    if (n->place == KV_NOWHERE) return;
    RC_ASSERT(m->options.enable_prefix_cache);
    RC_ASSERT(n->rows > 0);
    RC_ASSERT((n->first_adapted == m->options.block_tokens) == (n->adapter == 0));
    kv__siblings_check(m, block);
    if (n->rows == m->options.block_tokens) {
        RC_ASSERT(n->place == KV_TREE);
        kv__index_check(m, block);
    }
    /* A cached block has a row of its own, and its ancestors outlive it. */
    if (n->state == KV_CACHED) RC_ASSERT(!kv__tree_covers(m, block));
    if (kv__is_root(m, n->parent)) return;
    const kv_node *parent = &m->nodes[n->parent];
    RC_ASSERT(parent->state != KV_FREE);
    if (n->state == KV_LIVE) RC_ASSERT(parent->state == KV_LIVE);
    if (parent->state == KV_CACHED) RC_ASSERT(parent->used > n->used);
}

/* Counts the references of a sequence in refs[]. */
static void check_sequence(const kv *m, kv_seq seq, uint32_t *refs)
{
    const kv_sequence *s = &m->seqs[seq];
    const uint32_t *table = kv__table(m, seq);
    uint32_t block_tokens = m->options.block_tokens;
    RC_ASSERT(s->blocks <= m->table_blocks);
    RC_ASSERT(s->length <= s->blocks << m->shift);
    for (uint32_t i = 0; i < s->blocks; i++) {
        const kv_node *n = &m->nodes[table[i]];
        uint32_t start = i << m->shift, rows = s->length > start ? s->length - start : 0;
        if (rows > block_tokens) rows = block_tokens;
        bool is_pending = s->copy_from != KV_NONE && rows > 0 && rows < block_tokens;
        kv_place place = rows == 0 || is_pending ? KV_NOWHERE : rows == block_tokens ? KV_TREE : KV_TAIL;
        RC_ASSERT(n->rows == rows);
        RC_ASSERT(n->place == (m->options.enable_prefix_cache ? place : KV_NOWHERE));
        RC_ASSERT(rows == 0 || n->parent == (i == 0 ? kv__root(m, s->identity.salt) : table[i - 1]));
        RC_ASSERT(rows == 0 || n->first_adapted >= rows ||
                  (n->adapter == s->identity.adapter &&
                   n->first_adapted == kv__first_adapted(m, s->identity, start)));
        RC_ASSERT(rows == 0 || n->first_adapted < rows || s->identity.adapted_from >= start + rows);
        refs[table[i]]++;
    }
    if (s->copy_from == KV_NONE) return;
    RC_ASSERT((s->length & (block_tokens - 1)) != 0);
    refs[s->copy_from]++;
}

void kv_check(const kv *m)
{
    uint32_t *refs = calloc(m->options.blocks_max, sizeof *refs);
    uint32_t counts[KV_STATES] = {0}, open = 0, full = 0;
    RC_ASSERT(refs != NULL);
    for (kv_seq i = 0; i < m->options.seqs_max; i++) {
        if (!m->seqs[i].is_open) continue;
        open++;
        check_sequence(m, i, refs);
    }
    RC_ASSERT(open == m->seqs_open);
    for (uint32_t i = 0; i < m->options.blocks_max; i++) {
        const kv_node *n = &m->nodes[i];
        counts[n->state]++;
        full += n->place == KV_TREE && n->rows == m->options.block_tokens;
        check_state(m, n, refs[i]);
        check_content(m, i);
    }
    for (uint32_t i = 0; i < m->options.blocks_max + m->options.salts_max; i++) check_links(m, i);
    for (int i = 0; i < KV_STATES; i++) RC_ASSERT(counts[i] == m->counts[i]);
    RC_ASSERT(full == m->index.count);
    kv__pool_check(m);
    kv__salts_check(m);
    free(refs);
}
