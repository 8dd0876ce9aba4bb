/* A tile's products as float32 multiply-adds over bf16 K/V, widened where they are multiplied; for AVX2.
 *
 *     scores    k[D / 2][64]                   mean    V's rows where they lie
 *
 *               position  0   1  ..  63                dim   0   1   ..
 *     dims 0, 1         | kk  kk     kk |      position 0  | v   v      |
 *          2, 3         | kk  kk     kk |               1  | v   v      |
 *
 * Bit for bit what paged_attn_fma.c gives, from half the bytes: K and V of a tile as float32 would fill an L1
 * of 32 KiB, and shifts and masks have ports beside the multiply-adds'. Heads are multiples of 16 dimensions.
 */
#include "paged_kv/paged_attn_tile.h"

#if defined(__AVX2__) && !defined(__AVX512F__)

#define ALWAYS static inline __attribute__((always_inline))

typedef struct product {
    const float *a;    /* [queries][64 or D] */
    size_t a_stride;
    const void *b;     /* scores: [depth / 2][64] pairs; mean: [depth] pointers to V's rows */
    float *c;          /* [queries][c_stride] */
    size_t c_stride;
    uint32_t depth;
    kv__ahead *ahead;
} product;

ALWAYS void add_step(rc_vf sum[], rc_vf row, const float *const a[], uint32_t i, const int queries)
{
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) sum[q] = rc_vf_fma(rc_vf_set1(a[q][i]), row, sum[q]);
}

/* Dimensions i and i + 1 of a pair, then of the next one. */
ALWAYS void score_pairs(rc_vf sum[], const uint32_t *words, const float *const a[], uint32_t i,
                        const int queries)
{
#pragma GCC unroll 2
    for (uint32_t j = 0; j < 2; j++) {
        rc_vf pairs = rc_vf_load_bits(words + j * KV_TILE);
        add_step(sum, rc_vf_pair_low(pairs), a, i + 2 * j, queries);
        add_step(sum, rc_vf_pair_high(pairs), a, i + 2 * j + 1, queries);
    }
}

/* Columns [at, at + 16): c[q] = sum over the dimensions, in order, of a[q][d] * k[d]. */
ALWAYS void scores_body(const product *m, uint32_t at, const int queries)
{
    const product p = *m;
    const uint32_t *words = (const uint32_t *)p.b + at;
    const float *a[KV__QUERIES];
    kv__ahead ahead = *p.ahead;
    rc_vf sum[KV__QUERIES];
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) {
        a[q] = p.a + q * p.a_stride;
        sum[q] = rc_vf_zero();
    }
    for (uint32_t i = 0; i < p.depth; i += 4, words += 2 * KV_TILE) {
        kv__bring_next(&ahead);
        score_pairs(sum, words, a, i, queries);
    }
    *p.ahead = ahead;
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) rc_vf_store(p.c + q * p.c_stride + at, sum[q]);
}

/* Columns [at, at + 16): c[q] += sum over the positions, in order, of a[q][t] * v[t]. */
ALWAYS void mean_body(const product *m, uint32_t at, const int queries)
{
    const product p = *m;
    const uint16_t *const *rows = p.b;
    const float *a[KV__QUERIES];
    kv__ahead ahead = *p.ahead;
    rc_vf sum[KV__QUERIES];
    uint32_t t = 0;
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) {
        a[q] = p.a + q * KV_TILE;
        sum[q] = rc_vf_load(p.c + q * p.c_stride + at);
    }
    for (; t + 4 <= p.depth; t += 4) {
        kv__bring_next(&ahead);
#pragma GCC unroll 4
        for (uint32_t j = 0; j < 4; j++) add_step(sum, rc_vf_load_bf16(rows[t + j] + at), a, t + j, queries);
    }
    for (; t < p.depth; t++) add_step(sum, rc_vf_load_bf16(rows[t] + at), a, t, queries);
    *p.ahead = ahead;
#pragma GCC unroll 8
    for (int q = 0; q < queries; q++) rc_vf_store(p.c + q * p.c_stride + at, sum[q]);
}

#define CASE(n)                        \
    case n:                            \
        if (sums) mean_body(p, at, n); \
        else scores_body(p, at, n);   \
        break
ALWAYS void multiply(const product *p, bool sums, uint32_t queries, uint32_t vectors)
{
    for (uint32_t at = 0; at < RC_LANES * vectors; at += RC_LANES) {
        switch (queries) {
            CASE(1);
            CASE(2);
            CASE(3);
            CASE(4);
            CASE(5);
        }
    }
}
#undef CASE

/* Words of 16 dimensions of eight positions: as many as registers hold. */
ALWAYS void turn(const char *const rows[8], size_t offset, uint32_t *k)
{
    __m256 r[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps((const float *)(const void *)(rows[i] + offset));
    rc_vf_transpose8_(r);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) _mm256_storeu_ps((float *)(void *)(k + (size_t)i * KV_TILE), r[i]);
}

static void take_keys(const kv__work *w, const kv__tile *tile, kv__ahead *ahead)
{
    for (uint32_t t = 0; t < tile->count; t += 8) {
        const char *rows[8];
        for (uint32_t i = 0; i < 8; i++) {
            rows[i] = kv__row(w, tile, t + i, 0);
            if (i % 2) kv__bring_next(ahead);
        }
        for (uint32_t d = 0; d < w->dim; d += 16)
            turn(rows, d * sizeof(uint16_t), (uint32_t *)(void *)w->k + (size_t)d / 2 * KV_TILE + t);
    }
}

static void take_values(const kv__work *w, const kv__tile *tile, kv__ahead *ahead)
{
    const char **rows = (const char **)(void *)w->v;
    (void)ahead;
    for (uint32_t t = 0; t < tile->count; t++) rows[t] = tile->rows[t] + w->value_offset;
}

static void attend(const kv__work *w, kv__ahead *ahead, uint32_t query, uint32_t n, uint32_t visible)
{
    product scores = {.a = w->q + (size_t)query * w->dim, .a_stride = w->dim, .b = w->k, .c = w->p,
                      .c_stride = KV_TILE, .depth = w->dim, .ahead = ahead};
    multiply(&scores, false, n, (visible + RC_LANES - 1) / RC_LANES);
    for (uint32_t i = 0; i < n; i++) kv__weigh(w, query + i, w->p + (size_t)i * KV_TILE, visible);
    product mean = {.a = w->p, .a_stride = KV_TILE, .b = w->v, .c = w->out + (size_t)query * w->padded,
                    .c_stride = w->padded, .depth = visible, .ahead = ahead};
    multiply(&mean, true, n, w->padded / RC_LANES);
}

const kv__form RC_FAMILY(kv__form_pairs) = {kv__take_query, take_keys, take_values, attend};

#endif
