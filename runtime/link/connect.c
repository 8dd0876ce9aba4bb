/* How processes find each other: all come to process 0, twice (data and control), and say who they are and
 * where they listen; it tells each where the others are; of any two others the later comes to the earlier.
 * What comes and does not speak like one of ours is turned away. */
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/link/mesh_internal.h"
#include "runtime/link/mpi_agree.h"
#include "runtime/link/socket.h"

enum { VERSION = 1, HELLO_MS = 2000, TRY_MS = 2000, PAUSE_MS = 50, DATA = 0, CONTROL = 1 };

typedef struct hello {
    uint32_t magic, version, process, processes, ranks_each, channel, port;
} hello;

/* What Open MPI carries where nothing else tells the address. */
typedef struct meeting {
    uint32_t count;
    rt_endpoint endpoints[RT_ENDPOINTS_MAX];
} meeting;

static int64_t deadline(void) { return rt_now_ns() + (int64_t)RT_MESH_OPEN_MS * 1000000; }

static int ms_until(int64_t until)
{
    int64_t left = (until - rt_now_ns()) / 1000000;
    return left > 0 ? (int)left : 0;
}

static void pause_a_little(void)
{
    const struct timespec t = {0, PAUSE_MS * 1000000};
    nanosleep(&t, NULL);
}

static void name_peer(rt_mesh *m, uint32_t process, const char *where)
{
    uint32_t first = process * m->ranks_each, last = first + m->ranks_each - 1;
    char ranks[32];
    if (first == last) snprintf(ranks, sizeof ranks, "rank %u", first);
    else snprintf(ranks, sizeof ranks, "ranks %u-%u", first, last);
    snprintf(m->peers[process].name, sizeof m->peers[process].name, "%s (process %u%s%.50s)", ranks, process,
             *where ? " at " : "", where);
}

static bool say_hello(const rt_mesh *m, int fd, uint32_t channel, uint16_t port)
{
    hello h = {RT__FRAME_MAGIC, VERSION, m->process, m->processes, m->ranks_each, channel, port};
    return rt_socket_send(fd, &h, sizeof h);
}

static void keep(rt_mesh *m, uint32_t process, uint32_t channel, int fd)
{
    rt_endpoint e;
    char where[RT_ENDPOINT_TEXT];
    rt_socket_tune(fd);
    rt_socket_peer(fd, &e);
    rt_endpoint_text(&e, where);
    name_peer(m, process, where);
    if (channel == DATA) m->peers[process].data = fd;
    else m->peers[process].control = fd;
    if (channel == CONTROL) rt_socket_limit(fd, RT_MESH_SILENCE_MS);
}

/* Of a new connection: keeps it and gives true, or closes it. mismatch: set where it is one of ours, started
 * for another number of ranks. */
static bool take(rt_mesh *m, int fd, hello *h, bool *mismatch)
{
    bool ours = rt_socket_receive(fd, h, sizeof *h, HELLO_MS) && h->magic == RT__FRAME_MAGIC;
    *mismatch = ours && (h->version != VERSION || h->processes != m->processes ||
                         h->ranks_each != m->ranks_each);
    bool fits = ours && !*mismatch && h->process < m->processes && h->process != m->process &&
                h->channel <= CONTROL && h->port <= UINT16_MAX;
    if (fits) {
        const rt__peer *p = &m->peers[h->process];
        fits = (h->channel == DATA ? p->data : p->control) < 0;
    }
    if (fits) keep(m, h->process, h->channel, fd);
    else close(fd);
    return fits;
}

static rc_code refuse_mismatch(const rt_mesh *m, const hello *h, rc_msg *msg)
{
    return rc_fail(RC_INVALID_ARGUMENT, msg,
                   "process %u was started as one of %u with %u ranks each (version %u), process %u as one "
                   "of %u with %u (version %u)",
                   h->process, h->processes, h->ranks_each, h->version, m->process, m->processes,
                   m->ranks_each, VERSION);
}

/* Accepts `wanted` connections; endpoints: NULL, or [processes], where those who came listen. */
static rc_code accept_all(rt_mesh *m, int listener, uint32_t wanted, rt_endpoint *endpoints, rc_msg *msg)
{
    int64_t until = deadline();
    while (wanted) {
        hello h;
        bool mismatch;
        int fd = rt_socket_accept(listener, ms_until(until));
        if (fd < 0 && !ms_until(until)) break;
        if (fd < 0) continue;
        bool kept = take(m, fd, &h, &mismatch);
        if (mismatch) return refuse_mismatch(m, &h, msg);
        if (!kept) continue;
        wanted--;
        if (!endpoints) continue;
        rt_socket_peer(fd, &endpoints[h.process]);
        endpoints[h.process].port = (uint16_t)h.port;
    }
    if (!wanted) return RC_OK;
    for (uint32_t p = 0; p < m->processes; p++)
        if (p != m->process && m->peers[p].data < 0) {
            name_peer(m, p, "");
            return rc_fail(RC_UNAVAILABLE, msg, "%s did not come within %d s", m->peers[p].name,
                           RT_MESH_OPEN_MS / 1000);
        }
    return rc_fail(RC_UNAVAILABLE, msg, "a process did not connect within %d s", RT_MESH_OPEN_MS / 1000);
}

/* ---- process 0 ---- */

static rc_code listen_first(const rt_launch *l, int *listener, rc_msg *msg)
{
    uint16_t port = l->address[0] ? l->port : 0;
    bool is_local = !strncmp(l->address, "127.", 4) || !strcmp(l->address, "localhost");
    meeting where = {0};
    RC_TRY(rt_socket_listen(is_local ? l->address : NULL, &port, listener, msg));
    if (l->address[0]) return RC_OK;
    where.count = rt_socket_own(where.endpoints);
    for (uint32_t i = 0; i < where.count; i++) where.endpoints[i].port = port;
    return rt_mpi_agree(&where, sizeof where, msg);
}

static rc_code connect_first(rt_mesh *m, const rt_launch *l, rc_msg *msg)
{
    rt_endpoint endpoints[RT_PROCESSES_MAX] = {0};
    int listener = -1;
    rc_code code = listen_first(l, &listener, msg);
    if (code == RC_OK) code = accept_all(m, listener, 2 * (m->processes - 1), endpoints, msg);
    for (uint32_t p = 1; code == RC_OK && p < m->processes; p++)
        if (!rt_socket_send(m->peers[p].control, endpoints, m->processes * sizeof *endpoints))
            code = rc_fail(RC_UNAVAILABLE, msg, "%s left before it began", m->peers[p].name);
    if (listener >= 0) close(listener);
    return code;
}

/* ---- the others ---- */

static int reach(const rt_launch *l, const meeting *where)
{
    if (l->address[0]) return rt_socket_connect(l->address, l->port, TRY_MS);
    for (uint32_t i = 0; i < where->count && i < RT_ENDPOINTS_MAX; i++) {
        int fd = rt_socket_connect_to(&where->endpoints[i], TRY_MS);
        if (fd >= 0) return fd;
    }
    return -1;
}

static rc_code reach_first(rt_mesh *m, const rt_launch *l, uint16_t port, rc_msg *msg)
{
    int64_t until = deadline();
    meeting where = {0};
    if (!l->address[0]) RC_TRY(rt_mpi_agree(&where, sizeof where, msg));
    for (uint32_t channel = DATA; channel <= CONTROL; channel++) {
        int fd;
        while ((fd = reach(l, &where)) < 0 && ms_until(until)) {
            pause_a_little();
            if (channel == CONTROL && rt_socket_is_over(m->peers[0].data)) break; /* it has turned us away */
        }
        if (fd < 0 && ms_until(until))
            return rc_fail(RC_UNAVAILABLE, msg, "process 0 hung up on process %u", m->process);
        if (fd < 0)
            return rc_fail(RC_UNAVAILABLE, msg,
                           "process %u did not reach process 0 at %s port %u within %d s", m->process,
                           l->address[0] ? l->address : "its addresses", l->port, RT_MESH_OPEN_MS / 1000);
        keep(m, 0, channel, fd);
        if (!say_hello(m, fd, channel, port))
            return rc_fail(RC_UNAVAILABLE, msg, "process 0 hung up on process %u", m->process);
    }
    return RC_OK;
}

static rc_code reach_earlier(rt_mesh *m, const rt_endpoint *endpoints, rc_msg *msg)
{
    for (uint32_t p = 1; p < m->process; p++) {
        int fd = rt_socket_connect_to(&endpoints[p], RT_MESH_OPEN_MS);
        char where[RT_ENDPOINT_TEXT];
        rt_endpoint_text(&endpoints[p], where);
        if (fd < 0)
            return rc_fail(RC_UNAVAILABLE, msg, "process %u did not reach process %u at %s port %u",
                           m->process, p, where, endpoints[p].port);
        keep(m, p, DATA, fd);
        if (!say_hello(m, fd, DATA, 0))
            return rc_fail(RC_UNAVAILABLE, msg, "process %u hung up on process %u", p, m->process);
    }
    return RC_OK;
}

static rc_code connect_other(rt_mesh *m, const rt_launch *l, rc_msg *msg)
{
    rt_endpoint endpoints[RT_PROCESSES_MAX];
    uint16_t port = 0;
    int listener = -1;
    rc_code code = rt_socket_listen(NULL, &port, &listener, msg);
    if (code == RC_OK) code = reach_first(m, l, port, msg);
    size_t bytes = m->processes * sizeof *endpoints;
    if (code == RC_OK && !rt_socket_receive(m->peers[0].control, endpoints, bytes, RT_MESH_OPEN_MS))
        code = rc_fail(RC_UNAVAILABLE, msg, "process 0 ended, or waited in vain for others");
    if (code == RC_OK) code = reach_earlier(m, endpoints, msg);
    if (code == RC_OK) code = accept_all(m, listener, m->processes - 1 - m->process, NULL, msg);
    if (listener >= 0) close(listener);
    return code;
}

rc_code rt__mesh_connect(rt_mesh *m, const rt_launch *l, rc_msg *msg)
{
    name_peer(m, m->process, "");
    return m->process == 0 ? connect_first(m, l, msg) : connect_other(m, l, msg);
}
