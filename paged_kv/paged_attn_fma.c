/* A tile's products as float32 multiply-adds: for float32 K/V, and for bf16 and int8 where the CPU has no
 * bf16 dot.
 *
 * A query's element, in all lanes, multiplies a vector of a strip's elements (kv_strip.h): a score is one
 * accumulator over the dimensions in order, an output one over the positions in order. Several queries by
 * several vectors of accumulators fill the registers; neither their number nor the order of queries changes a
 * bit.
 *
 * There are two forms, which give the same bits. One takes float32, to which a tile is widened once; the
 * other takes pairs of bf16 and widens them where they are multiplied, which costs more for many queries and
 * saves the copy: on AVX2 always, as float32 K and V of a tile would fill an L1 of 32 KiB.
 */
#include <math.h>
#include <stdbool.h>

#include "paged_kv/paged_attn_tile.h"

#define ALWAYS static inline __attribute__((always_inline))

typedef struct product {
    const float *a;           /* [queries][a_stride] */
    size_t a_stride;
    const uint32_t *const *b; /* strips */
    size_t b_stride;          /* of V's rows */
    float *c;                 /* [queries][c_stride] */
    size_t c_stride;
    uint32_t depth;
    kv__ahead *ahead;
} product;

typedef rc_vf sums[KV__QUERIES][KV__VECTORS];

/* sum[q][v] += a[q][i] * row[v]. */
ALWAYS void add_step(sums sum, const product *p, uint32_t i, const rc_vf row[KV__VECTORS], const int queries,
                     const int vectors)
{
    for (int q = 0; q < queries; q++) {
        rc_vf x = rc_vf_set1(p->a[q * p->a_stride + i]);
        for (int v = 0; v < vectors; v++) sum[q][v] = rc_vf_fma(x, row[v], sum[q][v]);
    }
}

/* Element i, and i + 1 where words are pairs and `both`, of words that begin at b[v] + at. */
ALWAYS void add_words(sums sum, const product *p, uint32_t i, const uint32_t *const b[KV__VECTORS], size_t at,
                      const bool in_pairs, const bool both, const int queries, const int vectors)
{
    rc_vf row[KV__VECTORS];
    for (int v = 0; v < vectors; v++) {
        rc_vf words = rc_vf_load_bits(b[v] + at);
        row[v] = in_pairs ? rc_vf_pair_low(words) : words;
    }
    add_step(sum, p, i, row, queries, vectors);
    if (!in_pairs || !both) return;
    for (int v = 0; v < vectors; v++) row[v] = rc_vf_pair_high(rc_vf_load_bits(b[v] + at));
    add_step(sum, p, i + 1, row, queries, vectors);
}

ALWAYS void put_sums(const product *p, uint32_t at, sums sum, const int queries, const int vectors)
{
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++) rc_vf_store(p->c + q * p->c_stride + at + RC_LANES * v, sum[q][v]);
}

/* Of strips at / 16 on, c[q] = sum over the dimensions, in order, of a[q][d] * k[d]. */
ALWAYS void scores_body(const product *m, const bool in_pairs, uint32_t at, const int queries,
                        const int vectors)
{
    const product p = *m;
    const uint32_t elements = in_pairs ? 2 : 1;
    kv__ahead ahead = *p.ahead; /* in registers meanwhile */
    const uint32_t *b[KV__VECTORS];
    sums sum;
    for (int v = 0; v < vectors; v++) b[v] = p.b[at / RC_LANES + v];
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++) sum[q][v] = rc_vf_zero();
    for (uint32_t d = 0; d < p.depth; d += elements) {
        kv__bring_next(&ahead);
        add_words(sum, &p, d, b, (size_t)d / elements * KV_STRIP, in_pairs, true, queries, vectors);
    }
    *p.ahead = ahead;
    put_sums(&p, at, sum, queries, vectors);
}

/* Columns from `at` on: c[q] += sum over the positions, in order, of a[q][t] * v[t]. */
ALWAYS void mean_body(const product *m, const bool in_pairs, uint32_t at, const int queries,
                      const int vectors)
{
    const product p = *m;
    const uint32_t elements = in_pairs ? 2 : 1;
    kv__ahead ahead = *p.ahead;
    const uint32_t *b[KV__VECTORS];
    sums sum;
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++) sum[q][v] = rc_vf_load(p.c + q * p.c_stride + at + RC_LANES * v);
    for (uint32_t t = 0; t < p.depth;) {
        uint32_t end = t + KV_STRIP < p.depth ? t + KV_STRIP : p.depth;
        size_t row = 0;
        for (int v = 0; v < vectors; v++) b[v] = p.b[t / KV_STRIP] + at + RC_LANES * v;
        for (; t + elements <= end; t += elements, row += p.b_stride) {
            kv__bring_next(&ahead);
            add_words(sum, &p, t, b, row, in_pairs, true, queries, vectors);
        }
        if (t < end) add_words(sum, &p, t++, b, row, in_pairs, false, queries, vectors);
    }
    *p.ahead = ahead;
    put_sums(&p, at, sum, queries, vectors);
}

#define MAC_CASE(n)                                       \
    case n:                                               \
        if (adds) mean_body(p, in_pairs, at, n, vectors); \
        else scores_body(p, in_pairs, at, n, vectors);    \
        break
ALWAYS void mac_queries(const product *p, const bool in_pairs, const bool adds, uint32_t at, uint32_t queries,
                        const int vectors)
{
    switch (queries) {
        MAC_CASE(1);
        MAC_CASE(2);
#if defined(__AVX2__)
        MAC_CASE(3);
        MAC_CASE(4);
        MAC_CASE(5);
#endif
#if defined(__AVX512F__)
        MAC_CASE(6);
#endif
    }
}
#undef MAC_CASE

ALWAYS void mac(const product *p, const bool in_pairs, const bool adds, uint32_t queries, uint32_t vectors)
{
    uint32_t v = 0;
    for (; v + KV__VECTORS <= vectors; v += KV__VECTORS)
        mac_queries(p, in_pairs, adds, RC_LANES * v, queries, KV__VECTORS);
    for (; v < vectors; v++) mac_queries(p, in_pairs, adds, RC_LANES * v, queries, 1);
}

/* A query as float32. */
static void take_query(const kv__work *w, uint32_t query, const float *from)
{
    const rc_vf factor = rc_vf_set1(w->a->scale);
    float *to = w->q + (size_t)query * w->dim;
    for (uint32_t d = 0; d < w->dim; d += RC_LANES) {
        uint32_t n = rc_vf_lanes(d, w->dim);
        rc_vf_store_n(to + d, rc_vf_mul(rc_vf_load_n(from + d, n), factor), n);
    }
}

/* Makes `high` the query's top. */
static void raise_top(const kv__work *w, uint32_t query, float high)
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
static void weigh(const kv__work *w, uint32_t query, float *p, uint32_t visible)
{
    rc_vf s[KV__TILE_VECTORS];
    for (uint32_t v = 0; v < KV__TILE_VECTORS; v++) s[v] = kv__seen(p, v, visible, -INFINITY);
    float high = rc_vf_top(rc_vf_max(rc_vf_max(s[0], s[1]), rc_vf_max(s[2], s[3])));
    if (high > w->top[query]) raise_top(w, query, high);
    for (uint32_t v = 0; v < KV__TILE_VECTORS; v++) {
        s[v] = rc_vf_exp(rc_vf_sub(s[v], rc_vf_set1(w->top[query])));
        rc_vf_store(p + RC_LANES * v, s[v]);
    }
    rc_vf sum = rc_vf_add(rc_vf_add(s[0], s[1]), rc_vf_add(s[2], s[3]));
    float *to = w->sum + (size_t)query * RC_LANES;
    rc_vf_store(to, rc_vf_add(rc_vf_load(to), sum));
}

/* Words of two bf16 to a row of floats for each. */
ALWAYS void widen_pairs(rc_vf pairs, float *low, float *high, uint32_t n)
{
    rc_vf_store_n(low, rc_vf_pair_low(pairs), n);
    rc_vf_store_n(high, rc_vf_pair_high(pairs), n);
}

static void widen_bf16(const kv__work *w, const kv__strip *s)
{
    const uint32_t *k = (const uint32_t *)(const void *)s->k, *v = (const uint32_t *)(const void *)s->v;
    float *to = (float *)s->to_k;
    for (uint32_t d = 0; d < w->dim; d += 2, k += w->positions, to += 2 * KV_STRIP) {
        for (int i = 0; i < 2; i++) kv__bring_next(s->ahead);
        widen_pairs(rc_vf_load_bits_n(k, w->positions), to, to + KV_STRIP, w->positions);
    }
    to = (float *)s->to_v;
    for (uint32_t t = 0; t < w->positions; t += 2, v += w->dim, to += 2 * w->padded) {
        for (int i = 0; i < 2; i++) kv__bring_next(s->ahead);
        for (uint32_t d = 0; d < w->dim; d += RC_LANES)
            widen_pairs(rc_vf_load_bits_n(v + d, rc_vf_lanes(d, w->dim)), to + d, to + w->padded + d,
                        RC_LANES);
    }
}

static void widen_int8(const kv__work *w, const kv__strip *s)
{
    const int8_t *k = (const int8_t *)s->k, *v = (const int8_t *)s->v;
    const rc_vf scales = rc_vf_load_n(s->k_scales, w->positions);
    float *to = (float *)s->to_k;
    for (uint32_t d = 0; d < w->dim; d++, k += w->positions, to += KV_STRIP) {
        kv__bring_next(s->ahead);
        rc_vf_store_n(to, rc_vf_mul(rc_vf_load_i8_n(k, w->positions), scales), w->positions);
    }
    to = (float *)s->to_v;
    for (uint32_t t = 0; t < w->positions; t++, v += w->dim, to += w->padded) {
        kv__bring_next(s->ahead);
        for (uint32_t d = 0; d < w->dim; d += RC_LANES) {
            rc_vf q = rc_vf_load_i8_n(v + d, rc_vf_lanes(d, w->dim));
            rc_vf_store(to + d, rc_vf_mul(q, rc_vf_set1(s->v_scales[t])));
        }
    }
}

static void widen(const kv__work *w, const kv__strip *s)
{
    if (w->a->layout->element_bytes == 2) widen_bf16(w, s);
    else widen_int8(w, s);
}

ALWAYS void attend(const kv__work *w, kv__ahead *ahead, uint32_t query, uint32_t n, uint32_t visible,
                   const bool in_pairs)
{
    product scores = {.a = w->q + (size_t)query * w->dim, .a_stride = w->dim, .b = w->k, .c = w->p,
                      .c_stride = KV_TILE, .depth = w->dim, .ahead = ahead};
    mac(&scores, in_pairs, false, n, (visible + RC_LANES - 1) / RC_LANES);
    for (uint32_t i = 0; i < n; i++) weigh(w, query + i, w->p + (size_t)i * KV_TILE, visible);
    product mean = {.a = w->p, .a_stride = KV_TILE, .b = w->v, .b_stride = w->padded,
                    .c = w->out + (size_t)query * w->padded, .c_stride = w->padded, .depth = visible,
                    .ahead = ahead};
    mac(&mean, in_pairs, true, n, w->padded / RC_LANES);
}

static void attend_floats(const kv__work *w, kv__ahead *ahead, uint32_t query, uint32_t n, uint32_t visible)
{
    attend(w, ahead, query, n, visible, false);
}

static void attend_pairs(const kv__work *w, kv__ahead *ahead, uint32_t query, uint32_t n, uint32_t visible)
{
    attend(w, ahead, query, n, visible, true);
}

const kv__form RC_FAMILY(kv__form_fma) = {1, take_query, widen, attend_floats};
const kv__form RC_FAMILY(kv__form_pairs) = {2, take_query, NULL, attend_pairs};
