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

enum { TILE_VECTORS = KV_TILE / RC_LANES, LINE = 64 };

/* Into the L2: twice as many rows wait there as the L1 has buffers for, and half a tile of rows would not
 * stay in the L1 beside the widened ones. */
static inline void bring(const char *line) { __builtin_prefetch(line, 0, 2); }

typedef struct work {
    const kv_attn *a;
    uint32_t dim, padded, ratio, block_shift, row_bytes, row_lines;
    size_t value_offset; /* bytes from a K row to its V row */
    float *q;            /* [queries][dim] */
    float *k;            /* [dim][64] */
    float *v;            /* [64][padded] */
    float *p;            /* [queries][64]: scores, then their exponentials */
    float *tile_out;     /* [queries][padded] */
    float *out;          /* [queries][padded]: running, like top and sum */
    float *top, *sum;    /* [queries] */
    float *tile_top, *tile_sum;
    float *zeros;        /* [dim]: stands for positions that do not exist yet */
    const char *nowhere[KV_TILE]; /* rows to bring closer where none need be */
} work;

/* Lines to bring closer while a product runs, one an iteration: reading K/V and computing overlap only where
 * the reads are spread over the whole tile. */
typedef struct ahead {
    const char *const *lines; /* [KV_TILE] */
    size_t offset;
} ahead;

typedef struct product {
    const float *a; /* [queries][depth] */
    size_t a_stride;
    const float *b; /* [depth][vectors * 16] */
    size_t b_stride;
    float *c;       /* [queries][vectors * 16] */
    size_t c_stride;
    uint32_t depth;
    ahead ahead;
} product;

/* c[q][v] = sum over i < depth, in order, of a[q][i] * b[i][v]; v from `at` on. */
static inline __attribute__((always_inline)) void mac_body(const product *m, uint32_t at, const int queries,
                                                           const int vectors)
{
    const product p = *m;
    const float *b = p.b + at;
    rc_vf sum[6][4];
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++) sum[q][v] = rc_vf_zero();
    for (uint32_t i = 0; i < p.depth; i++, b += p.b_stride) {
        rc_vf row[4];
        bring(p.ahead.lines[i % KV_TILE] + p.ahead.offset);
        for (int v = 0; v < vectors; v++) row[v] = rc_vf_load(b + RC_LANES * v);
        for (int q = 0; q < queries; q++) {
            rc_vf x = rc_vf_set1(p.a[q * p.a_stride + i]);
            for (int v = 0; v < vectors; v++) sum[q][v] = rc_vf_fma(x, row[v], sum[q][v]);
        }
    }
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
        MAC_CASE(6);
#endif
    }
}
#undef MAC_CASE

static void mac(const product *p, uint32_t queries, uint32_t vectors)
{
    uint32_t v = 0;
    for (; v + MAC_VECTORS <= vectors; v += MAC_VECTORS) mac_queries(p, RC_LANES * v, queries, MAC_VECTORS);
    for (; v < vectors; v++) mac_queries(p, RC_LANES * v, queries, 1);
}

/* Where the K rows of one K/V head lie that a tile is made of, and those of the tile after it, which are
 * brought closer meanwhile (past its end: any row). */
typedef struct tile_rows {
    uint32_t count;
    const char *rows[KV_TILE], *next[KV_TILE];
    const char *lines[KV_TILE]; /* of the first of the next rows */
} tile_rows;

/* Rows from `position` on, of those below `limit`. */
static uint32_t find_rows(const work *w, const kv__unit *unit, uint32_t table, uint32_t position,
                          uint32_t limit, const char *rows[KV_TILE])
{
    const kv_layout *l = w->a->layout;
    uint32_t count = limit <= position ? 0 : limit - position < KV_TILE ? limit - position : KV_TILE;
    for (uint32_t t = 0; t < count;) {
        uint32_t offset = (position + t) & (l->block_tokens - 1);
        uint32_t block = w->a->plan->tables[table + ((position + t) >> w->block_shift)];
        size_t at = kv_head_offset(l, block, w->a->layer, 0, unit->kv_head) + kv_row_offset(l, offset);
        const char *row = (const char *)w->a->kv + at;
        for (; offset < l->block_tokens && t < count; offset++, t++, row += w->row_bytes) rows[t] = row;
    }
    return count;
}

static void find_tile(const work *w, const kv__unit *unit, uint32_t table, uint32_t position, uint32_t limit,
                      tile_rows *tile)
{
    tile->count = find_rows(w, unit, table, position, limit, tile->rows);
    for (uint32_t t = find_rows(w, unit, table, position + KV_TILE, limit, tile->next); t < KV_TILE; t++)
        tile->next[t] = tile->rows[0];
    for (uint32_t i = 0; i < KV_TILE; i++)
        tile->lines[i] = tile->next[i / w->row_lines] + LINE * (i % w->row_lines);
}

/* Row t of the next tile, unless its lines are among those that products bring closer. */
static void fetch_row(const work *w, const tile_rows *tile, uint32_t t, size_t offset)
{
    if (t < KV_TILE / w->row_lines) return;
    for (uint32_t i = 0; i < w->row_lines; i++) bring(tile->next[t] + offset + LINE * i);
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

static void widen_keys(const work *w, const tile_rows *tile)
{
    for (uint32_t t = 0; t < tile->count; t += RC_LANES) {
        const char *rows[16];
        for (uint32_t i = 0; i < 16; i++) {
            rows[i] = t + i < tile->count ? tile->rows[t + i] : (const char *)w->zeros;
            fetch_row(w, tile, t + i, 0);
        }
        if (w->a->layout->element_bytes == 2)
            turn_bf16(rows, w->dim, w->k + t);
        else
            turn_f32(rows, w->dim, w->k + t);
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

static void widen_values(const work *w, const tile_rows *tile)
{
    for (uint32_t t = 0; t < tile->count; t++) {
        fetch_row(w, tile, t, w->value_offset);
        widen_row(tile->rows[t] + w->value_offset, w->a->layout->element_bytes, w->dim,
                  w->v + (size_t)t * w->padded);
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
            s[v] = rc_vf_keep(rc_vf_mul(rc_vf_load(p + RC_LANES * v), factor), visible - RC_LANES * v,
                              lowest);
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
static void attend(const work *w, ahead keys, ahead values, uint32_t q, uint32_t n, uint32_t visible)
{
    float *p = w->p + (size_t)q * KV_TILE;
    product scores = {w->q + (size_t)q * w->dim, w->dim, w->k, KV_TILE, p, KV_TILE, w->dim, keys};
    mac(&scores, n, (visible + RC_LANES - 1) / RC_LANES);
    for (uint32_t i = 0; i < n; i++)
        tile_softmax(p + i * KV_TILE, visible, w->a->scale, &w->tile_top[q + i], &w->tile_sum[q + i]);
    float *out = w->tile_out + (size_t)q * w->padded;
    product mean = {p, KV_TILE, w->v, w->padded, out, w->padded, visible, values};
    mac(&mean, n, w->padded / RC_LANES);
}

/* A tile for queries [first, end) of the unit, which start with query `head` of a row that sees `visible`
 * of its positions; each next row sees one more. */
static void attend_tile(const work *w, const tile_rows *tile, uint32_t first, uint32_t end, uint32_t head,
                        uint32_t visible)
{
    widen_keys(w, tile);
    widen_values(w, tile);
    ahead keys = {tile->lines, 0}, values = {tile->lines, w->value_offset};
    for (uint32_t q = first, n; q < end; q += n) {
        uint32_t row = (head + q - first) / w->ratio, sees = visible + row;
        n = end - q < MAC_QUERIES ? end - q : MAC_QUERIES;
        uint32_t left_in_row = (row + 1) * w->ratio - (head + q - first);
        if (sees < KV_TILE && n > left_in_row) n = left_in_row;
        attend(w, keys, values, q, n, sees < KV_TILE ? sees : KV_TILE);
        keys = values = (ahead){w->nowhere, 0};
    }
    merge(w, first, end);
}

/* Tiles from `position` on for one span's queries; rows whose last position lies in an earlier tile have
 * left the range. */
static void attend_piece(const work *w, const kv__unit *unit, const kv__piece *piece, uint32_t position)
{
    const kv_span *span = piece->span;
    uint32_t local = piece->first - piece->origin, last = piece->end - 1 - piece->origin;
    uint32_t limit = span->position + last / w->ratio + 1;
    tile_rows t;
    for (; position < limit; position += KV_TILE) {
        uint32_t row = local / w->ratio;
        if (span->position + row < position) {
            row = position - span->position;
            local = row * w->ratio;
        }
        find_tile(w, unit, span->table, position, limit, &t);
        attend_tile(w, &t, piece->origin + local - unit->first, piece->end - unit->first, local % w->ratio,
                    span->position + row + 1 - position);
    }
}

static void attend_shared(const work *w, const kv__unit *unit)
{
    uint32_t limit = unit->group->shared_tokens, table = w->a->plan->spans[unit->group->span].table;
    tile_rows t;
    for (uint32_t position = 0; position < limit; position += KV_TILE) {
        find_tile(w, unit, table, position, limit, &t);
        attend_tile(w, &t, 0, unit->count, 0, KV_TILE);
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
    start_unit(w, unit);
    attend_shared(w, unit);
    kv__piece piece = {0};
    while (kv__next_piece(w->a->plan, unit, w->ratio, &piece)) {
        attend_piece(w, unit, &piece, unit->group->shared_tokens);
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
    w.block_shift = (uint32_t)__builtin_ctz(a->layout->block_tokens);
    w.row_bytes = (uint32_t)kv_row_bytes(a->layout);
    w.row_lines = (w.row_bytes + LINE - 1) / LINE;
    w.value_offset = a->layout->kv_heads * kv_head_bytes(a->layout);
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
    for (uint32_t t = 0; t < KV_TILE; t++) w.nowhere[t] = (const char *)w.zeros;
    kv__each_unit(a, part, parts, run_unit, &w);
}
