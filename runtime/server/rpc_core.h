/* runtime/server/rpc_core.h - a gRPC server as calls with handlers; the one place that knows gRPC core.
 *
 *     client --message--> start()            rpc_call_write()  -> written()   one write in flight a call
 *                         received() ...     rpc_call_finish()                once
 *            --goes away-> closed()          the last reference is let go -> freed()
 *
 * Memory   A call lives while the core works on it or somebody holds it. Bytes to be sent are copied.
 * Threads  Handlers run on the server's threads; closed() may run beside any other handler of the same
 *          call, but never before start() has returned. Write, trailer and finish may be called from any
 *          thread, by one at a time for a call: the caller's own lock sees to that.
 * Errors   A call that its client has left swallows writes; written() still comes.
 */
#ifndef RUNTIME_SERVER_RPC_CORE_H
#define RUNTIME_SERVER_RPC_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/rc.h"

typedef struct rpc_server rpc_server;
typedef struct rpc_call rpc_call;

typedef struct rpc_method {
    const char *path;  /* "/package.Service/Method" */
    bool reads_stream; /* the client sends a stream: start() has no message, received() has them */
    void (*start)(rpc_call *c, void *ctx);
    /* An answer to rpc_call_read(); NULL: the client has sent all. */
    void (*received)(rpc_call *c, const uint8_t *message, size_t bytes);
    void (*written)(rpc_call *c);
    void (*closed)(rpc_call *c, bool cancelled); /* cancelled: by client, deadline or a lost connection */
    void (*freed)(void *state);                  /* all but start() may be NULL */
} rpc_method;

typedef struct rpc_options {
    const char *host;
    uint32_t port;                    /* 0: any free one */
    const char *key_file, *cert_file; /* PEM, read again when they change; NULL: no TLS */
    const char *client_ca_file;       /* clients must show a certificate of it; NULL: none is asked for */
    uint32_t message_bytes_max, metadata_bytes_max; /* of a call */
    uint32_t streams_max;      /* at a time, of one connection */
    uint32_t calls_max;        /* at a time, of all; over it RESOURCE_EXHAUSTED */
    const rpc_method *methods; /* [methods_count], outlives the server; others are UNIMPLEMENTED */
    size_t methods_count;
    void *ctx; /* of every start() */
} rpc_options;

/* Listens and answers from here on. *port is the one that was bound.
 * Errors INVALID_ARGUMENT: a certificate, a key or the address; UNAVAILABLE: the port is taken. */
RC_MUST_CHECK rc_code rpc_server_open(const rpc_options *options, rpc_server **out, uint32_t *port,
                                      rc_msg *msg);
/* Says GOAWAY, lets what runs end for at most grace_ms, then cancels it; closed() and written() still come
 * meanwhile. Returns when no call is left. NULL is allowed. */
void rpc_server_close(rpc_server *s, uint32_t grace_ms);

/* The request; of a method that reads a stream there is none. Valid as long as the call. */
const uint8_t *rpc_call_message(const rpc_call *c, size_t *bytes);
/* The first value of a metadata key, which may be any bytes; false: it was not sent. */
bool rpc_call_metadata(const rpc_call *c, const char *key, const char **value, size_t *bytes);
void *rpc_call_state(const rpc_call *c);
void rpc_call_set_state(rpc_call *c, void *state); /* in start(); freed() gets it */
void rpc_call_hold(rpc_call *c);
void rpc_call_release(rpc_call *c);

void rpc_call_read(rpc_call *c); /* asks for one received() */
void rpc_call_write(rpc_call *c, const void *message, size_t bytes);
/* Metadata after the answer, sent with rpc_call_finish(). At most four; key is static, value is copied. */
void rpc_call_trailer(rpc_call *c, const char *key, const char *value);
/* The call's end: message NULL sends none. `text` is what a client reads beside a code other than OK. */
void rpc_call_finish(rpc_call *c, rc_code code, const char *text, const void *message, size_t bytes);

#endif
