/* runtime/server/server.h - an open engine behind gRPC: vllm.Inference, vllm.Control, health, reflection;
 * and HTTP for operators (http.h).
 *
 *     rt_server_open(&options, m, &s, &msg);   answers from here on
 *     rt_server_drain(s);                      health says NOT_SERVING, then work is refused, what runs ends
 *     rt_server_close(s);                      GOAWAY; then mica_close(m) is the caller's
 *
 * Threads  open, drain and close: one caller. The server has threads of its own, and is the one that polls
 *          the engine.
 */
#ifndef RUNTIME_SERVER_SERVER_H
#define RUNTIME_SERVER_SERVER_H

#include "runtime/mica.h"
#include "runtime/server/kv_config.h"

typedef struct rt_server rt_server;

typedef struct rt_server_options {
    const char *host;
    uint32_t grpc_port;    /* 0: any free one */
    uint32_t http_port;    /* of /metrics, /health, /version; 0: any free one */
    bool has_admin_port;
    uint32_t admin_port;   /* loading and unloading adapters moves there; 0: any free one */
    const char *tenants;   /* the file (tenants.h); NULL: everyone may do everything */
    const char *lora_root; /* where LoadLora may read; NULL: nothing can be loaded */
    bool lora_lazy_load;   /* a request may name one below it that is not loaded */
    bool logs_requests;    /* one line of JSON on stderr for each (request_log.h) */
    rt_kv_config kv_events; /* where it is on, the engine has kv_changes_max */
    uint32_t shutdown_delay_seconds; /* between the two, so that who routes work here sees it before */
    uint32_t drain_seconds;
    const char *ssl_key_file, *ssl_cert_file, *ssl_ca_certs; /* NULL: no TLS; no certificates of clients */
} rt_server_options;

/* What can be said of the options before an engine is open. Errors INVALID_ARGUMENT. */
RC_MUST_CHECK rc_code rt_server_check(const rt_server_options *options, rc_msg *msg);
/* Errors INVALID_ARGUMENT: an option; UNAVAILABLE: the port is taken. */
RC_MUST_CHECK rc_code rt_server_open(const rt_server_options *options, mica *m, rt_server **out, rc_msg *msg);
uint32_t rt_server_grpc_port(const rt_server *s);
uint32_t rt_server_http_port(const rt_server *s);
uint32_t rt_server_admin_port(const rt_server *s); /* 0: there is none */
/* Reads the tenants file again; a bad one changes nothing. Errors INVALID_ARGUMENT. */
RC_MUST_CHECK rc_code rt_server_reload(rt_server *s, rc_msg *msg);
void rt_server_drain(rt_server *s); /* returns when nothing is left to answer, or after both times */
void rt_server_close(rt_server *s); /* ends what still runs; NULL is allowed */

#endif
