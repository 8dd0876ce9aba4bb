#include "runtime/engine/loader.h"

#include <pthread.h>
#include <stdlib.h>

#include "runtime/base/background.h"

typedef struct slot_job {
    adapter_job job;
    bool ok;
} slot_job;

/* Jobs [done, worked) have ended and wait to be told, [worked, given) wait to be worked; indices only grow.
 */
struct rt_loader {
    rt_exec exec;
    void (*wake)(void *ctx);
    void *wake_ctx;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t given_more;
    bool stopping;
    uint32_t jobs_max;
    uint64_t done, worked, given;
    slot_job ring[];
};

static bool work(rt_loader *l, const adapter_job *job)
{
    if (job->evicts) l->exec.adapter_detach(l->exec.ctx, job->slot);
    if (!job->content) return true;
    return l->exec.adapter_attach(l->exec.ctx, job->slot, job->weights, NULL) == RC_OK;
}

static void *run(void *arg)
{
    rt_loader *l = arg;
    pthread_setname_np(pthread_self(), "loader");
    rt_work_in_background();
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->stopping && l->worked == l->given) pthread_cond_wait(&l->given_more, &l->lock);
        if (l->stopping) break;
        slot_job *j = &l->ring[l->worked % l->jobs_max];
        pthread_mutex_unlock(&l->lock);
        bool ok = work(l, &j->job);
        pthread_mutex_lock(&l->lock);
        j->ok = ok;
        l->worked++;
        pthread_mutex_unlock(&l->lock);
        l->wake(l->wake_ctx);
        pthread_mutex_lock(&l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

rc_code rt_loader_create(const rt_exec *exec, uint32_t jobs_max, void (*wake)(void *ctx), void *wake_ctx,
                         rt_loader **out, rc_msg *msg)
{
    rt_loader *l = calloc(1, sizeof *l + jobs_max * sizeof(slot_job));
    if (!l) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the adapter loader");
    l->exec = *exec;
    l->wake = wake;
    l->wake_ctx = wake_ctx;
    l->jobs_max = jobs_max;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->given_more, NULL);
    if (pthread_create(&l->thread, NULL, run, l)) {
        pthread_mutex_destroy(&l->lock);
        pthread_cond_destroy(&l->given_more);
        free(l);
        return rc_fail(RC_INTERNAL, msg, "the adapter loader's thread could not be started");
    }
    *out = l;
    return RC_OK;
}

void rt_loader_destroy(rt_loader *l)
{
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->stopping = true;
    pthread_cond_signal(&l->given_more);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->given_more);
    free(l);
}

void rt_loader_give(rt_loader *l, const adapter_job *job)
{
    pthread_mutex_lock(&l->lock);
    RC_ASSERT(l->given - l->done < l->jobs_max);
    l->ring[l->given++ % l->jobs_max] = (slot_job){ *job, false };
    pthread_cond_signal(&l->given_more);
    pthread_mutex_unlock(&l->lock);
}

bool rt_loader_take_done(rt_loader *l, adapter_job *job, bool *ok)
{
    bool any;
    pthread_mutex_lock(&l->lock);
    any = l->done < l->worked;
    if (any) {
        slot_job *j = &l->ring[l->done++ % l->jobs_max];
        *job = j->job;
        *ok = j->ok;
    }
    pthread_mutex_unlock(&l->lock);
    return any;
}
