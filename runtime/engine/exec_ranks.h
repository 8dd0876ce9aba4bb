/* runtime/engine/exec_ranks.h - the rt_exec that runs several others side by side: the ranks of one process.
 *
 * Each rank has a thread, which is the one that calls its exec; rank 0's is the caller. All run the same step
 * at once, and meet in the collectives of their devices' group.
 *
 * Memory   taken by create; a step allocates nothing.
 */
#ifndef RUNTIME_ENGINE_EXEC_RANKS_H
#define RUNTIME_ENGINE_EXEC_RANKS_H

#include "runtime/engine/exec.h"

typedef struct rt_exec_ranks rt_exec_ranks;

/* Fills exec, whose logits are ranks[0]'s, and whose parts are all ranks' together.
 * Errors  RESOURCE_EXHAUSTED: no memory, or no more threads. */
RC_MUST_CHECK rc_code rt_exec_ranks_create(const rt_exec *ranks, uint32_t count, rt_exec_ranks **out,
                                           rt_exec *exec, rc_msg *msg);
void rt_exec_ranks_destroy(rt_exec_ranks *x); /* NULL is allowed */

#endif
