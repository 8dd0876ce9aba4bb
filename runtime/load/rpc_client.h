/* runtime/load/rpc_client.h - many calls at a time to one gRPC server; the one place of its side that knows
 * gRPC core.
 *
 *     rpc_client_start() ...   rpc_client_next() -> a message, a message, ..., the end of a call
 *
 * Memory   What is sent is copied. What an event points to is valid until the next rpc_client_next().
 * Threads  One: whoever opened it.
 * Errors   A call that cannot be made ends, with the status that says why.
 */
#ifndef RUNTIME_LOAD_RPC_CLIENT_H
#define RUNTIME_LOAD_RPC_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/rc.h"

enum { RPC_STATUSES = 17 }; /* gRPC's, from OK on */

typedef struct rpc_client rpc_client;

typedef struct rpc_header {
    const char *key, *value;
} rpc_header;

typedef struct rpc_client_options {
    const char *target;   /* "host:port" */
    const char *ca_file;  /* PEM: who signs the server's certificate; NULL: no TLS */
    uint32_t connections; /* at least 1; made when they are first used */
} rpc_client_options;

typedef struct rpc_start {
    const char *method; /* "/package.Service/Method" */
    const rpc_header *headers;
    size_t headers_count;
    const void *message;
    size_t bytes;
    uint32_t connection; /* any number: taken modulo their count */
    uint32_t timeout_ms; /* 0: none */
    void *user;          /* comes back with every event */
} rpc_start;

typedef struct rpc_client_event {
    void *user;
    const uint8_t *message; /* NULL: the call is over, and the rest is set */
    size_t bytes;
    uint32_t status;
    const char *text; /* what the server says beside it, one line */
    const void *trailers;
} rpc_client_event;

/* Errors INVALID_ARGUMENT: ca_file cannot be read; RESOURCE_EXHAUSTED. Does not connect yet. */
RC_MUST_CHECK rc_code rpc_client_open(const rpc_client_options *options, rpc_client **out, rc_msg *msg);
/* Cancels what runs. NULL is allowed. */
void rpc_client_close(rpc_client *c);

/* Errors RESOURCE_EXHAUSTED: no memory. */
RC_MUST_CHECK rc_code rpc_client_start(rpc_client *c, const rpc_start *start, rc_msg *msg);
/* Waits for the next event; false: none came in that time. */
bool rpc_client_next(rpc_client *c, int64_t wait_ns, rpc_client_event *e);
/* A value of metadata that came with the end; false: it did not. */
bool rpc_client_trailer(const rpc_client_event *e, const char *key, const char **value, size_t *bytes);

const char *rpc_status_name(uint32_t status); /* "UNAVAILABLE" */

#endif
