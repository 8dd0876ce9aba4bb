/* runtime/server/kv_batch.h - changes of the cache as the msgpack payload that vLLM publishes.
 *
 *     [ seconds since 1970, [event, ...], data parallel rank 0 ]
 *
 *     {"type": "BlockStored", "block_hashes": [...], "parent_block_hash": nil, "token_ids": [...],
 *      "block_size": 16, "lora_id": nil, "medium": "GPU", "lora_name": nil, "extra_keys": [nil, ...],
 *      "group_idx": 0, "kv_cache_spec_kind": "full_attention"}
 *     {"type": "BlockRemoved", "block_hashes": [...], "medium": "GPU", "group_idx": 0}
 *     {"type": "AllBlocksCleared"}
 *
 * As arrays an event is its type and those values in that order, kv_cache_spec_sliding_window (nil) last.
 * Blocks that follow each other and are the same adapter's are one event, and so are removals in a row.
 * extra_keys: of each block the adapter's name and, of a first one, the cache salt; nil without either.
 * "GPU" is what consumers take for the memory that attention reads, on every device.
 */
#ifndef RUNTIME_SERVER_KV_BATCH_H
#define RUNTIME_SERVER_KV_BATCH_H

#include "runtime/base/bytes.h"
#include "runtime/mica.h"

typedef struct rt_kv_batch rt_kv_batch;

rt_kv_batch *rt__kv_batch_create(bool as_arrays, uint32_t block_size); /* NULL: no memory */
void rt__kv_batch_destroy(rt_kv_batch *b);                             /* NULL is allowed */

void rt__kv_batch_add(rt_kv_batch *b, const mica_kv_change *change);
/* What was added as a payload, which the caller frees; the next batch begins. False: there was no memory. */
bool rt__kv_batch_take(rt_kv_batch *b, rt_bytes *payload);

#endif
