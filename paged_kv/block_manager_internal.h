/* paged_kv/block_manager_internal.h - what the block manager's files share; for them and its tests.
 *
 * Content is a forest. A node is a block that holds rows, or the root of a salt; nodes are named by
 * index: [0, blocks_max) blocks, then one root a salt entry. Children of a node hold the rows that
 * follow its last one. Only a full block has children.
 *
 *     root of salt 0 --- [ 3 ] --- [ 9 ] --- [ 4 ]     tree: full blocks and half-filled cached ones
 *                          \
 *                           +----- [ 7 ] . . [ 5 ]     tails: half-filled ones of running sequences
 *
 * A parent stays while it has children: whoever holds a block holds its ancestors, and lets go of
 * children first, so that they are always the older ones in the LRU list. That is why a node's
 * index can stand for all rows up to its end.
 */
#ifndef PAGED_KV_BLOCK_MANAGER_INTERNAL_H
#define PAGED_KV_BLOCK_MANAGER_INTERNAL_H

#include "paged_kv/block_manager.h"
#include "paged_kv/id_table.h"

#define KV_NONE UINT32_MAX /* no node, no block, no sequence, no salt */

enum {
    KV_BLOCKS_LIMIT = 1 << 30,
    KV_SEQS_LIMIT = 1 << 20,
    KV_SEQ_TOKENS_LIMIT = 1 << 30,
    KV_SALTS_LIMIT = 1 << 20,
    KV_SALTS_SPARE = 1024, /* salts_max of 0 is seqs_max and these: 0.3 MiB */
};

typedef enum kv_state { KV_FREE, KV_CACHED, KV_LIVE, KV_STATES } kv_state;

/* Where lookups meet a block. */
typedef enum kv_place {
    KV_NOWHERE, /* empty, waiting for its copy, or a duplicate */
    KV_TAIL,    /* in its parent's list of tails: rows are still being added */
    KV_TREE,    /* in its parent's tree, and in the index of full blocks if it is full */
} kv_place;

typedef struct kv_node {
    _Alignas(64) uint64_t chain; /* full block or root: hash of all rows up to its end */
    uint64_t adapter;            /* of the rows from first_adapted on */
    uint64_t used;               /* cached: when it became so; orders the LRU list */
    uint32_t parent;
    uint32_t refs;               /* entries in tables of sequences, and copies that read it */
    uint16_t first_adapted;      /* row; block_tokens: none */
    uint16_t rows;               /* rows that are written */
    uint8_t state;               /* kv_state */
    uint8_t place;               /* kv_place */
    uint16_t unused;
    uint32_t left, right;        /* in the tree of siblings; neighbours in the list of tails */
    uint32_t children, tails;    /* root of the tree and head of the list that hang from this node */
    uint32_t older, newer;       /* cached: LRU neighbours; free: newer is the next free one */
} kv_node;
_Static_assert(sizeof(kv_node) == 64, "a node is one cache line");

typedef struct kv_sequence {
    _Alignas(64) kv_identity identity;
    uint32_t length;    /* committed positions */
    uint32_t blocks;    /* entries of its table */
    uint32_t copy_from; /* block that is held for a copy into the last block, or KV_NONE */
    uint32_t next_free;
    bool is_open;
} kv_sequence;
_Static_assert(sizeof(kv_sequence) == 64, "a sequence is one cache line");

typedef struct kv_salt {
    uint32_t refs;           /* callers' and open sequences' */
    uint32_t callers;        /* of refs */
    uint32_t bytes_count;    /* 0: the entry is not in use (but for entry 0) */
    uint32_t hash;
    uint32_t older, newer;   /* idle: known only by cached blocks, oldest first; newer: next free entry */
    unsigned char bytes[KV_SALT_BYTES_MAX];
} kv_salt;

struct kv {
    kv_options options;
    uint32_t shift;        /* log2 of block_tokens */
    uint32_t table_blocks; /* entries of a sequence's table that may be used */
    uint32_t table_stride; /* entries from one table to the next */
    kv_node *nodes;        /* [blocks_max + salts_max] */
    int32_t *tokens;       /* [blocks_max][block_tokens] */
    kv_id_table index;     /* chain hash -> full block */

    uint32_t counts[KV_STATES];
    uint32_t free_first;
    uint32_t oldest, newest; /* ends of the LRU list */
    uint64_t clock;
    uint64_t evictions;

    kv_sequence *seqs; /* [seqs_max] */
    uint32_t *tables;  /* [seqs_max][table_stride] */
    uint32_t free_seq;
    uint32_t seqs_open;

    kv_salt *salts; /* [salts_max] */
    kv_id_table salt_index;
    uint32_t free_salt;
    uint32_t idle_oldest, idle_newest;

    kv_watcher watcher; /* NULL: nobody is told */
    void *watcher_ctx;
};

static inline uint32_t kv__root(const kv *m, uint32_t salt) { return m->options.blocks_max + salt; }
static inline bool kv__is_root(const kv *m, uint32_t node) { return node >= m->options.blocks_max; }

static inline int32_t *kv__tokens(const kv *m, uint32_t block)
{
    return m->tokens + ((size_t)block << m->shift);
}

static inline uint32_t *kv__table(const kv *m, kv_seq seq)
{
    return m->tables + (size_t)seq * m->table_stride;
}

#endif
