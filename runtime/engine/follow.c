#include "runtime/engine/follow.h"

#include <pthread.h>
#include <stdlib.h>

/* An adapter that comes or goes, in the order in which it was told. */
typedef struct follow_job {
    struct follow_job *next;
    bool attaches;
    size_t bytes;
    char data[];
} follow_job;

typedef struct follower {
    const rt_follow_options *o;
    uint32_t *words;      /* a command as it comes */
    uint32_t *step_words; /* the last step, whose logits may still be asked for */
    size_t words_max;
    pthread_t worker; /* brings adapters in */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t steps;  /* done */
    uint32_t to_ask; /* of them, whose tokens are picked and have not been asked for */
    bool stopping;
    follow_job *jobs, **jobs_end;
    bool *attached; /* [slots_max] */
} follower;

static bool refuse(follower *f, const char *what)
{
    char line[700];
    snprintf(line, sizeof line, "process 0 told process %u %.600s", rt_mesh_process(f->o->mesh), what);
    rt_mesh_fail(f->o->mesh, line);
    return false;
}

/* ---- adapters: heard by the watch, brought in by the worker ---- */

static bool on_frame(void *ctx, uint32_t peer, rt_frame_kind kind, size_t count)
{
    follower *f = ctx;
    size_t max = kind == RT_FRAME_ATTACH ? rt_wire_adapter_max(f->o->shape) : 2 * sizeof(uint32_t);
    if ((kind != RT_FRAME_ATTACH && kind != RT_FRAME_DETACH) || count > max || count < 2 * sizeof(uint32_t))
        return refuse(f, "something about adapters that can't be");
    follow_job *job = malloc(sizeof *job + count);
    if (!job) return refuse(f, "of an adapter for which there is no memory");
    *job = (follow_job){.attaches = kind == RT_FRAME_ATTACH, .bytes = count};
    if (!rt_mesh_hear_bytes(f->o->mesh, peer, job->data, count)) {
        free(job);
        return false;
    }
    pthread_mutex_lock(&f->lock);
    *f->jobs_end = job;
    f->jobs_end = &job->next;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    return true;
}

static void on_failure(void *ctx)
{
    follower *f = ctx;
    pthread_mutex_lock(&f->lock);
    f->stopping = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

/* A slot's old adapter may be in use up to step `after`. False: it is over. Steps are counted modulo 2^32. */
static bool wait_for_step(follower *f, uint32_t after)
{
    pthread_mutex_lock(&f->lock);
    while (!f->stopping && (int32_t)(f->steps - after) < 0) pthread_cond_wait(&f->changed, &f->lock);
    bool is_over = f->stopping;
    pthread_mutex_unlock(&f->lock);
    return !is_over;
}

static void set_attached(follower *f, uint32_t slot, bool attached)
{
    pthread_mutex_lock(&f->lock);
    f->attached[slot] = attached;
    pthread_mutex_unlock(&f->lock);
}

static void detach(follower *f, const follow_job *job)
{
    uint32_t words[2];
    memcpy(words, job->data, sizeof words);
    if (words[0] >= f->o->limits.slots_max) {
        refuse(f, "to empty a slot that there is not");
        return;
    }
    if (!wait_for_step(f, words[1]) || !f->attached[words[0]]) return; /* an attach that failed elsewhere */
    set_attached(f, words[0], false);
    f->o->own.adapter_detach(f->o->own.ctx, words[0]);
}

static rc_code attach(follower *f, const follow_job *job, rc_msg *msg)
{
    const rt_follow_options *o = f->o;
    uint32_t slot, after;
    adapter_weights *w;
    RC_TRY(rt_wire_read_adapter(job->data, job->bytes, o->shape, o->limits.slots_max, &slot, &after, &w,
                                msg));
    rc_code code = rc_fail(RC_FAILED_PRECONDITION, msg, "slot %u has an adapter already", slot);
    if (wait_for_step(f, after) && !f->attached[slot])
        code = o->own.adapter_attach(o->own.ctx, slot, w, msg);
    adapter_weights_free(w);
    if (code == RC_OK) set_attached(f, slot, true);
    return code;
}

static void answer(follower *f, rc_code code, const rc_msg *why)
{
    struct {
        uint32_t code;
        char text[RC_TEXT_BYTES];
    } done = {.code = (uint32_t)code};
    size_t text = code == RC_OK ? 0 : strlen(why->text);
    memcpy(done.text, why->text, text);
    (void)rt_mesh_tell(f->o->mesh, 0, RT_FRAME_DONE, &done, sizeof done.code + text);
}

static follow_job *next_job(follower *f)
{
    pthread_mutex_lock(&f->lock);
    while (!f->jobs && !f->stopping) pthread_cond_wait(&f->changed, &f->lock);
    follow_job *job = f->stopping ? NULL : f->jobs;
    if (job && !(f->jobs = job->next)) f->jobs_end = &f->jobs;
    pthread_mutex_unlock(&f->lock);
    return job;
}

static void *work(void *arg)
{
    follower *f = arg;
    for (follow_job *job; (job = next_job(f)); free(job)) {
        rc_msg why = {0};
        if (job->attaches) answer(f, attach(f, job, &why), &why);
        else detach(f, job);
    }
    return NULL;
}

/* ---- steps ---- */

static bool slots_are_filled(follower *f, const rt_step *s)
{
    bool filled = true;
    pthread_mutex_lock(&f->lock);
    for (uint32_t i = 0; i < s->adapters.segments_count; i++)
        filled &= f->attached[s->adapters.segments[i].slot];
    pthread_mutex_unlock(&f->lock);
    return filled;
}

static bool picks_are_possible(follower *f, const rt_step *before, const rt_step *step)
{
    uint32_t picks = before->is_picked ? before->logit_rows_count : 0;
    for (uint32_t i = 0; i < step->rows; i++)
        if (step->tokens[i] < 0 && (uint32_t)~step->tokens[i] >= picks)
            return refuse(f, "to use a token that is not to come");
    if (!step->is_picked) return true;
    if (!f->o->own.picked) return refuse(f, "to pick tokens, which is not done on this device");
    return f->to_ask++ <= RT_STEPS_AHEAD || refuse(f, "to go further ahead than can be");
}

static bool forward(follower *f, const rt_step *step)
{
    if (!slots_are_filled(f, step)) return refuse(f, "to use a slot that has no adapter");
    f->o->own.forward(f->o->own.ctx, step);
    pthread_mutex_lock(&f->lock);
    f->steps++;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    return true;
}

static bool logits(follower *f, const rt_command *c, const rt_step *step)
{
    if (c->a > step->logit_rows_count || c->b > step->logit_rows_count - c->a)
        return refuse(f, "to give logits that the step does not have");
    f->o->own.logits(f->o->own.ctx, step, c->a, c->b);
    return true;
}

static bool picked(follower *f)
{
    uint32_t stride;
    if (!f->to_ask) return refuse(f, "to wait for tokens of a step that there is not");
    f->to_ask--;
    f->o->own.picked(f->o->own.ctx, &stride);
    return true;
}

static bool obey(follower *f, const rt_command *c, rt_step *step)
{
    if (c->kind == RT_COMMAND_LOGITS) return logits(f, c, step);
    if (c->kind == RT_COMMAND_PICKED) return picked(f);
    if (c->kind == RT_COMMAND_FORWARD) {
        uint32_t *words = f->words;
        f->words = f->step_words;
        f->step_words = words;
        if (!picks_are_possible(f, step, &c->step)) return false;
        *step = c->step;
        return forward(f, step);
    }
    f->o->own.copy_rows(f->o->own.ctx, c->a, c->b, c->c);
    return true;
}

static rc_code obey_all(follower *f, rc_msg *msg)
{
    rt_step step = {0};
    rt_command c;
    size_t bytes;
    rc_msg why = {0};
    bool ok = true;
    while (ok && rt_mesh_await(f->o->mesh, 0, RT_FRAME_COMMAND, f->words, f->words_max, &bytes)) {
        if (rt_wire_read_command(f->words, bytes, &f->o->limits, &c, &why) != RC_OK) {
            refuse(f, why.text);
            break;
        }
        if (c.kind == RT_COMMAND_END) return RC_OK;
        ok = obey(f, &c, &step) && f->o->own.status(f->o->own.ctx, &why) == RC_OK;
    }
    if (!ok) rt_mesh_fail(f->o->mesh, why.text); /* unless it failed before, and so did this */
    return rt_mesh_status(f->o->mesh, msg);
}

/* ---- life ---- */

static void stop(follower *f)
{
    on_failure(f);
    pthread_join(f->worker, NULL);
    while (f->jobs) {
        follow_job *job = f->jobs;
        f->jobs = job->next;
        free(job);
    }
}

rc_code rt_follow(const rt_follow_options *o, rc_msg *msg)
{
    follower f = {.o = o, .words_max = rt_wire_command_max(&o->limits)};
    rc_code code = RC_OK;
    f.jobs_end = &f.jobs;
    f.words = malloc(f.words_max);
    f.step_words = malloc(f.words_max);
    f.attached = calloc(o->limits.slots_max, sizeof *f.attached);
    pthread_mutex_init(&f.lock, NULL);
    pthread_cond_init(&f.changed, NULL);
    if (!f.words || !f.step_words || !f.attached)
        code = rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for commands of process 0");
    else if (pthread_create(&f.worker, NULL, work, &f))
        code = rc_fail(RC_INTERNAL, msg, "the thread that brings adapters in could not be started");
    if (code == RC_OK) {
        rt_watch_listen(o->watch, &(rt_watch_events){on_frame, on_failure, &f});
        code = obey_all(&f, msg);
        rt_watch_listen(o->watch, &(rt_watch_events){0});
        stop(&f);
    }
    pthread_mutex_destroy(&f.lock);
    pthread_cond_destroy(&f.changed);
    free(f.attached);
    free(f.step_words);
    free(f.words);
    return code;
}
