/* Attention over blocks, compiled once for each CPU family: the walk over units, spans and tiles.
 *
 * A unit's queries fold the tiles that they see in position order. What a query gets depends on no other
 * query and not on how many are worked on together.
 */
#include <math.h>
#include <stdbool.h>

#include "paged_kv/paged_attn_tile.h"
#include "proto/rc.h"

typedef kv__work work;
typedef kv__tile tile;

/* Rows from `position` on, of those below `limit`. */
static uint32_t find_rows(const work *w, const kv__unit *unit, uint32_t table, uint32_t position,
                          uint32_t limit, const char *rows[KV_TILE], const char *scales[KV_TILE])
{
    const kv_layout *l = w->a->layout;
    uint32_t count = limit <= position ? 0 : limit - position < KV_TILE ? limit - position : KV_TILE;
    for (uint32_t t = 0; t < count;) {
        uint32_t offset = (position + t) & (l->block_tokens - 1);
        uint32_t block = w->a->plan->tables[table + ((position + t) >> w->block_shift)];
        const char *head = (const char *)w->a->kv + kv_head_offset(l, block, w->a->layer, 0, unit->kv_head);
        const char *row = head + kv_row_offset(l, offset), *scale = head + kv_scale_offset(l, offset);
        for (; offset < l->block_tokens && t < count; offset++, t++) {
            rows[t] = row;
            scales[t] = scale;
            row += w->row_bytes;
            scale += sizeof(float);
        }
    }
    return count;
}

/* Scales of the next tile, a line of them at a time: there is one line for several lines of rows. */
static void bring_scales(const work *w, const char *const *scales, uint32_t count)
{
    for (uint32_t i = 0; i < count; i += KV__LINE / sizeof(float)) {
        kv__bring(scales[i]);
        kv__bring(scales[i] + w->value_offset);
    }
}

/* A run of tiles and where the rows of two of them lie, in turn. */
typedef struct run {
    const kv__unit *unit;
    uint32_t table, position, limit;
    const char *rows[2][KV_TILE], *scales[2][KV_TILE];
    tile tile;
} run;

/* The run's first tile if it has none yet, else the one after. */
static bool next_tile(const work *w, run *r)
{
    tile *t = &r->tile;
    if (t->rows) r->position += KV_TILE;
    if (r->position >= r->limit) return false;
    bool is_first = !t->rows;
    int i = t->rows == r->rows[0], j = !i; /* of this tile, of the next */
    t->rows = r->rows[i];
    t->scales = r->scales[i];
    t->next = r->rows[j];
    t->count = t->next_count;
    if (is_first)
        t->count = find_rows(w, r->unit, r->table, r->position, r->limit, r->rows[i], r->scales[i]);
    uint32_t next = r->position + KV_TILE;
    t->next_count = find_rows(w, r->unit, r->table, next, r->limit, r->rows[j], r->scales[j]);
    if (w->is_int8) bring_scales(w, r->scales[j], t->next_count);
    return true;
}

/* Rows of the next tile up to share i of `shares`. */
static void bring_share(const tile *t, kv__ahead *ahead, uint32_t i, uint32_t shares)
{
    uint32_t brought = (uint32_t)(ahead->rows - t->next);
    ahead->count = t->next_count * (i + 1) / shares - brought;
}

/* A tile for queries [first, end) of the unit, which start with query `head` of a row that sees `visible`
 * of its positions; each next row sees one more. Groups of queries are about equal, so that none of them has
 * few accumulators. Taking the tile's rows and each group bring an equal share of the next tile closer. */
static void attend_tile(const work *w, const tile *t, uint32_t first, uint32_t end, uint32_t head,
                        uint32_t visible)
{
    uint32_t groups = (end - first + KV__QUERIES - 1) / KV__QUERIES;
    kv__ahead ahead = {.rows = t->next, .row_bytes = w->row_bytes, .value_offset = w->value_offset};
    bring_share(t, &ahead, 0, groups + 1);
    w->form->take_keys(w, t, &ahead);
    w->form->take_values(w, t, &ahead);
    for (uint32_t q = first, n, group = 0; q < end; q += n, group++) {
        uint32_t row = (head + q - first) / w->ratio, sees = visible + row;
        n = group < groups ? (end - q + groups - group - 1) / (groups - group) : end - q;
        if (n > KV__QUERIES) n = KV__QUERIES;
        uint32_t left_in_row = (row + 1) * w->ratio - (head + q - first);
        if (sees < KV_TILE && n > left_in_row) n = left_in_row;
        if (group < groups) bring_share(t, &ahead, group + 1, groups + 1);
        w->form->attend(w, &ahead, q, n, sees < KV_TILE ? sees : KV_TILE);
    }
}

/* Tiles from `position` on for one span's queries; rows whose last position lies in an earlier tile have
 * left the range. */
static void attend_piece(const work *w, const kv__unit *unit, const kv__piece *piece, uint32_t position)
{
    const kv_span *span = piece->span;
    uint32_t local = piece->first - piece->origin, last = piece->end - 1 - piece->origin;
    run r = {.unit = unit, .table = span->table, .position = position};
    for (r.limit = span->position + last / w->ratio + 1; next_tile(w, &r);) {
        uint32_t row = local / w->ratio;
        if (span->position + row < r.position) {
            row = r.position - span->position;
            local = row * w->ratio;
        }
        attend_tile(w, &r.tile, piece->origin + local - unit->first, piece->end - unit->first,
                    local % w->ratio, span->position + row + 1 - r.position);
    }
}

static void attend_shared(const work *w, const kv__unit *unit)
{
    run r = {.unit = unit, .table = w->a->plan->spans[unit->group->span].table};
    for (r.limit = unit->group->shared_tokens; next_tile(w, &r);)
        attend_tile(w, &r.tile, 0, unit->count, 0, KV_TILE);
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
            w->form->take_query(w, q - unit->first, w->a->q + query_at(w, unit, &piece, q, w->a->q_stride));
    memset(w->out, 0, (size_t)unit->count * w->padded * sizeof(float));
    memset(w->sum, 0, (size_t)unit->count * RC_LANES * sizeof(float));
    for (uint32_t q = 0; q < unit->count; q++) w->top[q] = -INFINITY;
}

static void finish_piece(const work *w, const kv__unit *unit, const kv__piece *piece)
{
    for (uint32_t query = piece->first; query < piece->end; query++) {
        uint32_t q = query - unit->first;
        const float *from = w->out + (size_t)q * w->padded;
        float *to = w->a->out + query_at(w, unit, piece, query, w->a->out_stride);
        rc_vf sum = rc_vf_set1(rc_vf_sum(rc_vf_load(w->sum + (size_t)q * RC_LANES)));
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

static const kv__form *form_of(const kv_layout *layout)
{
#if defined(__AVX512BF16__)
    if (layout->element_bytes <= 2) return &RC_FAMILY(kv__form_dot);
#elif defined(__AVX2__) && !defined(__AVX512F__)
    if (layout->element_bytes == 2 && layout->head_dim % RC_LANES == 0) return &RC_FAMILY(kv__form_pairs);
#endif
    (void)layout;
    return &RC_FAMILY(kv__form_fma);
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
    work w = {.a = a, .form = form_of(a->layout), .dim = dim, .padded = padded};
    w.ratio = a->heads / a->layout->kv_heads;
    w.block_shift = (uint32_t)__builtin_ctz(a->layout->block_tokens);
    w.is_int8 = a->layout->element_bytes == 1;
    w.row_bytes = (uint32_t)kv_row_bytes(a->layout);
    w.value_offset = a->layout->kv_heads * kv_head_bytes(a->layout);
    w.k = take(&at, (size_t)dim * KV_TILE);
    w.v = take(&at, (size_t)padded * KV_TILE);
    w.q = take(&at, (size_t)dim * KV__UNIT_QUERIES);
    w.p = take(&at, (size_t)KV_TILE * KV__QUERIES);
    w.out = take(&at, (size_t)padded * KV__UNIT_QUERIES);
    w.top = take(&at, KV__UNIT_QUERIES);
    w.sum = take(&at, (size_t)RC_LANES * KV__UNIT_QUERIES);
    w.zeros = take(&at, dim);
    memset(w.zeros, 0, dim * sizeof(float));
    kv__each_unit(a, part, parts, run_unit, &w);
}
