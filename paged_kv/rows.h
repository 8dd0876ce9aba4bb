/* paged_kv/rows.h - the names of a run of rows: how far two runs agree, and their order.
 *
 * A row's name is its token and the adapter that computed it (0: base). Within a block adapted rows
 * are the last ones, so a run is tokens, one adapter and the first row that it computed. The parent,
 * and with it the salt and everything before, is compared by whoever asks.
 */
#ifndef PAGED_KV_ROWS_H
#define PAGED_KV_ROWS_H

#include "paged_kv/block_manager_internal.h"

typedef struct kv_rows {
    const int32_t *tokens;
    uint32_t count;
    uint32_t first_adapted; /* block_tokens or more: none */
    uint64_t adapter;
} kv_rows;

/* Base is named in one way only. */
static inline kv_identity kv__normal(kv_identity i)
{
    if (i.adapter == 0 || i.adapted_from == KV_NEVER) return (kv_identity){i.salt, 0, KV_NEVER};
    return i;
}

/* First adapted row of the block that starts at `position`; block_tokens: none. */
static inline uint32_t kv__first_adapted(const kv *m, kv_identity i, uint32_t position)
{
    uint32_t block_tokens = m->options.block_tokens;
    if (i.adapted_from <= position) return 0;
    uint32_t rows = i.adapted_from - position;
    return rows < block_tokens ? rows : block_tokens;
}

/* Rows that a sequence of this identity has from `position`, the start of a block, on. */
static inline kv_rows kv__rows_at(const kv *m, kv_identity i, uint32_t position, const int32_t *tokens,
                                  uint32_t count)
{
    uint32_t first = kv__first_adapted(m, i, position);
    return (kv_rows){tokens, count, first, first < m->options.block_tokens ? i.adapter : 0};
}

static inline kv_rows kv__rows_of(const kv *m, uint32_t block)
{
    const kv_node *n = &m->nodes[block];
    return (kv_rows){kv__tokens(m, block), n->rows, n->first_adapted, n->adapter};
}

/* How many leading rows have the same names. */
static inline uint32_t kv__rows_common(kv_rows a, kv_rows b)
{
    uint32_t end = a.count < b.count ? a.count : b.count;
    if (a.first_adapted != b.first_adapted || a.adapter != b.adapter) {
        uint32_t first = a.first_adapted < b.first_adapted ? a.first_adapted : b.first_adapted;
        if (first < end) end = first;
    }
    uint32_t i = 0;
    while (i < end && a.tokens[i] == b.tokens[i]) i++;
    return i;
}

/* < 0, 0, > 0: lexicographic by rows, which agree in `common` leading ones. */
static inline int kv__rows_order(kv_rows a, kv_rows b, uint32_t common)
{
    if (common == a.count || common == b.count) return (a.count > b.count) - (a.count < b.count);
    uint64_t adapter_a = common >= a.first_adapted ? a.adapter : 0;
    uint64_t adapter_b = common >= b.first_adapted ? b.adapter : 0;
    if (adapter_a != adapter_b) return adapter_a < adapter_b ? -1 : 1;
    return a.tokens[common] < b.tokens[common] ? -1 : 1;
}

#endif
