/* paged_kv/paged_attn_split.h - attention cut into units of work, and units dealt to parts.
 *
 * The queries of a group for one K/V head are its rows' heads: query i is head i % ratio of row i / ratio,
 * ratio = H / G, rows counted through the group's spans. A unit is a run of them that reads K/V together, for
 * one K/V head or several: those of a block lie side by side, and memory likes runs.
 */
#ifndef PAGED_KV_PAGED_ATTN_SPLIT_H
#define PAGED_KV_PAGED_ATTN_SPLIT_H

#include "paged_kv/paged_attn.h"

/* Of all heads together. Enough that taking a tile of K/V costs little beside using it, few enough that the
 * state of all (half a KiB each for 64 dimensions) stays in the L2. */
enum { KV__UNIT_QUERIES = 192 };

typedef struct kv__unit {
    const kv_group *group;
    uint32_t kv_head, kv_heads; /* the first one, and how many */
    uint32_t first, count;      /* queries, for each of the heads */
} kv__unit;

/* The queries of a unit that belong to one span: [first, end) of the group's, of which `origin` is the
 * span's first. */
typedef struct kv__piece {
    const kv_span *span;
    uint32_t first, end, origin;
} kv__piece;

/* Steps to the next piece of the unit; start with {0}. The span pointer is the cursor. */
int kv__next_piece(const kv_plan *plan, const kv__unit *unit, uint32_t ratio, kv__piece *piece);

/* Calls `run` for each unit of `part`. Parts get about equal weight, dealt out by the head: the number of
 * (query, tile) pairs, and for each tile some more. */
void kv__each_unit(const kv_attn *a, uint32_t part, uint32_t parts, void (*run)(void *, const kv__unit *),
                   void *ctx);

#endif
