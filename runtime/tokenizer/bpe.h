/* runtime/tokenizer/bpe.h - the BPE model: characters of a piece, merged pair by pair in order of rank.
 *
 * As models::bpe of the library without dropout and subword affixes: of two pairs of the same rank the left
 * one merges first. Short pieces are merged by scanning, long ones with a heap: O(n log n).
 */
#ifndef RUNTIME_TOKENIZER_BPE_H
#define RUNTIME_TOKENIZER_BPE_H

#include <stdbool.h>

#include "runtime/tokenizer/vocab.h"

typedef struct rt__tok_merge {
    uint32_t left, right;
    uint32_t rank; /* UINT32_MAX: an empty slot */
    int32_t merged;
} rt__tok_merge;

typedef struct rt__tok_bpe {
    rt__tok_vocab vocab;
    rt__tok_merge *merges; /* [merges_slots] open addressing */
    uint32_t merges_slots;
    uint32_t merges_count;
    char *unknown; /* text of unk_token, NULL: none */
    int32_t unknown_id;
    int32_t byte_ids[256]; /* of "<0x00>" ..., -1: none */
    int32_t low_ids[512];  /* of single characters */
    bool fuse_unknown, byte_fallback, ignore_merges;
} rt__tok_bpe;

typedef struct rt__tok_symbol {
    int32_t id;
    int32_t previous, next; /* -1: none */
    uint32_t rank;          /* of the pair with the next one */
    int32_t merged;
} rt__tok_symbol;

typedef struct rt__tok_candidate {
    uint32_t rank, at;
    int32_t merged;
} rt__tok_candidate;

/* Memory that one encode call reuses from piece to piece. */
typedef struct rt__tok_bpe_work {
    rt__tok_symbol *symbols;
    size_t symbols_room;
    rt__tok_candidate *heap;
    size_t heap_count, heap_room;
} rt__tok_bpe_work;

/* Room for `expected` merges. */
RC_MUST_CHECK rc_code rt__tok_bpe_expect(rt__tok_bpe *b, size_t expected, rc_msg *msg);
/* Adds the next merge, rank merges_count. Errors INVALID_ARGUMENT: a part, or both together, are no token. */
RC_MUST_CHECK rc_code rt__tok_bpe_merge(rt__tok_bpe *b, const char *left, size_t left_bytes,
                                        const char *right, size_t right_bytes, rc_msg *msg);
/* Once vocab, unknown and the flags are there. */
RC_MUST_CHECK rc_code rt__tok_bpe_finish(rt__tok_bpe *b, rc_msg *msg);
void rt__tok_bpe_deinit(rt__tok_bpe *b);

/* Ids of one piece: *first is the symbol that the piece's ids begin with in work->symbols, -1: none; the
 * others follow by `next`. Errors INVALID_ARGUMENT: a character has no token and unk_token is not in the
 * vocab. */
RC_MUST_CHECK rc_code rt__tok_bpe_piece(const rt__tok_bpe *b, const char *text, size_t bytes,
                                        rt__tok_bpe_work *work, int32_t *first, rc_msg *msg);
void rt__tok_bpe_work_deinit(rt__tok_bpe_work *work);

#endif
