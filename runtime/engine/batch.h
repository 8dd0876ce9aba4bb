/* runtime/engine/batch.h - a schedule turned into the flat arrays of one step.
 *
 * Every index that a kernel will follow is checked here, on the host. Rows lie entry by entry; spans that
 * share leading blocks lie side by side as groups; adapted rows are sorted by slot into segments.
 *
 * Memory   taken by create; build allocates nothing.
 * Cost     O(rows + entries); nothing grows with the length of a sequence but the search for shared
 *          blocks, which is O(log blocks) for each pair that shares its first block.
 */
#ifndef RUNTIME_ENGINE_BATCH_H
#define RUNTIME_ENGINE_BATCH_H

#include "runtime/model/model.h"
#include "runtime/sched/scheduler.h"

typedef struct rt_batch rt_batch;

typedef struct rt_batch_options {
    uint32_t rows_max, seqs_max;
    uint32_t blocks_max, block_tokens;
    uint32_t slots_max;
} rt_batch_options;

/* What one entry of the schedule adds to a batch. */
typedef struct rt_batch_entry {
    const int32_t *tokens;       /* of the sequence, from position 0 */
    uint32_t position, rows;
    uint32_t activation;         /* first adapted position; ADAPTER_NEVER without adapter */
    uint32_t slot;
    const uint32_t *blocks;      /* block ids, inside `tables` */
    uint32_t blocks_count;
    uint32_t first_logit;        /* rows at positions >= this want logits; UINT32_MAX: none */
} rt_batch_entry;

RC_MUST_CHECK rc_code rt_batch_create(const rt_batch_options *o, rt_batch **out, rc_msg *msg);
void rt_batch_destroy(rt_batch *b); /* NULL is allowed */
size_t rt_batch_bytes(const rt_batch_options *o);

/* Starts a step whose block tables lie in `tables`. */
void rt_batch_begin(rt_batch *b, const uint32_t *tables);
void rt_batch_add(rt_batch *b, const rt_batch_entry *entry);
/* The step, valid until the next begin. */
const rt_step *rt_batch_end(rt_batch *b);

#endif
