/* runtime/sched/scheduler.h - who runs in the next step, with how many tokens, and who yields.
 *
 * Continuous batching with chunked prefill: a step holds one row for every decoding sequence and as
 * many prompt rows as the budget allows, of any mix of base and adapters. Integers only: no device
 * pointer, no socket, no clock of its own. Whoever owns it executes what it says.
 *
 *     states    WAITING --admit--> RUNNING --finish/cancel--> gone
 *                  ^------------------'  preempt: K/V stays findable, recomputed as far as evicted
 *
 * Rules
 *   1. Order is (priority, arrival); without priorities, arrival alone. Nobody with a later place makes
 *      an earlier one yield; the last in order yields first, so the first always gets on.
 *   2. Rows of running sequences come first: decodes, then prompt chunks in order; admissions take what is
 * left.
 *   3. A waiting sequence whose prefix another one is computing right now waits for those rows.
 *   4. A sequence whose adapter has no slot lets others pass, but after PASSES_MAX steps only base's; with
 *      in_order nobody passes while its adapter is being brought in.
 *   5. Nobody is admitted in a step that preempted. At most LOOKAHEAD waiting sequences are passed in a step.
 *   6. While others wait and could run, a prompt that has begun takes at most a quarter of a step, more only
 *      where they leave it (not with in_order or prefill_first).
 *   7. Adapters of the first LOOKAHEAD waiting are brought in where that evicts nobody's who waits or runs.
 *
 * Memory   taken by create; no other call allocates.
 * Threads  one.
 * Source   vLLM v1/core/sched/scheduler.py (order of running, waiting, preemption); chunked prefill:
 *          Sarathi-Serve, arXiv 2403.02310; waiting for a sibling's prefix: sglang#2442.
 */
#ifndef RUNTIME_SCHED_SCHEDULER_H
#define RUNTIME_SCHED_SCHEDULER_H

#include "adapters/registry.h"
#include "paged_kv/block_manager.h"

#define RT_SEQ_NONE UINT32_MAX
enum { RT_SCHED_PASSES_MAX = 1024, RT_SCHED_LOOKAHEAD = 64 };

typedef struct rt_sched rt_sched;

typedef struct rt_sched_options {
    uint32_t seqs_max;            /* waiting and running */
    uint32_t running_max;         /* --max-num-seqs */
    uint32_t rows_max;            /* --max-num-batched-tokens */
    uint32_t block_tokens;
    bool by_priority;
    bool in_order;
    bool prefill_first;           /* decodes run only in steps without prompt rows (latency benchmarks) */
    bool waits_for_prefix;        /* rule 3; pointless without a prefix cache */
    kv *cache;
    adapter_registry *adapters;
    /* Copies the first rows of a block to another, after the last step and before the next. */
    void (*copy_rows)(void *ctx, uint32_t from_block, uint32_t to_block, uint32_t rows);
    void *copy_ctx;
} rt_sched_options;

/* What a sequence is when it is added; tokens are borrowed until rt_sched_remove. */
typedef struct rt_sched_seq {
    const int32_t *tokens;        /* prompt, then generated; grows in place */
    uint32_t tokens_count;
    kv_identity identity;
    adapter_content *adapter;     /* to pin while running; NULL where no row is adapted */
    int32_t priority;
    bool computes_all;            /* takes nothing from the cache */
} rt_sched_seq;

/* Rows of one sequence in the step: positions [position, position + rows). */
typedef struct rt_sched_entry {
    uint32_t seq;
    uint32_t position, rows;
    uint32_t slot;                /* adapter's, or ADAPTER_NO_SLOT */
} rt_sched_entry;

typedef struct rt_sched_stats {
    uint32_t waiting, running;
    uint64_t preemptions;
} rt_sched_stats;

size_t rt_sched_bytes(const rt_sched_options *o);
RC_MUST_CHECK rc_code rt_sched_create(const rt_sched_options *o, rt_sched **out, rc_msg *msg);
void rt_sched_destroy(rt_sched *s); /* NULL is allowed */

/* Queues a sequence. Gives its index, valid until rt_sched_remove, or RT_SEQ_NONE when seqs_max are known. */
uint32_t rt_sched_add(rt_sched *s, const rt_sched_seq *seq);

/* Plans a step: *entries, valid until the next call. 0: nothing can run now. Every planned row has room
 * in the cache; rt_sched_committed() must be called for every entry after the step ran. */
uint32_t rt_sched_plan(rt_sched *s, const rt_sched_entry **entries);

/* The entry's rows are computed, or will be before those of any later step, and their tokens are known. An
 * entry of a sequence that was removed since has no rows. */
void rt_sched_committed(rt_sched *s, const rt_sched_entry *entry);

/* There is one more token, or there will be before its row is committed, behind the others. */
void rt_sched_append(rt_sched *s, uint32_t seq);
/* From now on the sequence may read from the cache when it is admitted again. */
void rt_sched_allow_cache(rt_sched *s, uint32_t seq);

/* Ends a sequence; its K/V stays findable, but what is planned and not committed. */
void rt_sched_remove(rt_sched *s, uint32_t seq);

uint32_t rt_sched_computed(const rt_sched *s, uint32_t seq);    /* positions whose K/V is written */
uint32_t rt_sched_first_hit(const rt_sched *s,
                            uint32_t seq); /* cached rows at first admission; RT_SEQ_NONE: not yet */
kv_seq rt_sched_kv(const rt_sched *s, uint32_t seq);            /* while running */
rt_sched_stats rt_sched_get_stats(const rt_sched *s);
void rt_sched_check(const rt_sched *s); /* aborts where an invariant is broken; tests */

#endif
