/* grpc.health.v1: of the server ("") and of each service that it has.
 *
 * A Watch gets the state at once. The only change there is, the end, is told by the last message of every
 * Watch, and its status is UNAVAILABLE. */
#include <stdlib.h>

#include "health.pb-c.h"
#include "runtime/server/server_internal.h"

typedef Grpc__Health__V1__HealthCheckResponse response;

enum {
    SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING,
    NOT_SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING,
    SERVICE_UNKNOWN = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN,
    PACKED_MAX = 8
};

struct rt_health_watch {
    rt_server *server;
    rpc_call *call;
    rt_health_watch *next, **link; /* link NULL: not in the list */
    bool is_unknown, is_writing, is_ending;
};

static bool is_known(const ProtobufCBinaryData *service)
{
    static const char *const names[] = {"",          "vllm.Inference",       "vllm.Control", "vllm.Generate",
                                        "vllm.Lora", "grpc.health.v1.Health"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == service->len && !memcmp(names[i], service->data, service->len)) return true;
    return false;
}

/* False: the message is none, and the call has ended. */
static bool read_request(rpc_call *c, bool *known)
{
    size_t bytes;
    const uint8_t *message = rpc_call_message(c, &bytes);
    Grpc__Health__V1__HealthCheckRequest *q =
        grpc__health__v1__health_check_request__unpack(NULL, bytes, message);
    if (!q) {
        rpc_call_finish(c, RC_INVALID_ARGUMENT, "the message is no grpc.health.v1.HealthCheckRequest", NULL,
                        0);
        return false;
    }
    *known = !q->service.len || is_known(&q->service);
    grpc__health__v1__health_check_request__free_unpacked(q, NULL);
    return true;
}

static size_t pack(int status, uint8_t out[PACKED_MAX])
{
    response r = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    r.status = (Grpc__Health__V1__HealthCheckResponse__ServingStatus)status;
    return grpc__health__v1__health_check_response__pack(&r, out);
}

void rt__health_check(rpc_call *c, void *server)
{
    rt_server *s = server;
    uint8_t packed[PACKED_MAX];
    bool known;
    if (!read_request(c, &known)) return;
    if (!known) {
        rpc_call_finish(c, RC_NOT_FOUND, "no such service; reflection lists those there are", NULL, 0);
        return;
    }
    rpc_call_finish(c, RC_OK, NULL, packed, pack(rt__health_is_serving(s) ? SERVING : NOT_SERVING, packed));
}

/* ---- Watch; the server's lock is held over the list and the calls in it ---- */

static void unlist(rt_health_watch *w)
{
    *w->link = w->next;
    if (w->next) w->next->link = w->link;
    w->link = NULL;
}

static void end(rt_health_watch *w)
{
    uint8_t packed[PACKED_MAX];
    w->is_ending = true;
    if (w->is_writing) return; /* rt__health_written() goes on */
    size_t bytes = pack(w->is_unknown ? SERVICE_UNKNOWN : NOT_SERVING, packed);
    unlist(w);
    rpc_call_finish(w->call, RC_UNAVAILABLE, "the server is shutting down", packed, bytes);
}

void rt__health_watch(rpc_call *c, void *server)
{
    rt_server *s = server;
    rt_health_watch *w;
    uint8_t packed[PACKED_MAX];
    bool known;
    if (!read_request(c, &known)) return;
    w = calloc(1, sizeof *w);
    if (!w) {
        rpc_call_finish(c, RC_RESOURCE_EXHAUSTED, "no memory to watch", NULL, 0);
        return;
    }
    *w = (rt_health_watch){.server = s, .call = c, .is_unknown = !known};
    rpc_call_set_state(c, w);
    pthread_mutex_lock(&s->lock);
    w->next = s->watches;
    w->link = &s->watches;
    if (w->next) w->next->link = &w->next;
    s->watches = w;
    w->is_writing = s->is_serving;
    if (!s->is_serving)
        end(w);
    else
        rpc_call_write(c, packed, pack(known ? SERVING : SERVICE_UNKNOWN, packed));
    pthread_mutex_unlock(&s->lock);
}

void rt__health_written(rpc_call *c)
{
    rt_health_watch *w = rpc_call_state(c);
    pthread_mutex_lock(&w->server->lock);
    w->is_writing = false;
    if (w->is_ending && w->link) end(w);
    pthread_mutex_unlock(&w->server->lock);
}

void rt__health_closed(rpc_call *c, bool cancelled)
{
    rt_health_watch *w = rpc_call_state(c);
    (void)cancelled;
    pthread_mutex_lock(&w->server->lock);
    if (w->link) unlist(w);
    pthread_mutex_unlock(&w->server->lock);
}

void rt__health_freed(void *watch)
{
    free(watch);
}

bool rt__health_is_serving(rt_server *s)
{
    pthread_mutex_lock(&s->lock);
    bool is_serving = s->is_serving;
    pthread_mutex_unlock(&s->lock);
    return is_serving;
}

void rt__health_end(rt_server *s)
{
    pthread_mutex_lock(&s->lock);
    s->is_serving = false;
    for (rt_health_watch *w = s->watches, *next; w; w = next) {
        next = w->next;
        end(w);
    }
    pthread_mutex_unlock(&s->lock);
}
