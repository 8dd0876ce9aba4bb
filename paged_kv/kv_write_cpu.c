/* Writing K/V rows into blocks, compiled once for each CPU family. */
#include <stdbool.h>

#include "paged_kv/kv_strip.h"
#include "paged_kv/paged_attn_cpu.h"
#include "proto/vec.h"

/* Where a row's elements go, kv_strip.h: those of word i at `to` + i * stride. */
typedef struct place {
    char *to;
    size_t stride;
    uint32_t word_elements; /* consecutive ones that a word takes: K's words have dimensions, V's positions */
} place;

static place key_place(const kv_layout *l, char *head, uint32_t row)
{
    size_t stride = (size_t)kv_strip_positions(l) * kv_word_bytes(l);
    return (place){head + kv_strip_k_word(l, row), stride, kv_word_elements(l)};
}

static place value_place(const kv_layout *l, char *head, uint32_t row)
{
    size_t inside = row % kv_word_elements(l) * l->element_bytes;
    return (place){head + kv_strip_v_word(l, row) + inside, kv_word_bytes(l), 1};
}

/* n elements of `bytes` each, from element d of the row on; d and n are whole words. */
static inline __attribute__((always_inline)) void put(const place *at, uint32_t d, uint32_t n,
                                                      const void *from, const uint32_t bytes)
{
    char *to = at->to + d / at->word_elements * at->stride;
    const char *element = from;
    if (at->word_elements == 1)
        for (uint32_t i = 0; i < n; i++) memcpy(to + i * at->stride, element + i * bytes, bytes);
    else
        for (uint32_t i = 0; i < n / 2; i++) memcpy(to + i * at->stride, element + 2 * i * bytes, 2 * bytes);
}

static void store_f32(const place *at, const float *from, uint32_t dim)
{
    put(at, 0, dim, from, sizeof *from);
}

static void store_bf16(const place *at, const float *from, uint32_t dim)
{
    uint16_t some[RC_LANES];
    for (uint32_t d = 0; d < dim; d += RC_LANES) {
        uint32_t n = rc_vf_lanes(d, dim);
        rc_vf_store_bf16(some, rc_vf_load_n(from + d, n));
        put(at, d, n, some, sizeof *some);
    }
}

/* The scale below which a row counts as zeros: 127 / the row's largest is still a float there. */
#define SCALE_MIN 0x1p-126f

/* The largest magnitude becomes 127. A row with an infinity or a NaN has the scale NaN, so that whoever
 * attends to it gets NaN as with the other types. */
static void store_int8(const place *at, float *scale, const float *from, uint32_t dim)
{
    rc_vf top = rc_vf_zero(), odd = rc_vf_zero(); /* odd: 0, or NaN where an element is not finite */
    for (uint32_t d = 0; d < dim; d += RC_LANES) {
        rc_vf x = rc_vf_load_n(from + d, rc_vf_lanes(d, dim));
        top = rc_vf_max(top, rc_vf_max(x, rc_vf_sub(rc_vf_zero(), x)));
        odd = rc_vf_add(odd, rc_vf_sub(x, x));
    }
    float largest = rc_vf_top(top);
    *scale = largest / 127 + rc_vf_sum(odd);
    if (*scale < SCALE_MIN) *scale = 0;
    rc_vf factor = rc_vf_set1(127 / largest);
    int8_t some[RC_LANES] = {0};
    for (uint32_t d = 0; d < dim; d += RC_LANES) {
        uint32_t n = rc_vf_lanes(d, dim);
        if (*scale > 0) rc_vf_store_i8(some, rc_vf_mul(rc_vf_load_n(from + d, n), factor));
        put(at, d, n, some, sizeof *some);
    }
}

/* K or V row `row` of a head whose rows start at `head`. */
static void store_row(const kv_layout *l, char *head, uint32_t row, bool is_value, const float *from)
{
    place at = is_value ? value_place(l, head, row) : key_place(l, head, row);
    switch (l->element_bytes) {
    case 4: store_f32(&at, from, l->head_dim); break;
    case 2: store_bf16(&at, from, l->head_dim); break;
    default: store_int8(&at, (float *)(void *)(head + kv_scale_offset(l, row)), from, l->head_dim);
    }
}

/* K/V heads [first, end) of row i of the span. */
static void write_heads(const kv_write *w, const kv_span *s, uint32_t i, uint32_t first, uint32_t end)
{
    const kv_layout *l = w->layout;
    uint32_t position = s->position + i, offset = position % l->block_tokens;
    uint32_t block = w->plan->tables[s->table + position / l->block_tokens];
    size_t from = (s->row + i) * w->stride;
    char *kv = w->kv;
    for (uint32_t g = first; g < end; g++) {
        size_t at = from + (size_t)g * l->head_dim;
        store_row(l, kv + kv_head_offset(l, block, w->layer, 0, g), offset, false, w->k + at);
        store_row(l, kv + kv_head_offset(l, block, w->layer, 1, g), offset, true, w->v + at);
    }
}

/* What is dealt out, in equal shares, is (row, head) pairs in order. */
void RC_FAMILY(kv_write_cpu)(const kv_write *w, uint32_t part, uint32_t parts)
{
    uint64_t heads = w->layout->kv_heads, pairs = 0;
    for (uint32_t s = 0; s < w->plan->spans_count; s++) pairs += w->plan->spans[s].rows * heads;
    uint64_t first = pairs * part / parts, end = pairs * (part + 1) / parts, at = 0;
    for (uint32_t s = 0; s < w->plan->spans_count && at < end; s++) {
        const kv_span *span = &w->plan->spans[s];
        uint64_t span_end = at + span->rows * heads;
        uint64_t from = first > at ? first - at : 0, to = (end < span_end ? end : span_end) - at;
        for (uint64_t i = from / heads; i * heads < to; i++) {
            uint64_t row = i * heads;
            write_heads(w, span, (uint32_t)i, (uint32_t)(from > row ? from - row : 0),
                        (uint32_t)(to - row < heads ? to - row : heads));
        }
        at = span_end;
    }
}
