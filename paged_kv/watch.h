/* paged_kv/watch.h - tells the watcher of a manager that a full block can or cannot be found any more.
 */
#ifndef PAGED_KV_WATCH_H
#define PAGED_KV_WATCH_H

#include "paged_kv/block_manager_internal.h"

/* Both: somebody watches. */
void kv__tell_stored(const kv *m, uint32_t block);
void kv__tell_removed(const kv *m, uint32_t block);

#endif
