/* runtime/backend/pool.h - a fixed team of threads that run one task together, again and again.
 *
 * The caller of rt_pool_run is part 0; the other parts have a thread each. Who computes what follows from
 * (part, parts) alone, so there is no queue and nothing to steal: a run costs two cache-line round trips.
 * A waiting thread spins for some tens of microseconds (the ops of a step follow each other more closely
 * than that), then sleeps in the kernel, so an idle engine leaves its cores to others. Where there are more
 * threads than cores nobody spins.
 *
 * Memory   taken by create.
 * Threads  one thread at a time calls rt_pool_run, never from inside a task.
 */
#ifndef RUNTIME_BACKEND_POOL_H
#define RUNTIME_BACKEND_POOL_H

#include <stdint.h>

#include "proto/rc.h"

enum { RT_POOL_THREADS_MAX = 1024 };

typedef struct rt_pool rt_pool;

typedef void (*rt_pool_task)(void *arg, uint32_t part, uint32_t parts);

uint32_t rt_pool_cores(void); /* that this process may run on, at least 1 */

/* Errors  INVALID_ARGUMENT: threads is 0 or above RT_POOL_THREADS_MAX. RESOURCE_EXHAUSTED: no memory or
 *         the system starts no more threads. */
RC_MUST_CHECK rc_code rt_pool_create(uint32_t threads, rt_pool **out, rc_msg *msg);
void rt_pool_destroy(rt_pool *p); /* NULL is allowed */

/* Runs task(arg, part, threads) once for each part and returns when all have ended. */
void rt_pool_run(rt_pool *p, rt_pool_task task, void *arg);
uint32_t rt_pool_threads(const rt_pool *p);

/* The share of `part` when `count` things are dealt out in order: [first, end). */
static inline void rt_share(uint64_t count, uint32_t part, uint32_t parts, uint32_t *first, uint32_t *end)
{
    *first = (uint32_t)(count * part / parts);
    *end = (uint32_t)(count * (part + 1) / parts);
}

#endif
