/* runtime/server/server_internal.h - what the services of one server share.
 *
 * Locks, in the order in which they may be held together: `lock`, then a generation's own, then that of the
 * door (access.h) and those of runtime/mica.h. Handlers of calls and the poller take them; none is held while
 * gRPC core calls back.
 */
#ifndef RUNTIME_SERVER_SERVER_INTERNAL_H
#define RUNTIME_SERVER_SERVER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "runtime/server/access.h"
#include "runtime/server/http.h"
#include "runtime/server/kv_publisher.h"
#include "runtime/server/line_log.h"
#include "runtime/server/metrics.h"
#include "runtime/server/rpc_core.h"
#include "runtime/server/send_wheel.h"
#include "runtime/server/server.h"

typedef struct rt_generation rt_generation;
typedef struct rt_health_watch rt_health_watch;
typedef struct rt_lora_jobs rt_lora_jobs;

struct rt_server {
    rt_server_options o;
    mica *m;
    mica_info info;
    char instance_id[33];
    rt_access *access; /* NULL: no tenants file */
    rpc_server *rpc, *admin_rpc;
    rt_metrics *metrics;
    rt_line_log *request_log; /* NULL: requests are not logged */
    rt_kv_publisher *kv_publisher; /* NULL: K/V events are not published */
    rt_http *http;
    uint32_t port, admin_port;
    pthread_t poller;
    bool has_poller;
    atomic_bool is_draining, is_polling;
    rt_lora_jobs *lora_jobs;
    atomic_int send_ns;                      /* that sending a message takes, of late */
    rt_send_wheel later;                     /* the poller's: streams with news that were sent some lately */
    pthread_mutex_t lock;                    /* of what follows */
    rt_generation *generations;              /* given to the engine and not over */
    atomic_uint generations_count;           /* which may be read without it */
    rt_health_watch *watches;
    bool is_serving;
};

/* service_inference.c */
void rt__generate(rpc_call *c, void *server);
void rt__generate_stream(rpc_call *c, void *server);
void rt__generation_written(rpc_call *c);
void rt__generation_closed(rpc_call *c, bool cancelled);
void rt__generation_freed(void *generation);
void rt__generation_event(rt_server *s, const mica_event *e); /* the poller's */
bool rt__generations_left(rt_server *s);
void rt__generations_abort(rt_server *s, const rt_caller *caller, const char *request_id, size_t bytes);
/* The adapter that it waited for is there, or not; on a thread of the jobs. */
void rt__generation_loaded(rt_generation *g, rc_code code, const rc_msg *msg);
void rt__generations_admit(rt_server *s); /* gives the engine those whose turn it is */

/* generation_send.c */
void rt__generations_send_due(rt_server *s, int64_t now_ns); /* the poller's: what was deferred until then */

/* service_control.c */
void rt__get_server_info(rpc_call *c, void *server);
void rt__get_model_info(rpc_call *c, void *server);
void rt__abort(rpc_call *c, void *server);
void rt__list_loras(rpc_call *c, void *server);
void rt__get_kv_event_sources(rpc_call *c, void *server);

/* service_lora.c: loading reads files, so it has threads of its own */
RC_MUST_CHECK rc_code rt__lora_jobs_create(rt_server *s, rc_msg *msg);
void rt__lora_jobs_end(rt_server *s); /* what waits is refused, from here on all is */
void rt__lora_jobs_destroy(rt_server *s);
/* Whether a request for this adapter has to wait until it is read from below the root. */
bool rt__lora_is_due(const rt_server *s, const char *name);
/* Reads it, in its turn, and calls rt__generation_loaded(). Errors RESOURCE_EXHAUSTED, UNAVAILABLE. */
RC_MUST_CHECK rc_code rt__lora_bring(rt_server *s, const char *name, rpc_call *c, rt_generation *g,
                                     rc_msg *msg);
void rt__load_lora(rpc_call *c, void *server);
void rt__unload_lora(rpc_call *c, void *server);
void rt__admin_load_lora(rpc_call *c, void *server); /* on the admin's port */
void rt__admin_unload_lora(rpc_call *c, void *server);

/* service_health.c */
void rt__health_check(rpc_call *c, void *server);
void rt__health_watch(rpc_call *c, void *server);
void rt__health_written(rpc_call *c);
void rt__health_closed(rpc_call *c, bool cancelled);
void rt__health_freed(void *watch);
bool rt__health_is_serving(rt_server *s);
void rt__health_end(rt_server *s); /* NOT_SERVING from here on */

/* service_reflection.c */
void rt__reflection_start(rpc_call *c, void *server);
void rt__reflection_received(rpc_call *c, const uint8_t *message, size_t bytes);
void rt__reflection_written(rpc_call *c);

/* Finds out who calls, or refuses the call itself. After true rt__access_leave() is due. */
bool rt__enter(rpc_call *c, rt_server *s, rt_caller *caller);
/* Packs and sends the one answer of a call. */
void rt__answer(rpc_call *c, const void *protobuf_message);
void rt__refuse(rpc_call *c, rc_code code, const rc_msg *msg);

#endif
