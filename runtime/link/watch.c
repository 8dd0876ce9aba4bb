#include "runtime/link/watch.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"

enum { LOOK_MS = 100, END_MS = 5000 };

struct rt_watch {
    rt_mesh *mesh;
    uint32_t first, end; /* the peers */
    pthread_t thread;
    atomic_bool stopping;
    pthread_mutex_t lock; /* of events */
    rt_watch_events events;
    bool told_failure;
    int64_t told_ns;    /* life, last */
    int64_t heard_ns[]; /* [processes]; INT64_MAX: it has ended in good order */
};

static void tell_all(rt_watch *w, rt_frame_kind kind, const void *bytes, size_t count)
{
    for (uint32_t p = w->first; p < w->end; p++)
        if (w->heard_ns[p] != INT64_MAX) (void)rt_mesh_tell(w->mesh, p, kind, bytes, count);
}

static void hear_failure(rt_watch *w, uint32_t peer, size_t count)
{
    char line[RC_TEXT_BYTES];
    if (count >= sizeof line) count = sizeof line - 1;
    if (!rt_mesh_hear_bytes(w->mesh, peer, line, count)) return;
    line[count] = 0;
    rt_mesh_fail(w->mesh, line);
}

static void hear_other(rt_watch *w, uint32_t peer, rt_frame_kind kind, size_t count)
{
    char line[256];
    pthread_mutex_lock(&w->lock); /* what listens stays until it is done */
    bool taken = w->events.on_frame != NULL;
    if (taken) (void)w->events.on_frame(w->events.ctx, peer, kind, count);
    pthread_mutex_unlock(&w->lock);
    if (taken) return;
    snprintf(line, sizeof line, "%s sent something else than was expected", rt_mesh_name(w->mesh, peer));
    rt_mesh_fail(w->mesh, line);
}

static void hear(rt_watch *w, uint32_t peer)
{
    rt_frame_kind kind;
    size_t count;
    if (!rt_mesh_hear(w->mesh, peer, &kind, &count)) return;
    w->heard_ns[peer] = rt_now_ns();
    if (kind == RT_FRAME_END) w->heard_ns[peer] = INT64_MAX;
    else if (kind == RT_FRAME_FAILED) hear_failure(w, peer, count);
    else if (kind != RT_FRAME_LIFE) hear_other(w, peer, kind, count);
}

static void listen_for_a_moment(rt_watch *w)
{
    struct pollfd fds[RT_PROCESSES_MAX];
    uint32_t peers[RT_PROCESSES_MAX], count = 0;
    for (uint32_t p = w->first; p < w->end; p++) {
        if (w->heard_ns[p] == INT64_MAX) continue;
        fds[count] = (struct pollfd){.fd = rt_mesh_control_fd(w->mesh, p), .events = POLLIN};
        peers[count++] = p;
    }
    if (poll(fds, count, LOOK_MS) <= 0) return;
    for (uint32_t i = 0; i < count && rt_mesh_status(w->mesh, NULL) == RC_OK; i++)
        if (fds[i].revents) hear(w, peers[i]);
}

static void look_for_silence(rt_watch *w, int64_t now)
{
    for (uint32_t p = w->first; p < w->end; p++) {
        if (w->heard_ns[p] == INT64_MAX) continue;
        if (now - w->heard_ns[p] < (int64_t)RT_MESH_SILENCE_MS * 1000000) continue;
        char line[256];
        snprintf(line, sizeof line, "%s hangs: no sign of life for %d s", rt_mesh_name(w->mesh, p),
                 RT_MESH_SILENCE_MS / 1000);
        rt_mesh_fail(w->mesh, line);
    }
}

static void tell_failure(rt_watch *w)
{
    rc_msg why;
    if (w->told_failure || rt_mesh_status(w->mesh, &why) == RC_OK) return;
    w->told_failure = true;
    tell_all(w, RT_FRAME_FAILED, why.text, strlen(why.text));
    pthread_mutex_lock(&w->lock);
    if (w->events.on_failure) w->events.on_failure(w->events.ctx);
    pthread_mutex_unlock(&w->lock);
}

static void *watch(void *arg)
{
    rt_watch *w = arg;
    while (!atomic_load(&w->stopping) && !w->told_failure) {
        int64_t now = rt_now_ns();
        if (now - w->told_ns >= (int64_t)RT_WATCH_LIFE_MS * 1000000) {
            tell_all(w, RT_FRAME_LIFE, NULL, 0);
            w->told_ns = now;
        }
        listen_for_a_moment(w);
        look_for_silence(w, rt_now_ns());
        tell_failure(w);
    }
    return NULL;
}

rc_code rt_watch_start(rt_mesh *mesh, rt_watch **out, rc_msg *msg)
{
    uint32_t processes = rt_mesh_processes(mesh);
    rt_watch *w = calloc(1, sizeof *w + processes * sizeof *w->heard_ns);
    if (!w) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory to watch %u processes", processes);
    w->mesh = mesh;
    w->first = rt_mesh_process(mesh) ? 0 : 1;
    w->end = rt_mesh_process(mesh) ? 1 : processes;
    for (uint32_t p = 0; p < processes; p++) w->heard_ns[p] = rt_now_ns();
    pthread_mutex_init(&w->lock, NULL);
    if (pthread_create(&w->thread, NULL, watch, w)) {
        pthread_mutex_destroy(&w->lock);
        free(w);
        return rc_fail(RC_INTERNAL, msg, "the thread that watches other processes could not be started");
    }
    *out = w;
    return RC_OK;
}

void rt_watch_listen(rt_watch *w, const rt_watch_events *events)
{
    pthread_mutex_lock(&w->lock);
    w->events = *events;
    pthread_mutex_unlock(&w->lock);
    if (rt_mesh_status(w->mesh, NULL) != RC_OK && events->on_failure) events->on_failure(events->ctx);
}

/* Who follows ends when it is told to; its connections stay open until it has heard. */
static void wait_for_ends(rt_watch *w)
{
    int64_t until = rt_now_ns() + (int64_t)END_MS * 1000000;
    bool any = true;
    while (any && rt_now_ns() < until && rt_mesh_status(w->mesh, NULL) == RC_OK) {
        listen_for_a_moment(w);
        any = false;
        for (uint32_t p = w->first; p < w->end; p++) any |= w->heard_ns[p] != INT64_MAX;
    }
}

void rt_watch_end(rt_watch *w, const char *line)
{
    if (!w) return;
    atomic_store(&w->stopping, true);
    pthread_join(w->thread, NULL);
    for (uint32_t p = w->first; !w->told_failure && p < w->end; p++) /* who has ended waits for this, too */
        (void)rt_mesh_tell(w->mesh, p, line ? RT_FRAME_FAILED : RT_FRAME_END, line, line ? strlen(line) : 0);
    if (!w->told_failure && !line && rt_mesh_process(w->mesh) == 0) wait_for_ends(w);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
