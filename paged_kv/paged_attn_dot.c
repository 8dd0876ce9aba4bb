/* A tile's products as dot products of bf16 pairs, for K/V stored as bf16 or int8. An int8 row's elements are
 * rounded to bf16 once they are multiplied by its scale.
 *
 * vdpbf16ps multiplies a query's pair, in all lanes, with a vector of a strip's words (kv_strip.h): a score
 * is one accumulator over the dimensions in order, an output one over the positions in order. Six queries by
 * four vectors of accumulators fill the registers; neither their number nor the order of queries changes a
 * bit.
 *
 * Scores count in powers of two: the query takes scale * log2(e) before it is rounded to bf16. So do weights,
 * 2^(score - top) rounded to bf16, whose sum is that of the rounded ones. `top` is a whole number and is
 * raised only where a score exceeds it by more than RAISE_AT: then what was summed is multiplied by a power
 * of two, which is exact.
 */
#include <math.h>
#include <stdbool.h>

#include "paged_kv/paged_attn_tile.h"

#if defined(__AVX512BF16__)

#define ALWAYS static inline __attribute__((always_inline))

enum { STRIP_PAIRS = KV_STRIP / 2 };

/* Weights up to 2^8 are as precise as those below 1, and tops move in the first tiles alone. */
#define RAISE_AT 8.0f
/* A score whose weight is 0, finite as exp2_short() wants it. */
#define LOWEST -0x1p100f

typedef struct product {
    const uint32_t *a;        /* [queries][depth] pairs */
    size_t a_stride;
    const uint32_t *const *b; /* strips */
    size_t b_stride;          /* of V's rows */
    float *c;                 /* [queries][c_stride] */
    size_t c_stride;
    uint32_t depth;           /* pairs */
    bool is_odd;              /* one more pair follows, whose second half counts as zero */
    kv__ahead *ahead;
} product;

typedef __m512 sums[KV__QUERIES][KV__VECTORS];

/* sum[q][v] += the dots of a[q][i] and row[v]. */
ALWAYS void add_dots(sums sum, const product *p, uint32_t i, const __m512i row[KV__VECTORS],
                     const int queries, const int vectors)
{
    for (int q = 0; q < queries; q++) {
        __m512bh x = (__m512bh)_mm512_set1_epi32((int)p->a[q * p->a_stride + i]);
        for (int v = 0; v < vectors; v++) sum[q][v] = _mm512_dpbf16_ps(sum[q][v], x, (__m512bh)row[v]);
    }
}

ALWAYS void put_sums(const product *p, uint32_t at, sums sum, const int queries, const int vectors)
{
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++)
            _mm512_storeu_ps(p->c + q * p->c_stride + at + RC_LANES * v, sum[q][v]);
}

/* Of strips at / 16 on, c[q] = sum over the pairs of dimensions, in order, of the dots of a[q] and k. */
ALWAYS void scores_body(const product *m, uint32_t at, const int queries, const int vectors)
{
    const product p = *m;
    kv__ahead ahead = *p.ahead; /* in registers meanwhile */
    const uint32_t *b[KV__VECTORS];
    __m512i row[KV__VECTORS];
    sums sum;
    for (int v = 0; v < vectors; v++) b[v] = p.b[at / RC_LANES + v];
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++) sum[q][v] = _mm512_setzero_ps();
    for (uint32_t i = 0; i < p.depth; i++) {
        kv__bring_next(&ahead, 1);
        for (int v = 0; v < vectors; v++) row[v] = _mm512_loadu_si512(b[v] + RC_LANES * i);
        add_dots(sum, &p, i, row, queries, vectors);
    }
    *p.ahead = ahead;
    put_sums(&p, at, sum, queries, vectors);
}

/* Columns from `at` on: c[q] += sum over the pairs of positions, in order, of the dots of a[q] and v. */
ALWAYS void mean_body(const product *m, uint32_t at, const int queries, const int vectors)
{
    const product p = *m;
    kv__ahead ahead = *p.ahead;
    const uint32_t *b;
    __m512i row[KV__VECTORS];
    sums sum;
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++)
            sum[q][v] = _mm512_loadu_ps(p.c + q * p.c_stride + at + RC_LANES * v);
    for (uint32_t i = 0; i < p.depth;) {
        b = p.b[i / STRIP_PAIRS] + at;
        uint32_t end = i + STRIP_PAIRS < p.depth ? i + STRIP_PAIRS : p.depth;
        for (; i < end; i++, b += p.b_stride) {
            kv__bring_next(&ahead, 1);
            for (int v = 0; v < vectors; v++) row[v] = _mm512_loadu_si512(b + RC_LANES * v);
            add_dots(sum, &p, i, row, queries, vectors);
        }
    }
    if (p.is_odd) {
        b = p.b[p.depth / STRIP_PAIRS] + p.depth % STRIP_PAIRS * p.b_stride + at;
        for (int v = 0; v < vectors; v++)
            row[v] = _mm512_and_si512(_mm512_loadu_si512(b + RC_LANES * v), _mm512_set1_epi32(0xffff));
        add_dots(sum, &p, p.depth, row, queries, vectors);
    }
    *p.ahead = ahead;
    put_sums(&p, at, sum, queries, vectors);
}

#define DOT_CASE(n)                                     \
    case n:                                             \
        if (adds) mean_body(p, at, n, vectors);         \
        else scores_body(p, at, n, vectors);            \
        break
ALWAYS void dot_queries(const product *p, const bool adds, uint32_t at, uint32_t queries, const int vectors)
{
    switch (queries) {
        DOT_CASE(1);
        DOT_CASE(2);
        DOT_CASE(3);
        DOT_CASE(4);
        DOT_CASE(5);
        DOT_CASE(6);
    }
}
#undef DOT_CASE

ALWAYS void dot(const product *p, const bool adds, uint32_t queries, uint32_t vectors)
{
    uint32_t v = 0;
    for (; v + KV__VECTORS <= vectors; v += KV__VECTORS)
        dot_queries(p, adds, RC_LANES * v, queries, KV__VECTORS);
    for (; v < vectors; v++) dot_queries(p, adds, RC_LANES * v, queries, 1);
}

static void take_query(const kv__work *w, uint32_t query, const float *from)
{
    const __m512 factor = _mm512_set1_ps(w->a->scale * 1.44269504f);
    uint16_t *to = (uint16_t *)w->q + (size_t)query * w->dim;
    for (uint32_t d = 0; d < w->dim; d += RC_LANES) {
        uint32_t n = rc_vf_lanes(d, w->dim);
        rc_vf_store_bf16_n(to + d, _mm512_mul_ps(rc_vf_load_n(from + d, n), factor), n);
    }
}

/* Numbers of two rows of a strip, each times its own scales, as pairs. */
static inline __m512i pairs_of(const int8_t *low, const int8_t *high, __m512 low_scales, __m512 high_scales,
                               uint32_t n)
{
    const __m512i halves = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23,
                                            7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512 a = _mm512_mul_ps(rc_vf_load_i8_n(low, n), low_scales);
    __m512 b = _mm512_mul_ps(rc_vf_load_i8_n(high, n), high_scales);
    return _mm512_permutexvar_epi16(halves, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}

/* A row of K is one vector at most, a row of V has room for whole ones. */
ALWAYS void widen_numbers(const kv__rows *r, const bool is_value)
{
    const int8_t *from = (const int8_t *)r->from;
    const uint32_t words = r->words;
    uint32_t *to = r->to;
    kv__ahead ahead = *r->ahead; /* in registers meanwhile */
    __m512 low = is_value ? _mm512_setzero_ps() : rc_vf_load_n(r->scales, words), high = low;
    for (uint32_t i = 0; i < r->rows; i += 2, from += 2 * words, to += r->stride) {
        kv__bring_next(&ahead, 1);
        if (!is_value) {
            rc_vf_store_n((float *)to, (__m512)pairs_of(from, from + words, low, high, words), words);
            continue;
        }
        low = _mm512_set1_ps(r->scales[i]);
        high = _mm512_set1_ps(r->scales[i + 1]);
        for (uint32_t at = 0; at < words; at += RC_LANES) {
            uint32_t n = rc_vf_lanes(at, words);
            _mm512_storeu_si512(to + at, pairs_of(from + at, from + words + at, low, high, n));
        }
    }
    *r->ahead = ahead;
}

static void widen_int8(const kv__rows *r)
{
    if (r->is_value) widen_numbers(r, true);
    else widen_numbers(r, false);
}

/* 2^x to 7.5e-5 for finite x <= 127, a fiftieth of a bf16's last place; 0 below -150.
 * How  x = k + r, k whole; P of degree 3 is minimax in relative error on 0 <= r <= 1. */
static inline __m512 exp2_short(__m512 x)
{
    __m512 r = _mm512_sub_ps(x, _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
    __m512 p = _mm512_set1_ps(0x1.3f96a6p-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.cefc4ep-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.64444ap-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.fff632p-1f));
    return _mm512_scalef_ps(p, x); /* by 2^floor(x) */
}

/* Makes the next whole number above `high` the query's top. */
static void raise_top(const kv__work *w, uint32_t query, float high)
{
    float top = ceilf(high), *out = w->out + (size_t)query * w->padded;
    float *sum = w->sum + (size_t)query * RC_LANES;
    __m512 fall = _mm512_set1_ps(w->top[query] - top);
    for (uint32_t d = 0; d < w->padded; d += RC_LANES)
        _mm512_storeu_ps(out + d, _mm512_scalef_ps(_mm512_loadu_ps(out + d), fall));
    _mm512_storeu_ps(sum, _mm512_scalef_ps(_mm512_loadu_ps(sum), fall));
    w->top[query] = top;
}

/* Scores of one query to weights, in bf16, at the same place. Lanes that the query may not see hold anything:
 * they are replaced, not multiplied. */
static void weigh_one(const kv__work *w, uint32_t query, float *p, uint32_t visible)
{
    __m512 s[KV__TILE_VECTORS];
    for (uint32_t v = 0; v < KV__TILE_VECTORS; v++) s[v] = kv__seen(p, v, visible, LOWEST);
    __m512 high = _mm512_max_ps(_mm512_max_ps(s[0], s[1]), _mm512_max_ps(s[2], s[3]));
    if (_mm512_cmp_ps_mask(high, _mm512_set1_ps(w->top[query] + RAISE_AT), _CMP_GT_OQ))
        raise_top(w, query, rc_vf_top(high));
    __m512 top = _mm512_set1_ps(w->top[query]), sum = _mm512_loadu_ps(w->sum + RC_LANES * query);
    const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    for (int v = 0; v < KV__TILE_VECTORS; v++) s[v] = exp2_short(_mm512_sub_ps(s[v], top));
    __m512bh low = _mm512_cvtne2ps_pbh(s[1], s[0]), upper = _mm512_cvtne2ps_pbh(s[3], s[2]);
    _mm512_storeu_si512(p, (__m512i)low);
    _mm512_storeu_si512(p + RC_LANES, (__m512i)upper);
    sum = _mm512_dpbf16_ps(_mm512_dpbf16_ps(sum, ones, low), ones, upper);
    _mm512_storeu_ps(w->sum + RC_LANES * query, sum);
}

static void weigh(const kv__work *w, kv__ahead *ahead, const kv__few *few)
{
    uint32_t depth = w->dim / 2;
    product scores = {.a = (uint32_t *)w->q + (size_t)few->query * depth, .a_stride = depth, .b = w->k,
                      .c = few->p, .c_stride = KV_TILE, .depth = depth, .ahead = ahead};
    dot(&scores, false, few->count, (few->visible + RC_LANES - 1) / RC_LANES);
    for (uint32_t i = 0; i < few->count; i++)
        weigh_one(w, few->query + i, few->p + (size_t)i * KV_TILE, few->visible);
}

static void add(const kv__work *w, kv__ahead *ahead, const kv__few *few)
{
    product mean = {.a = (uint32_t *)few->p, .a_stride = KV_TILE, .b = w->v, .b_stride = w->padded,
                    .c = w->out + (size_t)few->query * w->padded, .c_stride = w->padded,
                    .depth = few->visible / 2, .is_odd = few->visible % 2, .ahead = ahead};
    dot(&mean, true, few->count, w->padded / RC_LANES);
}

const kv__form RC_FAMILY(kv__form_dot) = {2, sizeof(uint32_t), take_query, widen_int8, weigh, add};

#endif
