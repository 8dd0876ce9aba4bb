/* tests/paged_kv/kv_scene.h - small managers, runs of tokens that share what they should, and sequences that
 * compute them. kv_check() follows whatever changes something. Included once a program, by a cmocka test. */
#ifndef TESTS_PAGED_KV_KV_SCENE_H
#define TESTS_PAGED_KV_KV_SCENE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "paged_kv/block_manager.h"

enum { B = 8 };

static const kv_identity base = {0, 0, KV_NEVER};

static inline kv_identity adapted(uint64_t adapter, uint32_t from) { return (kv_identity){0, adapter, from}; }

static inline kv *create(uint32_t blocks, uint32_t seqs)
{
    kv_options o = {.blocks_max = blocks, .block_tokens = B, .seqs_max = seqs, .seq_tokens_max = 256,
                    .salts_max = 4, .enable_prefix_cache = true};
    kv *m;
    assert_int_equal(kv_create(&o, &m, NULL), RC_OK);
    return m;
}

/* tokens[i] = first + i: runs that begin differently share nothing. */
static inline const int32_t *run(int32_t first)
{
    static int32_t tokens[8][256];
    static int next;
    int32_t *t = tokens[next++ % 8];
    for (int i = 0; i < 256; i++) t[i] = first + i;
    return t;
}

/* Like run(first), but with another token from position `at` on. */
static inline const int32_t *forked(int32_t first, uint32_t at)
{
    int32_t *t = (int32_t *)(uintptr_t)run(first);
    for (uint32_t i = at; i < 256; i++) t[i] += 10000;
    return t;
}

static inline kv_seq open_hit(kv *m, const int32_t *tokens, uint32_t count, kv_identity identity, kv_hit *hit)
{
    kv_seq seq;
    assert_int_equal(kv_seq_open(m, tokens, count, identity, UINT32_MAX, &seq, hit), RC_OK);
    kv_check(m);
    return seq;
}

static inline void extend(kv *m, kv_seq seq, const int32_t *tokens, uint32_t length)
{
    uint32_t at = kv_seq_length(m, seq);
    assert_int_equal(kv_seq_reserve(m, seq, length), RC_OK);
    kv_seq_commit(m, seq, tokens + at, length - at);
    kv_check(m);
}

/* A running sequence that has computed all of its tokens. */
static inline kv_seq start(kv *m, const int32_t *tokens, uint32_t count, kv_identity identity)
{
    kv_hit hit;
    kv_seq seq = open_hit(m, tokens, count, identity, &hit);
    if (hit.copy_rows > 0) kv_seq_copied(m, seq);
    extend(m, seq, tokens, count);
    return seq;
}

static inline void stop(kv *m, kv_seq seq)
{
    kv_seq_close(m, seq);
    kv_check(m);
}

static inline void serve(kv *m, const int32_t *tokens, uint32_t count, kv_identity identity)
{
    stop(m, start(m, tokens, count, identity));
}

#endif
