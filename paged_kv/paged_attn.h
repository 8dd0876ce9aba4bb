/* paged_kv/paged_attn.h - attention over blocks, and writing K/V into them.
 *
 * A step's rows are grouped by sequence: a span is the run of rows of one sequence, at consecutive
 * positions. Spans whose sequences share leading blocks may form a group, so that the shared K/V is
 * read once a step for all of them.
 *
 * Exact  Every (row, head) folds fixed tiles of KV_TILE positions, counted from position 0, in
 *        position order, into what it has summed. No bit depends on block size, on the other rows, on
 *        the grouping or on the split over threads. A row sees K/V as stored, its own too.
 * Source online softmax: Milakov & Gimelshein 2018, alg. 3; paged K/V: Kwon et al. 2023, sec. 4.1.
 */
#ifndef PAGED_KV_PAGED_ATTN_H
#define PAGED_KV_PAGED_ATTN_H

#include "paged_kv/kv_layout.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KV_TILE = 64 };

/* Rows [row, row + rows) of the step: positions [position, position + rows) of one sequence, whose
 * block ids start at tables[table]. Row i sees positions 0 .. position + i. */
typedef struct kv_span {
    uint32_t row, rows;
    uint32_t position;
    uint32_t table;
} kv_span;

/* Spans [span, span + spans): their first shared_tokens positions lie in the very same blocks, and
 * every one of their rows is past them. shared_tokens is a multiple of block_tokens and KV_TILE;
 * 0 where nothing is shared. */
typedef struct kv_group {
    uint32_t span, spans;
    uint32_t shared_tokens;
} kv_group;

/* Where a step's rows read and write K/V. Planned once a step on the host, used by every layer. */
typedef struct kv_plan {
    const kv_span *spans;
    uint32_t spans_count;
    const kv_group *groups; /* cover all spans, in order */
    uint32_t groups_count;
    const uint32_t *tables; /* block ids */
} kv_plan;

typedef struct kv_attn {
    const kv_layout *layout;
    const kv_plan *plan;
    uint32_t layer;
    uint32_t heads;   /* H; a multiple of layout->kv_heads */
    float scale;      /* multiplies q.k before the softmax */
    const float *q;   /* [T][q_stride], head h at h*D; after RoPE */
    size_t q_stride;
    float *out;       /* [T][out_stride], head h at h*D */
    size_t out_stride;
    const void *kv;   /* the whole K/V buffer */
} kv_attn;

typedef struct kv_write {
    const kv_layout *layout;
    const kv_plan *plan;
    uint32_t layer;
    const float *k;   /* [T][stride], head g at g*D; after RoPE */
    const float *v;   /* [T][stride] */
    size_t stride;
    void *kv;
} kv_write;

/* Scratch bytes that one part of kv_attn_cpu needs, whatever the plan; parts use scratch of their own. */
size_t kv_attn_cpu_scratch_bytes(const kv_layout *layout);

#ifdef __cplusplus
}
#endif
#endif
