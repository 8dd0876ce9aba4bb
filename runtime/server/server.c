#include "runtime/server/server.h"

#include <protobuf-c/protobuf-c.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/server/server_internal.h"

enum {
    MESSAGE_BYTES_MAX = 4 << 20, /* gRPC's own default; a prompt of 131072 ids has 0.4 MiB */
    METADATA_BYTES_MAX = 16 << 10,
    STREAMS_MAX = 2048,          /* of a connection */
    CALLS_MAX = 8192,            /* of all connections */
    POLL_MS = 250,               /* how soon the poller sees that it may end */
    DRAIN_LOOK_MS = 10,
    GOAWAY_MS = 1000 /* for the last answers to get out */
};

#define INFERENCE(service, name, begin)                                                                      \
    {                                                                                                        \
        "/vllm." service "/" name, false, begin, NULL, rt__generation_written, rt__generation_closed,        \
            rt__generation_freed                                                                             \
    }
#define UNARY(path, begin)                                                                                   \
    {                                                                                                        \
        path, false, begin, NULL, NULL, NULL, NULL                                                           \
    }
#define REFLECTION(version)                                                                                  \
    {                                                                                                        \
        "/grpc.reflection." version ".ServerReflection/ServerReflectionInfo", true, rt__reflection_start,    \
            rt__reflection_received, rt__reflection_written, NULL, NULL                                      \
    }

/* vllm.Generate and vllm.Lora are what older clients call the same methods. */
static const rpc_method methods[] = {
    INFERENCE("Inference", "Generate", rt__generate),
    INFERENCE("Inference", "GenerateStream", rt__generate_stream),
    INFERENCE("Generate", "Generate", rt__generate),
    INFERENCE("Generate", "GenerateStream", rt__generate_stream),
    UNARY("/vllm.Control/GetServerInfo", rt__get_server_info),
    UNARY("/vllm.Control/GetModelInfo", rt__get_model_info),
    UNARY("/vllm.Control/Abort", rt__abort),
    UNARY("/vllm.Control/LoadLora", rt__load_lora),
    UNARY("/vllm.Control/UnloadLora", rt__unload_lora),
    UNARY("/vllm.Control/ListLoras", rt__list_loras),
    UNARY("/vllm.Control/GetKvEventSources", rt__get_kv_event_sources),
    UNARY("/vllm.Lora/LoadLora", rt__load_lora),
    UNARY("/vllm.Lora/UnloadLora", rt__unload_lora),
    UNARY("/vllm.Lora/ListLoras", rt__list_loras),
    UNARY("/grpc.health.v1.Health/Check", rt__health_check),
    {"/grpc.health.v1.Health/Watch", false, rt__health_watch, NULL, rt__health_written, rt__health_closed,
     rt__health_freed},
    REFLECTION("v1"),
    REFLECTION("v1alpha"),
};

static const rpc_method admin_methods[] = {
    UNARY("/vllm.Control/GetServerInfo", rt__get_server_info),
    UNARY("/vllm.Control/GetModelInfo", rt__get_model_info),
    UNARY("/vllm.Control/Abort", rt__abort),
    UNARY("/vllm.Control/LoadLora", rt__admin_load_lora),
    UNARY("/vllm.Control/UnloadLora", rt__admin_unload_lora),
    UNARY("/vllm.Control/ListLoras", rt__list_loras),
    UNARY("/vllm.Control/GetKvEventSources", rt__get_kv_event_sources),
    UNARY("/vllm.Lora/LoadLora", rt__admin_load_lora),
    UNARY("/vllm.Lora/UnloadLora", rt__admin_unload_lora),
    UNARY("/vllm.Lora/ListLoras", rt__list_loras),
    UNARY("/grpc.health.v1.Health/Check", rt__health_check),
};

bool rt__enter(rpc_call *c, rt_server *s, rt_caller *caller)
{
    rc_msg msg;
    rc_code code = rt__access_enter(s->access, c, caller, &msg);
    if (code == RC_OK) return true;
    rt__refuse(c, code, &msg);
    return false;
}

void rt__answer(rpc_call *c, const void *protobuf_message)
{
    const ProtobufCMessage *m = protobuf_message;
    size_t bytes = protobuf_c_message_get_packed_size(m);
    uint8_t *packed = malloc(bytes + 1);
    if (!packed) {
        rpc_call_finish(c, RC_RESOURCE_EXHAUSTED, "no memory for the answer", NULL, 0);
        return;
    }
    protobuf_c_message_pack(m, packed);
    rpc_call_finish(c, RC_OK, NULL, packed, bytes);
    free(packed);
}

void rt__refuse(rpc_call *c, rc_code code, const rc_msg *msg)
{
    rpc_call_finish(c, code, msg->text, NULL, 0);
}

static void *poll_engine(void *arg)
{
    rt_server *s = arg;
    mica_event e;
    pthread_setname_np(pthread_self(), "poller");
    while (atomic_load(&s->is_polling)) {
        rt__generations_send_due(s, rt_now_ns());
        if (mica_poll(s->m, s->later.count ? 1 : POLL_MS, &e)) rt__generation_event(s, &e);
    }
    rt__generations_send_due(s, INT64_MAX);
    return NULL;
}

static void make_instance_id(rt_server *s)
{
    unsigned char bytes[16];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) {
        int64_t now = rt_now_ns();
        memcpy(bytes, &now, sizeof now);
    }
    for (size_t i = 0; i < sizeof bytes; i++) snprintf(s->instance_id + 2 * i, 3, "%02x", bytes[i]);
}

/* ---- HTTP ---- */

static uint32_t metrics_page(void *server, rt_bytes *out)
{
    rt_server *s = server;
    rt__metrics_write(s->metrics, s->m, out);
    return 200;
}

static uint32_t health_page(void *server, rt_bytes *out)
{
    rt_server *s = server;
    (void)out;
    return rt__health_is_serving(s) && mica_status(s->m, NULL) == RC_OK ? 200 : 503;
}

static uint32_t version_page(void *server, rt_bytes *out)
{
    (void)server;
    rt_bytes_add_text(out, "{\"version\":\"" MICA_VERSION "\"}\n");
    return 200;
}

static const rt_http_page http_pages[] = {
    {"/metrics", "text/plain; version=0.0.4; charset=utf-8", metrics_page},
    {"/health", "text/plain", health_page},
    {"/version", "application/json", version_page},
    {NULL, NULL, NULL},
};

/* The engine serves in order of arrival, so no more is given to it than it needs to be busy: as many requests
 * as run at once and one to follow them, and two steps' worth of prompts. */
static rc_code open_door(rt_server *s, rc_msg *msg)
{
    uint32_t seqs = s->info.max_num_seqs;
    if (!s->o.tenants) return RC_OK;
    return rt__access_open(s->o.tenants, seqs + 1, 2 * s->info.max_num_batched_tokens, &s->access, msg);
}

static rc_code open_admin_port(rt_server *s, const rpc_options *main, rc_msg *msg)
{
    rpc_options rpc = *main;
    if (!s->o.has_admin_port) return RC_OK;
    rpc.port = s->o.admin_port;
    rpc.methods = admin_methods;
    rpc.methods_count = sizeof admin_methods / sizeof *admin_methods;
    return rpc_server_open(&rpc, &s->admin_rpc, &s->admin_port, msg);
}

static rc_code start(rt_server *s, rc_msg *msg)
{
    rpc_options rpc = {.host = s->o.host,
                       .port = s->o.grpc_port,
                       .key_file = s->o.ssl_key_file,
                       .cert_file = s->o.ssl_cert_file,
                       .client_ca_file = s->o.ssl_ca_certs,
                       .message_bytes_max = MESSAGE_BYTES_MAX,
                       .metadata_bytes_max = METADATA_BYTES_MAX,
                       .streams_max = STREAMS_MAX,
                       .calls_max = CALLS_MAX,
                       .methods = methods,
                       .methods_count = sizeof methods / sizeof *methods,
                       .ctx = s};
    if (s->o.logs_requests) RC_TRY(rt__line_log_open(STDERR_FILENO, &s->request_log, msg));
    if (s->o.kv_events.is_on)
        RC_TRY(rt__kv_publisher_open(&s->o.kv_events, s->m, &s->kv_publisher, msg));
    RC_TRY(open_door(s, msg));
    RC_TRY(rt__lora_jobs_create(s, msg));
    atomic_store(&s->is_polling, true);
    if (pthread_create(&s->poller, NULL, poll_engine, s))
        return rc_fail(RC_INTERNAL, msg, "a thread of the server could not be started");
    s->has_poller = true;
    RC_TRY(rpc_server_open(&rpc, &s->rpc, &s->port, msg));
    RC_TRY(open_admin_port(s, &rpc, msg));
    return rt__http_open(s->o.host, s->o.http_port, http_pages, s, &s->http, msg);
}

rc_code rt_server_open(const rt_server_options *options, mica *m, rt_server **out, rc_msg *msg)
{
    rt_server *s = calloc(1, sizeof *s);
    if (!s) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory to serve");
    s->o = *options;
    s->m = m;
    s->info = mica_get_info(m);
    s->is_serving = true;
    make_instance_id(s);
    pthread_mutex_init(&s->lock, NULL);
    s->metrics = rt__metrics_create();
    rc_code code = s->metrics ? start(s, msg) : rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory to serve");
    if (code == RC_OK)
        *out = s;
    else
        rt_server_close(s);
    return code;
}

uint32_t rt_server_grpc_port(const rt_server *s)
{
    return s->port;
}
uint32_t rt_server_admin_port(const rt_server *s)
{
    return s->admin_port;
}
uint32_t rt_server_http_port(const rt_server *s)
{
    return rt__http_port(s->http);
}

static rc_code check_lora_root(const char *root, rc_msg *msg)
{
    struct stat s;
    if (!root || (!stat(root, &s) && S_ISDIR(s.st_mode))) return RC_OK;
    return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg, "--lora-root '%.400s': expected a directory", root),
                    msg, "lora-root");
}

rc_code rt_server_check(const rt_server_options *options, rc_msg *msg)
{
    rt_tenants *t;
    RC_TRY(check_lora_root(options->lora_root, msg));
    if (!options->tenants) return RC_OK;
    RC_TRY(rt__tenants_read(options->tenants, &t, msg));
    rt__tenants_free(t);
    return RC_OK;
}

rc_code rt_server_reload(rt_server *s, rc_msg *msg)
{
    if (!s->access) return RC_OK;
    RC_TRY(rt__access_reload(s->access, msg));
    rt__generations_admit(s); /* limits may have grown */
    return RC_OK;
}

void rt_server_drain(rt_server *s)
{
    const struct timespec pause = {0, DRAIN_LOOK_MS * 1000000};
    const int64_t second = 1000000000, refuses = rt_now_ns() + s->o.shutdown_delay_seconds * second,
                  until = refuses + s->o.drain_seconds * second;
    rt__health_end(s);
    while (rt_now_ns() < refuses) nanosleep(&pause, NULL);
    atomic_store(&s->is_draining, true);
    while (rt__generations_left(s) && rt_now_ns() < until) nanosleep(&pause, NULL);
}

/* The poller goes last: what is cancelled is over when the engine says so. */
void rt_server_close(rt_server *s)
{
    if (!s) return;
    atomic_store(&s->is_draining, true);
    rt__lora_jobs_end(s);
    rt__health_end(s);
    rpc_server_close(s->admin_rpc, 0);
    rpc_server_close(s->rpc, rt__generations_left(s) ? 0 : GOAWAY_MS);
    atomic_store(&s->is_polling, false);
    if (s->has_poller) pthread_join(s->poller, NULL);
    rt__lora_jobs_destroy(s);
    rt__http_close(s->http);
    rt__kv_publisher_close(s->kv_publisher);
    rt__line_log_close(s->request_log);
    rt__metrics_destroy(s->metrics);
    rt__access_close(s->access);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
