/* Writing K/V rows into blocks, compiled once for each CPU family. */
#include "paged_kv/paged_attn_cpu.h"
#include "proto/vec.h"

static void store_row(const kv_write *w, size_t at, const float *from)
{
    uint32_t dim = w->layout->head_dim, d = 0;
    if (w->layout->element_bytes == 4) {
        memcpy((float *)w->kv + at, from, dim * sizeof(float));
        return;
    }
    uint16_t *to = (uint16_t *)w->kv + at;
    for (; d + RC_LANES <= dim; d += RC_LANES) rc_vf_store_bf16(to + d, rc_vf_load(from + d));
    if (d < dim) rc_vf_store_bf16_n(to + d, rc_vf_load_n(from + d, dim - d), dim - d);
}

/* K/V heads [first, end) of row i of the span. */
static void write_heads(const kv_write *w, const kv_span *s, uint32_t i, uint32_t first, uint32_t end)
{
    const kv_layout *l = w->layout;
    uint32_t position = s->position + i, offset = position % l->block_tokens;
    uint32_t block = w->plan->tables[s->table + position / l->block_tokens];
    size_t from = (s->row + i) * w->stride;
    for (uint32_t g = first; g < end; g++) {
        store_row(w, kv_row_at(l, block, w->layer, 0, g, offset), w->k + from + (size_t)g * l->head_dim);
        store_row(w, kv_row_at(l, block, w->layer, 1, g, offset), w->v + from + (size_t)g * l->head_dim);
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
