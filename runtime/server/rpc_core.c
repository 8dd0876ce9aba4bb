/* One completion queue, a few threads on it, and a tag for each thing that a call waits for.
 *
 * A call holds a reference for each tag that is out, so it is freed after the last event about it. The end
 * has one order, since gRPC core aborts on an operation after its queue was shut down: shutdown, grace,
 * cancel, wait for the shutdown's tag and for the last call, and only then shut the queue. */
#include "runtime/server/rpc_core.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "runtime/base/clock.h"
#include "runtime/server/rpc_tls.h"

/* The thread sanitizer does not see the order that gRPC core's own locks make. */
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define RPC_HANDS_OVER(tag) __tsan_release(tag)
#define RPC_TAKES_OVER(tag) __tsan_acquire(tag)
#else
#define RPC_HANDS_OVER(tag) ((void)(tag))
#define RPC_TAKES_OVER(tag) ((void)(tag))
#endif

enum {
    THREADS = 2, /* so that one long prompt's tokenizing does not hold up everybody */
    ARMED = 16,  /* calls of a method that may arrive before the queue's threads look */
    TRAILERS_MAX = 4,
    PAUSE_NS = 1000000,
    KEEPALIVE_MS = 30000, /* a client whose machine is gone is noticed within these two */
    KEEPALIVE_WAIT_MS = 10000,
    HANDSHAKE_MS = 20000, /* for TLS and HTTP/2's first words: a connection that says nothing is closed */
    PING_MIN_MS = 10000 /* what vLLM's server tolerates of clients' pings */
};

typedef enum tag_kind { TAG_ARRIVED = 1, TAG_CLOSED, TAG_WRITTEN, TAG_READ, TAG_FINISHED, TAG_SHUT } tag_kind;

typedef struct rpc_tag {
    tag_kind kind;
    rpc_call *call;
} rpc_tag;

struct rpc_call {
    rpc_server *server;
    size_t index; /* of its method; methods_count: unknown */
    grpc_call *call;
    grpc_metadata_array metadata;
    grpc_call_details details; /* of an unknown method */
    gpr_timespec deadline;
    grpc_byte_buffer *payload, *received;
    grpc_slice message;
    rpc_tag arrived, closed, written, read, finished;
    int cancelled;
    atomic_int references;
    pthread_mutex_t lock; /* of the next three */
    bool is_started, is_closed, is_close_told;
    bool sent_initial;
    grpc_metadata trailers[TRAILERS_MAX];
    size_t trailers_count;
    grpc_slice status_text;
    void *state;
};

struct rpc_server {
    rpc_options o;
    grpc_server *server;
    grpc_completion_queue *queue;
    void **registered; /* [methods_count] */
    rpc_tls *tls;
    pthread_t threads[THREADS];
    size_t threads_count;
    rpc_tag shut;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t live;
    bool is_stopping, is_shut;
};

/* ---- a call's life ---- */

static const rpc_method *method_of(const rpc_call *c)
{
    return c->index < c->server->o.methods_count ? &c->server->o.methods[c->index] : NULL;
}

static void destroy(rpc_call *c)
{
    if (c->payload) grpc_byte_buffer_destroy(c->payload);
    if (c->received) grpc_byte_buffer_destroy(c->received);
    for (size_t i = 0; i < c->trailers_count; i++) grpc_slice_unref(c->trailers[i].value);
    grpc_slice_unref(c->message);
    grpc_slice_unref(c->status_text);
    grpc_metadata_array_destroy(&c->metadata);
    grpc_call_details_destroy(&c->details);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

void rpc_call_hold(rpc_call *c)
{
    atomic_fetch_add(&c->references, 1);
}

void rpc_call_release(rpc_call *c)
{
    rpc_server *s = c->server;
    const rpc_method *m = method_of(c);
    if (atomic_fetch_sub(&c->references, 1) != 1) return;
    if (m && m->freed && c->state) m->freed(c->state);
    grpc_call_unref(c->call);
    destroy(c);
    pthread_mutex_lock(&s->lock);
    s->live--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void begin(rpc_call *c, const grpc_op *ops, size_t count, rpc_tag *tag)
{
    rpc_call_hold(c);
    RPC_HANDS_OVER(tag);
    grpc_call_error error = grpc_call_start_batch(c->call, ops, count, tag, NULL);
    RC_ASSERT(error == GRPC_CALL_OK);
}

/* Asks for the next call of a method. Out of memory: one less is asked for. */
static void arm(rpc_server *s, size_t index)
{
    rpc_call *c = calloc(1, sizeof *c);
    grpc_call_error error;
    if (!c) return;
    c->server = s;
    c->index = index;
    c->arrived = (rpc_tag){TAG_ARRIVED, c};
    c->closed = (rpc_tag){TAG_CLOSED, c};
    c->written = (rpc_tag){TAG_WRITTEN, c};
    c->read = (rpc_tag){TAG_READ, c};
    c->finished = (rpc_tag){TAG_FINISHED, c};
    c->message = grpc_empty_slice();
    c->status_text = grpc_empty_slice();
    grpc_metadata_array_init(&c->metadata);
    grpc_call_details_init(&c->details);
    pthread_mutex_init(&c->lock, NULL);
    RPC_HANDS_OVER(&c->arrived);
    if (index == s->o.methods_count)
        error = grpc_server_request_call(s->server, &c->call, &c->details, &c->metadata, s->queue, s->queue,
                                         &c->arrived);
    else
        error = grpc_server_request_registered_call(
            s->server, s->registered[index], &c->call, &c->deadline, &c->metadata,
            s->o.methods[index].reads_stream ? NULL : &c->payload, s->queue, s->queue, &c->arrived);
    if (error != GRPC_CALL_OK) destroy(c);
}

/* ---- what handlers ask for ---- */

const uint8_t *rpc_call_message(const rpc_call *c, size_t *bytes)
{
    *bytes = GRPC_SLICE_LENGTH(c->message);
    return GRPC_SLICE_START_PTR(c->message);
}

bool rpc_call_metadata(const rpc_call *c, const char *key, const char **value, size_t *bytes)
{
    for (size_t i = 0; i < c->metadata.count; i++) {
        const grpc_metadata *m = &c->metadata.metadata[i];
        if (grpc_slice_str_cmp(m->key, key)) continue;
        *value = (const char *)GRPC_SLICE_START_PTR(m->value);
        *bytes = GRPC_SLICE_LENGTH(m->value);
        return true;
    }
    return false;
}

void *rpc_call_state(const rpc_call *c)
{
    return c->state;
}
void rpc_call_set_state(rpc_call *c, void *state)
{
    c->state = state;
}

static void add_initial(rpc_call *c, grpc_op *ops, size_t *count)
{
    if (c->sent_initial) return;
    c->sent_initial = true;
    ops[(*count)++].op = GRPC_OP_SEND_INITIAL_METADATA;
}

static grpc_byte_buffer *add_message(const void *message, size_t bytes, grpc_op *ops, size_t *count)
{
    grpc_slice slice = grpc_slice_from_copied_buffer(message, bytes);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    ops[*count].op = GRPC_OP_SEND_MESSAGE;
    ops[(*count)++].data.send_message.send_message = buffer;
    return buffer;
}

void rpc_call_write(rpc_call *c, const void *message, size_t bytes)
{
    grpc_op ops[2] = {{0}, {0}};
    size_t count = 0;
    add_initial(c, ops, &count);
    grpc_byte_buffer *buffer = add_message(message, bytes, ops, &count);
    begin(c, ops, count, &c->written);
    grpc_byte_buffer_destroy(buffer);
}

void rpc_call_trailer(rpc_call *c, const char *key, const char *value)
{
    RC_ASSERT(c->trailers_count < TRAILERS_MAX);
    c->trailers[c->trailers_count++] = (grpc_metadata){.key = grpc_slice_from_static_string(key),
                                                       .value = grpc_slice_from_copied_string(value)};
}

void rpc_call_finish(rpc_call *c, rc_code code, const char *text, const void *message, size_t bytes)
{
    grpc_op ops[3] = {{0}, {0}, {0}};
    grpc_byte_buffer *buffer = NULL;
    size_t count = 0;
    add_initial(c, ops, &count);
    if (message) buffer = add_message(message, bytes, ops, &count);
    if (text) c->status_text = grpc_slice_from_copied_string(text);
    grpc_op *status = &ops[count++];
    status->op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    status->data.send_status_from_server.status = (grpc_status_code)code;
    status->data.send_status_from_server.status_details = &c->status_text;
    status->data.send_status_from_server.trailing_metadata = c->trailers;
    status->data.send_status_from_server.trailing_metadata_count = c->trailers_count;
    begin(c, ops, count, &c->finished);
    if (buffer) grpc_byte_buffer_destroy(buffer);
}

void rpc_call_read(rpc_call *c)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &c->received;
    begin(c, &op, 1, &c->read);
}

/* ---- events ---- */

static bool read_all(grpc_byte_buffer *buffer, grpc_slice *out)
{
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, buffer)) return false;
    *out = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    return true;
}

static void watch_close(rpc_call *c)
{
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    op.data.recv_close_on_server.cancelled = &c->cancelled;
    begin(c, &op, 1, &c->closed);
}

/* closed() is told once, when the call has both started and closed. */
static void tell_closed(rpc_call *c, bool is_closed)
{
    const rpc_method *m = method_of(c);
    pthread_mutex_lock(&c->lock);
    if (is_closed)
        c->is_closed = true;
    else
        c->is_started = true;
    bool is_due = c->is_started && c->is_closed && !c->is_close_told;
    c->is_close_told = c->is_close_told || is_due;
    bool cancelled = c->cancelled != 0;
    pthread_mutex_unlock(&c->lock);
    if (is_due && m && m->closed && c->state) m->closed(c, cancelled);
}

static bool take_message(rpc_call *c)
{
    return c->payload && read_all(c->payload, &c->message);
}

static void serve(rpc_call *c, bool is_over_limit)
{
    const rpc_method *m = method_of(c);
    watch_close(c);
    if (is_over_limit)
        rpc_call_finish(c, RC_RESOURCE_EXHAUSTED, "too many calls are open; try again later", NULL, 0);
    else if (!m)
        rpc_call_finish(c, RC_UNIMPLEMENTED, "no such method; reflection lists those there are", NULL, 0);
    else if (!m->reads_stream && !take_message(c))
        rpc_call_finish(c, RC_INVALID_ARGUMENT, "the request's message is missing", NULL, 0);
    else
        m->start(c, c->server->o.ctx);
    tell_closed(c, false);
}

static void on_arrived(rpc_call *c, bool ok)
{
    rpc_server *s = c->server;
    if (!ok) { /* the server shuts down: nobody came */
        destroy(c);
        return;
    }
    pthread_mutex_lock(&s->lock);
    bool is_stopping = s->is_stopping, is_over_limit = s->live >= s->o.calls_max;
    s->live++;
    pthread_mutex_unlock(&s->lock);
    if (!is_stopping) arm(s, c->index);
    atomic_store(&c->references, 1);
    serve(c, is_over_limit);
    rpc_call_release(c);
}

static void on_read(rpc_call *c, bool ok)
{
    grpc_slice slice = grpc_empty_slice();
    bool came = ok && c->received && read_all(c->received, &slice);
    if (c->received) grpc_byte_buffer_destroy(c->received);
    c->received = NULL;
    method_of(c)->received(c, came ? GRPC_SLICE_START_PTR(slice) : NULL, came ? GRPC_SLICE_LENGTH(slice) : 0);
    grpc_slice_unref(slice);
}

static void on_shut(rpc_server *s)
{
    pthread_mutex_lock(&s->lock);
    s->is_shut = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void dispatch(rpc_server *s, const rpc_tag *tag, bool ok)
{
    rpc_call *c = tag->call;
    switch (tag->kind) {
    case TAG_ARRIVED:
        on_arrived(c, ok);
        return;
    case TAG_SHUT:
        on_shut(s);
        return;
    case TAG_CLOSED:
        tell_closed(c, true);
        break;
    case TAG_WRITTEN:
        if (method_of(c)->written) method_of(c)->written(c);
        break;
    case TAG_READ:
        on_read(c, ok);
        break;
    case TAG_FINISHED:
        break;
    }
    rpc_call_release(c);
}

/* Waits for an event, and does what there is. After more than one this thread sleeps for a moment: waking it
 * for each message that was written would cost more than what there is to do about it. False: the queue is
 * shut. */
static bool work(rpc_server *s)
{
    gpr_timespec until = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    for (unsigned done = 0;; done++) {
        grpc_event e = grpc_completion_queue_next(s->queue, until, NULL);
        if (e.type == GRPC_QUEUE_SHUTDOWN) return false;
        if (e.type == GRPC_QUEUE_TIMEOUT) {
            if (done > 1) nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
            return true;
        }
        RPC_TAKES_OVER(e.tag);
        dispatch(s, e.tag, e.success != 0);
        until = gpr_time_0(GPR_CLOCK_MONOTONIC);
    }
}

static void *run(void *arg)
{
    rpc_server *s = arg;
    pthread_setname_np(pthread_self(), "rpc");
    while (work(s)) continue;
    return NULL;
}

/* ---- the server ---- */

static grpc_arg number(const char *key, uint32_t value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value = {.integer = (int)value}};
}

static void create_server(rpc_server *s)
{
    grpc_arg args[] = {number(GRPC_ARG_MAX_CONCURRENT_STREAMS, s->o.streams_max),
                       number(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, s->o.message_bytes_max),
                       number(GRPC_ARG_MAX_METADATA_SIZE, s->o.metadata_bytes_max),
                       number(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, HANDSHAKE_MS),
                       number(GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_MS),
                       number(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_WAIT_MS),
                       number(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
                       number(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, PING_MIN_MS),
                       number(GRPC_ARG_ALLOW_REUSEPORT, 0)}; /* else two servers silently share a port */
    grpc_channel_args all = {sizeof args / sizeof *args, args};
    s->server = grpc_server_create(&all, NULL);
    s->queue = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(s->server, s->queue, NULL);
}

static rc_code register_methods(rpc_server *s, rc_msg *msg)
{
    s->registered = calloc(s->o.methods_count, sizeof *s->registered);
    if (!s->registered) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory to serve");
    for (size_t i = 0; i < s->o.methods_count; i++) {
        const rpc_method *m = &s->o.methods[i];
        s->registered[i] = grpc_server_register_method(
            s->server, m->path, NULL,
            m->reads_stream ? GRPC_SRM_PAYLOAD_NONE : GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER, 0);
        RC_ASSERT(s->registered[i]);
    }
    return RC_OK;
}

static rc_code listen_on(rpc_server *s, uint32_t *port, rc_msg *msg)
{
    char address[300];
    bool is_v6 = strchr(s->o.host, ':') != NULL;
    grpc_server_credentials *credentials;
    snprintf(address, sizeof address, is_v6 ? "[%s]:%u" : "%s:%u", s->o.host, s->o.port);
    if (s->o.key_file)
        RC_TRY(rpc_tls_open(s->o.key_file, s->o.cert_file, s->o.client_ca_file, &s->tls, &credentials, msg));
    else
        credentials = grpc_insecure_server_credentials_create();
    int bound = grpc_server_add_http2_port(s->server, address, credentials);
    grpc_server_credentials_release(credentials);
    if (bound <= 0)
        return rc_fail(RC_UNAVAILABLE, msg,
                       "cannot listen on %s: expected an address of this machine and a free port", address);
    *port = (uint32_t)bound;
    return RC_OK;
}

static rc_code start(rpc_server *s, uint32_t *port, rc_msg *msg)
{
    create_server(s);
    RC_TRY(register_methods(s, msg));
    RC_TRY(listen_on(s, port, msg));
    grpc_server_start(s->server);
    for (size_t i = 0; i <= s->o.methods_count; i++)
        for (int k = 0; k < ARMED; k++) arm(s, i);
    for (; s->threads_count < THREADS; s->threads_count++)
        if (pthread_create(&s->threads[s->threads_count], NULL, run, s))
            return rc_fail(RC_INTERNAL, msg, "a thread of the server could not be started");
    return RC_OK;
}

rc_code rpc_server_open(const rpc_options *options, rpc_server **out, uint32_t *port, rc_msg *msg)
{
    pthread_condattr_t monotonic;
    rpc_server *s = calloc(1, sizeof *s);
    if (!s) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory to serve");
    grpc_init();
    s->o = *options;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    rc_code code = start(s, port, msg);
    if (code == RC_OK)
        *out = s;
    else
        rpc_server_close(s, 0);
    return code;
}

/* Until nothing is left, or `until_ns`. */
static bool wait_for_end(rpc_server *s, int64_t until_ns)
{
    struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
    pthread_mutex_lock(&s->lock);
    while ((!s->is_shut || s->live) && !pthread_cond_timedwait(&s->changed, &s->lock, &until)) continue;
    bool is_over = s->is_shut && !s->live;
    pthread_mutex_unlock(&s->lock);
    return is_over;
}

/* Nobody takes events: of a server that could not be started. */
static void drop_events(rpc_server *s)
{
    grpc_event e;
    do {
        e = grpc_completion_queue_next(s->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (e.type != GRPC_QUEUE_SHUTDOWN) dispatch(s, e.tag, e.success != 0);
    } while (e.type != GRPC_QUEUE_SHUTDOWN);
}

static void shut(rpc_server *s, uint32_t grace_ms)
{
    const int64_t second = 1000000000;
    pthread_mutex_lock(&s->lock);
    s->is_stopping = true;
    pthread_mutex_unlock(&s->lock);
    s->shut = (rpc_tag){TAG_SHUT, NULL};
    RPC_HANDS_OVER(&s->shut);
    grpc_server_shutdown_and_notify(s->server, s->queue, &s->shut);
    if (!s->threads_count) {
        grpc_server_cancel_all_calls(s->server);
        grpc_completion_queue_shutdown(s->queue);
        drop_events(s);
        return;
    }
    if (!wait_for_end(s, rt_now_ns() + (int64_t)grace_ms * 1000000)) grpc_server_cancel_all_calls(s->server);
    while (!wait_for_end(s, rt_now_ns() + second)) continue;
    grpc_completion_queue_shutdown(s->queue);
    for (size_t i = 0; i < s->threads_count; i++) pthread_join(s->threads[i], NULL);
}

void rpc_server_close(rpc_server *s, uint32_t grace_ms)
{
    if (!s) return;
    shut(s, grace_ms);
    grpc_server_destroy(s->server);
    grpc_completion_queue_destroy(s->queue);
    rpc_tls_close(s->tls);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    free(s->registered);
    free(s);
    grpc_shutdown();
}
