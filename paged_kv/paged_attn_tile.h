/* paged_kv/paged_attn_tile.h - what attention's walk over tiles and the products of one tile share.
 *
 * The walk (paged_attn_cpu.c) decides which queries meet which tile, and finds its strips (kv_strip.h). A
 * form (paged_attn_fma.c, _dot.c) widens them where its products take other words than are stored, and folds
 * the tile into the queries' state. Included by kernel files alone.
 */
#ifndef PAGED_KV_PAGED_ATTN_TILE_H
#define PAGED_KV_PAGED_ATTN_TILE_H

#include <stdbool.h>

#include "paged_kv/kv_strip.h"
#include "paged_kv/paged_attn_cpu.h"
#include "paged_kv/paged_attn_split.h"
#include "proto/vec.h"

enum { KV__TILE_VECTORS = KV_TILE / RC_LANES, KV__LINE = 64 };

/* The most queries, and vectors, whose sums are held in registers: 24 + 5 of avx512's 32, up to 12 + 4 of
 * the 16 that avx2 has. */
#if defined(__AVX512F__)
enum { KV__QUERIES = 6, KV__VECTORS = 4 };
#elif defined(__AVX2__)
enum { KV__QUERIES = 6, KV__VECTORS = 2 };
#else
enum { KV__QUERIES = 2, KV__VECTORS = 1 };
#endif

/* Vectors that so many queries meet at once. On AVX2 one or two queries with one vector would wait for their
 * sums, which take four cycles an element. */
static inline __attribute__((always_inline)) uint32_t kv__vectors(uint32_t queries)
{
    return KV__VECTORS == 2 && queries > 2 ? 1 : KV__VECTORS;
}

/* Whether all of a head's queries get their weights before V is added to any, so that they meet half a tile
 * at a time: 16 KiB of floats in one place for both halves stay in an L1 of 48 KiB beside queries and what is
 * brought, 32 KiB do not. Pairs of bf16 do, and in an L1 of 32 KiB one group's weights should. */
#if defined(__AVX512F__) && !defined(__AVX512BF16__)
enum { KV__HALVES_APART = 1 };
#else
enum { KV__HALVES_APART = 0 };
#endif

/* A tile's strips of 16 positions, and the most that blocks have of fewer. */
enum { KV__STRIPS = KV_TILE / KV_STRIP, KV__STRIPS_MAX = KV_TILE / 8 };

/* Where the K strips lie that a tile is made of, for the first of a unit's K/V heads: those of the next head
 * lie heads_apart bytes further, V strips value_offset bytes. */
typedef struct kv__tile {
    const char *strips[KV__STRIPS_MAX];
    const char *scales[KV__STRIPS_MAX]; /* of int8 strips */
    uint32_t strips_count, count;       /* count: positions */
} kv__tile;

/* K or V strips of a tile for one of a unit's heads. */
typedef struct kv__half {
    const char *const *strips;
    uint32_t strips_count;
    size_t from; /* bytes from what strips point to */
} kv__half;

/* What is brought closer while a tile is worked on, one half after the other: a line of each of its strips,
 * as each is a stream of memory of its own, at every so many steps of the work. Reading and computing overlap
 * only where the reads are spread over all of it: what is asked for faster than memory gives it, Zen 5
 * drops. */
typedef struct kv__ahead {
    const kv__half *half; /* the one that is being brought; after the last one comes an empty one */
    size_t at, end;       /* of the next line in its strip, and of the strip */
    int32_t every, wait;  /* steps from one line to the next, and until it */
} kv__ahead;

/* K or V of a strip: `rows` rows of `words` words as they are stored, and where they go as the products take
 * them, `stride` words from row to row. */
typedef struct kv__rows {
    const char *from;
    const float *scales; /* of int8: K's are a word's each, V's a row's each */
    bool is_int8, is_value;
    uint32_t rows, words;
    uint32_t *to;
    size_t stride;
    kv__ahead *ahead;    /* is brought meanwhile */
} kv__rows;

/* Queries that meet a tile together: all see its first `visible` positions. */
typedef struct kv__few {
    uint32_t query, count; /* count <= KV__QUERIES */
    uint32_t visible;
    float *p;              /* [count][64]: scores, then weights */
} kv__few;

typedef struct kv__work kv__work;

typedef struct kv__form {
    uint32_t word_elements, word_bytes; /* of what the products take: a float32, two bf16, or an int8 */
    /* One query's dim floats, times the scale, become w->q's row. */
    void (*take_query)(const kv__work *w, uint32_t query, const float *from);
    /* Makes such words of rows that are stored in others; NULL where none ever are. */
    void (*widen)(const kv__rows *r);
    /* Weights of the tile's positions, of q and K; what was summed is made to fit them. */
    void (*weigh)(const kv__work *w, kv__ahead *ahead, const kv__few *few);
    /* Adds V's rows, times their weights, to what was summed. */
    void (*add)(const kv__work *w, kv__ahead *ahead, const kv__few *few);
} kv__form;

/* What one part works in. The operands q, k, v are in the form's own words; all of a unit's queries. */
struct kv__work {
    const kv_attn *a;
    const kv__form *form; /* of the tile */
    uint32_t dim, padded, ratio, block_shift;
    uint32_t positions; /* of a strip as it is stored */
    size_t strip_bytes, heads_apart, value_offset;
    const uint32_t *k[KV__STRIPS]; /* [dims or pairs of them][16] */
    const uint32_t *v[KV__STRIPS]; /* [positions or pairs of them][padded] */
    const float *k_scales[KV__STRIPS], *v_scales[KV__STRIPS]; /* [positions], of int8 words */
    uint32_t *k_room, *v_room;     /* for a tile's that are not used as they are stored; may be the same */
    float *q;                      /* [queries][dim] floats of room */
    float *p;                      /* [queries of a head, or KV__QUERIES][64]: scores, then weights */
    float *out;                    /* [queries][padded]: weighted sums of V so far */
    float *sum;                    /* [queries][16]: lane i is the sum of every 16th weight so far */
    float *top;                    /* [queries]: the score whose weight is 1 */
};

/* Which of them a family has. */
extern const kv__form RC_FAMILY(kv__form_fma);
#if defined(__AVX512BF16__)
extern const kv__form RC_FAMILY(kv__form_dot);
#else
extern const kv__form RC_FAMILY(kv__form_pairs);
#endif
#if defined(__AVX2__) && !defined(__AVX512F__)
extern const kv__form RC_FAMILY(kv__form_bytes);
#endif

static inline void kv__bring(const char *line) { __builtin_prefetch(line, 0, 3); }

static inline void kv__bring_lines(kv__ahead *ahead)
{
    const kv__half *half = ahead->half;
    for (uint32_t i = 0; i < half->strips_count; i++) kv__bring(half->strips[i] + half->from + ahead->at);
    ahead->at += KV__LINE;
    if (ahead->at < ahead->end || half->strips_count == 0) return;
    ahead->at = 0;
    ahead->half++;
}

/* So many steps of the work are done. */
static inline __attribute__((always_inline)) void kv__bring_next(kv__ahead *ahead, const int32_t steps)
{
    ahead->wait -= steps;
    if (ahead->wait > 0) return;
    do {
        kv__bring_lines(ahead);
        ahead->wait += ahead->every;
    } while (steps > 1 && ahead->wait <= 0);
}

/* Vector v of a query's scores, those from `visible` on replaced. */
static inline rc_vf kv__seen(const float *scores, uint32_t v, uint32_t visible, float by)
{
    rc_vf s = rc_vf_load(scores + RC_LANES * v);
    if (visible >= RC_LANES * (v + 1)) return s;
    return rc_vf_keep(s, visible < RC_LANES * v ? 0 : visible - RC_LANES * v, rc_vf_set1(by));
}

#endif
