/* paged_kv/salt_table.h - ids of salts. Each has a root node that its content hangs from.
 *
 * An entry is used by callers, by open sequences and by cached blocks. One that only cached blocks
 * use is idle; when a new salt finds no free entry, the longest idle one is given up together with
 * its blocks. Entry 0 is the empty salt and stays.
 */
#ifndef PAGED_KV_SALT_TABLE_H
#define PAGED_KV_SALT_TABLE_H

#include "paged_kv/block_manager_internal.h"

void kv__salts_init(kv *m);
void kv__salt_assert(const kv *m, uint32_t salt); /* aborts if it is not in use */
void kv__salt_ref(kv *m, uint32_t salt);
void kv__salt_unref(kv *m, uint32_t salt);
/* A block below this root has gone: an idle entry whose last one it was becomes free. */
void kv__salt_settle(kv *m, uint32_t root);
void kv__salts_check(const kv *m);

#endif
