/* paged_kv/block_manager.h - which block holds the K/V of which tokens.
 *
 * A block is the K and V of block_tokens consecutive positions in every layer, named by an index
 * in [0, blocks_max). Only indices, tokens and identities are dealt in here: no K/V bytes, no
 * devices, models or adapters.
 *
 *     positions   0..15    16..31   32..40         kv_seq_blocks() -> {3, 9, 4}
 *     block id   [  3  ]  [  9  ]  [  4  ]
 *                 full: shared as it is             half-filled: shared by copying its first rows
 *
 * A block is in one state, and free + cached + live == blocks_max after every call:
 *     free   -> live     kv_seq_reserve(), or kv_seq_open() for the rows that it copies
 *     cached -> live     kv_seq_open() or kv_seq_commit() finds its content
 *     cached -> free     evicted by whoever needs a block: least recently used first; or another
 *                        block has all of its rows by now
 *     live   -> cached   the last sequence leaves, and the block has rows that no other block has
 *     live   -> free     the last sequence leaves, and it does not
 *
 * Content is a chain: a block is named by its parent's node id and its rows' names; a row is named
 * by its token, the salt, and the adapter content if the row is at or after `adapted_from`. Equal
 * full blocks are one block: a commit that completes a block which exists already swaps the
 * sequence over to it. Hashes only find candidates; a hit is believed after comparing.
 *
 * Memory   all of it is taken by kv_create(); no other call allocates.
 * Threads  a manager belongs to one thread; there are no locks.
 * Errors   a call that fails has changed nothing. Misuse of a handle or a range aborts.
 * Source   Kwon et al., "PagedAttention", SOSP 2023, sec. 4.2-4.3; base-aligned naming of blocks:
 *          arXiv 2512.17910, sec. 4.
 */
#ifndef PAGED_KV_BLOCK_MANAGER_H
#define PAGED_KV_BLOCK_MANAGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/rc.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KV_NEVER UINT32_MAX /* adapted_from of base: no row is adapted */

typedef struct kv kv;
typedef uint32_t kv_seq; /* handle of an open sequence, in [0, seqs_max) */

typedef struct kv_options {
    uint32_t blocks_max;
    uint32_t block_tokens;    /* a power of two, 8 .. 256 */
    uint32_t seqs_max;        /* sequences open at once */
    uint32_t seq_tokens_max;  /* positions that one sequence may hold */
    uint32_t salts_max;       /* distinct salts known at once; 0: seqs_max + 1024 */
    bool enable_prefix_cache; /* false: nothing is ever found; blocks go from live to free */
    uint64_t adapter_domain;  /* whose content ids these are: in adapted blocks' hashes */
} kv_options;

/* What K/V depends on besides tokens. */
typedef struct kv_identity {
    uint32_t salt;         /* who may share it: an id of kv_salt_intern(), 0 for everyone */
    uint64_t adapter;      /* content id of the weights of adapted rows; 0 for base */
    uint32_t adapted_from; /* first adapted position, or KV_NEVER */
} kv_identity;

typedef struct kv_hit {
    uint32_t tokens;     /* leading positions whose K/V need not be computed */
    uint32_t copy_from;  /* block whose first copy_rows rows must be copied to copy_to before the */
    uint32_t copy_to;    /* next step reads them; copy_from stays held until kv_seq_copied()      */
    uint32_t copy_rows;  /* 0: nothing to copy */
} kv_hit;

typedef enum kv_change_kind {
    KV_STORED = 1, /* a full block can be found from now on; so can its parent */
    KV_REMOVED,    /* it cannot any more; its children went before */
    KV_CLEARED,    /* no full block can be found */
} kv_change_kind;

/* What has become of a full block. Half-filled ones, though they are shared, are not told of.
 * A block's hash is 64 bits of all that its K/V depends on: XXH3 of the salt's bytes; then, block by block,
 * mixed with XXH3 of the tokens (little-endian int32), which where rows are adapted is seeded with
 * XXH3 of (adapter, first_adapted, adapter_domain). So it is the same whenever the content is, in other
 * managers of its block size too. It is no proof: who chooses tokens can find two contents of one hash. */
typedef struct kv_change {
    kv_change_kind kind;
    uint64_t hash;
    /* with KV_STORED; pointers hold during the call */
    bool has_parent;        /* false: the first block of its sequences */
    uint64_t parent;        /* the hash of the block before */
    const int32_t *tokens;  /* [block_tokens] */
    uint64_t adapter;       /* content id of the rows from first_adapted on; 0: all rows are base's */
    uint32_t first_adapted; /* row in the block; block_tokens: none */
    const void *salt;       /* without a parent: [salt_bytes] of kv_salt_intern() */
    uint32_t salt_bytes;
} kv_change;

typedef void (*kv_watcher)(void *ctx, const kv_change *change);

typedef struct kv_stats {
    uint32_t blocks_free, blocks_cached, blocks_live;
    uint32_t seqs_open;
    uint64_t evictions; /* cached blocks given to somebody else, since kv_create() */
} kv_stats;

/* Host memory that kv_create() will take; 0 if it would refuse the options.
 * Errors INVALID_ARGUMENT: a count is out of range. RESOURCE_EXHAUSTED: no memory. */
size_t kv_bytes(const kv_options *options);
RC_MUST_CHECK rc_code kv_create(const kv_options *options, kv **out, rc_msg *msg);
void kv_destroy(kv *m); /* NULL is allowed */

/* From now on each change is told within the call that brings it about; the watcher must not call the
 * manager. Told at once: KV_CLEARED. NULL ends it. Needs  no full block can be found, as when new. */
void kv_watch(kv *m, kv_watcher watcher, void *ctx);

/* Id of a cache group's salt; equal bytes give equal ids while anything uses them. The caller holds
 * one reference until kv_salt_release(); open sequences and blocks hold their own. 0 bytes give id 0.
 * A salt that only cached blocks use gives way, with them, to a new one that finds no entry.
 * Errors RESOURCE_EXHAUSTED: salts_max salts are held. INVALID_ARGUMENT: over 256 bytes. */
enum { KV_SALT_BYTES_MAX = 256 };
RC_MUST_CHECK rc_code kv_salt_intern(kv *m, const void *bytes, size_t count, uint32_t *salt, rc_msg *msg);
void kv_salt_release(kv *m, uint32_t salt);
/* The id of a salt that something uses, without a reference to it; false: nothing does. */
bool kv_salt_find(const kv *m, const void *bytes, size_t count, uint32_t *salt);

/* Length of the longest common prefix with anything cached or live, at most tokens_count - 1.
 * Cost  one hash and one compare a full block, then one search among siblings. Changes nothing. */
uint32_t kv_find(const kv *m, const int32_t *tokens, uint32_t tokens_count, kv_identity identity);

/* Opens a sequence that holds the longest cached prefix of `tokens` (see kv_find), at most reuse_max
 * rows of it (0: computes everything, though its own rows are shared with later sequences). A cached
 * half-filled block whose rows are all wanted is taken over, not copied.
 * Gives  *seq and *hit.
 * Needs  tokens_count <= seq_tokens_max.
 * Errors RESOURCE_EXHAUSTED: seqs_max are open, or no block for the rows to copy. */
RC_MUST_CHECK rc_code kv_seq_open(kv *m, const int32_t *tokens, uint32_t tokens_count,
                                  kv_identity identity, uint32_t reuse_max, kv_seq *seq, kv_hit *hit);

/* The copy that an open's or a cut's kv_hit asks for is done, or queued before whatever comes next:
 * lets go of copy_from, which counts as live until then. Needed iff copy_rows > 0, before the sequence is
 * committed to or cut, and better before kv_seq_reserve(), which may want that block. */
void kv_seq_copied(kv *m, kv_seq seq);

/* Makes room so that the sequence can hold `length` positions in all, evicting cached blocks if it
 * must. All or nothing. A length already covered is OK.
 * Errors RESOURCE_EXHAUSTED: not enough free + cached blocks. */
RC_MUST_CHECK rc_code kv_seq_reserve(kv *m, kv_seq seq, uint32_t length);

/* Says that the K/V of the next `count` positions is written, for these tokens: from now on others
 * may share them. Needs  kv_seq_length() + count <= reserved. May exchange blocks of the sequence
 * for equal ones, so tables must be read again. */
void kv_seq_commit(kv *m, kv_seq seq, const int32_t *tokens, uint32_t count);

/* Forgets the positions from `length` on and lets go of blocks past it. A block that others share or
 * that stays findable is replaced by a copy: then *hit says which rows to copy (as in kv_seq_open).
 * The identity of later rows is `identity`, which must equal the old one for rows before `length`.
 * Errors RESOURCE_EXHAUSTED: others share the block, and there is none for the copy. */
RC_MUST_CHECK rc_code kv_seq_cut(kv *m, kv_seq seq, uint32_t length, kv_identity identity, kv_hit *hit);

/* Lets go of all blocks; the handle is dead. This is how a sequence is preempted, too: what it had
 * computed stays findable until evicted. */
void kv_seq_close(kv *m, kv_seq seq);

uint32_t kv_seq_length(const kv *m, kv_seq seq); /* committed positions */

/* Block ids in position order, [*count]. Valid until the next call that takes this seq. */
const uint32_t *kv_seq_blocks(const kv *m, kv_seq seq, uint32_t *count);

/* Start of the one array in which the tables of all sequences lie: kv_seq_blocks() points into it. */
const uint32_t *kv_tables(const kv *m);

kv_stats kv_get_stats(const kv *m);
void kv_check(const kv *m); /* aborts where an invariant is broken; slow, allocates: for tests */

#ifdef __cplusplus
}
#endif
#endif
