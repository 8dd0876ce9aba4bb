/* A tile's products as float32 multiply-adds: for float32 K/V, and for bf16 and int8 where the CPU has no
 * bf16 dot.
 *
 * A query's element, in all lanes, multiplies a vector of a strip's elements (kv_strip.h): a score is one
 * accumulator over the dimensions in order, an output one over the positions in order. Several queries by
 * several vectors of accumulators fill the registers; neither their number nor the order of queries changes a
 * bit.
 *
 * There are forms, which give the same bits. One takes float32, to which a tile is widened once; others take
 * pairs of bf16, or int8, and widen them where they are multiplied, which costs more for many queries and
 * saves the copy: pairs on AVX2 always, as float32 K and V of a tile would fill an L1 of 32 KiB.
 */
#include <math.h>
#include <stdbool.h>

#include "paged_kv/paged_attn_tile.h"

#define ALWAYS static inline __attribute__((always_inline))

/* What is multiplied. int8 are multiplied with scales first: K's with one for each lane, V's for each row. */
typedef enum word_kind { FLOATS, PAIRS, BYTES_OF_K, BYTES_OF_V } word_kind;

typedef struct product {
    const float *a;             /* [queries][a_stride] */
    size_t a_stride;
    const uint32_t *const *b;   /* strips */
    const float *const *scales; /* of int8 strips */
    size_t b_stride;            /* of V's rows, in elements or pairs of them */
    float *c;                   /* [queries][c_stride] */
    size_t c_stride;
    uint32_t depth;
    kv__ahead *ahead;
} product;

typedef rc_vf sums[KV__QUERIES][KV__VECTORS];

/* Elements from one look at what is to be brought closer to the next. */
enum { STEP = 4 };

/* Rows of `a` from an element on, in two registers and two distances, which is what an address is made of. */
typedef struct left {
    const float *low, *high; /* rows 0 and 3 */
    size_t stride, twice;
} left;

ALWAYS const float *left_at(const left *a, int q, uint32_t i)
{
    const float *row = q < 3 ? a->low : a->high;
    return &row[(q % 3 == 0 ? 0 : q % 3 == 1 ? a->stride : a->twice) + i];
}

ALWAYS left left_of(const product *p)
{
    return (left){p->a, p->a + 3 * p->a_stride, p->a_stride, 2 * p->a_stride};
}

ALWAYS void pass(left *a, uint32_t elements)
{
    a->low += elements;
    a->high += elements;
}

/* sum[q][v] += a[q][i] * row[v]. The sums of up to four queries by one vector GCC 12 keeps in 16 registers
 * itself, and then in a better order: 5 % in cache. */
ALWAYS void add_step(sums sum, const left *a, uint32_t i, const rc_vf row[KV__VECTORS], const int queries,
                     const int vectors)
{
    const bool is_tight = RC_REGISTERS == 16 && vectors == 1 && queries > 4;
    for (int q = 0; q < queries; q++) {
        const float *x = left_at(a, q, i);
        if (is_tight) rc_vf_add_times(&sum[q][0], x, row[0]);
        for (int v = 0; v < vectors && !is_tight; v++)
            sum[q][v] = rc_vf_fma(rc_vf_set1(*x), row[v], sum[q][v]);
    }
    if (is_tight) rc_vf_forget();
}

/* A row of words. scale: where those of its int8 are, of V's the one that all have. */
ALWAYS rc_vf row_at(const word_kind kind, const uint32_t *b, const float *scale)
{
    if (kind == FLOATS) return rc_vf_load_bits(b);
    if (kind == PAIRS) return rc_vf_pair_low(rc_vf_load_bits(b));
    rc_vf numbers = rc_vf_load_i8((const int8_t *)b);
    return rc_vf_mul(numbers, kind == BYTES_OF_K ? rc_vf_load(scale) : rc_vf_set1(*scale));
}

/* Right operands of a run: words of strips, and scales. */
typedef struct right {
    const uint32_t *words[KV__VECTORS];
    const float *scales[KV__VECTORS];
    size_t stride; /* of rows, in words of memory */
} right;

/* Element i, and i + 1 where words are pairs and `both`, of words where b is. */
ALWAYS void add_words(sums sum, const left *a, uint32_t i, const right *b, const word_kind kind,
                      const bool both, const int queries, const int vectors)
{
    rc_vf row[KV__VECTORS];
    for (int v = 0; v < vectors; v++) row[v] = row_at(kind, b->words[v], b->scales[v]);
    add_step(sum, a, i, row, queries, vectors);
    if (kind != PAIRS || !both) return;
    for (int v = 0; v < vectors; v++) row[v] = rc_vf_pair_high(rc_vf_load_bits(b->words[v]));
    add_step(sum, a, i + 1, row, queries, vectors);
}

ALWAYS void next_row(right *b, const word_kind kind, const int vectors)
{
    for (int v = 0; v < vectors; v++) {
        b->words[v] += b->stride;
        if (kind == BYTES_OF_V) b->scales[v]++;
    }
}

/* The next `depth` elements. */
ALWAYS void add_run(sums sum, left *a, right *b, uint32_t depth, kv__ahead *ahead, const word_kind kind,
                    const int queries, const int vectors)
{
    const uint32_t elements = kind == PAIRS ? 2 : 1;
    for (; depth >= STEP; depth -= STEP) {
        kv__bring_next(ahead, STEP / elements);
#pragma GCC unroll 4
        for (uint32_t i = 0; i < STEP; i += elements) {
            add_words(sum, a, i, b, kind, true, queries, vectors);
            next_row(b, kind, vectors);
        }
        pass(a, STEP);
    }
    for (; depth; depth -= depth < elements ? depth : elements) {
        add_words(sum, a, 0, b, kind, depth >= elements, queries, vectors);
        next_row(b, kind, vectors);
        pass(a, elements);
    }
}

ALWAYS void put_sums(const product *p, uint32_t at, sums sum, const int queries, const int vectors)
{
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++) rc_vf_store(p->c + q * p->c_stride + at + RC_LANES * v, sum[q][v]);
}

/* Words of memory that so many elements, or pairs of them, take. */
ALWAYS size_t words_of(const word_kind kind, size_t count)
{
    return kind < BYTES_OF_K ? count : count / sizeof(uint32_t);
}

/* Of strips at / 16 on, c[q] = sum over the dimensions, in order, of a[q][d] * k[d]. */
ALWAYS void scores_body(const product *p, const word_kind kind, uint32_t at, const int queries,
                        const int vectors)
{
    kv__ahead ahead = *p->ahead; /* in registers meanwhile */
    left a = left_of(p);
    right b = {.stride = words_of(kind, KV_STRIP)};
    sums sum;
    for (int v = 0; v < vectors; v++) {
        b.words[v] = p->b[at / RC_LANES + v];
        if (kind == BYTES_OF_K) b.scales[v] = p->scales[at / RC_LANES + v];
    }
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++) sum[q][v] = rc_vf_zero();
    add_run(sum, &a, &b, p->depth, &ahead, kind, queries, vectors);
    *p->ahead = ahead;
    put_sums(p, at, sum, queries, vectors);
}

/* Columns from `at` on: c[q] += sum over the positions, in order, of a[q][t] * v[t]. */
ALWAYS void mean_body(const product *p, const word_kind kind, uint32_t at, const int queries,
                      const int vectors)
{
    kv__ahead ahead = *p->ahead;
    left a = left_of(p);
    right b = {.stride = words_of(kind, p->b_stride)};
    sums sum;
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++) sum[q][v] = rc_vf_load(p->c + q * p->c_stride + at + RC_LANES * v);
    for (uint32_t t = 0; t < p->depth; t += KV_STRIP) {
        uint32_t depth = p->depth - t < KV_STRIP ? p->depth - t : KV_STRIP;
        for (int v = 0; v < vectors; v++) {
            b.words[v] = p->b[t / KV_STRIP] + words_of(kind, at + RC_LANES * v);
            if (kind == BYTES_OF_V) b.scales[v] = p->scales[t / KV_STRIP];
        }
        add_run(sum, &a, &b, depth, &ahead, kind, queries, vectors);
    }
    *p->ahead = ahead;
    put_sums(p, at, sum, queries, vectors);
}

#define MAC_CASE(n)                                                                 \
    case n:                                                                         \
        if (adds) mean_body(p, kind, at, n, is_wide ? (int)kv__vectors(n) : 1);     \
        else scores_body(p, kind, at, n, is_wide ? (int)kv__vectors(n) : 1);        \
        break
ALWAYS void mac_queries(const product *p, const word_kind kind, const bool adds, uint32_t at,
                        uint32_t queries, const bool is_wide)
{
    switch (queries) {
        MAC_CASE(1);
        MAC_CASE(2);
#if defined(__AVX2__)
        MAC_CASE(3);
        MAC_CASE(4);
        MAC_CASE(5);
        MAC_CASE(6);
#endif
    }
}
#undef MAC_CASE

ALWAYS void mac(const product *p, const word_kind kind, const bool adds, uint32_t queries, uint32_t vectors)
{
    const uint32_t wide = kv__vectors(queries);
    uint32_t v = 0;
    for (; v + wide <= vectors; v += wide) mac_queries(p, kind, adds, RC_LANES * v, queries, true);
    for (; v < vectors; v++) mac_queries(p, kind, adds, RC_LANES * v, queries, false);
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
static __attribute__((noinline)) void raise_top(const kv__work *w, uint32_t query, float high)
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
ALWAYS void weigh_one(const kv__work *w, uint32_t query, float *p, uint32_t visible)
{
    rc_vf s[KV__TILE_VECTORS];
    for (uint32_t v = 0; v < KV__TILE_VECTORS; v++) s[v] = kv__seen(p, v, visible, -INFINITY);
    rc_vf high = rc_vf_max(rc_vf_max(s[0], s[1]), rc_vf_max(s[2], s[3]));
    if (rc_vf_any_above(high, rc_vf_set1(w->top[query]))) raise_top(w, query, rc_vf_top(high));
    for (uint32_t v = 0; v < KV__TILE_VECTORS; v++) {
        s[v] = rc_vf_exp_to_89(rc_vf_sub(s[v], rc_vf_set1(w->top[query])));
        rc_vf_store(p + RC_LANES * v, s[v]);
    }
    rc_vf sum = rc_vf_add(rc_vf_add(s[0], s[1]), rc_vf_add(s[2], s[3]));
    float *to = w->sum + (size_t)query * RC_LANES;
    rc_vf_store(to, rc_vf_add(rc_vf_load(to), sum));
}

static void weigh_few(const kv__work *w, const kv__few *few)
{
    for (uint32_t i = 0; i < few->count; i++)
        weigh_one(w, few->query + i, few->p + (size_t)i * KV_TILE, few->visible);
}

/* Rows of pairs to two rows of floats each. */
ALWAYS void widen_pairs(const kv__rows *r, const uint32_t words)
{
    const float *from = (const float *)(const void *)r->from;
    float *low = (float *)r->to, *high = low + r->stride;
    const size_t step = 2 * r->stride;
    for (uint32_t i = 0; i < r->rows; i++, from += words, low += step, high += step) {
        uint32_t at = 0, n = words % RC_LANES;
        for (; at + RC_LANES <= words; at += RC_LANES) {
            rc_vf pairs = rc_vf_load_bits(from + at);
            rc_vf_store(low + at, rc_vf_pair_low(pairs));
            rc_vf_store(high + at, rc_vf_pair_high(pairs));
        }
        if (n == 0) continue;
        rc_vf pairs = rc_vf_load_bits_n(from + at, n);
        rc_vf_store_n(low + at, rc_vf_pair_low(pairs), n);
        rc_vf_store_n(high + at, rc_vf_pair_high(pairs), n);
    }
}

static void widen_bf16(const kv__rows *r)
{
    if (r->words == KV_STRIP) widen_pairs(r, KV_STRIP);
    else widen_pairs(r, r->words);
}

/* Rows of whole numbers to rows of floats, K's times a scale for each word, V's times the row's. */
ALWAYS void widen_numbers(const kv__rows *r, const uint32_t words, const bool is_value)
{
    const int8_t *from = (const int8_t *)r->from;
    float *to = (float *)r->to;
    kv__ahead ahead = *r->ahead; /* in registers meanwhile */
    rc_vf scales = is_value ? rc_vf_zero() : rc_vf_load_n(r->scales, words);
    for (uint32_t i = 0; i < r->rows; i++, from += words, to += r->stride) {
        uint32_t at = 0, n = words % RC_LANES;
        if (is_value) scales = rc_vf_set1(r->scales[i]);
        kv__bring_next(&ahead, 1);
        for (; at + RC_LANES <= words; at += RC_LANES)
            rc_vf_store(to + at, rc_vf_mul(rc_vf_load_i8(from + at), scales));
        if (n) rc_vf_store_n(to + at, rc_vf_mul(rc_vf_load_i8_n(from + at, n), scales), n);
    }
    *r->ahead = ahead;
}

static void widen_int8(const kv__rows *r)
{
    if (r->is_value) widen_numbers(r, r->words, true);
    else if (r->words == KV_STRIP) widen_numbers(r, KV_STRIP, false);
    else widen_numbers(r, r->words, false);
}

/* bf16 to pairs is a copy, so that words to be widened are bf16 or int8, for products of floats. */
static void widen(const kv__rows *r)
{
    if (r->is_int8) widen_int8(r);
    else widen_bf16(r);
}

ALWAYS void weigh(const kv__work *w, kv__ahead *ahead, const kv__few *few, const word_kind kind)
{
    product scores = {.a = w->q + (size_t)few->query * w->dim, .a_stride = w->dim, .b = w->k,
                      .scales = w->k_scales, .c = few->p, .c_stride = KV_TILE, .depth = w->dim,
                      .ahead = ahead};
    mac(&scores, kind, false, few->count, (few->visible + RC_LANES - 1) / RC_LANES);
    weigh_few(w, few);
}

ALWAYS void add(const kv__work *w, kv__ahead *ahead, const kv__few *few, const word_kind kind)
{
    product mean = {.a = few->p, .a_stride = KV_TILE, .b = w->v, .scales = w->v_scales, .b_stride = w->padded,
                    .c = w->out + (size_t)few->query * w->padded, .c_stride = w->padded,
                    .depth = few->visible, .ahead = ahead};
    mac(&mean, kind, true, few->count, w->padded / RC_LANES);
}

#define FORM(name, elements, bytes, widens, of_k, of_v) \
    static void weigh_##name(const kv__work *w, kv__ahead *ahead, const kv__few *few) \
    { \
        weigh(w, ahead, few, of_k); \
    } \
    static void add_##name(const kv__work *w, kv__ahead *ahead, const kv__few *few) \
    { \
        add(w, ahead, few, of_v); \
    } \
    const kv__form RC_FAMILY(kv__form_##name) = {elements, bytes, take_query, \
                                                 widens, weigh_##name, add_##name};
FORM(fma, 1, sizeof(float), widen, FLOATS, FLOATS)
#if !defined(__AVX512BF16__)
FORM(pairs, 2, sizeof(uint32_t), NULL, PAIRS, PAIRS)
#endif
#if defined(__AVX2__) && !defined(__AVX512F__)
FORM(bytes, 1, sizeof(int8_t), NULL, BYTES_OF_K, BYTES_OF_V)
#endif
