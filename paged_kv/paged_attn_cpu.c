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

/* The tile that begins at `position`, as far as there are positions below `limit`. */
static void find_tile(const work *w, const kv__unit *unit, uint32_t table, uint32_t position, uint32_t limit,
                      tile *t)
{
    const kv_layout *l = w->a->layout;
    const char *kv = w->a->kv;
    t->count = limit <= position ? 0 : limit - position < KV_TILE ? limit - position : KV_TILE;
    t->strips_count = (t->count + w->positions - 1) / w->positions;
    for (uint32_t i = 0; i < t->strips_count; i++) {
        uint32_t at = position + i * w->positions, offset = at & (l->block_tokens - 1);
        uint32_t block = w->a->plan->tables[table + (at >> w->block_shift)];
        const char *head = kv + kv_head_offset(l, block, w->a->layer, 0, unit->kv_head);
        t->strips[i] = head + kv_strip_k_word(l, offset);
        t->scales[i] = head + kv_scale_offset(l, offset);
    }
}

/* A run of tiles, of which one and the next are known. */
typedef struct run {
    const kv__unit *unit;
    uint32_t table, position, limit;
    bool has_begun;
    uint32_t now; /* tiles[now] is the one at `position` */
    tile tiles[2];
} run;

/* The run's first tile if it has none yet, else the one after. */
static bool next_tile(const work *w, run *r)
{
    if (r->has_begun) r->position += KV_TILE;
    if (r->position >= r->limit) return false;
    if (r->has_begun) r->now = !r->now;
    else find_tile(w, r->unit, r->table, r->position, r->limit, &r->tiles[r->now]);
    r->has_begun = true;
    find_tile(w, r->unit, r->table, r->position + KV_TILE, r->limit, &r->tiles[!r->now]);
    return true;
}

/* Of a tile that is used where it is stored: its V, and the K of what is next, which is the same tile for the
 * unit's next head or the next tile. Else K and V of what is next. */
static void find_ahead(const work *w, const run *r, uint32_t head, bool in_place, kv__half half[3])
{
    const tile *now = &r->tiles[r->now], *next = now;
    size_t at = head * w->heads_apart, next_at = at + w->heads_apart;
    if (head + 1 == r->unit->kv_heads) {
        next = &r->tiles[!r->now];
        next_at = 0;
    }
    kv__half values = {now->strips, now->strips_count, at + w->value_offset};
    kv__half next_keys = {next->strips, next->strips_count, next_at};
    kv__half next_values = {next->strips, next->strips_count, next_at + w->value_offset};
    half[0] = in_place ? values : next_keys;
    half[1] = in_place ? next_keys : next_values;
    half[2] = (kv__half){0};
}

/* Steps of taking a strip, each of them a row of words. bf16 become floats without any: that is quick. */
static uint32_t taking_steps(const work *w)
{
    uint32_t elements = w->form->word_elements;
    return kv_word_elements(w->a->layout) > elements ? 0 : (w->dim + w->positions) / elements;
}

/* Spreads what is brought over the steps of a tile that `groups` of about `queries` meet. */
static void set_pace(const work *w, const tile *t, uint32_t groups, uint32_t queries, bool in_place,
                     kv__ahead *ahead)
{
    uint32_t keys = w->dim / w->form->word_elements, values = KV_TILE / w->form->word_elements;
    uint32_t products = keys * (KV__TILE_VECTORS / kv__vectors(queries));
    products += values * (w->padded / RC_LANES) / kv__vectors(queries);
    uint32_t taking = in_place ? 0 : t->strips_count * taking_steps(w);
    uint32_t lines = 2 * (uint32_t)((ahead->end + KV__LINE - 1) / KV__LINE);
    ahead->every = (int32_t)((groups * products + taking) / lines);
    if (ahead->every == 0) ahead->every = 1;
    ahead->wait = 1;
}

/* All lines of scales at once: there are few. */
static void bring_scales(const work *w, const tile *t)
{
    if (w->a->layout->element_bytes != 1) return;
    for (uint32_t i = 0; i < t->strips_count; i++) {
        kv__bring(t->scales[i]);
        kv__bring(t->scales[i] + w->value_offset);
    }
}

static void copy_rows(const kv__rows *r)
{
    const float *row = (const float *)(const void *)r->from;
    float *to = (float *)r->to;
    kv__ahead ahead = *r->ahead; /* in registers meanwhile */
    for (uint32_t i = 0; i < r->rows; i++, row += r->words, to += r->stride) {
        uint32_t at = 0;
        kv__bring_next(&ahead, 1);
        for (; at + RC_LANES <= r->words; at += RC_LANES) rc_vf_store(to + at, rc_vf_load_bits(row + at));
        if (at < r->words) rc_vf_store_n(to + at, rc_vf_load_bits_n(row + at, r->words - at), r->words - at);
    }
    *r->ahead = ahead;
}

/* Whether K and V are stored in words that the form's products take. */
static bool are_words(const work *w)
{
    return w->a->layout->element_bytes * w->form->word_elements == w->form->word_bytes;
}

/* K or V of strip i of the tile, of the unit's head `head`, to its place among strips of 16 positions. */
static void take_strip(const work *w, const tile *t, uint32_t i, uint32_t head, bool is_value,
                       kv__ahead *ahead)
{
    uint32_t at = i * w->positions, stored = kv_word_elements(w->a->layout);
    size_t from = head * w->heads_apart + (is_value ? w->value_offset : 0);
    kv__rows r = {.from = t->strips[i] + from, .is_value = is_value, .ahead = ahead};
    r.is_int8 = w->a->layout->element_bytes == 1;
    r.scales = (const float *)(const void *)(t->scales[i] + from);
    r.rows = (is_value ? w->positions : w->dim) / stored;
    r.words = is_value ? w->dim : w->positions;
    r.to = is_value ? w->v_room + at / w->form->word_elements * w->padded
                    : w->k_room + at / KV_STRIP * KV_STRIP * w->dim + at % KV_STRIP;
    r.stride = is_value ? w->padded : KV_STRIP;
    if (are_words(w)) copy_rows(&r);
    else w->form->widen(&r);
}

/* Whether strips, as they are stored, are what the products expect. */
static bool are_strips_whole(const work *w) { return w->positions == KV_STRIP && w->dim == w->padded; }

/* Words of a tile that few queries meet are used where they are stored; strips of one head lie a power of two
 * apart, so that not all of a tile stays in the L1 for many. */
static bool is_used_in_place(const work *w, uint32_t groups)
{
    return groups == 1 && are_words(w) && are_strips_whole(w);
}

/* K or V of the tile, of the unit's head `head`. */
static void take_half(work *w, const tile *t, uint32_t head, bool in_place, bool is_value, kv__ahead *ahead)
{
    const uint32_t **half = is_value ? w->v : w->k;
    const float **scales = is_value ? w->v_scales : w->k_scales;
    size_t from = head * w->heads_apart + (is_value ? w->value_offset : 0);
    for (uint32_t i = 0; i < t->strips_count; i++) {
        if (in_place) {
            half[i] = (const uint32_t *)(const void *)(t->strips[i] + from);
            scales[i] = (const float *)(const void *)(t->scales[i] + from);
        } else {
            take_strip(w, t, i, head, is_value, ahead);
        }
    }
    for (uint32_t i = 0; i < KV__STRIPS && !in_place; i++)
        half[i] = is_value ? w->v_room + i * KV_STRIP / w->form->word_elements * w->padded
                           : w->k_room + i * KV_STRIP * w->dim;
}

/* Without a bf16 dot a tile of bf16 that many queries meet is widened once, if there are registers to use
 * that. One of int8 always is, but on AVX2 where few meet it: floats would fill the L1 that it comes from. */
static const kv__form *form_of(const work *w, bool is_met_once)
{
    const uint32_t element_bytes = w->a->layout->element_bytes;
    (void)is_met_once;
#if defined(__AVX512BF16__)
    if (element_bytes <= 2) return &RC_FAMILY(kv__form_dot);
#elif defined(__AVX2__) && !defined(__AVX512F__)
    if (element_bytes == 2) return &RC_FAMILY(kv__form_pairs);
    if (element_bytes == 1 && is_met_once && are_strips_whole(w)) return &RC_FAMILY(kv__form_bytes);
#else
    if (element_bytes == 2 && is_met_once) return &RC_FAMILY(kv__form_pairs);
#endif
    return &RC_FAMILY(kv__form_fma);
}

/* Queries [first, end) of a unit's, for each of its heads; they start with query `head` of a row that sees
 * `visible` of a tile's positions; each next row sees one more. */
typedef struct met {
    uint32_t first, end, head, visible;
} met;

static uint32_t groups_of(const met *m) { return (m->end - m->first + KV__QUERIES - 1) / KV__QUERIES; }

/* How far a head's queries are cut into groups. */
typedef struct cut {
    uint32_t at, group;
} cut;

/* The next queries that see the same of a tile. Groups are about equal, so that none has few accumulators. */
static bool next_few(const work *w, const met *m, uint32_t state, cut *c, kv__few *few)
{
    uint32_t groups = groups_of(m), left = m->end - c->at;
    if (left == 0) return false;
    uint32_t head = m->head + c->at - m->first, row = head / w->ratio, sees = m->visible + row;
    uint32_t n = c->group < groups ? (left + groups - c->group - 1) / (groups - c->group) : left;
    uint32_t left_in_row = (row + 1) * w->ratio - head;
    if (n > KV__QUERIES) n = KV__QUERIES;
    if (sees < KV_TILE && n > left_in_row) n = left_in_row;
    *few = (kv__few){state + c->at, n, sees < KV_TILE ? sees : KV_TILE, w->p};
    if (KV__HALVES_APART) few->p += (c->at - m->first) * KV_TILE;
    *c = (cut){c->at + n, c->group + 1};
    return true;
}

/* The run's tile for one of the unit's heads. */
static void attend_tile(work *w, const run *r, uint32_t kv_head, const met *m)
{
    const tile *t = &r->tiles[r->now];
    uint32_t groups = groups_of(m), state = kv_head * r->unit->count;
    w->form = form_of(w, groups == 1);
    bool in_place = is_used_in_place(w, groups);
    kv__half half[3];
    find_ahead(w, r, kv_head, in_place, half);
    kv__ahead ahead = {.half = half, .end = w->strip_bytes};
    set_pace(w, t, groups, (m->end - m->first) / groups, in_place, &ahead);
    take_half(w, t, kv_head, in_place, false, &ahead);
    if (!KV__HALVES_APART) take_half(w, t, kv_head, in_place, true, &ahead);
    kv__few few;
    for (cut c = {m->first, 0}; next_few(w, m, state, &c, &few);) {
        w->form->weigh(w, &ahead, &few);
        if (!KV__HALVES_APART) w->form->add(w, &ahead, &few);
    }
    if (!KV__HALVES_APART) return;
    take_half(w, t, kv_head, in_place, true, &ahead);
    for (cut c = {m->first, 0}; next_few(w, m, state, &c, &few);) w->form->add(w, &ahead, &few);
}

static void attend_heads(work *w, const run *r, const met *m)
{
    bring_scales(w, &r->tiles[!r->now]);
    for (uint32_t h = 0; h < r->unit->kv_heads; h++) attend_tile(w, r, h, m);
}

/* Tiles from `position` on for one span's queries; rows whose last position lies in an earlier tile have
 * left the range. */
static void attend_piece(work *w, const kv__unit *unit, const kv__piece *piece, uint32_t position)
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
        attend_heads(w, &r, &(met){piece->origin + local - unit->first, piece->end - unit->first,
                                   local % w->ratio, span->position + row + 1 - r.position});
    }
}

static void attend_shared(work *w, const kv__unit *unit)
{
    run r = {.unit = unit, .table = w->a->plan->spans[unit->group->span].table};
    for (r.limit = unit->group->shared_tokens; next_tile(w, &r);)
        attend_heads(w, &r, &(met){0, unit->count, 0, KV_TILE});
}

static size_t query_at(const work *w, uint32_t kv_head, const kv__piece *piece, uint32_t query, size_t stride)
{
    uint32_t local = query - piece->origin;
    size_t head = (size_t)kv_head * w->ratio + local % w->ratio;
    return (piece->span->row + local / w->ratio) * stride + head * w->dim;
}

static void start_unit(const work *w, const kv__unit *unit)
{
    uint32_t count = unit->kv_heads * unit->count;
    kv__piece piece = {0};
    while (kv__next_piece(w->a->plan, unit, w->ratio, &piece))
        for (uint32_t h = 0; h < unit->kv_heads; h++)
            for (uint32_t q = piece.first; q < piece.end; q++)
                w->form->take_query(w, h * unit->count + q - unit->first,
                                    w->a->q + query_at(w, unit->kv_head + h, &piece, q, w->a->q_stride));
    memset(w->out, 0, (size_t)count * w->padded * sizeof(float));
    memset(w->sum, 0, (size_t)count * RC_LANES * sizeof(float));
    for (uint32_t q = 0; q < count; q++) w->top[q] = -INFINITY;
}

static void finish_query(const work *w, uint32_t q, float *to)
{
    const float *from = w->out + (size_t)q * w->padded;
    rc_vf sum = rc_vf_set1(rc_vf_sum(rc_vf_load(w->sum + (size_t)q * RC_LANES)));
    for (uint32_t d = 0; d < w->dim; d += RC_LANES)
        rc_vf_store_n(to + d, rc_vf_div(rc_vf_load(from + d), sum), rc_vf_lanes(d, w->dim));
}

static void finish_piece(const work *w, const kv__unit *unit, const kv__piece *piece)
{
    for (uint32_t h = 0; h < unit->kv_heads; h++)
        for (uint32_t q = piece->first; q < piece->end; q++)
            finish_query(w, h * unit->count + q - unit->first,
                         w->a->out + query_at(w, unit->kv_head + h, piece, q, w->a->out_stride));
}

static void run_unit(void *ctx, const kv__unit *unit)
{
    work *w = ctx;
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
    work w = {.a = a, .dim = dim, .padded = padded};
    w.ratio = a->heads / a->layout->kv_heads;
    w.block_shift = (uint32_t)__builtin_ctz(a->layout->block_tokens);
    w.positions = kv_strip_positions(a->layout);
    w.form = form_of(&w, true);
    w.strip_bytes = kv_strip_bytes(a->layout);
    w.heads_apart = 2 * kv_head_bytes(a->layout);
    w.value_offset = kv_head_bytes(a->layout);
    w.k_room = (uint32_t *)take(&at, (size_t)padded * KV_TILE);
    w.v_room = KV__HALVES_APART ? w.k_room : (uint32_t *)take(&at, (size_t)padded * KV_TILE);
    w.q = take(&at, (size_t)dim * KV__UNIT_QUERIES);
    w.p = take(&at, (size_t)KV_TILE * (KV__HALVES_APART ? KV__UNIT_QUERIES : KV__QUERIES));
    w.out = take(&at, (size_t)padded * KV__UNIT_QUERIES);
    w.top = take(&at, KV__UNIT_QUERIES);
    w.sum = take(&at, (size_t)RC_LANES * KV__UNIT_QUERIES);
    kv__each_unit(a, part, parts, run_unit, &w);
}
