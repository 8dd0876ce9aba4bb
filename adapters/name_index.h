/* adapters/name_index.h - a fixed-capacity hash of borrowed names to the order in which they were added.
 *
 * Checkpoints hold thousands of tensors and vocabularies of keys: both readers (safetensors, GGUF) look
 * names up here and learn of duplicates while adding.
 *
 * Threads  finding is read-only.
 */
#ifndef ADAPTERS_NAME_INDEX_H
#define ADAPTERS_NAME_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ADAPTER_NAME_NONE UINT32_MAX

/* FNV-1a of 64 bits. */
static inline uint64_t adapter_name_hash(const char *text, size_t bytes)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3u;
    return hash;
}

typedef struct adapter_name {
    const char *text; /* borrowed; need not be terminated */
    size_t bytes;
} adapter_name;

typedef struct adapter_name_index {
    adapter_name *names; /* [capacity] */
    uint32_t *buckets;   /* [bucket_mask + 1]: 0 empty, else index + 1 */
    uint32_t bucket_mask, count, capacity;
} adapter_name_index;

/* Room for `capacity` names, below 2^30. False: no memory; then nothing is to be freed. */
bool adapter_name_index_init(adapter_name_index *n, uint32_t capacity);
void adapter_name_index_free(adapter_name_index *n); /* a zeroed one is allowed */

/* Adds a name as index n->count. False, and nothing is added: it is there already. */
bool adapter_name_index_add(adapter_name_index *n, const char *text, size_t bytes);
uint32_t adapter_name_index_find(const adapter_name_index *n, const char *text, size_t bytes);

#endif
