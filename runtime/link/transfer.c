/* Bytes over the data sockets: all transfers of a call move side by side, so nobody waits for who waits. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "runtime/link/mesh_internal.h"

enum { SPINS = 200, LOOK_MS = 100, PATIENCE_MS = 500 };

void rt__transfer_out(rt__transfer *t, rt_frame_kind kind, const void *bytes, size_t count)
{
    t->head_out = (rt__frame){RT__FRAME_MAGIC, kind, count};
    t->out = bytes;
    t->to_send = sizeof t->head_out + count;
}

void rt__transfer_in(rt__transfer *t, rt_frame_kind kind, void *bytes, size_t count)
{
    t->expected = (rt__frame){RT__FRAME_MAGIC, kind, count};
    t->in = bytes;
    t->to_receive = sizeof t->head_in + count;
}

bool rt__mesh_lost(rt_mesh *m, uint32_t peer, const char *what)
{
    char line[256];
    snprintf(line, sizeof line, "%s: %s", m->peers[peer].name, what);
    rt_mesh_fail(m, line);
    return false;
}

/* Its connection is closed. Who fails says why over control first, which the watch hears: a better line. */
static bool died(rt_mesh *m, uint32_t peer)
{
    const struct timespec pause = {0, 10000000};
    for (int ms = 0; ms < PATIENCE_MS && !atomic_load(&m->has_failed); ms += 10) nanosleep(&pause, NULL);
    return rt__mesh_lost(m, peer, "died: its connection is closed");
}

/* The rest of a head and of what follows it. */
static int rest(char *head, char *bytes, size_t done, size_t all, struct iovec out[2])
{
    int count = 0;
    if (done == all) return 0;
    if (done < sizeof(rt__frame)) {
        out[count++] = (struct iovec){head + done, sizeof(rt__frame) - done};
        done = sizeof(rt__frame);
    }
    if (done < all) out[count++] = (struct iovec){bytes + (done - sizeof(rt__frame)), all - done};
    return count;
}

static bool is_over(ssize_t n)
{
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

static bool push(rt_mesh *m, rt__transfer *t, bool *moved)
{
    struct iovec parts[2];
    int count = rest((char *)&t->head_out, (char *)t->out, t->sent, t->to_send, parts);
    struct msghdr h = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    if (!count) return true;
    ssize_t n = sendmsg(m->peers[t->peer].data, &h, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (is_over(n)) return died(m, t->peer);
    if (n > 0) t->sent += (size_t)n;
    *moved |= n > 0;
    return true;
}

static bool pull(rt_mesh *m, rt__transfer *t, bool *moved)
{
    struct iovec parts[2];
    int count = rest((char *)&t->head_in, t->in, t->received, t->to_receive, parts);
    struct msghdr h = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    if (!count) return true;
    bool had_head = t->received >= sizeof t->head_in;
    ssize_t n = recvmsg(m->peers[t->peer].data, &h, MSG_DONTWAIT);
    if (is_over(n)) return died(m, t->peer);
    if (n > 0) t->received += (size_t)n;
    *moved |= n > 0;
    if (had_head || t->received < sizeof t->head_in) return true;
    if (!memcmp(&t->head_in, &t->expected, sizeof t->expected)) return true;
    return rt__mesh_lost(m, t->peer, "sent something else than was expected");
}

static bool is_done(const rt__transfer *t) { return t->sent == t->to_send && t->received == t->to_receive; }

/* Sleeps until one can move, or for LOOK_MS. */
static bool sleep_for(rt_mesh *m, const rt__transfer *t, uint32_t count)
{
    struct pollfd fds[RT_PROCESSES_MAX];
    nfds_t open = 0;
    for (uint32_t i = 0; i < count; i++) {
        short events = (short)((t[i].sent < t[i].to_send ? POLLOUT : 0) |
                               (t[i].received < t[i].to_receive ? POLLIN : 0));
        if (events) fds[open++] = (struct pollfd){.fd = m->peers[t[i].peer].data, .events = events};
    }
    return poll(fds, open, LOOK_MS) != 0;
}

bool rt__transfers_run(rt_mesh *m, rt__transfer *t, uint32_t count, int silence_ms)
{
    int spins = 0, silent_ms = 0;
    RC_ASSERT(count <= RT_PROCESSES_MAX);
    for (;;) {
        bool moved = false;
        const rt__transfer *owing = NULL;
        for (uint32_t i = 0; i < count; i++) {
            if (!push(m, &t[i], &moved) || !pull(m, &t[i], &moved)) return false;
            if (!is_done(&t[i])) owing = &t[i];
        }
        if (!owing) return true;
        if (atomic_load_explicit(&m->has_failed, memory_order_relaxed)) return false;
        if (moved) spins = silent_ms = 0;
        if (moved || (m->spins && spins++ < SPINS) || sleep_for(m, t, count)) continue;
        silent_ms += LOOK_MS;
        if (silence_ms >= 0 && silent_ms >= silence_ms)
            return rt__mesh_lost(m, owing->peer, "hangs: it has been silent for 15 s in a step");
    }
}

bool rt_mesh_send(rt_mesh *m, uint32_t to, rt_frame_kind kind, const void *bytes, size_t count)
{
    rt__transfer t = {.peer = to};
    rt__transfer_out(&t, kind, bytes, count);
    return rt__transfers_run(m, &t, 1, RT_MESH_SILENCE_MS);
}

bool rt_mesh_receive(rt_mesh *m, uint32_t from, rt_frame_kind kind, void *bytes, size_t count)
{
    rt__transfer t = {.peer = from};
    rt__transfer_in(&t, kind, bytes, count);
    return rt__transfers_run(m, &t, 1, RT_MESH_SILENCE_MS);
}

/* The head tells the size, so it comes alone; what follows is then owed. */
bool rt_mesh_await(rt_mesh *m, uint32_t from, rt_frame_kind kind, void *bytes, size_t max, size_t *count)
{
    struct pollfd p = {.fd = m->peers[from].data, .events = POLLIN};
    rt__frame head;
    int spins = 0;
    for (;;) {
        if (atomic_load_explicit(&m->has_failed, memory_order_relaxed)) return false;
        ssize_t n = recv(p.fd, &head, sizeof head, MSG_PEEK | MSG_DONTWAIT);
        if (is_over(n)) return died(m, from);
        if (n == (ssize_t)sizeof head) break;
        if (!m->spins || spins++ >= SPINS) poll(&p, 1, n > 0 ? 1 : LOOK_MS);
    }
    if (head.count > max) return rt__mesh_lost(m, from, "sent more than was expected");
    *count = head.count;
    return rt_mesh_receive(m, from, kind, bytes, head.count);
}
