/* runtime/server/kv_publisher.h - publishes changes of the cache over ZeroMQ, which no other file includes.
 *
 *     PUB      topic | number, 8 bytes, big-endian | payload (kv_batch.h)      a batch a step that changed
 *     ROUTER   asked: "" | first number wanted     answered: "" | number | payload for each that is kept,
 *              then "" | 8 bytes ff | ""
 *
 * Numbers count up from 0; one that is missing was dropped on the way from the engine, which never waits.
 * A thread of its own takes what the engine tells, sends and answers. Kept for replay are buffer_steps
 * batches, of at most 256 MiB. A subscriber that does not read loses what is over hwm, a replay is cut short.
 */
#ifndef RUNTIME_SERVER_KV_PUBLISHER_H
#define RUNTIME_SERVER_KV_PUBLISHER_H

#include "runtime/mica.h"
#include "runtime/server/kv_config.h"

typedef struct rt_kv_publisher rt_kv_publisher;

/* m: opened with kv_changes_max, and nobody else calls mica_kv_poll().
 * Errors UNAVAILABLE: an endpoint cannot be had; RESOURCE_EXHAUSTED. */
RC_MUST_CHECK rc_code rt__kv_publisher_open(const rt_kv_config *config, mica *m, rt_kv_publisher **out,
                                            rc_msg *msg);
/* Where it is, with the port that a wildcard came to; "": no replay. */
const char *rt__kv_publisher_endpoint(const rt_kv_publisher *p);
const char *rt__kv_publisher_replay_endpoint(const rt_kv_publisher *p);
/* Sends what is there, to those who read within a second. NULL is allowed. */
void rt__kv_publisher_close(rt_kv_publisher *p);

#endif
