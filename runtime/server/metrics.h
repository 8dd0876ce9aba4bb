/* runtime/server/metrics.h - what the server saw of its requests, as Prometheus reads it.
 *
 * Names, labels and buckets are vLLM's (vllm/v1/metrics/loggers.py), counters with their _total. Residency of
 * adapters is one series whatever is loaded and unloaded, so that nothing a client names becomes a label that
 * stays.
 *
 * Threads  any.
 */
#ifndef RUNTIME_SERVER_METRICS_H
#define RUNTIME_SERVER_METRICS_H

#include "runtime/base/bytes.h"
#include "runtime/mica.h"

typedef struct rt_metrics rt_metrics;

/* One request's life, in nanoseconds of rt_now_ns(); 0: it did not come to that. */
typedef struct rt_request_times {
    int64_t arrived, admitted, first_token, last_token, ended;
} rt_request_times;

typedef struct rt_request_facts {
    rt_request_times times;
    uint32_t prompt_tokens, generated_tokens;
    uint32_t max_tokens; /* that were asked for; 0: no number was */
    mica_finish finish;
} rt_request_facts;

/* "stop", "length", "abort", "error"; not of MICA_RUNNING. */
const char *rt__metrics_reason(mica_finish finish);

/* NULL: no memory. */
rt_metrics *rt__metrics_create(void);
void rt__metrics_destroy(rt_metrics *m);

void rt__metrics_first_token(rt_metrics *m, double seconds);
void rt__metrics_next_tokens(rt_metrics *m, double seconds); /* since the ones before, of the same request */
void rt__metrics_ended(rt_metrics *m, const rt_request_facts *facts);

/* Appends the page. */
void rt__metrics_write(rt_metrics *m, const mica *engine, rt_bytes *out);

#endif
