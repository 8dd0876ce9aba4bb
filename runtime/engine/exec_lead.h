/* runtime/engine/exec_lead.h - the rt_exec of process 0: every call is told to the others, then made here.
 *
 * Steps, logits and copies go over the data connections, in their order. Adapters go over control, from the
 * loader's thread; bringing one in ends when all processes have it. An adapter leaves a slot only after
 * the last step that was told before.
 *
 * Memory   taken by create, but for an adapter's bytes while they are sent.
 */
#ifndef RUNTIME_ENGINE_EXEC_LEAD_H
#define RUNTIME_ENGINE_EXEC_LEAD_H

#include "runtime/engine/wire.h"
#include "runtime/link/watch.h"

typedef struct rt_exec_lead rt_exec_lead;

typedef struct rt_exec_lead_options {
    rt_exec own; /* this process's ranks */
    rt_mesh *mesh;
    rt_watch *watch;
    rt_wire_limits limits;
    void (*wake)(void *ctx); /* after the mesh has failed; any thread */
    void *wake_ctx;
} rt_exec_lead_options;

RC_MUST_CHECK rc_code rt_exec_lead_create(const rt_exec_lead_options *o, rt_exec_lead **out, rt_exec *exec,
                                          rc_msg *msg);
/* Both allow NULL. end: the others end in good order, when they have done what they were told before. */
void rt_exec_lead_end(rt_exec_lead *l);
void rt_exec_lead_destroy(rt_exec_lead *l);

#endif
