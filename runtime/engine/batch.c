#include "runtime/engine/batch.h"

#include <stdlib.h>
#include <string.h>

#include "adapters/activation.h"
#include "adapters/registry.h"

#define NONE UINT32_MAX

struct rt_batch {
    rt_batch_options o;
    rt_step step;
    int32_t *tokens;           /* [rows_max] */
    uint32_t *positions;       /* [rows_max] */
    uint32_t *logit_rows;      /* [rows_max] */
    uint32_t *row_slot;        /* [rows_max] */
    uint32_t *row_index;       /* [rows_max] */
    kv_span *spans;            /* [seqs_max], in the order of the groups */
    kv_group *groups;          /* [seqs_max] */
    adapter_segment *segments; /* [slots_max] */
    uint32_t *slot_rows;       /* [slots_max] rows of each slot, then where its next one goes */
    uint32_t *bucket_of;       /* [blocks_max] first span whose first block it is, this step */
    uint32_t *next_span;       /* [seqs_max] chain of spans with the same first block */
    kv_span *unordered;        /* [seqs_max] spans as added */
    uint32_t *common;          /* [seqs_max] blocks that a span shares with the one before it */
};

static size_t bytes_of(const rt_batch_options *o)
{
    return o->rows_max * (sizeof(int32_t) + 4 * sizeof(uint32_t)) +
           o->seqs_max * (2 * sizeof(kv_span) + sizeof(kv_group) + 2 * sizeof(uint32_t)) +
           o->slots_max * (sizeof(adapter_segment) + sizeof(uint32_t)) + o->blocks_max * sizeof(uint32_t);
}

size_t rt_batch_bytes(const rt_batch_options *o) { return sizeof(rt_batch) + bytes_of(o); }

static void *carve(char **at, size_t count, size_t size)
{
    void *p = *at;
    *at += count * size;
    return p;
}

rc_code rt_batch_create(const rt_batch_options *o, rt_batch **out, rc_msg *msg)
{
    rt_batch *b = calloc(1, rt_batch_bytes(o));
    if (!b) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a batch of %u rows", o->rows_max);
    char *at = (char *)(b + 1);
    b->o = *o;
    b->tokens = carve(&at, o->rows_max, sizeof *b->tokens);
    b->positions = carve(&at, o->rows_max, sizeof *b->positions);
    b->logit_rows = carve(&at, o->rows_max, sizeof *b->logit_rows);
    b->row_slot = carve(&at, o->rows_max, sizeof *b->row_slot);
    b->row_index = carve(&at, o->rows_max, sizeof *b->row_index);
    b->spans = carve(&at, o->seqs_max, sizeof *b->spans);
    b->unordered = carve(&at, o->seqs_max, sizeof *b->unordered);
    b->groups = carve(&at, o->seqs_max, sizeof *b->groups);
    b->next_span = carve(&at, o->seqs_max, sizeof *b->next_span);
    b->common = carve(&at, o->seqs_max, sizeof *b->common);
    b->segments = carve(&at, o->slots_max, sizeof *b->segments);
    b->slot_rows = carve(&at, o->slots_max, sizeof *b->slot_rows);
    b->bucket_of = carve(&at, o->blocks_max, sizeof *b->bucket_of);
    memset(b->bucket_of, 0xff, o->blocks_max * sizeof *b->bucket_of);
    *out = b;
    return RC_OK;
}

void rt_batch_destroy(rt_batch *b) { free(b); }

void rt_batch_begin(rt_batch *b, const uint32_t *tables)
{
    b->step = (rt_step){ .tokens = b->tokens, .positions = b->positions, .logit_rows = b->logit_rows,
                         .kv = { .spans = b->spans, .groups = b->groups, .tables = tables },
                         .adapters = { .segments = b->segments, .row_index = b->row_index } };
    memset(b->slot_rows, 0, b->o.slots_max * sizeof *b->slot_rows);
}

void rt_batch_add(rt_batch *b, const rt_batch_entry *e)
{
    rt_step *s = &b->step;
    kv_span span = { s->rows, e->rows, e->position, (uint32_t)(e->blocks - s->kv.tables) };
    RC_ASSERT(e->rows > 0);
    RC_ASSERT(s->rows + e->rows <= b->o.rows_max);
    RC_ASSERT(s->kv.spans_count < b->o.seqs_max);
    RC_ASSERT((uint64_t)e->blocks_count * b->o.block_tokens >= (uint64_t)e->position + e->rows);
    RC_ASSERT(e->activation == ADAPTER_NEVER || e->slot < b->o.slots_max);
    for (uint32_t i = 0; i < e->rows; i++) {
        uint32_t row = s->rows + i, position = e->position + i;
        bool adapted = e->activation != ADAPTER_NEVER && position >= e->activation;
        b->tokens[row] = e->tokens[position];
        b->positions[row] = position;
        b->row_slot[row] = adapted ? e->slot : ADAPTER_NO_SLOT;
        if (adapted) b->slot_rows[e->slot]++;
        if (position >= e->first_logit) b->logit_rows[s->logit_rows_count++] = row;
    }
    for (uint32_t i = 0; i < e->blocks_count; i++) RC_DASSERT(e->blocks[i] < b->o.blocks_max);
    b->unordered[s->kv.spans_count++] = span;
    s->rows += e->rows;
}

/* Counting sort of adapted rows by slot; rows of a slot stay in order. */
static void build_segments(rt_batch *b)
{
    adapter_plan *p = &b->step.adapters;
    uint32_t first = 0;
    for (uint32_t slot = 0; slot < b->o.slots_max; slot++) {
        uint32_t rows = b->slot_rows[slot];
        b->slot_rows[slot] = first;
        if (!rows) continue;
        b->segments[p->segments_count++] = (adapter_segment){ slot, first, rows };
        first += rows;
    }
    if (!first) return;
    for (uint32_t row = 0; row < b->step.rows; row++)
        if (b->row_slot[row] != ADAPTER_NO_SLOT) b->row_index[b->slot_rows[b->row_slot[row]]++] = row;
}

/* Whole blocks before a span's first row, which alone can be shared. */
static uint32_t whole_blocks(const rt_batch *b, const kv_span *s) { return s->position / b->o.block_tokens; }

/* Leading blocks that two spans share. Blocks are named by their whole chain, so two tables that agree at an
 * index agree before it, and the end of the agreement can be found by bisection. */
static uint32_t common_blocks(const rt_batch *b, const kv_span *x, const kv_span *y)
{
    const uint32_t *tx = b->step.kv.tables + x->table, *ty = b->step.kv.tables + y->table;
    uint32_t low = 0, high = whole_blocks(b, x), other = whole_blocks(b, y);
    if (other < high) high = other;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (tx[middle] == ty[middle]) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* Whether x goes before y: by the first block in which their tables differ, so that sharers are neighbours.
 */
static bool goes_before(const rt_batch *b, const kv_span *x, const kv_span *y)
{
    uint32_t at = common_blocks(b, x, y), wx = whole_blocks(b, x), wy = whole_blocks(b, y);
    const uint32_t *tables = b->step.kv.tables;
    if (at == wx || at == wy) return wx < wy;
    return tables[x->table + at] < tables[y->table + at];
}

static void sort_spans(const rt_batch *b, kv_span *spans, uint32_t count)
{
    for (uint32_t gap = count / 2; gap; gap /= 2)
        for (uint32_t i = gap; i < count; i++) {
            kv_span x = spans[i];
            uint32_t j = i;
            for (; j >= gap && goes_before(b, &x, &spans[j - gap]); j -= gap) spans[j] = spans[j - gap];
            spans[j] = x;
        }
}

static void add_group(rt_batch *b, uint32_t span, uint32_t spans, uint32_t shared_blocks)
{
    uint32_t tokens = spans > 1 ? shared_blocks * b->o.block_tokens : 0;
    b->groups[b->step.kv.groups_count++] = (kv_group){ span, spans, tokens - tokens % KV_TILE };
}

/* Blocks that need not be read again if spans [from, to) form the groups that save most; common[i] is what
 * span i shares with span i - 1. Splits where the least is shared. With emit, adds those groups. */
static uint64_t group_range(rt_batch *b, uint32_t from, uint32_t to, bool emit)
{
    uint32_t split = from + 1, least = NONE;
    uint64_t together, apart;
    if (to - from == 1) {
        if (emit) add_group(b, from, 1, 0);
        return 0;
    }
    for (uint32_t i = from + 1; i < to; i++)
        if (b->common[i] < least) {
            least = b->common[i];
            split = i;
        }
    together = (uint64_t)(to - from - 1) * least;
    apart = group_range(b, from, split, false) + group_range(b, split, to, false);
    if (!emit) return together > apart ? together : apart;
    if (together > apart) add_group(b, from, to - from, least);
    else {
        group_range(b, from, split, true);
        group_range(b, split, to, true);
    }
    return 0;
}

/* Orders the spans of one bucket (the same first block) and groups them. */
static void group_bucket(rt_batch *b, uint32_t from, uint32_t to)
{
    if (to - from == 1) {
        add_group(b, from, 1, 0);
        return;
    }
    sort_spans(b, b->spans + from, to - from);
    for (uint32_t i = from + 1; i < to; i++)
        b->common[i] = common_blocks(b, &b->spans[i - 1], &b->spans[i]);
    group_range(b, from, to, true);
}

static void build_groups(rt_batch *b)
{
    kv_plan *p = &b->step.kv;
    uint32_t placed = 0;
    for (uint32_t i = p->spans_count; i-- > 0;) {
        uint32_t first = p->tables[b->unordered[i].table];
        b->next_span[i] = b->bucket_of[first];
        b->bucket_of[first] = i;
    }
    for (uint32_t i = 0; i < p->spans_count; i++) {
        uint32_t first = p->tables[b->unordered[i].table], from = placed;
        if (b->bucket_of[first] != i) continue; /* placed with the first of its bucket */
        for (uint32_t j = i; j != NONE; j = b->next_span[j]) b->spans[placed++] = b->unordered[j];
        group_bucket(b, from, placed);
    }
    for (uint32_t i = 0; i < p->spans_count; i++) b->bucket_of[p->tables[b->unordered[i].table]] = NONE;
    RC_ASSERT(placed == p->spans_count);
}

const rt_step *rt_batch_end(rt_batch *b)
{
    build_segments(b);
    build_groups(b);
    return &b->step;
}
