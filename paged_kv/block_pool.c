#include "paged_kv/block_pool.h"

#include "paged_kv/prefix_index.h"
#include "paged_kv/salt_table.h"
#include "paged_kv/siblings.h"

static void set_state(kv *m, kv_node *n, kv_state state)
{
    m->counts[n->state]--;
    m->counts[state]++;
    n->state = (uint8_t)state;
}

static void free_push(kv *m, uint32_t block)
{
    kv_node *n = &m->nodes[block];
    RC_ASSERT(n->refs == 0);
    RC_ASSERT(n->place == KV_NOWHERE);
    n->rows = 0;
    n->newer = m->free_first;
    m->free_first = block;
    set_state(m, n, KV_FREE);
}

void kv__pool_init(kv *m)
{
    m->counts[KV_FREE] = m->options.blocks_max;
    m->free_first = m->oldest = m->newest = KV_NONE;
    for (uint32_t i = m->options.blocks_max; i-- > 0;) {
        m->nodes[i] = (kv_node){.parent = KV_NONE, .left = KV_NONE, .right = KV_NONE, .children = KV_NONE,
                                .tails = KV_NONE, .older = KV_NONE, .newer = m->free_first};
        m->free_first = i;
    }
}

static void lru_append(kv *m, uint32_t block)
{
    kv_node *n = &m->nodes[block];
    n->used = ++m->clock;
    n->older = m->newest;
    n->newer = KV_NONE;
    if (m->newest == KV_NONE)
        m->oldest = block;
    else
        m->nodes[m->newest].newer = block;
    m->newest = block;
    set_state(m, n, KV_CACHED);
}

static void lru_remove(kv *m, uint32_t block)
{
    kv_node *n = &m->nodes[block];
    RC_ASSERT(n->state == KV_CACHED);
    if (n->older == KV_NONE)
        m->oldest = n->newer;
    else
        m->nodes[n->older].newer = n->newer;
    if (n->newer == KV_NONE)
        m->newest = n->older;
    else
        m->nodes[n->newer].older = n->older;
    n->older = n->newer = KV_NONE;
}

void kv__block_evict(kv *m, uint32_t block)
{
    uint32_t parent = m->nodes[block].parent;
    lru_remove(m, block);
    kv__index_remove(m, block);
    free_push(m, block);
    m->evictions++;
    if (kv__is_root(m, parent)) kv__salt_settle(m, parent);
}

uint32_t kv__block_take(kv *m)
{
    if (m->free_first == KV_NONE) {
        RC_ASSERT(m->oldest != KV_NONE);
        kv__block_evict(m, m->oldest);
    }
    uint32_t block = m->free_first;
    kv_node *n = &m->nodes[block];
    m->free_first = n->newer;
    n->newer = KV_NONE;
    n->refs = 1;
    set_state(m, n, KV_LIVE);
    return block;
}

void kv__block_ref(kv *m, uint32_t block)
{
    kv_node *n = &m->nodes[block];
    if (n->refs++ > 0) return;
    lru_remove(m, block);
    set_state(m, n, KV_LIVE);
}

void kv__block_publish(kv *m, uint32_t block)
{
    uint32_t covered = kv__index_insert(m, block);
    if (covered == KV_NONE) return;
    lru_remove(m, covered);
    free_push(m, covered);
}

/* The half-filled end of a sequence that is closed gets its place in the tree, if it deserves one. */
static void settle_tail(kv *m, uint32_t block)
{
    kv_node *n = &m->nodes[block];
    bool is_covered = kv__siblings_cover(m, block);
    kv__tail_remove(m, block);
    if (is_covered) return;
    if (n->first_adapted >= n->rows) {
        n->first_adapted = (uint16_t)m->options.block_tokens;
        n->adapter = 0;
    }
    kv__block_publish(m, block);
}

void kv__block_unref(kv *m, uint32_t block)
{
    kv_node *n = &m->nodes[block];
    RC_ASSERT(n->refs > 0);
    if (--n->refs > 0) return;
    if (n->place == KV_TAIL)
        settle_tail(m, block);
    else if (n->place == KV_TREE && n->rows < m->options.block_tokens && kv__siblings_cover(m, block))
        kv__index_remove(m, block);
    if (n->place == KV_TREE)
        lru_append(m, block);
    else
        free_push(m, block);
}

void kv__pool_check(const kv *m)
{
    RC_ASSERT(m->counts[KV_FREE] + m->counts[KV_CACHED] + m->counts[KV_LIVE] == m->options.blocks_max);
    uint32_t seen = 0;
    for (uint32_t i = m->free_first; i != KV_NONE; i = m->nodes[i].newer, seen++) {
        RC_ASSERT(m->nodes[i].state == KV_FREE);
        RC_ASSERT(seen < m->counts[KV_FREE]);
    }
    RC_ASSERT(seen == m->counts[KV_FREE]);
    seen = 0;
    uint64_t used = 0;
    for (uint32_t i = m->oldest, older = KV_NONE; i != KV_NONE; older = i, i = m->nodes[i].newer, seen++) {
        const kv_node *n = &m->nodes[i];
        RC_ASSERT(n->state == KV_CACHED);
        RC_ASSERT(n->older == older);
        RC_ASSERT(n->used > used);
        used = n->used;
        RC_ASSERT(seen < m->counts[KV_CACHED]);
    }
    RC_ASSERT(seen == m->counts[KV_CACHED]);
}
