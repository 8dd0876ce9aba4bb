/* runtime/server/generation.h - a generation: a call of Generate or GenerateStream, its request in the
 * engine, and what of the answer is not sent yet.
 *
 *     start()    decodes, submits or is held         closed()   cancels what the client left
 *     poller     gathers an event, sends if idle     written()  sends what came meanwhile
 *
 * The engine's part holds a reference to the call until its last event, so neither end outlives the other.
 * With tenants (access.h) a generation waits outside the engine until it is its tenant's turn. */
#ifndef RUNTIME_SERVER_GENERATION_H
#define RUNTIME_SERVER_GENERATION_H

#include "runtime/server/generate_reply.h"
#include "runtime/server/generate_request.h"
#include "runtime/server/server_internal.h"

struct rt_generation {
    rt_server *server;
    rpc_call *call;
    rt_generation *next, **link; /* under the server's lock */
    rt_send_item later;          /* the poller's */
    char *request_id;            /* NULL: none was sent */
    char *adapter, *tenant;      /* for the log; NULL: none */
    bool is_stream, is_echoed;
    rt_generate_request request; /* until it is submitted */
    rt_share_item item;          /* with tenants */
    rt_caller caller;            /* while it waits for its adapter */
    bool waits_for_adapter;
    rt_generation *next_aborted;
    pthread_mutex_t lock;        /* of what follows */
    uint64_t id;                 /* in the engine; 0: not there */
    bool is_writing, is_over;    /* over: finished, or the client has gone */
    bool is_deferred;
    int64_t sent_ns;             /* the last message; 0: none */
    bool is_aborted;
    bool is_end_due;             /* with this code and text, once the write is out */
    rc_code end_code;            /* RC_OK until something else ends it */
    rc_msg end_msg;
    rt_request_facts facts;      /* for /metrics */
    rt_generate_reply reply;
};

/* In generation_send.c; each with the generation's lock held. */

void rt__generation_cancel(rt_generation *g);
/* The end without the rest of the answer. */
void rt__generation_fail(rt_generation *g, rc_code code, const char *text);
/* What there is, unless a message is under way. */
void rt__generation_send(rt_generation *g);
/* Takes an event of the engine, and sends it now or later; on the poller. */
void rt__generation_gather(rt_generation *g, const mica_event *e);

#endif
