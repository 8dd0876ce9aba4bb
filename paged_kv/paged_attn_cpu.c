/* Attention over blocks, compiled once for each CPU family.
 *
 * For each unit: a tile's K is widened to float32 and turned to [D][64], so that lanes are positions and
 * every score is one accumulator over d in order; its V is widened to [64][D], so that lanes are
 * dimensions and every output is one accumulator over the positions in order. Both products are then the
 * same small matrix product with several queries in registers. What a query gets depends on no other
 * query and not on how many are worked on together.
 */
#include <math.h>

#include "paged_kv/paged_attn_cpu.h"
#include "paged_kv/paged_attn_split.h"
#include "proto/rc.h"
#include "proto/vec.h"

/* Queries x vectors held in registers: 24 + 5 of avx512's 32, 12 + 3 of the 16 that avx2 has. */
#if defined(__AVX512F__)
enum { MAC_QUERIES = 6, MAC_VECTORS = 4 };
#elif defined(__AVX2__)
enum { MAC_QUERIES = 6, MAC_VECTORS = 1 };
#else
enum { MAC_QUERIES = 2, MAC_VECTORS = 1 };
#endif

enum { TILE_VECTORS = KV_TILE / RC_LANES };

typedef struct work {
    const kv_attn *a;
    uint32_t dim, padded, ratio;
    float *q;            /* [queries][dim] */
    float *k;            /* [dim][64] */
    float *v;            /* [64][padded] */
    float *p;            /* [queries][64]: scores, then their exponentials */
    float *tile_out;     /* [queries][padded] */
    float *out;          /* [queries][padded]: running, like top and sum */
    float *top, *sum;    /* [queries] */
    float *tile_top, *tile_sum;
    float *zeros;        /* [dim]: stands for positions that do not exist yet */
} work;

/* c[q][v] = sum over i < depth, in order, of a[q][i] * b[i][v]. */
static inline __attribute__((always_inline)) void mac_body(const float *a, size_t a_stride, const float *b,
                                                           size_t b_stride, uint32_t depth, float *c,
                                                           size_t c_stride, const int queries,
                                                           const int vectors)
{
    rc_vf sum[6][4];
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++) sum[q][v] = rc_vf_zero();
    for (uint32_t i = 0; i < depth; i++) {
        rc_vf row[4];
        for (int v = 0; v < vectors; v++) row[v] = rc_vf_load(b + i * b_stride + RC_LANES * v);
        for (int q = 0; q < queries; q++) {
            rc_vf x = rc_vf_set1(a[q * a_stride + i]);
            for (int v = 0; v < vectors; v++) sum[q][v] = rc_vf_fma(x, row[v], sum[q][v]);
        }
    }
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++) rc_vf_store(c + q * c_stride + RC_LANES * v, sum[q][v]);
}

#define MAC_CASE(n)                                                                                    \
    case n:                                                                                            \
        mac_body(a, a_stride, b, b_stride, depth, c, c_stride, n, vectors);                            \
        break
static inline __attribute__((always_inline)) void mac_queries(const float *a, size_t a_stride,
                                                              const float *b, size_t b_stride,
                                                              uint32_t depth, float *c, size_t c_stride,
                                                              uint32_t queries, const int vectors)
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

static void mac(const float *a, size_t a_stride, const float *b, size_t b_stride, uint32_t depth, float *c,
                size_t c_stride, uint32_t queries, uint32_t vectors)
{
    uint32_t v = 0;
    for (; v + MAC_VECTORS <= vectors; v += MAC_VECTORS)
        mac_queries(a, a_stride, b + RC_LANES * v, b_stride, depth, c + RC_LANES * v, c_stride, queries,
                    MAC_VECTORS);
    for (; v < vectors; v++)
        mac_queries(a, a_stride, b + RC_LANES * v, b_stride, depth, c + RC_LANES * v, c_stride, queries, 1);
}

/* First byte of a position's K (or V) row of this head. */
static const char *row_of(const kv_attn *a, uint32_t table, uint32_t kv_head, int is_value, uint32_t position)
{
    uint32_t block = a->plan->tables[table + position / a->layout->block_tokens];
    size_t at = kv_row_at(a->layout, block, a->layer, is_value, kv_head, position % a->layout->block_tokens);
    return (const char *)a->kv + at * a->layout->element_bytes;
}

/* 16 positions' rows of bf16 to k[d][at ..]: words of two dimensions are turned, then taken apart. */
static void turn_bf16(const char *const rows[16], uint32_t dim, float *k)
{
    for (uint32_t d = 0; d < dim; d += 2 * RC_LANES) {
        uint32_t pairs = (dim - d) / 2 < RC_LANES ? (dim - d) / 2 : RC_LANES;
        rc_vf r[16];
        for (int i = 0; i < 16; i++)
            r[i] = pairs == RC_LANES ? rc_vf_load_bits(rows[i] + 2 * d) : rc_vf_load_bits_n(rows[i] + 2 * d, pairs);
        rc_vf_transpose(r);
        for (uint32_t j = 0; j < pairs; j++) {
            rc_vf_store(k + (size_t)(d + 2 * j) * KV_TILE, rc_vf_pair_low(r[j]));
            rc_vf_store(k + (size_t)(d + 2 * j + 1) * KV_TILE, rc_vf_pair_high(r[j]));
        }
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

static void widen_keys(const work *w, uint32_t table, uint32_t kv_head, uint32_t position, uint32_t count)
{
    for (uint32_t t = 0; t < count; t += RC_LANES) {
        const char *rows[16];
        for (uint32_t i = 0; i < 16; i++)
            rows[i] = t + i < count ? row_of(w->a, table, kv_head, 0, position + t + i) : (const char *)w->zeros;
        if (w->a->layout->element_bytes == 2)
            turn_bf16(rows, w->dim, w->k + t);
        else
            turn_f32(rows, w->dim, w->k + t);
    }
}

static void widen_values(const work *w, uint32_t table, uint32_t kv_head, uint32_t position, uint32_t count)
{
    uint32_t whole = w->dim / RC_LANES * RC_LANES, tail = w->dim - whole;
    for (uint32_t t = 0; t < count; t++) {
        const char *row = row_of(w->a, table, kv_head, 1, position + t);
        float *to = w->v + (size_t)t * w->padded;
        if (w->a->layout->element_bytes == 2) {
            const uint16_t *h = (const uint16_t *)(const void *)row;
            for (uint32_t d = 0; d < whole; d += RC_LANES) rc_vf_store(to + d, rc_vf_load_bf16(h + d));
            if (tail) rc_vf_store(to + whole, rc_vf_load_bf16_n(h + whole, tail));
        } else {
            const float *f = (const float *)(const void *)row;
            for (uint32_t d = 0; d < whole; d += RC_LANES) rc_vf_store(to + d, rc_vf_load(f + d));
            if (tail) rc_vf_store(to + whole, rc_vf_load_n(f + whole, tail));
        }
    }
}

/* Scores of one query to exponentials, with the tile's max and sum. Lanes that the query may not see hold
 * anything: they are replaced, not multiplied. */
static void tile_softmax(float *p, uint32_t visible, float scale, float *top, float *sum)
{
    const rc_vf lowest = rc_vf_set1(-INFINITY), factor = rc_vf_set1(scale);
    rc_vf s[TILE_VECTORS];
    for (uint32_t v = 0; v < TILE_VECTORS; v++) {
        if (visible >= RC_LANES * (v + 1))
            s[v] = rc_vf_mul(rc_vf_load(p + RC_LANES * v), factor);
        else if (visible > RC_LANES * v)
            s[v] = rc_vf_keep(rc_vf_mul(rc_vf_load(p + RC_LANES * v), factor), visible - RC_LANES * v, lowest);
        else
            s[v] = lowest;
    }
    float high = rc_vf_top(rc_vf_max(rc_vf_max(s[0], s[1]), rc_vf_max(s[2], s[3])));
    for (uint32_t v = 0; v < TILE_VECTORS; v++) {
        s[v] = rc_vf_exp(rc_vf_sub(s[v], rc_vf_set1(high)));
        rc_vf_store(p + RC_LANES * v, s[v]);
    }
    *top = high;
    *sum = rc_vf_sum(rc_vf_add(rc_vf_add(s[0], s[1]), rc_vf_add(s[2], s[3])));
}

/* Merges the tile's (top, sum, out) of queries [first, end) into the running ones. */
static void merge(const work *w, uint32_t first, uint32_t end)
{
    for (uint32_t q = first; q < end; q += RC_LANES) {
        uint32_t n = end - q < RC_LANES ? end - q : RC_LANES;
        rc_vf old = rc_vf_load_n(w->top + q, n), tile = rc_vf_load_n(w->tile_top + q, n);
        rc_vf top = rc_vf_max(old, tile);
        rc_vf keep = rc_vf_exp(rc_vf_sub(old, top)), take = rc_vf_exp(rc_vf_sub(tile, top));
        rc_vf sum = rc_vf_mul(rc_vf_load_n(w->tile_sum + q, n), take);
        rc_vf_store_n(w->sum + q, rc_vf_fma(rc_vf_load_n(w->sum + q, n), keep, sum), n);
        rc_vf_store_n(w->top + q, top, n);
        float keeps[RC_LANES], takes[RC_LANES];
        rc_vf_store(keeps, keep);
        rc_vf_store(takes, take);
        for (uint32_t i = 0; i < n; i++) {
            float *out = w->out + (size_t)(q + i) * w->padded;
            const float *add = w->tile_out + (size_t)(q + i) * w->padded;
            rc_vf x = rc_vf_set1(keeps[i]), y = rc_vf_set1(takes[i]);
            for (uint32_t d = 0; d < w->padded; d += RC_LANES)
                rc_vf_store(out + d, rc_vf_fma(rc_vf_load(out + d), x, rc_vf_mul(rc_vf_load(add + d), y)));
        }
    }
}

/* Queries [q, q + n) of the unit, all of which see the first `visible` positions of the tile. */
static void attend(const work *w, uint32_t q, uint32_t n, uint32_t visible)
{
    float *p = w->p + (size_t)q * KV_TILE;
    uint32_t vectors = (visible + RC_LANES - 1) / RC_LANES;
    mac(w->q + (size_t)q * w->dim, w->dim, w->k, KV_TILE, w->dim, p, KV_TILE, n, vectors);
    for (uint32_t i = 0; i < n; i++)
        tile_softmax(p + i * KV_TILE, visible, w->a->scale, &w->tile_top[q + i], &w->tile_sum[q + i]);
    mac(p, KV_TILE, w->v, w->padded, visible, w->tile_out + (size_t)q * w->padded, w->padded, n,
        w->padded / RC_LANES);
}

/* The tile at `position` for queries [first, end) of the unit, which start with query `head` of a row
 * that sees `visible` positions from there on; each next row sees one more. */
static void attend_tile(const work *w, uint32_t position, uint32_t table, uint32_t kv_head, uint32_t first,
                        uint32_t end, uint32_t head, uint32_t visible)
{
    uint32_t most = visible + (head + end - first - 1) / w->ratio;
    uint32_t count = most < KV_TILE ? most : KV_TILE;
    widen_keys(w, table, kv_head, position, count);
    widen_values(w, table, kv_head, position, count);
    for (uint32_t q = first, n; q < end; q += n) {
        uint32_t sees = visible + (head + q - first) / w->ratio;
        n = end - q < MAC_QUERIES ? end - q : MAC_QUERIES;
        uint32_t left_in_row = w->ratio - (head + q - first) % w->ratio;
        if (sees < KV_TILE && n > left_in_row) n = left_in_row;
        attend(w, q, n, sees < KV_TILE ? sees : KV_TILE);
    }
    merge(w, first, end);
}

/* The tiles from `position` on for one span's queries; rows whose last position lies in an earlier tile
 * have left the range. */
static void attend_piece(const work *w, const kv__unit *unit, const kv__piece *piece, uint32_t position)
{
    uint32_t local = piece->first - piece->origin, last = piece->end - 1 - piece->origin;
    uint32_t last_position = piece->span->position + last / w->ratio;
    for (; position <= last_position; position += KV_TILE) {
        uint32_t row = local / w->ratio;
        if (piece->span->position + row < position) {
            row = position - piece->span->position;
            local = row * w->ratio;
        }
        uint32_t first = piece->origin + local - unit->first, end = piece->end - unit->first;
        attend_tile(w, position, piece->span->table, unit->kv_head, first, end, local % w->ratio,
                    piece->span->position + row + 1 - position);
    }
}

static size_t query_at(const work *w, const kv__unit *unit, const kv__piece *piece, uint32_t query,
                       size_t stride)
{
    uint32_t local = query - piece->origin;
    size_t head = (size_t)unit->kv_head * w->ratio + local % w->ratio;
    return (piece->span->row + local / w->ratio) * stride + head * w->dim;
}

static void start_unit(const work *w, const kv__unit *unit)
{
    kv__piece piece = {0};
    while (kv__next_piece(w->a->plan, unit, w->ratio, &piece))
        for (uint32_t q = piece.first; q < piece.end; q++)
            memcpy(w->q + (size_t)(q - unit->first) * w->dim,
                   w->a->q + query_at(w, unit, &piece, q, w->a->q_stride), w->dim * sizeof(float));
    memset(w->out, 0, (size_t)unit->count * w->padded * sizeof(float));
    for (uint32_t q = 0; q < unit->count; q++) {
        w->top[q] = -INFINITY;
        w->sum[q] = 0;
    }
}

static void finish_piece(const work *w, const kv__unit *unit, const kv__piece *piece)
{
    for (uint32_t query = piece->first; query < piece->end; query++) {
        uint32_t q = query - unit->first;
        const float *from = w->out + (size_t)q * w->padded;
        float *to = w->a->out + query_at(w, unit, piece, query, w->a->out_stride);
        rc_vf sum = rc_vf_set1(w->sum[q]);
        for (uint32_t d = 0; d < w->dim; d += RC_LANES)
            rc_vf_store_n(to + d, rc_vf_div(rc_vf_load(from + d), sum),
                          w->dim - d < RC_LANES ? w->dim - d : RC_LANES);
    }
}

static void run_unit(void *ctx, const kv__unit *unit)
{
    const work *w = ctx;
    uint32_t shared = unit->group->shared_tokens;
    uint32_t table = w->a->plan->spans[unit->group->span].table;
    start_unit(w, unit);
    for (uint32_t position = 0; position < shared; position += KV_TILE)
        attend_tile(w, position, table, unit->kv_head, 0, unit->count, 0, KV_TILE);
    kv__piece piece = {0};
    while (kv__next_piece(w->a->plan, unit, w->ratio, &piece)) {
        attend_piece(w, unit, &piece, shared);
        finish_piece(w, unit, &piece);
    }
}

static float *take(float **at, size_t count)
{
    float *p = *at;
    *at += (count + RC_LANES - 1) / RC_LANES * RC_LANES;
    return p;
}

void RC_FAMILY(kv_attn_cpu)(const kv_attn *a, uint32_t part, uint32_t parts, void *scratch)
{
    uint32_t dim = a->layout->head_dim, padded = (dim + RC_LANES - 1) / RC_LANES * RC_LANES;
    float *at = (float *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
    work w = {.a = a, .dim = dim, .padded = padded, .ratio = a->heads / a->layout->kv_heads};
    w.k = take(&at, (size_t)dim * KV_TILE);
    w.v = take(&at, (size_t)padded * KV_TILE);
    w.q = take(&at, (size_t)dim * KV__UNIT_QUERIES);
    w.p = take(&at, (size_t)KV_TILE * KV__UNIT_QUERIES);
    w.tile_out = take(&at, (size_t)padded * KV__UNIT_QUERIES);
    w.out = take(&at, (size_t)padded * KV__UNIT_QUERIES);
    w.top = take(&at, KV__UNIT_QUERIES);
    w.sum = take(&at, KV__UNIT_QUERIES);
    w.tile_top = take(&at, KV__UNIT_QUERIES);
    w.tile_sum = take(&at, KV__UNIT_QUERIES);
    w.zeros = take(&at, dim);
    memset(w.zeros, 0, dim * sizeof(float));
    kv__each_unit(a, part, parts, run_unit, &w);
}
