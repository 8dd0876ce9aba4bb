#include "adapters/name_index.h"

#include <stdlib.h>
#include <string.h>

#include "proto/rc.h"

bool adapter_name_index_init(adapter_name_index *n, uint32_t capacity)
{
    RC_ASSERT(capacity < 1u << 30);
    uint32_t buckets = 16;
    while (buckets < 2 * capacity) buckets *= 2;
    *n = (adapter_name_index){.bucket_mask = buckets - 1, .capacity = capacity};
    n->names = malloc(((size_t)capacity + 1) * sizeof *n->names);
    n->buckets = calloc(buckets, sizeof *n->buckets);
    if (n->names && n->buckets) return true;
    adapter_name_index_free(n);
    return false;
}

void adapter_name_index_free(adapter_name_index *n)
{
    free(n->names);
    free(n->buckets);
    *n = (adapter_name_index){0};
}

/* The bucket that holds the name, or the empty one where it would go. */
static uint32_t find_bucket(const adapter_name_index *n, const char *text, size_t bytes)
{
    uint32_t b = (uint32_t)adapter_name_hash(text, bytes) & n->bucket_mask;
    for (; n->buckets[b]; b = (b + 1) & n->bucket_mask) {
        const adapter_name *have = &n->names[n->buckets[b] - 1];
        if (have->bytes == bytes && memcmp(have->text, text, bytes) == 0) return b;
    }
    return b;
}

bool adapter_name_index_add(adapter_name_index *n, const char *text, size_t bytes)
{
    uint32_t b = find_bucket(n, text, bytes);
    if (n->buckets[b]) return false;
    RC_ASSERT(n->count < n->capacity);
    n->names[n->count++] = (adapter_name){text, bytes};
    n->buckets[b] = n->count;
    return true;
}

uint32_t adapter_name_index_find(const adapter_name_index *n, const char *text, size_t bytes)
{
    if (!n->buckets) return ADAPTER_NAME_NONE;
    uint32_t b = find_bucket(n, text, bytes);
    return n->buckets[b] ? n->buckets[b] - 1 : ADAPTER_NAME_NONE;
}
