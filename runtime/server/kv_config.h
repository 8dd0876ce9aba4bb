/* runtime/server/kv_config.h - --kv-events-config: where changes of the cache are published, and how.
 *
 *     { "enable_kv_cache_events": true, "publisher": "zmq", "endpoint": "tcp://127.0.0.1:5557",
 *       "replay_endpoint": null, "buffer_steps": 10000, "hwm": 100000, "max_queue_size": 100000, "topic": "",
 *       "event_format": "map" }
 *
 * Keys are vLLM's but for event_format, and defaults but for the endpoint: vLLM's is open to all.
 */
#ifndef RUNTIME_SERVER_KV_CONFIG_H
#define RUNTIME_SERVER_KV_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/rc.h"

enum { RT_KV_TEXT_BYTES = 256 };

typedef struct rt_kv_config {
    bool is_on;                             /* enabled, with a publisher */
    char endpoint[RT_KV_TEXT_BYTES];        /* bound or connected: rt__kv_is_bound() */
    char replay_endpoint[RT_KV_TEXT_BYTES]; /* bound; "": none */
    char topic[RT_KV_TEXT_BYTES];
    uint32_t buffer_steps;   /* batches kept for replay */
    uint32_t hwm;            /* batches that wait for one subscriber */
    uint32_t max_queue_size; /* changes that wait for the publisher */
    bool as_arrays;          /* events as vLLM's before it went over to maps */
} rt_kv_config;

/* Errors INVALID_ARGUMENT: what of the text is not as expected. */
RC_MUST_CHECK rc_code rt__kv_config_parse(const char *text, rt_kv_config *out, rc_msg *msg);
/* vLLM's rule, and of loopback addresses all: those with a wildcard, ipc's. */
bool rt__kv_is_bound(const char *endpoint);

#endif
