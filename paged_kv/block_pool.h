/* paged_kv/block_pool.h - a block's states: who holds it, and what happens when nobody does.
 */
#ifndef PAGED_KV_BLOCK_POOL_H
#define PAGED_KV_BLOCK_POOL_H

#include "paged_kv/block_manager_internal.h"

void kv__pool_init(kv *m);

/* Blocks that can be had now: free ones, and cached ones for the eviction. */
static inline uint32_t kv__available(const kv *m) { return m->counts[KV_FREE] + m->counts[KV_CACHED]; }

/* An empty block with one reference. Evicts the least recently used one if none is free.
 * Needs  kv__available() > 0. */
uint32_t kv__block_take(kv *m);

/* One more reference; a cached block becomes live. */
void kv__block_ref(kv *m, uint32_t block);

/* One reference less. With the last one the block becomes cached if it has a row that no other findable
 * block has, else free. */
void kv__block_unref(kv *m, uint32_t block);

/* A full block or half-filled end gets its place in the index; frees whom it makes superfluous. */
void kv__block_publish(kv *m, uint32_t block);

/* Frees a cached block that has no children. */
void kv__block_evict(kv *m, uint32_t block);

void kv__pool_check(const kv *m);

#endif
