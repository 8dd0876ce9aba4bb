/* runtime/model/shard.h - one rank's part of a tensor-parallel model: which heads, which columns, which rows.
 *
 *     q k v, gate up    rows of the rank's heads and of its ffn: each rank makes its own columns
 *     o, down           columns of the same heads and ffn: each rank makes a partial sum of the whole
 *     embedding, head   rows of the rank's part of the vocabulary
 *     norms             all of them, everywhere
 *
 * Query heads stay with their K/V head. Where there are more ranks than K/V heads, several ranks share one:
 * each keeps that head's K/V, and has some of its query heads. Parts need not be even.
 *
 * An adapter follows its linear: of a q k v gate up the rank has rows of B, of an o or down columns of A.
 */
#ifndef RUNTIME_MODEL_SHARD_H
#define RUNTIME_MODEL_SHARD_H

#include "adapters/weights.h"
#include "runtime/model/model_config.h"

typedef struct rt_range {
    uint32_t first, count;
} rt_range;

typedef struct rt_shard {
    uint32_t rank, world;
    rt_range heads, kv_heads, ffn, vocab;
} rt_shard;

enum { RT_WORLD_MAX = 1024 };

/* world 0 is 1. Errors INVALID_ARGUMENT: more ranks than heads, or than anything else that is split. */
RC_MUST_CHECK rc_code rt_shard_make(const rt_model_config *c, uint32_t rank, uint32_t world, rt_shard *out,
                                    rc_msg *msg);

/* The model's configuration with the rank's heads, kv_heads and ffn; the vocabulary stays whole. */
rt_model_config rt_shard_config(const rt_model_config *c, const rt_shard *s);

/* The rank's part of an adapter of the whole model, malloc'ed: the caller frees it by adapter_weights_free.
 * Errors RESOURCE_EXHAUSTED: no memory. */
RC_MUST_CHECK rc_code rt_shard_adapter(const rt_model_config *c, const rt_shard *s, const adapter_weights *w,
                                       adapter_weights **out, rc_msg *msg);

#endif
