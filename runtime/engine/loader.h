/* runtime/engine/loader.h - the thread that brings adapters into slots while steps go on.
 *
 * Takes the registry's jobs one by one; what is done is told back to the engine's thread, which publishes it
 * between steps. So no step ever waits for an adapter.
 *
 * Threads  give() and take_done() by the engine's; the work is on the loader's own.
 */
#ifndef RUNTIME_ENGINE_LOADER_H
#define RUNTIME_ENGINE_LOADER_H

#include "runtime/engine/exec.h"

typedef struct rt_loader rt_loader;

/* wake(ctx) is called on the loader's thread after each job. jobs_max bounds what can be under way. */
RC_MUST_CHECK rc_code rt_loader_create(const rt_exec *exec, uint32_t jobs_max, void (*wake)(void *ctx),
                                       void *wake_ctx, rt_loader **out, rc_msg *msg);
void rt_loader_destroy(rt_loader *l); /* waits for the job under way; NULL is allowed */

void rt_loader_give(rt_loader *l, const adapter_job *job);
/* A job that ended, and how. False: none. */
bool rt_loader_take_done(rt_loader *l, adapter_job *job, bool *ok);

#endif
