/* runtime/api/kv_queue.h - changes of the cache on their way from the engine's thread to one reader.
 *
 * A ring of records of any length. The writer neither waits nor allocates: what is added between two ends is
 * a batch, which the reader sees when it has ended; one that finds no room is dropped whole, and its number
 * with it.
 *
 * Threads  add and end: the engine's; take: one at a time. No lock.
 */
#ifndef RUNTIME_API_KV_QUEUE_H
#define RUNTIME_API_KV_QUEUE_H

#include "runtime/mica.h"

typedef struct mica__kv_queue mica__kv_queue;

/* What it takes for so many changes of blocks of this size. */
size_t mica__kv_queue_bytes(uint32_t changes, uint32_t block_tokens);
RC_MUST_CHECK rc_code mica__kv_queue_create(uint32_t changes, uint32_t block_tokens, mica__kv_queue **out,
                                            rc_msg *msg);
void mica__kv_queue_destroy(mica__kv_queue *q); /* NULL is allowed */

/* Copies the change with what it points to; its batch, time and end are the queue's. Names and salts are of
 * at most 256 bytes, tokens at most block_tokens. */
void mica__kv_queue_add(mica__kv_queue *q, const mica_kv_change *change);
void mica__kv_queue_end(mica__kv_queue *q); /* without a change since the last: nothing */

/* The next change of an ended batch; its pointers hold until the next call. */
bool mica__kv_queue_take(mica__kv_queue *q, mica_kv_change *change);
int mica__kv_queue_fd(const mica__kv_queue *q); /* readable while batches wait */

#endif
