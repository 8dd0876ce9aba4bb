#include "runtime/backend/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>

#include "runtime/backend/futex.h"

typedef struct worker {
    rt_pool *pool;
    pthread_t thread;
    uint32_t part;
} worker;

/* A run: the caller writes task and arg, sets `pending`, then raises `epoch`, which releases both. Workers
 * lower `pending`, which releases what they wrote. A sleeper announces itself before the kernel compares
 * the word it sleeps on, and the waker looks for sleepers after it has changed that word, so no wake-up
 * is lost: both orders are sequentially consistent. */
struct rt_pool {
    _Alignas(64) _Atomic uint32_t epoch;
    _Atomic uint32_t sleepers;
    rt_pool_task task;
    void *arg;
    bool stopping;
    _Alignas(64) _Atomic uint32_t pending;
    _Atomic uint32_t caller_sleeps;
    _Alignas(64) uint32_t threads;
    uint32_t spins;
    worker *workers; /* of parts 1 .. threads - 1 */
};

uint32_t rt_pool_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return (uint32_t)CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (uint32_t)n : 1;
}

static void wait_for_epoch(rt_pool *p, uint32_t seen)
{
    for (uint32_t i = 0; i < p->spins; i++) {
        if (atomic_load_explicit(&p->epoch, memory_order_acquire) != seen) return;
        rt_futex_relax();
    }
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->epoch) == seen) rt_futex_wait(&p->epoch, seen);
    atomic_fetch_sub(&p->sleepers, 1);
}

static void wait_for_workers(rt_pool *p)
{
    for (uint32_t i = 0; i < p->spins; i++) {
        if (atomic_load_explicit(&p->pending, memory_order_acquire) == 0) return;
        rt_futex_relax();
    }
    atomic_store(&p->caller_sleeps, 1);
    for (uint32_t left; (left = atomic_load(&p->pending)) != 0;) rt_futex_wait(&p->pending, left);
    atomic_store(&p->caller_sleeps, 0);
}

static void start_epoch(rt_pool *p)
{
    atomic_fetch_add(&p->epoch, 1);
    if (atomic_load(&p->sleepers)) rt_futex_wake(&p->epoch, INT32_MAX);
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    rt_pool *p = w->pool;
    for (uint32_t seen = 0;; seen++) {
        wait_for_epoch(p, seen);
        if (p->stopping) return NULL;
        p->task(p->arg, w->part, p->threads);
        uint32_t before = atomic_fetch_sub(&p->pending, 1);
        if (before == 1 && atomic_load(&p->caller_sleeps)) rt_futex_wake(&p->pending, 1);
    }
}

static void stop_workers(rt_pool *p, uint32_t started)
{
    p->stopping = true;
    start_epoch(p);
    for (uint32_t i = 0; i < started; i++) pthread_join(p->workers[i].thread, NULL);
}

rc_code rt_pool_create(uint32_t threads, rt_pool **out, rc_msg *msg)
{
    if (threads == 0 || threads > RT_POOL_THREADS_MAX)
        return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg, "threads is %u; expected 1 to %d", threads,
                                RT_POOL_THREADS_MAX), msg, "threads");
    rt_pool *p = aligned_alloc(64, sizeof *p);
    if (!p) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a pool of %u threads", threads);
    memset(p, 0, sizeof *p);
    p->threads = threads;
    p->spins = threads <= rt_pool_cores() ? RT_FUTEX_SPINS : 1;
    p->workers = calloc(threads, sizeof *p->workers);
    uint32_t started = 0;
    if (!p->workers) goto fail;
    for (; started + 1 < threads; started++) {
        worker *w = &p->workers[started];
        *w = (worker){.pool = p, .part = started + 1};
        if (pthread_create(&w->thread, NULL, worker_main, w)) goto fail;
    }
    *out = p;
    return RC_OK;
fail:
    if (p->workers) stop_workers(p, started);
    free(p->workers);
    free(p);
    return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "cannot start thread %u of %u", started + 1, threads);
}

void rt_pool_destroy(rt_pool *p)
{
    if (!p) return;
    stop_workers(p, p->threads - 1);
    free(p->workers);
    free(p);
}

void rt_pool_run(rt_pool *p, rt_pool_task task, void *arg)
{
    if (p->threads == 1) {
        task(arg, 0, 1);
        return;
    }
    p->task = task;
    p->arg = arg;
    atomic_store_explicit(&p->pending, p->threads - 1, memory_order_relaxed);
    start_epoch(p);
    task(arg, 0, p->threads);
    wait_for_workers(p);
}

uint32_t rt_pool_threads(const rt_pool *p) { return p->threads; }
