/* A tile's products as dot products of bf16 pairs, for K/V stored as bf16 or int8. An int8 row's elements are
 * rounded to bf16 once they are multiplied by its scale.
 *
 *     scores    k[D/2][64] words                    mean    v[32][D] words
 *
 *               position   0      1    ..  63                dim        0      1    ..
 *     pair 0            |k0 k1|k0 k1|    |k0 k1|    pair 0           |v  v' |v  v' |     of positions 0, 1
 *          1            |k2 k3|k2 k3|    |k2 k3|         1           |v  v' |v  v' |     of positions 2, 3
 *
 * vdpbf16ps multiplies a query's pair, in all lanes, with a row of either: a score is one accumulator over
 * the dimensions in order, an output one over the positions in order. Six queries by four vectors of
 * accumulators fill the registers; neither their number nor the order of queries changes a bit.
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

/* Weights up to 2^8 are as precise as those below 1, and tops move in the first tiles alone. */
#define RAISE_AT 8.0f
/* A score whose weight is 0, finite as exp2_short() wants it. */
#define LOWEST -0x1p100f

typedef struct product {
    const uint32_t *a; /* [queries][depth] pairs */
    size_t a_stride;
    const uint32_t *b; /* [depth][vectors * 16] pairs */
    size_t b_stride;
    float *c;          /* [queries][vectors * 16] */
    size_t c_stride;
    uint32_t depth;
    bool is_odd;       /* one more pair follows, whose second half counts as zero */
    bool adds;         /* to what c holds */
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

/* c[q][v] (+)= sum over i < depth, in order, of the dots of a[q][i] and b[i][v]; v from `at` on. */
ALWAYS void dot_body(const product *m, uint32_t at, const int queries, const int vectors)
{
    const product p = *m;
    const uint32_t *b = p.b + at;
    kv__ahead ahead = *p.ahead; /* in registers meanwhile */
    __m512i row[KV__VECTORS];
    sums sum;
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++)
            sum[q][v] = p.adds ? _mm512_loadu_ps(p.c + q * p.c_stride + at + RC_LANES * v)
                               : _mm512_setzero_ps();
    for (uint32_t i = 0; i < p.depth; i++, b += p.b_stride) {
        kv__bring_next(&ahead);
        for (int v = 0; v < vectors; v++) row[v] = _mm512_loadu_si512(b + RC_LANES * v);
        add_dots(sum, &p, i, row, queries, vectors);
    }
    if (p.is_odd) {
        for (int v = 0; v < vectors; v++)
            row[v] = _mm512_and_si512(_mm512_loadu_si512(b + RC_LANES * v), _mm512_set1_epi32(0xffff));
        add_dots(sum, &p, p.depth, row, queries, vectors);
    }
    *p.ahead = ahead;
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++)
            _mm512_storeu_ps(p.c + q * p.c_stride + at + RC_LANES * v, sum[q][v]);
}

#define DOT_CASE(n)                                                                                    \
    case n:                                                                                            \
        dot_body(p, at, n, vectors);                                                                   \
        break
ALWAYS void dot_queries(const product *p, uint32_t at, uint32_t queries, const int vectors)
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

static void dot(const product *p, uint32_t queries, uint32_t vectors)
{
    uint32_t v = 0;
    for (; v + KV__VECTORS <= vectors; v += KV__VECTORS) dot_queries(p, RC_LANES * v, queries, KV__VECTORS);
    for (; v < vectors; v++) dot_queries(p, RC_LANES * v, queries, 1);
}

static void take_query(const kv__work *w, uint32_t query, const float *from)
{
    const __m512 factor = _mm512_set1_ps(w->a->scale * 1.44269504f);
    uint16_t *to = (uint16_t *)w->q + (size_t)query * w->dim;
    for (uint32_t d = 0; d < w->dim; d += RC_LANES) {
        uint32_t n = w->dim - d < RC_LANES ? w->dim - d : RC_LANES;
        rc_vf_store_bf16_n(to + d, _mm512_mul_ps(rc_vf_load_n(from + d, n), factor), n);
    }
}

/* 32 elements of a row from d on, those past dim as zeros. */
static inline __attribute__((always_inline)) __m512i load(const char *row, float scale, uint32_t d,
                                                          uint32_t dim, const bool is_int8)
{
    uint32_t n = dim - d < 2 * RC_LANES ? dim - d : 2 * RC_LANES;
    if (!is_int8) return _mm512_maskz_loadu_epi16((__mmask32)(((uint64_t)1 << n) - 1), row + 2 * d);
    const int8_t *q = (const int8_t *)row + d;
    uint32_t low = n < RC_LANES ? n : RC_LANES;
    __m512 factor = _mm512_set1_ps(scale), a = _mm512_mul_ps(rc_vf_load_i8_n(q, low), factor);
    __m512 b = _mm512_mul_ps(rc_vf_load_i8_n(q + low, n - low), factor);
    return (__m512i)_mm512_cvtne2ps_pbh(b, a);
}

/* Pairs of lines to bring while 32 elements of 16 positions are turned: what memory gives in that time. */
enum { PAIRS_A_TURN = 4 };

/* 16 positions' elements from d on, of which there are 2 * pairs, to k[d / 2][at ..]. */
ALWAYS void turn_some(const char *const rows[16], const float scales[16], uint32_t d, uint32_t dim, float *k,
                      const uint32_t pairs, const bool is_int8)
{
    rc_vf r[16];
    bool whole = pairs == RC_LANES && !is_int8;
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        r[i] = whole ? rc_vf_load_bits(rows[i] + 2 * d) : (__m512)load(rows[i], scales[i], d, dim, is_int8);
    rc_vf_transpose(r);
#pragma GCC unroll 16
    for (uint32_t j = 0; j < pairs; j++) rc_vf_store(k + (size_t)(d / 2 + j) * KV_TILE, r[j]);
}

ALWAYS void turn(const kv__work *w, const char *const rows[16], const float scales[16], float *k,
                 kv__ahead *ahead, const bool is_int8)
{
    for (uint32_t d = 0; d < w->dim; d += 2 * RC_LANES) {
        for (int i = 0; i < PAIRS_A_TURN; i++) kv__bring_next(ahead);
        if (w->dim - d >= 2 * RC_LANES) turn_some(rows, scales, d, w->dim, k, RC_LANES, is_int8);
        else turn_some(rows, scales, d, w->dim, k, (w->dim - d) / 2, is_int8);
    }
}

static void take_keys(const kv__work *w, const kv__tile *tile, kv__ahead *ahead)
{
    for (uint32_t t = 0; t < tile->count; t += RC_LANES) {
        const char *some[16], *const *rows = tile->rows + t;
        float scales[16];
        for (uint32_t i = 0; i < 16 && w->is_int8; i++) scales[i] = kv__scale(w, tile, t + i, 0);
        if (t + 16 > tile->count) { /* the tile ends among them */
            for (uint32_t i = 0; i < 16; i++) some[i] = kv__row(w, tile, t + i, 0);
            rows = some;
        }
        if (w->is_int8) turn(w, rows, scales, w->k + t, ahead, true);
        else turn(w, rows, scales, w->k + t, ahead, false);
    }
}

/* What vpermt2w takes to put the words of two vectors side by side: of their lower and upper halves. */
typedef struct word_pairs {
    __m512i lower, upper;
} word_pairs;

static word_pairs side_by_side(void)
{
    const __m512i counts = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i both = _mm512_mullo_epi32(counts, _mm512_set1_epi32(0x10001));
    const __m512i lower = _mm512_add_epi32(both, _mm512_set1_epi32(32 << 16)); /* of the second: from 32 on */
    return (word_pairs){lower, _mm512_add_epi16(lower, _mm512_set1_epi16(16))};
}

/* Rows of two positions to v: word d is element d of both. */
ALWAYS void pair_up(const word_pairs *by, const char *even, const char *odd, const float scales[2],
                    uint32_t dim, uint32_t *v, const bool is_int8)
{
    uint32_t d = 0;
    for (; !is_int8 && d + 2 * RC_LANES <= dim; d += 2 * RC_LANES) {
        __m512i a = _mm512_loadu_si512(even + 2 * d), b = _mm512_loadu_si512(odd + 2 * d);
        _mm512_storeu_si512(v + d, _mm512_permutex2var_epi16(a, by->lower, b));
        _mm512_storeu_si512(v + d + RC_LANES, _mm512_permutex2var_epi16(a, by->upper, b));
    }
    for (; d < dim; d += 2 * RC_LANES) {
        __m512i a = load(even, scales[0], d, dim, is_int8), b = load(odd, scales[1], d, dim, is_int8);
        _mm512_storeu_si512(v + d, _mm512_permutex2var_epi16(a, by->lower, b));
        if (dim - d <= RC_LANES) continue;
        _mm512_storeu_si512(v + d + RC_LANES, _mm512_permutex2var_epi16(a, by->upper, b));
    }
}

ALWAYS void pair_all(const kv__work *w, const kv__tile *tile, kv__ahead *ahead, const bool is_int8)
{
    const word_pairs by = side_by_side();
    const size_t offset = w->value_offset;
    const uint32_t dim = w->dim, padded = w->padded, count = tile->count;
    const char *const *rows = tile->rows;
    uint32_t *to = (uint32_t *)w->v;
    for (uint32_t t = 0; t < count; t += 2, to += padded) {
        float scales[2] = {0};
        for (uint32_t i = 0; i < 2 && is_int8; i++) scales[i] = kv__scale(w, tile, t + i, offset);
        for (uint32_t d = 0; d < dim; d += 4 * RC_LANES) kv__bring_next(ahead);
        pair_up(&by, rows[t] + offset, t + 1 < count ? rows[t + 1] + offset : (const char *)w->zeros, scales,
                dim, to, is_int8);
    }
}

static void take_values(const kv__work *w, const kv__tile *tile, kv__ahead *ahead)
{
    if (w->is_int8) pair_all(w, tile, ahead, true);
    else pair_all(w, tile, ahead, false);
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
static void weigh(const kv__work *w, uint32_t query, float *p, uint32_t visible)
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

static void attend(const kv__work *w, kv__ahead *ahead, uint32_t query, uint32_t n, uint32_t visible)
{
    product scores = {.a = (uint32_t *)w->q + (size_t)query * (w->dim / 2), .a_stride = w->dim / 2,
                      .b = (uint32_t *)w->k, .b_stride = KV_TILE, .c = w->p, .c_stride = KV_TILE,
                      .depth = w->dim / 2, .ahead = ahead};
    dot(&scores, n, (visible + RC_LANES - 1) / RC_LANES);
    for (uint32_t i = 0; i < n; i++) {
        kv__bring_next(ahead);
        weigh(w, query + i, w->p + (size_t)i * KV_TILE, visible);
    }
    product mean = {.a = (uint32_t *)w->p, .a_stride = KV_TILE, .b = (uint32_t *)w->v, .b_stride = w->padded,
                    .c = w->out + (size_t)query * w->padded, .c_stride = w->padded, .depth = visible / 2,
                    .is_odd = visible % 2, .adds = true, .ahead = ahead};
    dot(&mean, n, w->padded / RC_LANES);
}

const kv__form RC_FAMILY(kv__form_dot) = {take_query, take_keys, take_values, attend};

#endif
