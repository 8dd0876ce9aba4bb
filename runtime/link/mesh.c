#include "runtime/link/mesh_internal.h"
#include "runtime/link/socket.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static rt_mesh *create(const rt_launch *l, uint32_t ranks_each, bool spins)
{
    rt_mesh *m = calloc(1, sizeof *m + l->processes * sizeof *m->peers);
    if (!m) return NULL;
    m->process = l->process;
    m->processes = l->processes;
    m->ranks_each = ranks_each;
    m->spins = spins;
    pthread_mutex_init(&m->lock, NULL);
    for (uint32_t p = 0; p < l->processes; p++) {
        m->peers[p].data = m->peers[p].control = -1;
        pthread_mutex_init(&m->peers[p].tell, NULL);
    }
    return m;
}

rc_code rt_mesh_open(const rt_launch *l, uint32_t ranks_each, bool spins, rt_mesh **out, rc_msg *msg)
{
    rt_mesh *m = create(l, ranks_each, spins);
    if (!m) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for %u processes", l->processes);
    rc_code code = rt__mesh_connect(m, l, msg);
    if (code != RC_OK) {
        rt_mesh_close(m);
        return code;
    }
    *out = m;
    return RC_OK;
}

void rt_mesh_close(rt_mesh *m)
{
    if (!m) return;
    for (uint32_t p = 0; p < m->processes; p++) {
        if (m->peers[p].data >= 0) close(m->peers[p].data);
        if (m->peers[p].control >= 0) close(m->peers[p].control);
        pthread_mutex_destroy(&m->peers[p].tell);
    }
    pthread_mutex_destroy(&m->lock);
    free(m->gathered);
    free(m);
}

uint32_t rt_mesh_process(const rt_mesh *m) { return m->process; }
uint32_t rt_mesh_processes(const rt_mesh *m) { return m->processes; }
const char *rt_mesh_name(const rt_mesh *m, uint32_t process) { return m->peers[process].name; }

void rt_mesh_fail(rt_mesh *m, const char *line)
{
    pthread_mutex_lock(&m->lock);
    if (!atomic_load(&m->has_failed)) {
        rc_fail(RC_UNAVAILABLE, &m->line, "%s", line);
        atomic_store(&m->has_failed, true);
    }
    pthread_mutex_unlock(&m->lock);
}

rc_code rt_mesh_status(rt_mesh *m, rc_msg *msg)
{
    if (!atomic_load(&m->has_failed)) return RC_OK;
    pthread_mutex_lock(&m->lock);
    if (msg) *msg = m->line;
    pthread_mutex_unlock(&m->lock);
    return RC_UNAVAILABLE;
}

/* ---- control: blocking sockets with a time limit of their own ---- */

static bool read_all(int fd, void *bytes, size_t count)
{
    char *at = bytes;
    while (count) {
        ssize_t n = recv(fd, at, count, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        at += n;
        count -= (size_t)n;
    }
    return true;
}

bool rt_mesh_tell(rt_mesh *m, uint32_t peer, rt_frame_kind kind, const void *bytes, size_t count)
{
    rt__peer *p = &m->peers[peer];
    rt__frame head = {RT__FRAME_MAGIC, kind, count};
    pthread_mutex_lock(&p->tell);
    bool ok = rt_socket_send(p->control, &head, sizeof head) && rt_socket_send(p->control, bytes, count);
    pthread_mutex_unlock(&p->tell);
    return ok || rt__mesh_lost(m, peer, "died: its connection is closed");
}

int rt_mesh_control_fd(const rt_mesh *m, uint32_t peer) { return m->peers[peer].control; }

bool rt_mesh_hear(rt_mesh *m, uint32_t peer, rt_frame_kind *kind, size_t *count)
{
    rt__frame head;
    if (!read_all(m->peers[peer].control, &head, sizeof head))
        return rt__mesh_lost(m, peer, "died: its connection is closed");
    if (head.magic != RT__FRAME_MAGIC || head.kind < RT_FRAME_LIFE || head.kind > RT_FRAME_DONE)
        return rt__mesh_lost(m, peer, "sent something else than was expected");
    *kind = (rt_frame_kind)head.kind;
    *count = head.count;
    return true;
}

bool rt_mesh_hear_bytes(rt_mesh *m, uint32_t peer, void *bytes, size_t count)
{
    return read_all(m->peers[peer].control, bytes, count) ||
           rt__mesh_lost(m, peer, "died: its connection is closed");
}
