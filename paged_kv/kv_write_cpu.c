/* Writing K/V rows into blocks, compiled once for each CPU family. */
#include "paged_kv/paged_attn_cpu.h"
#include "proto/vec.h"

static void store_bf16(uint16_t *to, const float *from, uint32_t dim)
{
    uint32_t d = 0;
    for (; d + RC_LANES <= dim; d += RC_LANES) rc_vf_store_bf16(to + d, rc_vf_load(from + d));
    if (d < dim) rc_vf_store_bf16_n(to + d, rc_vf_load_n(from + d, dim - d), dim - d);
}

/* The scale below which a row counts as zeros: 127 / the row's largest is still a float there. */
#define SCALE_MIN 0x1p-126f

/* The largest magnitude becomes 127. A row with an infinity or a NaN has the scale NaN, so that whoever
 * attends to it gets NaN as with the other types. */
static void store_int8(int8_t *to, float *scale, const float *from, uint32_t dim)
{
    rc_vf top = rc_vf_zero(), odd = rc_vf_zero(); /* odd: 0, or NaN where an element is not finite */
    for (uint32_t d = 0; d < dim; d += RC_LANES) {
        rc_vf x = rc_vf_load_n(from + d, dim - d < RC_LANES ? dim - d : RC_LANES);
        top = rc_vf_max(top, rc_vf_max(x, rc_vf_sub(rc_vf_zero(), x)));
        odd = rc_vf_add(odd, rc_vf_sub(x, x));
    }
    float largest = rc_vf_top(top);
    *scale = largest / 127 + rc_vf_sum(odd);
    if (*scale < SCALE_MIN) *scale = 0;
    if (!(*scale > 0)) {
        memset(to, 0, dim);
        return;
    }
    rc_vf factor = rc_vf_set1(127 / largest);
    for (uint32_t d = 0; d < dim; d += RC_LANES) {
        uint32_t n = dim - d < RC_LANES ? dim - d : RC_LANES;
        rc_vf_store_i8_n(to + d, rc_vf_mul(rc_vf_load_n(from + d, n), factor), n);
    }
}

/* Row `row` of the head whose rows start at `head`. */
static void store_row(const kv_layout *l, char *head, uint32_t row, const float *from)
{
    void *to = head + kv_row_offset(l, row);
    switch (l->element_bytes) {
    case 4: memcpy(to, from, kv_row_bytes(l)); break;
    case 2: store_bf16(to, from, l->head_dim); break;
    default: store_int8(to, (float *)(void *)(head + kv_scale_offset(l, row)), from, l->head_dim);
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
        store_row(l, kv + kv_head_offset(l, block, w->layer, 0, g), offset, w->k + at);
        store_row(l, kv + kv_head_offset(l, block, w->layer, 1, g), offset, w->v + at);
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
