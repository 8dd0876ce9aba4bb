#include "paged_kv/siblings.h"

/* Heap order of the treap: a bijection of the index, so there are no ties, and no caller chooses it. */
static uint32_t priority(uint32_t block)
{
    uint32_t x = block + 0x9e3779b9u;
    x = (x ^ (x >> 16)) * 0x85ebca6bu;
    x = (x ^ (x >> 13)) * 0xc2b2ae35u;
    return x ^ (x >> 16);
}

/* Order of rows against those of a tree member. */
static int order(const kv *m, kv_rows rows, uint32_t member)
{
    kv_rows other = kv__rows_of(m, member);
    return kv__rows_order(rows, other, kv__rows_common(rows, other));
}

void kv__tree_insert(kv *m, uint32_t block)
{
    kv_node *nodes = m->nodes, *n = &nodes[block];
    RC_ASSERT(n->place == KV_NOWHERE);
    kv_rows rows = kv__rows_of(m, block);
    uint32_t *link = &nodes[n->parent].children;
    while (*link != KV_NONE && priority(*link) > priority(block))
        link = order(m, rows, *link) < 0 ? &nodes[*link].left : &nodes[*link].right;
    uint32_t rest = *link, *less = &n->left, *more = &n->right;
    *link = block;
    while (rest != KV_NONE) {
        if (order(m, rows, rest) > 0) {
            *less = rest;
            less = &nodes[rest].right;
            rest = *less;
        } else {
            *more = rest;
            more = &nodes[rest].left;
            rest = *more;
        }
    }
    *less = *more = KV_NONE;
    n->place = KV_TREE;
}

void kv__tree_remove(kv *m, uint32_t block)
{
    kv_node *nodes = m->nodes, *n = &nodes[block];
    RC_ASSERT(n->place == KV_TREE);
    kv_rows rows = kv__rows_of(m, block);
    uint32_t *link = &nodes[n->parent].children;
    while (*link != block) {
        RC_ASSERT(*link != KV_NONE);
        link = order(m, rows, *link) < 0 ? &nodes[*link].left : &nodes[*link].right;
    }
    uint32_t less = n->left, more = n->right;
    while (less != KV_NONE && more != KV_NONE) {
        if (priority(less) > priority(more)) {
            *link = less;
            link = &nodes[less].right;
            less = *link;
        } else {
            *link = more;
            link = &nodes[more].left;
            more = *link;
        }
    }
    *link = less != KV_NONE ? less : more;
    n->left = n->right = KV_NONE;
    n->place = KV_NOWHERE;
}

void kv__tail_insert(kv *m, uint32_t block)
{
    kv_node *n = &m->nodes[block], *parent = &m->nodes[n->parent];
    RC_ASSERT(n->place == KV_NOWHERE);
    n->left = KV_NONE;
    n->right = parent->tails;
    if (parent->tails != KV_NONE) m->nodes[parent->tails].left = block;
    parent->tails = block;
    n->place = KV_TAIL;
}

void kv__tail_remove(kv *m, uint32_t block)
{
    kv_node *n = &m->nodes[block];
    RC_ASSERT(n->place == KV_TAIL);
    if (n->left == KV_NONE)
        m->nodes[n->parent].tails = n->right;
    else
        m->nodes[n->left].right = n->right;
    if (n->right != KV_NONE) m->nodes[n->right].left = n->left;
    n->left = n->right = KV_NONE;
    n->place = KV_NOWHERE;
}

uint32_t kv__siblings_longest(const kv *m, uint32_t parent, kv_rows rows, uint32_t *common)
{
    uint32_t best = KV_NONE, best_common = 0;
    uint32_t at = m->nodes[parent].children;
    while (at != KV_NONE && best_common < rows.count) {
        kv_rows other = kv__rows_of(m, at);
        uint32_t c = kv__rows_common(rows, other);
        if (c > best_common) best = at, best_common = c;
        at = kv__rows_order(rows, other, c) < 0 ? m->nodes[at].left : m->nodes[at].right;
    }
    for (at = m->nodes[parent].tails; at != KV_NONE && best_common < rows.count; at = m->nodes[at].right) {
        uint32_t c = kv__rows_common(rows, kv__rows_of(m, at));
        if (c > best_common) best = at, best_common = c;
    }
    *common = best_common;
    return best;
}

bool kv__tree_covers(const kv *m, uint32_t block)
{
    /* Runs that begin with these rows come right after them: the next member is on this path. */
    kv_rows rows = kv__rows_of(m, block);
    uint32_t at = m->nodes[m->nodes[block].parent].children;
    while (at != KV_NONE) {
        kv_rows other = kv__rows_of(m, at);
        uint32_t c = kv__rows_common(rows, other);
        if (at != block && c == rows.count) return true;
        bool before = at != block && kv__rows_order(rows, other, c) < 0;
        at = before ? m->nodes[at].left : m->nodes[at].right;
    }
    return false;
}

bool kv__siblings_cover(const kv *m, uint32_t block)
{
    kv_rows rows = kv__rows_of(m, block);
    for (uint32_t at = m->nodes[m->nodes[block].parent].tails; at != KV_NONE; at = m->nodes[at].right)
        if (at != block && kv__rows_common(rows, kv__rows_of(m, at)) == rows.count) return true;
    return kv__tree_covers(m, block);
}

uint32_t kv__tree_before(const kv *m, uint32_t block)
{
    kv_rows rows = kv__rows_of(m, block);
    uint32_t before = KV_NONE, at = m->nodes[m->nodes[block].parent].children;
    while (at != KV_NONE) {
        if (at != block && order(m, rows, at) > 0) {
            before = at;
            at = m->nodes[at].right;
        } else {
            at = m->nodes[at].left;
        }
    }
    return before;
}

void kv__siblings_check(const kv *m, uint32_t block)
{
    const kv_node *n = &m->nodes[block], *parent = &m->nodes[n->parent];
    if (n->place == KV_TAIL) {
        RC_ASSERT(n->left == KV_NONE ? parent->tails == block : m->nodes[n->left].right == block);
        RC_ASSERT(n->right == KV_NONE || m->nodes[n->right].left == block);
        RC_ASSERT(n->right == KV_NONE || m->nodes[n->right].parent == n->parent);
        return;
    }
    kv_rows rows = kv__rows_of(m, block);
    uint32_t above = KV_NONE, at = parent->children;
    while (at != block) {
        RC_ASSERT(at != KV_NONE);
        RC_ASSERT(m->nodes[at].parent == n->parent);
        RC_ASSERT(m->nodes[at].place == KV_TREE);
        above = at;
        int o = order(m, rows, at);
        RC_ASSERT(o != 0);
        at = o < 0 ? m->nodes[at].left : m->nodes[at].right;
    }
    RC_ASSERT(above == KV_NONE || priority(above) > priority(block));
}
