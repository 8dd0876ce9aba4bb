#include "tests/paged_kv/kv_mirror.h"

#include "paged_kv/block_manager_internal.h"

enum { BUCKETS = 1024, TOKENS_MAX = 256 };

typedef struct mirrored {
    struct mirrored *next; /* in its bucket */
    uint64_t hash, parent, adapter;
    bool has_parent;
    uint32_t first_adapted, children, salt_bytes;
    unsigned char salt[KV_SALT_BYTES_MAX];
    int32_t tokens[TOKENS_MAX];
} mirrored;

struct kv_mirror {
    uint32_t block_tokens, count, cleared;
    mirrored *buckets[BUCKETS];
};

kv_mirror *kv_mirror_create(const kv_options *options)
{
    kv_mirror *mirror = calloc(1, sizeof *mirror);
    RC_ASSERT(mirror != NULL);
    mirror->block_tokens = options->block_tokens;
    return mirror;
}

void kv_mirror_destroy(kv_mirror *mirror)
{
    for (int i = 0; i < BUCKETS; i++)
        while (mirror->buckets[i]) {
            mirrored *gone = mirror->buckets[i];
            mirror->buckets[i] = gone->next;
            free(gone);
        }
    free(mirror);
}

/* Where the block is linked; where it would be, if it is not there. */
static mirrored **find(kv_mirror *mirror, uint64_t hash)
{
    mirrored **at = &mirror->buckets[hash % BUCKETS];
    while (*at && (*at)->hash != hash) at = &(*at)->next;
    return at;
}

static void store(kv_mirror *mirror, const kv_change *c)
{
    mirrored **at = find(mirror, c->hash), *block = calloc(1, sizeof *block);
    RC_ASSERT(*at == NULL);
    RC_ASSERT(block != NULL);
    RC_ASSERT((c->adapter == 0) == (c->first_adapted == mirror->block_tokens));
    RC_ASSERT(!c->has_parent || !c->salt_bytes);
    *block = (mirrored){.hash = c->hash,
                        .parent = c->parent,
                        .has_parent = c->has_parent,
                        .adapter = c->adapter,
                        .first_adapted = c->first_adapted};
    memcpy(block->tokens, c->tokens, mirror->block_tokens * sizeof *c->tokens);
    if (c->salt_bytes) memcpy(block->salt, c->salt, c->salt_bytes);
    block->salt_bytes = c->salt_bytes;
    if (c->has_parent) {
        mirrored *parent = *find(mirror, c->parent);
        RC_ASSERT(parent != NULL);
        parent->children++;
    }
    *at = block;
    mirror->count++;
}

static void take_away(kv_mirror *mirror, uint64_t hash)
{
    mirrored **at = find(mirror, hash), *gone = *at;
    RC_ASSERT(gone != NULL);
    RC_ASSERT(gone->children == 0);
    *at = gone->next;
    if (gone->has_parent) (*find(mirror, gone->parent))->children--;
    free(gone);
    mirror->count--;
}

void kv_mirror_change(void *ctx, const kv_change *change)
{
    kv_mirror *mirror = ctx;
    switch (change->kind) {
    case KV_STORED:
        store(mirror, change);
        break;
    case KV_REMOVED:
        take_away(mirror, change->hash);
        break;
    case KV_CLEARED:
        RC_ASSERT(mirror->cleared++ == 0 && mirror->count == 0);
        break;
    }
}

static void check_block(const kv_mirror *mirror, const kv *m, const kv_node *n)
{
    const mirrored *block = *find((kv_mirror *)mirror, n->chain);
    RC_ASSERT(block != NULL);
    RC_ASSERT(block->adapter == n->adapter && block->first_adapted == n->first_adapted);
    RC_ASSERT(block->has_parent == !kv__is_root(m, n->parent));
    RC_ASSERT(!block->has_parent || block->parent == m->nodes[n->parent].chain);
    size_t bytes = mirror->block_tokens * sizeof(int32_t);
    RC_ASSERT(!memcmp(block->tokens, kv__tokens(m, (uint32_t)(n - m->nodes)), bytes));
    if (block->has_parent) return;
    const kv_salt *salt = &m->salts[n->parent - m->options.blocks_max];
    RC_ASSERT(block->salt_bytes == salt->bytes_count);
    RC_ASSERT(!memcmp(block->salt, salt->bytes, salt->bytes_count));
}

void kv_mirror_check(const kv_mirror *mirror, const kv *m)
{
    uint32_t full = 0;
    RC_ASSERT(mirror->cleared == 1);
    for (uint32_t i = 0; i < m->options.blocks_max; i++) {
        const kv_node *n = &m->nodes[i];
        if (n->place != KV_TREE || n->rows < m->options.block_tokens) continue;
        full++;
        check_block(mirror, m, n);
    }
    RC_ASSERT(mirror->count == full);
    RC_ASSERT(m->index.count == full);
}
