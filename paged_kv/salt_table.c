#include <xxhash.h>

#include "paged_kv/block_pool.h"
#include "paged_kv/prefix_index.h"
#include "paged_kv/salt_table.h"

static bool has_blocks(const kv *m, uint32_t salt)
{
    const kv_node *root = &m->nodes[kv__root(m, salt)];
    return root->children != KV_NONE || root->tails != KV_NONE;
}

static bool in_use(const kv *m, uint32_t salt) { return salt == 0 || m->salts[salt].bytes_count > 0; }

void kv__salts_init(kv *m)
{
    m->free_salt = m->idle_oldest = m->idle_newest = KV_NONE;
    for (uint32_t i = m->options.salts_max; i-- > 0;) {
        m->salts[i] = (kv_salt){.older = KV_NONE, .newer = KV_NONE};
        kv_node *root = &m->nodes[kv__root(m, i)];
        *root = (kv_node){.chain = kv__root_chain("", 0), .parent = KV_NONE};
        root->children = root->tails = KV_NONE;
        if (i == 0) continue;
        m->salts[i].newer = m->free_salt;
        m->free_salt = i;
    }
    m->salts[0].refs = m->salts[0].callers = 1;
}

static void idle_append(kv *m, uint32_t salt)
{
    kv_salt *s = &m->salts[salt];
    s->older = m->idle_newest;
    s->newer = KV_NONE;
    if (m->idle_newest == KV_NONE)
        m->idle_oldest = salt;
    else
        m->salts[m->idle_newest].newer = salt;
    m->idle_newest = salt;
}

static void idle_remove(kv *m, uint32_t salt)
{
    kv_salt *s = &m->salts[salt];
    if (s->older == KV_NONE)
        m->idle_oldest = s->newer;
    else
        m->salts[s->older].newer = s->newer;
    if (s->newer == KV_NONE)
        m->idle_newest = s->older;
    else
        m->salts[s->newer].older = s->older;
    s->older = s->newer = KV_NONE;
}

static void entry_free(kv *m, uint32_t salt)
{
    kv_salt *s = &m->salts[salt];
    kv__id_remove(&m->salt_index, s->hash, salt);
    s->bytes_count = 0;
    s->newer = m->free_salt;
    m->free_salt = salt;
}

void kv__salt_assert(const kv *m, uint32_t salt)
{
    RC_ASSERT(salt < m->options.salts_max);
    RC_ASSERT(in_use(m, salt));
}

void kv__salt_ref(kv *m, uint32_t salt)
{
    kv__salt_assert(m, salt);
    if (m->salts[salt].refs++ == 0) idle_remove(m, salt);
}

void kv__salt_unref(kv *m, uint32_t salt)
{
    RC_ASSERT(salt < m->options.salts_max);
    RC_ASSERT(m->salts[salt].refs > 0);
    if (--m->salts[salt].refs > 0) return;
    if (has_blocks(m, salt))
        idle_append(m, salt);
    else
        entry_free(m, salt);
}

void kv__salt_settle(kv *m, uint32_t root)
{
    uint32_t salt = root - m->options.blocks_max;
    if (m->salts[salt].refs > 0 || has_blocks(m, salt)) return;
    idle_remove(m, salt);
    entry_free(m, salt);
}

/* Evicts all blocks of an idle salt, children first, which frees its entry. */
static void give_up(kv *m, uint32_t salt)
{
    uint32_t at = kv__root(m, salt), root = at;
    while (in_use(m, salt)) {
        while (m->nodes[at].children != KV_NONE) at = m->nodes[at].children;
        RC_ASSERT(at != root);
        uint32_t parent = m->nodes[at].parent;
        kv__block_evict(m, at);
        at = parent;
    }
}

static uint32_t entry_find(const kv *m, const void *bytes, size_t count, uint32_t hash)
{
    uint32_t at = hash, salt;
    while ((salt = kv__id_next(&m->salt_index, hash, &at)) != KV_NONE) {
        const kv_salt *s = &m->salts[salt];
        if (s->bytes_count == count && memcmp(s->bytes, bytes, count) == 0) return salt;
    }
    return KV_NONE;
}

bool kv_salt_find(const kv *m, const void *bytes, size_t count, uint32_t *salt)
{
    *salt = count == 0 ? 0 : entry_find(m, bytes, count, (uint32_t)XXH3_64bits(bytes, count));
    return *salt != KV_NONE;
}

rc_code kv_salt_intern(kv *m, const void *bytes, size_t count, uint32_t *salt, rc_msg *msg)
{
    if (count > KV_SALT_BYTES_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "the cache salt has %zu bytes; at most %d are possible",
                       count, KV_SALT_BYTES_MAX);
    uint32_t hash = (uint32_t)XXH3_64bits(bytes, count);
    uint32_t found = count == 0 ? 0 : entry_find(m, bytes, count, hash);
    if (found == KV_NONE) {
        if (m->free_salt == KV_NONE && m->idle_oldest != KV_NONE) give_up(m, m->idle_oldest);
        if (m->free_salt == KV_NONE)
            return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "all %u cache salts are in use", m->options.salts_max);
        found = m->free_salt;
        kv_salt *s = &m->salts[found];
        m->free_salt = s->newer;
        *s = (kv_salt){.refs = 1, .callers = 1, .bytes_count = (uint32_t)count, .hash = hash,
                       .older = KV_NONE, .newer = KV_NONE};
        memcpy(s->bytes, bytes, count);
        m->nodes[kv__root(m, found)].chain = kv__root_chain(bytes, count);
        kv__id_insert(&m->salt_index, hash, found);
    } else {
        kv__salt_ref(m, found);
        m->salts[found].callers++;
    }
    *salt = found;
    return RC_OK;
}

void kv_salt_release(kv *m, uint32_t salt)
{
    RC_ASSERT(salt < m->options.salts_max);
    RC_ASSERT(m->salts[salt].callers > (salt == 0));
    m->salts[salt].callers--;
    kv__salt_unref(m, salt);
}

void kv__salts_check(const kv *m)
{
    uint32_t used = 0, idle = 0, free_entries = 0, expected_idle = 0;
    for (uint32_t i = 1; i < m->options.salts_max; i++) {
        const kv_salt *s = &m->salts[i];
        if (!in_use(m, i)) continue;
        used++;
        RC_ASSERT(s->refs >= s->callers);
        RC_ASSERT(s->refs > 0 || has_blocks(m, i));
        RC_ASSERT(entry_find(m, s->bytes, s->bytes_count, s->hash) == i);
        expected_idle += s->refs == 0;
    }
    RC_ASSERT(m->salt_index.count == used);
    for (uint32_t i = m->idle_oldest; i != KV_NONE; i = m->salts[i].newer, idle++) {
        RC_ASSERT(m->salts[i].refs == 0);
        RC_ASSERT(idle < used);
    }
    RC_ASSERT(idle == expected_idle);
    for (uint32_t i = m->free_salt; i != KV_NONE; i = m->salts[i].newer, free_entries++) {
        RC_ASSERT(!in_use(m, i));
        RC_ASSERT(!has_blocks(m, i));
        RC_ASSERT(free_entries < m->options.salts_max);
    }
    RC_ASSERT(used + free_entries + 1 == m->options.salts_max);
}
