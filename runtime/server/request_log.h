/* runtime/server/request_log.h - a request that has ended, as one line of JSON.
 *
 *     {"time":"2026-11-25T10:00:00.123Z","event":"request","request_id":"r-1","x_request_id":"r-1",
 *      "traceparent":null,"tenant":"acme","model":"granite","adapter":"uq","status":"OK","finish":"stop",
 *      "prompt_tokens":94,"cached_tokens":80,"generated_tokens":7,"queue_ms":0.120,"ttft_ms":18.400,
 *      "total_ms":71.000}
 *
 * null: there is none, or it did not come to that. Prompts and answers are not in it. What a client sent is
 * escaped as rt_json_string() does, so a line stays one.
 */
#ifndef RUNTIME_SERVER_REQUEST_LOG_H
#define RUNTIME_SERVER_REQUEST_LOG_H

#include "runtime/base/bytes.h"
#include "runtime/server/metrics.h"

typedef struct rt_request_record {
    int64_t unix_ns, now_ns;                            /* of the end; now_ns as in facts.times */
    const char *request_id, *model, *adapter, *tenant;  /* NULL: none */
    mica_text x_request_id, traceparent;                /* 0 bytes: none */
    rc_code code;
    uint32_t cached_tokens;
    const rt_request_facts *facts;
} rt_request_record;

void rt__request_log_add(rt_bytes *out, const rt_request_record *r); /* appends; no line end */

/* What may be echoed as metadata: 1 to 256 printable ASCII characters. */
bool rt__is_echoable(const char *id, size_t bytes);
/* W3C trace context, level 1: "00-<32 hex>-<16 hex>-<2 hex>", all zeros not being an id. */
bool rt__is_traceparent(const char *text, size_t bytes);

#endif
