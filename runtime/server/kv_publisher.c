#include "runtime/server/kv_publisher.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include "runtime/server/kv_batch.h"

enum {
    NUMBER_BYTES = 8,
    LINGER_MS = 1000,
    KEPT_BYTES_MAX = 256 << 20,
    ASKED_BYTES_MAX = 1024, /* subscriptions and questions; who sends more is cut off */
    CHANGES_AT_ONCE = 4096  /* before questions are looked at again */
};

typedef struct kept_batch {
    uint64_t number;
    zmq_msg_t payload;
} kept_batch;

struct rt_kv_publisher {
    rt_kv_config config;
    mica *m;
    void *zmq, *pub, *router; /* router NULL: no replay */
    char endpoint[RT_KV_TEXT_BYTES], replay_endpoint[RT_KV_TEXT_BYTES];
    int stop_fd; /* readable: the thread is to end */
    pthread_t thread;
    bool has_thread;
    /* the thread's */
    rt_kv_batch *batch;
    kept_batch *kept; /* [buffer_steps], a ring */
    uint32_t kept_first, kept_count;
    size_t kept_bytes;
};

static void write_number(uint64_t number, unsigned char out[NUMBER_BYTES])
{
    for (int i = 0; i < NUMBER_BYTES; i++) out[i] = (unsigned char)(number >> (8 * (NUMBER_BYTES - 1 - i)));
}

static uint64_t read_number(const unsigned char *in)
{
    uint64_t number = 0;
    for (int i = 0; i < NUMBER_BYTES; i++) number = number << 8 | in[i];
    return number;
}

/* ---- batches that are kept ---- */

static void forget_oldest(rt_kv_publisher *p)
{
    kept_batch *oldest = &p->kept[p->kept_first];
    p->kept_bytes -= zmq_msg_size(&oldest->payload);
    zmq_msg_close(&oldest->payload);
    p->kept_first = (p->kept_first + 1) % p->config.buffer_steps;
    p->kept_count--;
}

/* The payload is shared with what is being sent, not copied. */
static void keep(rt_kv_publisher *p, uint64_t number, zmq_msg_t *payload)
{
    size_t bytes = zmq_msg_size(payload);
    if (!p->kept || bytes > KEPT_BYTES_MAX) return;
    while (p->kept_count == p->config.buffer_steps || p->kept_bytes + bytes > KEPT_BYTES_MAX)
        forget_oldest(p);
    kept_batch *newest = &p->kept[(p->kept_first + p->kept_count) % p->config.buffer_steps];
    newest->number = number;
    zmq_msg_init(&newest->payload);
    zmq_msg_copy(&newest->payload, payload);
    p->kept_count++;
    p->kept_bytes += bytes;
}

/* ---- publishing ---- */

static void free_payload(void *data, void *hint)
{
    (void)hint;
    free(data);
}

/* A copy that shares the bytes goes out. False: it could not. */
static bool send_shared(void *socket, zmq_msg_t *of, int flags)
{
    zmq_msg_t part;
    zmq_msg_init(&part);
    if (zmq_msg_copy(&part, of) == 0 && zmq_msg_send(&part, socket, flags | ZMQ_DONTWAIT) >= 0) return true;
    zmq_msg_close(&part);
    return false;
}

/* Where there is no memory for a batch its number is missing, as if the engine had dropped it. */
static void publish(rt_kv_publisher *p, uint64_t number)
{
    unsigned char bytes[NUMBER_BYTES];
    rt_bytes payload;
    zmq_msg_t message;
    if (!rt__kv_batch_take(p->batch, &payload)) return;
    if (zmq_msg_init_data(&message, payload.data, payload.count, free_payload, NULL)) {
        rt_bytes_deinit(&payload);
        return;
    }
    write_number(number, bytes);
    zmq_send(p->pub, p->config.topic, strlen(p->config.topic), ZMQ_SNDMORE | ZMQ_DONTWAIT);
    zmq_send(p->pub, bytes, sizeof bytes, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    send_shared(p->pub, &message, 0);
    keep(p, number, &message);
    zmq_msg_close(&message);
}

static bool publish_changes(rt_kv_publisher *p, uint32_t changes_max)
{
    mica_kv_change change;
    for (uint32_t i = 0; i < changes_max; i++) {
        if (!mica_kv_poll(p->m, &change)) return false;
        rt__kv_batch_add(p->batch, &change);
        if (change.ends_batch) publish(p, change.batch);
    }
    return true;
}

/* ---- replay ---- */

/* False: there is no room for it, or nobody there any more. */
static bool answer(rt_kv_publisher *p, zmq_msg_t *who, uint64_t number, zmq_msg_t *payload)
{
    unsigned char bytes[NUMBER_BYTES];
    write_number(number, bytes);
    if (!send_shared(p->router, who, ZMQ_SNDMORE)) return false;
    zmq_send(p->router, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    zmq_send(p->router, bytes, sizeof bytes, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    if (!payload) return zmq_send(p->router, "", 0, ZMQ_DONTWAIT) >= 0;
    return send_shared(p->router, payload, 0);
}

static void replay(rt_kv_publisher *p, zmq_msg_t *who, uint64_t first)
{
    for (uint32_t i = 0; i < p->kept_count; i++) {
        kept_batch *k = &p->kept[(p->kept_first + i) % p->config.buffer_steps];
        if (k->number >= first && !answer(p, who, k->number, &k->payload)) return;
    }
    answer(p, who, UINT64_MAX, NULL);
}

/* Takes one message. Gives its parts up to max, or -1 where there is none. */
static int receive(void *socket, zmq_msg_t *parts, int max)
{
    int count = 0;
    zmq_msg_t rest;
    zmq_msg_init(&rest);
    for (bool more = true; more; count++) {
        zmq_msg_t *part = count < max ? &parts[count] : &rest;
        if (zmq_msg_recv(part, socket, ZMQ_DONTWAIT) < 0) break;
        more = zmq_msg_more(part);
    }
    zmq_msg_close(&rest);
    return count ? count : -1;
}

/* Whoever asks otherwise than with an empty part and a number is not answered. */
static bool answer_question(rt_kv_publisher *p)
{
    zmq_msg_t parts[3];
    for (int i = 0; i < 3; i++) zmq_msg_init(&parts[i]);
    int count = receive(p->router, parts, 3);
    if (count == 3 && zmq_msg_size(&parts[1]) == 0 && zmq_msg_size(&parts[2]) == NUMBER_BYTES)
        replay(p, &parts[0], read_number(zmq_msg_data(&parts[2])));
    for (int i = 0; i < 3; i++) zmq_msg_close(&parts[i]);
    return count >= 0;
}

/* ---- the thread ---- */

static void *run(void *arg)
{
    rt_kv_publisher *p = arg;
    zmq_pollitem_t items[] = {{.fd = mica_kv_fd(p->m), .events = ZMQ_POLLIN},
                              {.fd = p->stop_fd, .events = ZMQ_POLLIN},
                              {.socket = p->router, .events = ZMQ_POLLIN}};
    for (bool more = false, is_ending = false; more || !is_ending;) {
        if (zmq_poll(items, p->router ? 3 : 2, more ? 0 : -1) < 0 && errno != EINTR) break;
        is_ending = items[1].revents != 0;
        more = publish_changes(p, CHANGES_AT_ONCE);
        if (p->router && !is_ending) answer_question(p);
    }
    return NULL;
}

/* ---- open and close ---- */

static rc_code fail(const char *key, const char *endpoint, const char *what, rc_msg *msg)
{
    rc_fail(RC_UNAVAILABLE, msg, "--kv-events-config: %s '%.255s' %s: %s", key, endpoint, what,
            zmq_strerror(zmq_errno()));
    return rc_about(RC_UNAVAILABLE, msg, "kv-events-config");
}

static bool set(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

/* What clients are told: the port in the place of a wildcard, but a host that is all hosts stays one. */
static void find_endpoint(void *socket, const char *asked, char out[RT_KV_TEXT_BYTES])
{
    size_t bytes = RT_KV_TEXT_BYTES;
    bool is_any = !strncmp(asked, "tcp://*:", strlen("tcp://*:"));
    snprintf(out, RT_KV_TEXT_BYTES, "%s", asked);
    if (!rt__kv_is_bound(asked) || zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, out, &bytes)) return;
    const char *port = strrchr(out, ':');
    char number[16];
    if (!is_any || !port) return;
    snprintf(number, sizeof number, "%s", port + 1);
    snprintf(out, RT_KV_TEXT_BYTES, "tcp://*:%s", number);
}

static rc_code open_socket(rt_kv_publisher *p, int type, int hwm, const char *key, const char *endpoint,
                           void **out, rc_msg *msg)
{
    void *socket = *out = zmq_socket(p->zmq, type);
    const int64_t asked_max = ASKED_BYTES_MAX;
    bool is_bound = type == ZMQ_ROUTER || rt__kv_is_bound(endpoint);
    bool ok = socket && set(socket, ZMQ_SNDHWM, hwm) && set(socket, ZMQ_LINGER, LINGER_MS) &&
              zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &asked_max, sizeof asked_max) == 0;
    if (ok && strchr(endpoint, '[')) ok = set(socket, ZMQ_IPV6, 1);
    if (ok && type == ZMQ_ROUTER) ok = set(socket, ZMQ_ROUTER_MANDATORY, 1);
    if (!ok)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no socket for %s: %s", key, zmq_strerror(zmq_errno()));
    if (is_bound && zmq_bind(socket, endpoint)) return fail(key, endpoint, "cannot be bound", msg);
    if (!is_bound && zmq_connect(socket, endpoint)) return fail(key, endpoint, "cannot be connected", msg);
    return RC_OK;
}

static rc_code open_parts(rt_kv_publisher *p, rc_msg *msg)
{
    const rt_kv_config *c = &p->config;
    p->batch = rt__kv_batch_create(c->as_arrays, mica_get_info(p->m).block_size);
    p->stop_fd = eventfd(0, EFD_CLOEXEC);
    p->zmq = zmq_ctx_new();
    if (c->replay_endpoint[0] && c->buffer_steps) p->kept = calloc(c->buffer_steps, sizeof *p->kept);
    bool lacks_kept = c->replay_endpoint[0] && c->buffer_steps && !p->kept;
    if (!p->batch || p->stop_fd < 0 || !p->zmq || lacks_kept)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory to publish K/V events");
    RC_TRY(open_socket(p, ZMQ_PUB, (int)c->hwm, "endpoint", c->endpoint, &p->pub, msg));
    find_endpoint(p->pub, c->endpoint, p->endpoint);
    if (c->replay_endpoint[0]) {
        int hwm = 2 * (int)c->buffer_steps + 16; /* what is kept, twice, and the ends */
        RC_TRY(open_socket(p, ZMQ_ROUTER, hwm, "replay_endpoint", c->replay_endpoint, &p->router, msg));
        find_endpoint(p->router, c->replay_endpoint, p->replay_endpoint);
    }
    if (pthread_create(&p->thread, NULL, run, p))
        return rc_fail(RC_INTERNAL, msg, "a thread of the server could not be started");
    p->has_thread = true;
    return RC_OK;
}

rc_code rt__kv_publisher_open(const rt_kv_config *config, mica *m, rt_kv_publisher **out, rc_msg *msg)
{
    rt_kv_publisher *p = calloc(1, sizeof *p);
    if (!p) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory to publish K/V events");
    p->config = *config;
    p->m = m;
    p->stop_fd = -1;
    rc_code code = open_parts(p, msg);
    if (code == RC_OK)
        *out = p;
    else
        rt__kv_publisher_close(p);
    return code;
}

const char *rt__kv_publisher_endpoint(const rt_kv_publisher *p)
{
    return p->endpoint;
}
const char *rt__kv_publisher_replay_endpoint(const rt_kv_publisher *p)
{
    return p->replay_endpoint;
}

void rt__kv_publisher_close(rt_kv_publisher *p)
{
    const uint64_t one = 1;
    if (!p) return;
    if (p->has_thread && write(p->stop_fd, &one, sizeof one) == (ssize_t)sizeof one)
        pthread_join(p->thread, NULL);
    while (p->kept_count) forget_oldest(p);
    if (p->pub) zmq_close(p->pub);
    if (p->router) zmq_close(p->router);
    if (p->zmq) zmq_ctx_term(p->zmq);
    if (p->stop_fd >= 0) close(p->stop_fd);
    rt__kv_batch_destroy(p->batch);
    free(p->kept);
    free(p);
}
