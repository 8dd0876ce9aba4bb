#include "paged_kv/watch.h"

void kv_watch(kv *m, kv_watcher watcher, void *ctx)
{
    RC_ASSERT(m->index.count == 0);
    m->watcher = watcher;
    m->watcher_ctx = ctx;
    if (watcher) watcher(ctx, &(kv_change){.kind = KV_CLEARED});
}

void kv__tell_stored(const kv *m, uint32_t block)
{
    const kv_node *n = &m->nodes[block], *parent = &m->nodes[n->parent];
    kv_change change = {.kind = KV_STORED,
                        .hash = n->chain,
                        .has_parent = !kv__is_root(m, n->parent),
                        .tokens = kv__tokens(m, block),
                        .adapter = n->adapter,
                        .first_adapted = n->first_adapted};
    if (change.has_parent) {
        change.parent = parent->chain;
    } else {
        const kv_salt *salt = &m->salts[n->parent - m->options.blocks_max];
        change.salt = salt->bytes;
        change.salt_bytes = salt->bytes_count;
    }
    m->watcher(m->watcher_ctx, &change);
}

void kv__tell_removed(const kv *m, uint32_t block)
{
    m->watcher(m->watcher_ctx, &(kv_change){.kind = KV_REMOVED, .hash = m->nodes[block].chain});
}
