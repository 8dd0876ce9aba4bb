/* A tile's products as float32 multiply-adds: for float32 K/V, and for bf16 where the CPU has no bf16 dot.
 *
 *     scores    k[D][64]                       mean    v[64][D]
 *
 *               position  0   1  ..  63                dim   0   1   ..
 *     dim 0             | k   k      k |       position 0  | v   v      |
 *         1             | k   k      k |                1  | v   v      |
 *
 * A query's element, in all lanes, multiplies a row of either: a score is one accumulator over the dimensions
 * in order, an output one over the positions in order. Several queries by several vectors of accumulators
 * fill the registers; neither their number nor the order of queries changes a bit.
 */
#include <math.h>
#include <stdbool.h>

#include "paged_kv/paged_attn_tile.h"

typedef struct product {
    const float *a; /* [queries][depth] */
    size_t a_stride;
    const float *b; /* [depth][vectors * 16] */
    size_t b_stride;
    float *c;       /* [queries][vectors * 16] */
    size_t c_stride;
    uint32_t depth;
    bool adds; /* to what c holds */
    kv__ahead *ahead;
} product;

/* c[q][v] (+)= sum over i < depth, in order, of a[q][i] * b[i][v]; v from `at` on. */
static inline __attribute__((always_inline)) void mac_body(const product *m, uint32_t at, const int queries,
                                                           const int vectors)
{
    const product p = *m;
    const float *b = p.b + at;
    kv__ahead ahead = *p.ahead; /* in registers meanwhile */
    rc_vf sum[KV__QUERIES][KV__VECTORS];
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++)
            sum[q][v] = p.adds ? rc_vf_load(p.c + q * p.c_stride + at + RC_LANES * v) : rc_vf_zero();
    for (uint32_t i = 0; i < p.depth; i++, b += p.b_stride) {
        rc_vf row[KV__VECTORS];
        if (i % 2) kv__bring_next(&ahead);
        for (int v = 0; v < vectors; v++) row[v] = rc_vf_load(b + RC_LANES * v);
        for (int q = 0; q < queries; q++) {
            rc_vf x = rc_vf_set1(p.a[q * p.a_stride + i]);
            for (int v = 0; v < vectors; v++) sum[q][v] = rc_vf_fma(x, row[v], sum[q][v]);
        }
    }
    *p.ahead = ahead;
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++) rc_vf_store(p.c + q * p.c_stride + at + RC_LANES * v, sum[q][v]);
}

#define MAC_CASE(n)                                                                                    \
    case n:                                                                                            \
        mac_body(p, at, n, vectors);                                                                   \
        break
static inline __attribute__((always_inline)) void mac_queries(const product *p, uint32_t at, uint32_t queries,
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

static void mac(const product *p, uint32_t queries, uint32_t vectors)
{
    uint32_t v = 0;
    for (; v + KV__VECTORS <= vectors; v += KV__VECTORS) mac_queries(p, RC_LANES * v, queries, KV__VECTORS);
    for (; v < vectors; v++) mac_queries(p, RC_LANES * v, queries, 1);
}

/* 16 positions' rows of bf16 to k[d][at ..]: words of two dimensions are turned, then taken apart. */
static void turn_bf16(const char *const rows[16], uint32_t dim, float *k)
{
    for (uint32_t d = 0; d < dim; d += 2 * RC_LANES) {
        uint32_t pairs = (dim - d) / 2 < RC_LANES ? (dim - d) / 2 : RC_LANES;
        rc_vf r[16];
        for (int i = 0; i < 16; i++)
            r[i] = pairs == RC_LANES ? rc_vf_load_bits(rows[i] + 2 * d)
                                     : rc_vf_load_bits_n(rows[i] + 2 * d, pairs);
        rc_vf_transpose(r);
        for (uint32_t j = 0; j < pairs; j++) {
            rc_vf_store(k + (size_t)(d + 2 * j) * KV_TILE, rc_vf_pair_low(r[j]));
            rc_vf_store(k + (size_t)(d + 2 * j + 1) * KV_TILE, rc_vf_pair_high(r[j]));
        }
    }
}

static void turn_int8(const char *const rows[16], const float scales[16], uint32_t dim, float *k)
{
    for (uint32_t d = 0; d < dim; d += RC_LANES) {
        uint32_t n = dim - d < RC_LANES ? dim - d : RC_LANES;
        rc_vf r[16];
        for (int i = 0; i < 16; i++)
            r[i] = rc_vf_mul(rc_vf_load_i8_n((const int8_t *)rows[i] + d, n), rc_vf_set1(scales[i]));
        rc_vf_transpose(r);
        for (uint32_t j = 0; j < n; j++) rc_vf_store(k + (size_t)(d + j) * KV_TILE, r[j]);
    }
}

static void turn_f32(const char *const rows[16], uint32_t dim, float *k)
{
    for (uint32_t d = 0; d < dim; d += RC_LANES) {
        uint32_t n = dim - d < RC_LANES ? dim - d : RC_LANES;
        rc_vf r[16];
        for (int i = 0; i < 16; i++)
            r[i] = n == RC_LANES ? rc_vf_load_bits(rows[i] + 4 * d) : rc_vf_load_bits_n(rows[i] + 4 * d, n);
        rc_vf_transpose(r);
        for (uint32_t j = 0; j < n; j++) rc_vf_store(k + (size_t)(d + j) * KV_TILE, r[j]);
    }
}

static void take_keys(const kv__work *w, const kv__tile *tile, kv__ahead *ahead)
{
    for (uint32_t t = 0; t < tile->count; t += RC_LANES) {
        const char *rows[16];
        float scales[16];
        for (uint32_t i = 0; i < 16; i++) {
            rows[i] = kv__row(w, tile, t + i, 0);
            scales[i] = kv__scale(w, tile, t + i, 0);
            if (i % 2) kv__bring_next(ahead);
        }
        if (w->is_int8)
            turn_int8(rows, scales, w->dim, w->k + t);
        else if (w->a->layout->element_bytes == 2)
            turn_bf16(rows, w->dim, w->k + t);
        else
            turn_f32(rows, w->dim, w->k + t);
    }
}

static void widen_int8(const char *row, float scale, uint32_t dim, float *to)
{
    for (uint32_t d = 0; d < dim; d += RC_LANES) {
        rc_vf q = rc_vf_load_i8_n((const int8_t *)row + d, dim - d < RC_LANES ? dim - d : RC_LANES);
        rc_vf_store(to + d, rc_vf_mul(q, rc_vf_set1(scale)));
    }
}

static void widen_row(const char *row, uint32_t element_bytes, uint32_t dim, float *to)
{
    uint32_t whole = dim / RC_LANES * RC_LANES, tail = dim - whole;
    if (element_bytes == 2) {
        const uint16_t *h = (const uint16_t *)(const void *)row;
        for (uint32_t d = 0; d < whole; d += RC_LANES) rc_vf_store(to + d, rc_vf_load_bf16(h + d));
        if (tail) rc_vf_store(to + whole, rc_vf_load_bf16_n(h + whole, tail));
    } else {
        const float *f = (const float *)(const void *)row;
        for (uint32_t d = 0; d < whole; d += RC_LANES) rc_vf_store(to + d, rc_vf_load(f + d));
        if (tail) rc_vf_store(to + whole, rc_vf_load_n(f + whole, tail));
    }
}

static void take_values(const kv__work *w, const kv__tile *tile, kv__ahead *ahead)
{
    for (uint32_t t = 0; t < tile->count; t++) {
        if (t % 2) kv__bring_next(ahead);
        const char *row = tile->rows[t] + w->value_offset;
        float *to = w->v + (size_t)t * w->padded;
        if (w->is_int8)
            widen_int8(row, kv__scale(w, tile, t, w->value_offset), w->dim, to);
        else
            widen_row(row, w->a->layout->element_bytes, w->dim, to);
    }
}

static void attend(const kv__work *w, kv__ahead *ahead, uint32_t query, uint32_t n, uint32_t visible)
{
    product scores = {.a = w->q + (size_t)query * w->dim, .a_stride = w->dim, .b = w->k, .b_stride = KV_TILE,
                      .c = w->p, .c_stride = KV_TILE, .depth = w->dim, .ahead = ahead};
    mac(&scores, n, (visible + RC_LANES - 1) / RC_LANES);
    for (uint32_t i = 0; i < n; i++) kv__weigh(w, query + i, w->p + (size_t)i * KV_TILE, visible);
    product mean = {.a = w->p, .a_stride = KV_TILE, .b = w->v, .b_stride = w->padded,
                    .c = w->out + (size_t)query * w->padded, .c_stride = w->padded, .depth = visible,
                    .adds = true, .ahead = ahead};
    mac(&mean, n, w->padded / RC_LANES);
}

const kv__form RC_FAMILY(kv__form_fma) = {kv__take_query, take_keys, take_values, attend};
