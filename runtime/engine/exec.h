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
    void (*copy_rows)(void *ctx, uint32_t from_block, uint32_t to_block, uint32_t rows);
    void (*forward)(void *ctx, const rt_step *step);
    const float *(*logits)(void *ctx, const rt_step *step, uint32_t first, uint32_t count);
    /* What the device picked from all of the step's logits, as step->picks said (rt_backend.picked). NULL:
     * sampling is the host's. */
    const mica_top *(*picked)(void *ctx, const rt_step *step, uint32_t *stride);
    /* RC_OK, or why the last forward's results can't be believed; for good (rt_backend.status). */
    rc_code (*status)(void *ctx, rc_msg *msg);
    rc_code (*adapter_attach)(void *ctx, uint32_t slot, const adapter_weights *w, rc_msg *msg);
    void (*adapter_detach)(void *ctx, uint32_t slot);
    void (*parallel)(void *ctx, rt_task task, void *arg);
    uint32_t parts; /* how many parts `parallel` runs */
} rt_exec;

#endif
