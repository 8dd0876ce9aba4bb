/* What the cache tells (paged_kv) as mica_kv_change: with adapters' names in the place of content ids. */
#include <sys/random.h>

#include "runtime/api/mica_internal.h"
#include "runtime/base/clock.h"

enum { CHANGES_MAX = 1000000 };

/* The content is alive: a sequence that fills a block holds its adapter. Names that were told lately are
 * found at once, among thousands of adapters, too. */
static const char *name_of(mica *m, uint64_t content)
{
    mica__kv_name *known = &m->kv_names[content % MICA__KV_NAMES];
    if (known->content == content) return known->name;
    const adapter_content *c = adapter_registry_with_id(rt_engine_adapters(m->engine), content);
    RC_ASSERT(c != NULL);
    snprintf(known->name, sizeof known->name, "%s", adapter_content_name(c));
    known->content = content;
    return known->name;
}

static void changed(void *ctx, const kv_change *k)
{
    static const mica_kv_kind kinds[] = {
        [KV_STORED] = MICA_KV_STORED, [KV_REMOVED] = MICA_KV_REMOVED, [KV_CLEARED] = MICA_KV_CLEARED};
    mica *m = ctx;
    char salt[KV_SALT_BYTES_MAX + 1];
    mica_kv_change c = {.kind = kinds[k->kind], .hash = k->hash};
    if (k->kind == KV_STORED) {
        c.has_parent = k->has_parent;
        c.parent = k->parent;
        c.tokens = k->tokens;
        c.tokens_count = m->plan.block_size;
        c.first_adapted = k->first_adapted;
        c.adapter_id = (int64_t)k->adapter;
        c.adapter = k->adapter ? name_of(m, k->adapter) : NULL;
    }
    if (k->salt_bytes) { /* a request's, which has an end and none inside */
        memcpy(salt, k->salt, k->salt_bytes);
        salt[k->salt_bytes] = 0;
        c.cache_salt = salt;
    }
    mica__kv_queue_add(m->kv_queue, &c);
}

rc_code mica__kv_watch(mica *m, rc_msg *err)
{
    rt_engine_options *e = &m->plan.engine;
    if (!m->o.kv_changes_max) return RC_OK;
    if (m->o.kv_changes_max > CHANGES_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, err, "kv_changes_max must be at most %d, got %u", CHANGES_MAX,
                       m->o.kv_changes_max);
    if (getrandom(&e->adapter_domain, sizeof e->adapter_domain, GRND_NONBLOCK) !=
        (ssize_t)sizeof e->adapter_domain)
        e->adapter_domain = (uint64_t)rt_unix_ns();
    m->plan.kv_queue_bytes = mica__kv_queue_bytes(m->o.kv_changes_max, m->plan.block_size);
    e->watcher = changed;
    e->watcher_ctx = m;
    return mica__kv_queue_create(m->o.kv_changes_max, m->plan.block_size, &m->kv_queue, err);
}

bool mica_kv_poll(mica *m, mica_kv_change *change)
{
    return m->kv_queue && mica__kv_queue_take(m->kv_queue, change);
}

int mica_kv_fd(const mica *m)
{
    return m->kv_queue ? mica__kv_queue_fd(m->kv_queue) : -1;
}
