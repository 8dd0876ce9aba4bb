/* runtime/engine/exec.h - what the engine needs of whatever runs its steps.
 *
 * Implementations: the model on a backend (runtime/engine/exec_model.c), several of those as the ranks of one
 * process (exec_ranks.c) and, in tests, a fake whose tokens are hashes of what its K/V really holds
 * (tests/support/fake_exec.c).
 *
 * Threads  the engine's; adapter_attach may run on the loader's, for a slot that no step uses.
 */
#ifndef RUNTIME_ENGINE_EXEC_H
#define RUNTIME_ENGINE_EXEC_H

#include "runtime/model/model.h"
#include "runtime/sched/scheduler.h"

typedef struct rt_exec {
    void *ctx;
    uint32_t vocab;
    uint32_t logits_max; /* rows that one `logits` call gives */
    uint32_t lists_max;  /* a pick with more words of lists is the host's (rt_pick_list_words) */
    void (*copy_rows)(void *ctx, uint32_t from_block, uint32_t to_block, uint32_t rows);
    /* Keeps nothing that step points to. A device may be at work still when it returns; what it is told next
     * it does after that. */
    void (*forward)(void *ctx, const rt_step *step);
    /* Of the last step. */
    const float *(*logits)(void *ctx, const rt_step *step, uint32_t first, uint32_t count);
    /* Waits for the oldest step with is_picked that was not asked for yet, and gives what the device picked
     * (rt_backend.picked). NULL: sampling is the host's. */
    const mica_top *(*picked)(void *ctx, uint32_t *stride);
    /* RC_OK, or why results can't be believed any more; for good (rt_backend.status). */
    rc_code (*status)(void *ctx, rc_msg *msg);
    rc_code (*adapter_attach)(void *ctx, uint32_t slot, const adapter_weights *w, rc_msg *msg);
    void (*adapter_detach)(void *ctx, uint32_t slot);
    void (*parallel)(void *ctx, rt_task task, void *arg);
    uint32_t parts; /* how many parts `parallel` runs */
} rt_exec;

#endif
