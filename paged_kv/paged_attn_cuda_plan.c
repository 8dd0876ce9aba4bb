/* Cutting a step's attention into items. Where to cut is free, since no bit depends on it: what would be few
 * long items (decode) becomes many partial ones, as long as the scratch has room. */
#include <string.h>

#include "paged_kv/paged_attn_cuda.h"
#include "paged_kv/paged_attn_cuda_plan.h"

enum {
    VECTORS = 64,           /* (row, head of a K/V head's group) pairs of an item: four warps of 16 */
    SPLIT_VECTORS_MAX = 64, /* a span with more is prefill, which has items enough */
    PARTIALS_PER_ROW = 16
};

typedef struct packing {
    const kv_cuda_limits *l;
    kv_cuda_item *items;
    kv_cuda_merge *merges;
    kv_cuda_plan *out;
    uint32_t partials, partials_max; /* in rows */
} packing;

static uint32_t words_of(size_t bytes)
{
    return (uint32_t)((bytes + 3) / 4);
}

static uint32_t partials_max(const kv_cuda_limits *l)
{
    return l->rows_max * PARTIALS_PER_ROW;
}

static uint32_t power_of_two(uint32_t count)
{
    uint32_t power = count > 0;
    while (power < count) power *= 2;
    return power;
}

/* Partial items have a row at least, and whole ones too. */
static size_t items_max(const kv_cuda_limits *l)
{
    return power_of_two(partials_max(l) + l->rows_max);
}

size_t kv_cuda_plan_words(const kv_cuda_limits *l)
{
    return l->table_words_max + words_of(sizeof(kv_cuda_row)) * (size_t)l->rows_max +
           words_of(sizeof(kv_cuda_item)) * items_max(l) +
           words_of(sizeof(kv_cuda_merge)) * (size_t)power_of_two(l->rows_max);
}

/* A partial of a row and a head: the largest score, the sum of weights, and the weighted sum of V. */
size_t kv_cuda_scratch_bytes(const kv_cuda_limits *l)
{
    return (size_t)partials_max(l) * l->heads * (l->head_dim + 2) * sizeof(float);
}

static uint32_t rows_of_item(const kv_cuda_limits *l)
{
    uint32_t group = l->heads / l->kv_heads;
    return group >= VECTORS ? 1 : VECTORS / group;
}

static uint32_t segments_of(const kv_span *s)
{
    return (s->position + s->rows + KV_SEGMENT - 1) / KV_SEGMENT;
}

/* Items of rows [row, end) over segments [from, to): one of them all for each run of rows, or a partial one
 * for each segment. Gives the first partial. */
static uint32_t cut(packing *p, uint32_t row, uint32_t end, uint32_t from, uint32_t to, int is_partial)
{
    uint32_t each = rows_of_item(p->l), first = p->partials;
    for (; row < end; row += each) {
        uint32_t rows = end - row < each ? end - row : each;
        for (uint32_t s = from; s < to; s += is_partial ? 1 : to - from) {
            uint32_t partial = is_partial ? p->partials : KV_CUDA_WHOLE;
            p->items[p->out->items++] = (kv_cuda_item){row, rows, s, is_partial ? 1 : to - from, partial};
            if (is_partial) p->partials += rows;
        }
    }
    return first;
}

static int has_room(const packing *p, uint32_t partials)
{
    return partials <= p->partials_max - p->partials;
}

/* Where row `i` of a run of `rows` rows that was cut into `segments` partials has its first one, and how far
 * it is to the next. */
static uint32_t partial_at(const packing *p, uint32_t first, uint32_t rows, uint32_t i, uint32_t segments,
                           uint32_t *stride)
{
    uint32_t each = rows_of_item(p->l), chunk = i / each, begin = chunk * each;
    *stride = rows - begin < each ? rows - begin : each;
    return first + begin * segments + (i - begin);
}

static void merge_rows(packing *p, uint32_t row, uint32_t rows, kv_cuda_merge shared, uint32_t shared_rows,
                       uint32_t shared_row, uint32_t own, uint32_t own_count)
{
    for (uint32_t i = 0; i < rows; i++) {
        kv_cuda_merge m = {.row = row + i, .shared_count = shared.shared_count, .own_count = own_count};
        if (m.shared_count)
            m.shared =
                partial_at(p, shared.shared, shared_rows, shared_row + i, m.shared_count, &m.shared_stride);
        m.own = partial_at(p, own, rows, i, own_count, &m.own_stride);
        p->merges[p->out->merges++] = m;
    }
}

static void cut_span(packing *p, const kv_span *s)
{
    uint32_t segments = segments_of(s), vectors = s->rows * (p->l->heads / p->l->kv_heads);
    if (segments > 1 && vectors <= SPLIT_VECTORS_MAX && has_room(p, s->rows * segments)) {
        uint32_t own = cut(p, s->row, s->row + s->rows, 0, segments, 1);
        merge_rows(p, s->row, s->rows, (kv_cuda_merge){0}, 0, 0, own, segments);
    } else {
        cut(p, s->row, s->row + s->rows, 0, segments, 0);
    }
}

/* Whole segments of what the spans share are read once for all of them. 0: there is no room. */
static int cut_group(packing *p, const kv_span *spans, uint32_t count, uint32_t shared_segments)
{
    uint32_t rows = 0, partials = 0;
    for (uint32_t i = 0; i < count; i++) {
        rows += spans[i].rows;
        partials += spans[i].rows * segments_of(&spans[i]);
    }
    if (!has_room(p, partials)) return 0;
    kv_cuda_merge shared = {.shared_count = shared_segments};
    shared.shared = cut(p, spans[0].row, spans[0].row + rows, 0, shared_segments, 1);
    for (uint32_t i = 0; i < count; i++) {
        const kv_span *s = &spans[i];
        uint32_t own_count = segments_of(s) - shared_segments;
        uint32_t own = cut(p, s->row, s->row + s->rows, shared_segments, segments_of(s), 1);
        merge_rows(p, s->row, s->rows, shared, rows, s->row - spans[0].row, own, own_count);
    }
    return 1;
}

/* Rows, and the tables brought together, span after span; consecutive spans of one sequence, which go on in
 * position, share one. Gives the words of the tables. */
static uint32_t pack_rows(const kv_plan *plan, uint32_t block_tokens, kv_cuda_row *rows, uint32_t *tables)
{
    uint32_t words = 0, begin = 0;
    for (uint32_t i = 0; i < plan->spans_count; i++) {
        const kv_span *s = &plan->spans[i];
        uint32_t blocks = (s->position + s->rows + block_tokens - 1) / block_tokens;
        if (i == 0 || s->table != s[-1].table) begin = words;
        uint32_t have = words - begin;
        if (blocks > have) {
            memcpy(tables + words, plan->tables + s->table + have, (blocks - have) * sizeof *tables);
            words = begin + blocks;
        }
        for (uint32_t t = 0; t < s->rows; t++) rows[s->row + t] = (kv_cuda_row){s->position + t, begin};
    }
    return words;
}

static void cut_groups(packing *p, const kv_plan *plan)
{
    for (uint32_t g = 0; g < plan->groups_count; g++) {
        const kv_group *group = &plan->groups[g];
        const kv_span *spans = &plan->spans[group->span];
        uint32_t shared = group->shared_tokens / KV_SEGMENT;
        if (group->spans > 1 && shared && cut_group(p, spans, group->spans, shared)) continue;
        for (uint32_t s = 0; s < group->spans; s++) cut_span(p, &spans[s]);
    }
}

/* Those behind `count` up to a power of two, which it gives, do nothing. */
static uint32_t round_up(void *things, uint32_t count, size_t bytes)
{
    uint32_t power = power_of_two(count);
    memset((char *)things + count * bytes, 0, (power - count) * bytes);
    return power;
}

void kv_cuda_pack(const kv_cuda_limits *l, uint32_t block_tokens, const kv_plan *plan, uint32_t rows,
                  uint32_t *words, kv_cuda_plan *out)
{
    *out = (kv_cuda_plan){.rows = rows, .items_at = words_of(sizeof(kv_cuda_row)) * rows};
    packing p = {.l = l,
                 .items = (kv_cuda_item *)(words + out->items_at),
                 .out = out,
                 .partials_max = partials_max(l)};
    /* Merges lie behind all the items that there may be until their number is known. */
    p.merges = (kv_cuda_merge *)(p.items + items_max(l));
    cut_groups(&p, plan);
    out->items = round_up(p.items, out->items, sizeof *p.items);
    out->merges_at = out->items_at + words_of(sizeof(kv_cuda_item)) * out->items;
    memmove(words + out->merges_at, p.merges, out->merges * sizeof *p.merges);
    out->merges = round_up(words + out->merges_at, out->merges, sizeof *p.merges);
    out->tables_at = out->merges_at + words_of(sizeof(kv_cuda_merge)) * out->merges;
    for (uint32_t t = 0; t < rows; t++) ((kv_cuda_row *)words)[t] = (kv_cuda_row){KV_CUDA_NO_ROW, 0};
    out->words =
        out->tables_at + pack_rows(plan, block_tokens, (kv_cuda_row *)words, words + out->tables_at);
}
