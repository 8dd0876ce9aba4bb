#include "runtime/engine/exec_lead.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct rt_exec_lead {
    rt_exec_lead_options o;
    uint32_t processes;
    uint32_t *words;        /* a command */
    _Atomic uint32_t steps; /* told so far */
    pthread_mutex_t lock;
    pthread_cond_t answered;
    uint32_t waiting; /* processes whose answer to ATTACH is not there */
    bool has_failed;
    rc_code answer;   /* the first that was not OK */
    rc_msg answer_msg;
};

static void tell_command(rt_exec_lead *l, size_t bytes)
{
    bool ok = true;
    for (uint32_t p = 1; ok && p < l->processes; p++)
        ok = rt_mesh_send(l->o.mesh, p, RT_FRAME_COMMAND, l->words, bytes);
}

static void tell(rt_exec_lead *l, rt_command_kind kind, uint32_t a, uint32_t b, uint32_t c)
{
    rt_command command = {.kind = kind, .a = a, .b = b, .c = c};
    tell_command(l, rt_wire_command(&command, l->words));
}

static void copy_rows(void *ctx, uint32_t from_block, uint32_t to_block, uint32_t rows)
{
    rt_exec_lead *l = ctx;
    tell(l, RT_COMMAND_COPY, from_block, to_block, rows);
    l->o.own.copy_rows(l->o.own.ctx, from_block, to_block, rows);
}

static void forward(void *ctx, const rt_step *step)
{
    rt_exec_lead *l = ctx;
    tell_command(l, rt_wire_forward(step, l->o.limits.block_tokens, l->words));
    atomic_fetch_add(&l->steps, 1);
    l->o.own.forward(l->o.own.ctx, step);
}

static const float *logits(void *ctx, const rt_step *step, uint32_t first, uint32_t count)
{
    rt_exec_lead *l = ctx;
    tell(l, RT_COMMAND_LOGITS, first, count, 0);
    return l->o.own.logits(l->o.own.ctx, step, first, count);
}

static const mica_top *picked(void *ctx, uint32_t *stride)
{
    rt_exec_lead *l = ctx;
    tell(l, RT_COMMAND_PICKED, 0, 0, 0);
    return l->o.own.picked(l->o.own.ctx, stride);
}

static rc_code status(void *ctx, rc_msg *msg)
{
    rt_exec_lead *l = ctx;
    return l->o.own.status(l->o.own.ctx, msg);
}

/* ---- adapters; the loader's thread ---- */

static void tell_detach(rt_exec_lead *l, uint32_t slot)
{
    const uint32_t words[] = {slot, atomic_load(&l->steps)};
    for (uint32_t p = 1; p < l->processes; p++)
        (void)rt_mesh_tell(l->o.mesh, p, RT_FRAME_DETACH, words, sizeof words);
}

static void adapter_detach(void *ctx, uint32_t slot)
{
    rt_exec_lead *l = ctx;
    tell_detach(l, slot);
    l->o.own.adapter_detach(l->o.own.ctx, slot);
}

static rc_code tell_attach(rt_exec_lead *l, uint32_t slot, const adapter_weights *w, rc_msg *msg)
{
    void *data;
    size_t bytes;
    RC_TRY(rt_wire_adapter(slot, atomic_load(&l->steps), w, &data, &bytes, msg));
    pthread_mutex_lock(&l->lock);
    l->waiting = l->processes - 1;
    l->answer = RC_OK;
    pthread_mutex_unlock(&l->lock);
    for (uint32_t p = 1; p < l->processes; p++) /* a failure ends the mesh, and the wait */
        (void)rt_mesh_tell(l->o.mesh, p, RT_FRAME_ATTACH, data, bytes);
    free(data);
    return RC_OK;
}

static rc_code wait_for_answers(rt_exec_lead *l, rc_msg *msg)
{
    pthread_mutex_lock(&l->lock);
    while (l->waiting && !l->has_failed) pthread_cond_wait(&l->answered, &l->lock);
    rc_code code = l->has_failed ? RC_UNAVAILABLE : l->answer;
    if (code != RC_OK && !l->has_failed && msg) *msg = l->answer_msg;
    pthread_mutex_unlock(&l->lock);
    return code;
}

/* Others first: they read while this process does its own. */
static rc_code adapter_attach(void *ctx, uint32_t slot, const adapter_weights *w, rc_msg *msg)
{
    rt_exec_lead *l = ctx;
    RC_TRY(tell_attach(l, slot, w, msg));
    rc_code own = l->o.own.adapter_attach(l->o.own.ctx, slot, w, msg);
    rc_code others = wait_for_answers(l, own == RC_OK ? msg : NULL);
    if (own == RC_OK && others == RC_OK) return RC_OK;
    tell_detach(l, slot);
    if (own == RC_OK) l->o.own.adapter_detach(l->o.own.ctx, slot);
    return own == RC_OK ? others : own;
}

static void parallel(void *ctx, rt_task task, void *arg)
{
    rt_exec_lead *l = ctx;
    l->o.own.parallel(l->o.own.ctx, task, arg);
}

/* ---- what the watch hears ---- */

static bool on_frame(void *ctx, uint32_t peer, rt_frame_kind kind, size_t count)
{
    rt_exec_lead *l = ctx;
    struct {
        uint32_t code;
        char text[RC_TEXT_BYTES];
    } done = {0};
    if (kind != RT_FRAME_DONE || count < sizeof done.code || count >= sizeof done) {
        rt_mesh_fail(l->o.mesh, "a process answered what was not asked");
        return false;
    }
    if (!rt_mesh_hear_bytes(l->o.mesh, peer, &done, count)) return false;
    pthread_mutex_lock(&l->lock);
    if (l->waiting) l->waiting--;
    if (done.code != RC_OK && l->answer == RC_OK)
        l->answer = rc_fail(RC_RESOURCE_EXHAUSTED, &l->answer_msg, "%s: %s", rt_mesh_name(l->o.mesh, peer),
                            done.text);
    pthread_cond_signal(&l->answered);
    pthread_mutex_unlock(&l->lock);
    return true;
}

static void on_failure(void *ctx)
{
    rt_exec_lead *l = ctx;
    pthread_mutex_lock(&l->lock);
    l->has_failed = true;
    pthread_cond_signal(&l->answered);
    pthread_mutex_unlock(&l->lock);
    l->o.wake(l->o.wake_ctx);
}

/* ---- life ---- */

rc_code rt_exec_lead_create(const rt_exec_lead_options *o, rt_exec_lead **out, rt_exec *exec, rc_msg *msg)
{
    rt_exec_lead *l = calloc(1, sizeof *l);
    uint32_t *words = malloc(rt_wire_command_max(&o->limits));
    if (!l || !words) {
        free(l);
        free(words);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for commands to other processes");
    }
    l->o = *o;
    l->words = words;
    l->processes = rt_mesh_processes(o->mesh);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->answered, NULL);
    *exec = o->own;
    exec->ctx = l;
    exec->copy_rows = copy_rows;
    exec->forward = forward;
    exec->logits = logits;
    if (exec->picked) exec->picked = picked;
    exec->status = status;
    exec->adapter_attach = adapter_attach;
    exec->adapter_detach = adapter_detach;
    exec->parallel = parallel;
    rt_watch_listen(o->watch, &(rt_watch_events){on_frame, on_failure, l});
    *out = l;
    return RC_OK;
}

void rt_exec_lead_end(rt_exec_lead *l)
{
    if (l && rt_mesh_status(l->o.mesh, NULL) == RC_OK) tell(l, RT_COMMAND_END, 0, 0, 0);
}

void rt_exec_lead_destroy(rt_exec_lead *l)
{
    if (!l) return;
    rt_watch_listen(l->o.watch, &(rt_watch_events){0});
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->answered);
    free(l->words);
    free(l);
}
