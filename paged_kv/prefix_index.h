/* paged_kv/prefix_index.h - finding blocks by content.
 *
 * Full blocks are looked up by the hash of all rows up to their end, which needs no block to be read
 * first: a prompt's hashes are computed ahead and their lookups overlap. A candidate is believed
 * after its parent, tokens, adapter and first adapted row are compared; the parent stands for
 * everything before, the salt too. Where the chain of full blocks ends, siblings.h finds the rest.
 */
#ifndef PAGED_KV_PREFIX_INDEX_H
#define PAGED_KV_PREFIX_INDEX_H

#include "paged_kv/rows.h"

typedef struct kv_match {
    uint32_t blocks;     /* leading full blocks */
    uint32_t cached;     /* of them, held by nobody */
    uint32_t parent;     /* the last of them, or the root */
    uint32_t rows;       /* further rows, which `source` begins with */
    uint32_t source;     /* KV_NONE if there are none */
} kv_match;

/* Longest run of rows with anything findable that is at most `limit` tokens.
 * Gives *match, and the ids of its full blocks in table[] unless that is NULL. */
void kv__match(const kv *m, const int32_t *tokens, uint32_t limit, kv_identity identity,
               uint32_t *table, kv_match *match);

/* A block whose parent, tokens and adapter are set has all its rows: sets its hash.
 * Gives the block that holds the same already, or KV_NONE. */
uint32_t kv__index_twin(kv *m, uint32_t block);

/* Makes the block, from nowhere, findable for good: full, or the half-filled end of a closed sequence.
 * Gives a cached block that has no row of its own any more, which the caller frees; or KV_NONE. */
uint32_t kv__index_insert(kv *m, uint32_t block);
void kv__index_remove(kv *m, uint32_t block);

/* Hash that the chain below a salt's root starts from. */
uint64_t kv__root_chain(const void *salt, size_t bytes);

void kv__index_check(const kv *m, uint32_t block); /* aborts if a full block's entry is wrong */

#endif
