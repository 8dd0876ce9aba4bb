/* runtime/load/load.h - load on a running server: sends what a plan says when it is due, and notes what
 * comes.
 *
 *     rt_load_open()      connects, tries every key, asks for the vocabulary
 *     rt_load_run()       the plan: each arrival is a conversation of `turns` requests
 *     rt_load_print(), rt_load_write(), rt_load_plot()    what was measured: text, JSON, SVG
 *
 * Open loop: an arrival is sent when it is due, whatever still runs, unless max_concurrency holds it back.
 * A later turn is due when the answer before it is there; its prompt is all that was said and input_len new
 * tokens.
 * Threads  One.
 */
#ifndef RUNTIME_LOAD_LOAD_H
#define RUNTIME_LOAD_LOAD_H

#include "runtime/base/progress.h"
#include "runtime/load/plan.h"
#include "runtime/load/record.h"
#include "runtime/load/rpc_client.h"

typedef struct rt_load_options {
    const char *target;                 /* "127.0.0.1:50051" */
    const char *ca_file;                /* NULL: no TLS */
    const rt_load_mix *loras, *tenants; /* of at least one choice; one without a key sends none */
    const rt_load_plan *plan;
    double rate; /* as asked for; told in reports. NAN: a trace */
    double ramp_s;
    uint32_t turns;             /* at least 1 */
    uint32_t prefix_len, vocab; /* vocab 0: the server is asked */
    uint32_t max_concurrency;   /* 0: no bound */
    uint64_t seed;
    rt_load_slo slo;
    rt_progress *progress;
    int (*stopped)(void); /* not 0: end now */
    const char *version;  /* told in the JSON */
} rt_load_options;

typedef struct rt_load {
    const rt_load_options *o;
    rpc_client *client;
    uint32_t vocab, max_model_len;
    char model[RT_LOAD_TEXT_MAX];
    rt_load_record *records; /* [count]: conversation c's turn t is at c * turns + t */
    size_t count;
    uint32_t peak;                             /* most requests in flight */
    int64_t duration_ns;                       /* to the last end */
    char said[RPC_STATUSES][RT_LOAD_TEXT_MAX]; /* with the first failure of each status */
} rt_load;

/* Errors UNAVAILABLE: nothing answers there; UNAUTHENTICATED: a key is refused; INVALID_ARGUMENT: a request
 * that is longer than the server takes, or ids outside the vocabulary; RESOURCE_EXHAUSTED. */
RC_MUST_CHECK rc_code rt_load_open(rt_load *l, const rt_load_options *o, rc_msg *msg);
/* Single failures are records. Errors CANCELLED: stopped; RESOURCE_EXHAUSTED. */
RC_MUST_CHECK rc_code rt_load_run(rt_load *l, rc_msg *msg);
void rt_load_close(rt_load *l); /* NULL members are allowed */

/* On stdout. */
RC_MUST_CHECK rc_code rt_load_print(const rt_load *l, rc_msg *msg);
RC_MUST_CHECK rc_code rt_load_write(const rt_load *l, rt_bytes *out, rc_msg *msg);
RC_MUST_CHECK rc_code rt_load_plot(const rt_load *l, rt_bytes *out, rc_msg *msg);

#endif
