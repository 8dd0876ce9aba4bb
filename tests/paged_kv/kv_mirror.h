/* tests/paged_kv/kv_mirror.h - the full blocks that can be found, as a watcher alone gets to know of them.
 */
#ifndef TESTS_PAGED_KV_KV_MIRROR_H
#define TESTS_PAGED_KV_KV_MIRROR_H

#include "paged_kv/block_manager.h"

typedef struct kv_mirror kv_mirror;

kv_mirror *kv_mirror_create(const kv_options *options);
void kv_mirror_destroy(kv_mirror *mirror);

/* The kv_watcher, whose ctx the mirror is. Aborts on a change that contradicts those before: a block that is
 * stored twice or below a parent that is not, or removed while it is not there or has children. */
void kv_mirror_change(void *mirror, const kv_change *change);

/* Aborts unless the mirror holds what the index holds, with the same tokens, parents and adapters. */
void kv_mirror_check(const kv_mirror *mirror, const kv *m);

#endif
