/* One completion queue and one thread on it. A call has one batch out at a time: it sends all and asks for a
 * message, then asks for message after message, and at the first that does not come for the status. So its
 * tag is the call itself, and after the status's event nothing is out any more. */
#include "runtime/load/rpc_client.h"

#include <errno.h>
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>

#include "runtime/base/bytes.h"

enum {
    CA_BYTES_MAX = 1 << 20,
    MESSAGE_BYTES_MAX = 64 << 20,
    KEEPALIVE_MS = 30000, /* a server whose machine is gone is noticed within these two */
    KEEPALIVE_WAIT_MS = 10000,
    CONNECT_MS = 10000, /* for one try: gRPC core's least backoff is also this */
    RECONNECT_MIN_MS = 100,
    RECONNECT_MAX_MS = 2000,
    TEXT_MAX = 300
};

typedef struct rpc_stream {
    struct rpc_stream *before, *after; /* those that run */
    grpc_call *call;
    grpc_metadata_array initial, trailing;
    grpc_byte_buffer *received;
    grpc_status_code status;
    grpc_slice details;
    bool is_ending; /* the status was asked for */
    void *user;
} rpc_stream;

struct rpc_client {
    grpc_completion_queue *queue;
    grpc_channel **channels; /* [count] */
    uint32_t count;
    rpc_stream *running;
    rpc_stream *ended;  /* its event was given last; freed by the next */
    grpc_slice message; /* of the event that was given last */
    char text[TEXT_MAX];
};

static const char *const status_names[RPC_STATUSES] = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

const char *rpc_status_name(uint32_t status)
{
    return status < RPC_STATUSES ? status_names[status] : "UNKNOWN";
}

/* ---- opening ---- */

static rc_code read_ca(const char *path, rt_bytes *out, rc_msg *msg)
{
    FILE *f = fopen(path, "re");
    char part[4096];
    size_t n;
    if (!f) return rc_fail(RC_INVALID_ARGUMENT, msg, "--ssl-ca-certs '%.400s': %s", path, strerror(errno));
    while ((n = fread(part, 1, sizeof part, f)) && out->count < CA_BYTES_MAX) rt_bytes_add(out, part, n);
    fclose(f);
    if (out->failed) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for '%.400s'", path);
    if (!out->count || !strstr(out->data, "-----BEGIN CERTIFICATE-----"))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "--ssl-ca-certs '%.400s': expected certificates in PEM",
                       path);
    return RC_OK;
}

static rc_code make_credentials(const char *ca_file, grpc_channel_credentials **out, rc_msg *msg)
{
    rt_bytes pem = {0};
    rc_code code = RC_OK;
    if (!ca_file) {
        *out = grpc_insecure_credentials_create();
        return RC_OK;
    }
    code = read_ca(ca_file, &pem, msg);
    if (code == RC_OK) *out = grpc_ssl_credentials_create_ex(pem.data, NULL, NULL, NULL);
    rt_bytes_deinit(&pem);
    return code;
}

static grpc_arg number(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value = {.integer = value}};
}

static grpc_channel *make_channel(const char *target, grpc_channel_credentials *credentials)
{
    grpc_arg args[] = {
        number(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1), /* else channels share a connection */
        number(GRPC_ARG_ENABLE_HTTP_PROXY, 0),         /* the environment's is not for what is measured */
        number(GRPC_ARG_ENABLE_RETRIES, 0),
        number(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, MESSAGE_BYTES_MAX),
        number(GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_MS),
        number(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_WAIT_MS),
        number(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, RECONNECT_MIN_MS),
        number(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, CONNECT_MS),
        number(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, RECONNECT_MAX_MS)};
    grpc_channel_args all = {sizeof args / sizeof *args, args};
    return grpc_channel_create(target, credentials, &all);
}

static rc_code open_channels(rpc_client *c, const rpc_client_options *o, rc_msg *msg)
{
    grpc_channel_credentials *credentials;
    RC_TRY(make_credentials(o->ca_file, &credentials, msg));
    c->channels = calloc(o->connections, sizeof *c->channels);
    for (; c->channels && c->count < o->connections; c->count++)
        c->channels[c->count] = make_channel(o->target, credentials);
    grpc_channel_credentials_release(credentials);
    return c->channels ? RC_OK : rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for connections");
}

rc_code rpc_client_open(const rpc_client_options *options, rpc_client **out, rc_msg *msg)
{
    rpc_client *c = calloc(1, sizeof *c);
    if (!c) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a client");
    grpc_init();
    c->queue = grpc_completion_queue_create_for_next(NULL);
    c->message = grpc_empty_slice();
    rc_code code = open_channels(c, options, msg);
    if (code == RC_OK)
        *out = c;
    else
        rpc_client_close(c);
    return code;
}

/* ---- a call's life ---- */

static void link_in(rpc_client *c, rpc_stream *s)
{
    s->after = c->running;
    if (s->after) s->after->before = s;
    c->running = s;
}

static void link_out(rpc_client *c, rpc_stream *s)
{
    if (s->before)
        s->before->after = s->after;
    else
        c->running = s->after;
    if (s->after) s->after->before = s->before;
}

static void destroy(rpc_stream *s)
{
    if (s->received) grpc_byte_buffer_destroy(s->received);
    grpc_metadata_array_destroy(&s->initial);
    grpc_metadata_array_destroy(&s->trailing);
    grpc_slice_unref(s->details);
    grpc_call_unref(s->call);
    free(s);
}

static void begin(rpc_stream *s, const grpc_op *ops, size_t count)
{
    grpc_call_error error = grpc_call_start_batch(s->call, ops, count, s, NULL);
    RC_ASSERT(error == GRPC_CALL_OK);
}

static void send_all(rpc_stream *s, const rpc_start *start, grpc_metadata *headers)
{
    grpc_op ops[5] = {{0}};
    grpc_slice slice = grpc_slice_from_copied_buffer(start->message, start->bytes);
    grpc_byte_buffer *message = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[0].data.send_initial_metadata.count = start->headers_count;
    ops[0].data.send_initial_metadata.metadata = headers;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = message;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &s->initial;
    ops[4].op = GRPC_OP_RECV_MESSAGE;
    ops[4].data.recv_message.recv_message = &s->received;
    begin(s, ops, 5);
    grpc_byte_buffer_destroy(message);
}

static gpr_timespec deadline_of(uint32_t timeout_ms)
{
    if (!timeout_ms) return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
}

rc_code rpc_client_start(rpc_client *c, const rpc_start *start, rc_msg *msg)
{
    rpc_stream *s = calloc(1, sizeof *s);
    grpc_metadata *headers = calloc(start->headers_count + 1, sizeof *headers);
    if (!s || !headers) {
        free(s);
        free(headers);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a call");
    }
    for (size_t i = 0; i < start->headers_count; i++) {
        headers[i].key = grpc_slice_from_copied_string(start->headers[i].key);
        headers[i].value = grpc_slice_from_copied_string(start->headers[i].value);
    }
    grpc_slice method = grpc_slice_from_copied_string(start->method);
    s->user = start->user;
    s->details = grpc_empty_slice();
    grpc_metadata_array_init(&s->initial);
    grpc_metadata_array_init(&s->trailing);
    s->call =
        grpc_channel_create_call(c->channels[start->connection % c->count], NULL, GRPC_PROPAGATE_DEFAULTS,
                                 c->queue, method, NULL, deadline_of(start->timeout_ms), NULL);
    link_in(c, s);
    send_all(s, start, headers);
    grpc_slice_unref(method);
    for (size_t i = 0; i < start->headers_count; i++) {
        grpc_slice_unref(headers[i].key);
        grpc_slice_unref(headers[i].value);
    }
    free(headers);
    return RC_OK;
}

static void ask_message(rpc_stream *s)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &s->received;
    begin(s, &op, 1);
}

static void ask_status(rpc_stream *s)
{
    grpc_op op = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    op.data.recv_status_on_client.trailing_metadata = &s->trailing;
    op.data.recv_status_on_client.status = &s->status;
    op.data.recv_status_on_client.status_details = &s->details;
    s->is_ending = true;
    begin(s, &op, 1);
}

/* ---- events ---- */

static void forget_last(rpc_client *c)
{
    if (c->ended) destroy(c->ended);
    c->ended = NULL;
    grpc_slice_unref(c->message);
    c->message = grpc_empty_slice();
}

static bool take_message(rpc_client *c, rpc_stream *s)
{
    grpc_byte_buffer_reader reader;
    if (!s->received) return false;
    bool is_read = grpc_byte_buffer_reader_init(&reader, s->received) != 0;
    if (is_read) {
        c->message = grpc_byte_buffer_reader_readall(&reader);
        grpc_byte_buffer_reader_destroy(&reader);
    }
    grpc_byte_buffer_destroy(s->received);
    s->received = NULL;
    return is_read;
}

/* What a server says may hold anything; it is shown in one line. */
static void copy_text(rpc_client *c, const grpc_slice *from)
{
    size_t n = GRPC_SLICE_LENGTH(*from) < TEXT_MAX - 1 ? GRPC_SLICE_LENGTH(*from) : TEXT_MAX - 1;
    memcpy(c->text, GRPC_SLICE_START_PTR(*from), n);
    c->text[n] = 0;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)c->text[i] < ' ' || c->text[i] == 0x7f) c->text[i] = '?';
}

/* False: the event was the client's own business. */
static bool handle(rpc_client *c, rpc_stream *s, bool ok, rpc_client_event *e)
{
    *e = (rpc_client_event){.user = s->user};
    if (s->is_ending) {
        link_out(c, s);
        c->ended = s;
        copy_text(c, &s->details);
        e->status = (uint32_t)s->status;
        e->text = c->text;
        e->trailers = &s->trailing;
        return true;
    }
    if (!ok || !take_message(c, s)) {
        ask_status(s);
        return false;
    }
    ask_message(s);
    e->message = GRPC_SLICE_START_PTR(c->message);
    e->bytes = GRPC_SLICE_LENGTH(c->message);
    return true;
}

bool rpc_client_next(rpc_client *c, int64_t wait_ns, rpc_client_event *e)
{
    gpr_timespec until =
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_nanos(wait_ns, GPR_TIMESPAN));
    forget_last(c);
    for (;;) {
        grpc_event event = grpc_completion_queue_next(c->queue, until, NULL);
        if (event.type != GRPC_OP_COMPLETE) return false;
        if (handle(c, event.tag, event.success != 0, e)) return true;
    }
}

bool rpc_client_trailer(const rpc_client_event *e, const char *key, const char **value, size_t *bytes)
{
    const grpc_metadata_array *all = e->trailers;
    for (size_t i = 0; all && i < all->count; i++) {
        const grpc_metadata *m = &all->metadata[i];
        if (grpc_slice_str_cmp(m->key, key)) continue;
        *value = (const char *)GRPC_SLICE_START_PTR(m->value);
        *bytes = GRPC_SLICE_LENGTH(m->value);
        return true;
    }
    return false;
}

void rpc_client_close(rpc_client *c)
{
    rpc_client_event e;
    if (!c) return;
    for (rpc_stream *s = c->running; s; s = s->after) grpc_call_cancel(s->call, NULL);
    while (c->running) rpc_client_next(c, 1000000000, &e);
    forget_last(c);
    for (uint32_t i = 0; i < c->count; i++) grpc_channel_destroy(c->channels[i]);
    grpc_completion_queue_shutdown(c->queue);
    while (grpc_completion_queue_next(c->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
           GRPC_QUEUE_SHUTDOWN)
        continue;
    grpc_completion_queue_destroy(c->queue);
    free(c->channels);
    free(c);
    grpc_shutdown();
}
