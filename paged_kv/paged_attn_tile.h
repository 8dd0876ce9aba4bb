/* paged_kv/paged_attn_tile.h - what attention's walk over tiles and the products of one tile share.
 *
 * The walk (paged_attn_cpu.c) decides which queries meet which tile. A form (paged_attn_fma.c, _pairs.c,
 * _dot.c) brings a tile's K and V to what its products take, and folds the tile into the queries' state.
 * Included by kernel files alone.
 */
#ifndef PAGED_KV_PAGED_ATTN_TILE_H
#define PAGED_KV_PAGED_ATTN_TILE_H

#include <math.h>
#include <stdbool.h>

#include "paged_kv/paged_attn_cpu.h"
#include "paged_kv/paged_attn_split.h"
#include "proto/vec.h"

enum { KV__TILE_VECTORS = KV_TILE / RC_LANES, KV__LINE = 64 };

/* Queries x vectors held in registers: 24 + 5 of avx512's 32, 10 + 5 of the 16 that avx2 has. */
#if defined(__AVX512F__)
enum { KV__QUERIES = 6, KV__VECTORS = 4 };
#elif defined(__AVX2__)
enum { KV__QUERIES = 5, KV__VECTORS = 1 };
#else
enum { KV__QUERIES = 2, KV__VECTORS = 1 };
#endif

/* Where the K rows of one K/V head lie that a tile is made of, and those of the tile after it, which are
 * brought closer meanwhile. V rows lie value_offset bytes further. */
typedef struct kv__tile {
    const char *const *rows, *const *next;
    const char *const *scales; /* of int8 rows */
    uint32_t count, next_count;
} kv__tile;

/* Rows to bring closer while a tile is worked on, a line of K and one of V at a time. Reading and computing
 * overlap only where the reads are spread over the whole tile: what is asked for faster than memory gives it,
 * Zen 5 drops. K and V in turn are two streams, of which a thread reads 29 GB/s; one after the other, 19. */
typedef struct kv__ahead {
    const char *const *rows;  /* the next one */
    uint32_t count;           /* rows left */
    uint32_t line, row_bytes; /* bytes of the next row that are brought, and of a row */
    size_t value_offset;
} kv__ahead;

typedef struct kv__work kv__work;

typedef struct kv__form {
    /* One query's dim floats, times the scale, become w->q's row. */
    void (*take_query)(const kv__work *w, uint32_t query, const float *from);
    /* The tile's K becomes w->k, its V w->v. What `ahead` has is brought closer meanwhile. */
    void (*take_keys)(const kv__work *w, const kv__tile *tile, kv__ahead *ahead);
    void (*take_values)(const kv__work *w, const kv__tile *tile, kv__ahead *ahead);
    /* Folds the tile into n <= KV__QUERIES queries, all of which see its first `visible` positions. */
    void (*attend)(const kv__work *w, kv__ahead *ahead, uint32_t query, uint32_t n, uint32_t visible);
} kv__form;

/* What one part works in. The operands q, k, v are in the form's own layout; all of a unit's queries. */
struct kv__work {
    const kv_attn *a;
    const kv__form *form;
    uint32_t dim, padded, ratio, block_shift, row_bytes;
    bool is_int8;
    size_t value_offset;
    float *q;     /* [queries][dim] floats of room */
    float *k;     /* [dim][64] */
    float *v;     /* [64][padded] */
    float *p;     /* [KV__QUERIES][64]: scores, then weights */
    float *out;   /* [queries][padded]: weighted sums of V so far */
    float *sum;   /* [queries][16]: lane i is the sum of every 16th weight so far */
    float *top;   /* [queries]: the score whose weight is 1 */
    float *zeros; /* [dim]: stands for positions that do not exist yet */
};

extern const kv__form RC_FAMILY(kv__form_fma);
#if defined(__AVX2__) && !defined(__AVX512F__)
extern const kv__form RC_FAMILY(kv__form_pairs);
#endif
#if defined(__AVX512BF16__)
extern const kv__form RC_FAMILY(kv__form_dot);
#endif

#if defined(__AVX512BF16__)
static inline void kv__bring(const char *line) { __builtin_prefetch(line, 0, 3); }
#else
/* Into the L2: the L1 has no room for it beside float32 operands. */
static inline void kv__bring(const char *line) { __builtin_prefetch(line, 0, 2); }
#endif

static inline void kv__bring_next(kv__ahead *ahead)
{
    if (!ahead->count) return;
    const char *line = *ahead->rows + ahead->line;
    kv__bring(line);
    kv__bring(line + ahead->value_offset);
    ahead->line += KV__LINE;
    if (ahead->line < ahead->row_bytes) return;
    ahead->line = 0;
    ahead->rows++;
    ahead->count--;
}

/* Row t of the tile, or zeros past its end. */
static inline const char *kv__row(const kv__work *w, const kv__tile *tile, uint32_t t, size_t offset)
{
    return t < tile->count ? tile->rows[t] + offset : (const char *)w->zeros;
}

/* The scale of that row, if it is int8. */
static inline float kv__scale(const kv__work *w, const kv__tile *tile, uint32_t t, size_t offset)
{
    float scale = 0;
    if (w->is_int8 && t < tile->count) memcpy(&scale, tile->scales[t] + offset, sizeof scale);
    return scale;
}

/* Vector v of a query's scores, those from `visible` on replaced. */
static inline rc_vf kv__seen(const float *scores, uint32_t v, uint32_t visible, float by)
{
    rc_vf s = rc_vf_load(scores + RC_LANES * v);
    if (visible >= RC_LANES * (v + 1)) return s;
    return rc_vf_keep(s, visible < RC_LANES * v ? 0 : visible - RC_LANES * v, rc_vf_set1(by));
}

/* A query as float32. */
static inline void kv__take_query(const kv__work *w, uint32_t query, const float *from)
{
    const rc_vf factor = rc_vf_set1(w->a->scale);
    float *to = w->q + (size_t)query * w->dim;
    for (uint32_t d = 0; d < w->dim; d += RC_LANES) {
        uint32_t n = w->dim - d < RC_LANES ? w->dim - d : RC_LANES;
        rc_vf_store_n(to + d, rc_vf_mul(rc_vf_load_n(from + d, n), factor), n);
    }
}

/* Makes `high` the query's top. */
static inline void kv__raise_top(const kv__work *w, uint32_t query, float high)
{
    float *out = w->out + (size_t)query * w->padded, *sum = w->sum + (size_t)query * RC_LANES;
    rc_vf fall = rc_vf_exp(rc_vf_set1(w->top[query] - high));
    for (uint32_t d = 0; d < w->padded; d += RC_LANES)
        rc_vf_store(out + d, rc_vf_mul(rc_vf_load(out + d), fall));
    rc_vf_store(sum, rc_vf_mul(rc_vf_load(sum), fall));
    w->top[query] = high;
}

/* Scores of one query to weights, e^(score - top). Lanes that the query may not see hold anything: they are
 * replaced, not multiplied. */
static inline void kv__weigh(const kv__work *w, uint32_t query, float *p, uint32_t visible)
{
    rc_vf s[KV__TILE_VECTORS];
    for (uint32_t v = 0; v < KV__TILE_VECTORS; v++) s[v] = kv__seen(p, v, visible, -INFINITY);
    float high = rc_vf_top(rc_vf_max(rc_vf_max(s[0], s[1]), rc_vf_max(s[2], s[3])));
    if (high > w->top[query]) kv__raise_top(w, query, high);
    for (uint32_t v = 0; v < KV__TILE_VECTORS; v++) {
        s[v] = rc_vf_exp(rc_vf_sub(s[v], rc_vf_set1(w->top[query])));
        rc_vf_store(p + RC_LANES * v, s[v]);
    }
    rc_vf sum = rc_vf_add(rc_vf_add(s[0], s[1]), rc_vf_add(s[2], s[3]));
    float *to = w->sum + (size_t)query * RC_LANES;
    rc_vf_store(to, rc_vf_add(rc_vf_load(to), sum));
}

#endif
