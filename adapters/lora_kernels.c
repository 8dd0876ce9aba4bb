/* adapters/lora_kernels.c - the two passes of lora_ops_cpu.h; compiled once per family. */
#include "proto/vec.h"

#include "adapters/lora_ops_cpu.h"

#define ALWAYS static inline __attribute__((always_inline))

#if defined(__AVX512F__)
enum { RANKS = 4, ROWS = 4 }; /* a tile's accumulators, in registers */
#elif defined(__AVX2__)
enum { RANKS = 2, ROWS = 2 };
#else
enum { RANKS = 1, ROWS = 1 };
#endif
enum { ROWS_CELL = 16 };
/* Weights come closer while others are multiplied. */
enum {
    SHRINK_AHEAD = 512,  /* weights of a row of A that come from L2 to L1 */
    EXPAND_AHEAD = 2048, /* weights of B that come to L1, 4 KiB of bf16 */
    EXPAND_FAR = RC_TO_L2_FIRST ? 8192 : EXPAND_AHEAD
};

/* A cell is some ranks (shrink) or one panel (expand) of one delta for some rows of one segment. */
typedef struct cell {
    const adapter_lora_delta *delta;
    const adapter_lora_delta *after; /* whose weights are read next */
    float *s;                   /* of the first row */
    const uint32_t *rows;       /* indices into x and y */
    uint32_t rows_count;
    uint32_t unit;              /* first rank, or panel */
} cell;

typedef void (*cell_fn)(const adapter_lora_run *r, const cell *c);

/* Deltas of one segment in this wave. */
typedef struct share {
    const adapter_lora_delta *deltas;
    uint32_t count;
} share;

static share segment_deltas(const adapter_lora_run *r, const adapter_segment *segment)
{
    const adapter_lora *lora = r->slots[segment->slot];
    const uint32_t *first = lora->first + r->layer * lora->linears + r->linear;
    uint32_t from = first[0] + r->wave * ADAPTER_WAVE;
    if (from >= first[1]) return (share){NULL, 0};
    uint32_t count = first[1] - from;
    return (share){lora->deltas + from, count < ADAPTER_WAVE ? count : ADAPTER_WAVE};
}

static uint32_t units_of(const adapter_lora_delta *d, bool expands)
{
    return expands ? (d->out + ADAPTER_LORA_PANEL - 1) / ADAPTER_LORA_PANEL : (d->rank + RANKS - 1) / RANKS;
}

static uint32_t row_blocks(uint32_t rows) { return (rows + ROWS_CELL - 1) / ROWS_CELL; }

/* Rough cost: bytes of weights count as two rows' arithmetic. */
static uint64_t weight_of(const adapter_lora_delta *d, uint32_t rows, bool expands)
{
    uint64_t depth = expands ? d->rank : RANKS;
    return units_of(d, expands) * depth * (2 * (uint64_t)row_blocks(rows) + rows);
}

static uint64_t total_weight(const adapter_lora_run *r, bool expands)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < r->plan->segments_count; i++) {
        share h = segment_deltas(r, &r->plan->segments[i]);
        for (uint32_t d = 0; d < h.count; d++)
            total += weight_of(&h.deltas[d], r->plan->segments[i].rows, expands);
    }
    return total;
}

/* How many of a delta's cells lie before `weight`, where the delta spans [start, start + own). */
static uint64_t cells_before(uint64_t weight, uint64_t start, uint64_t own, uint64_t cells)
{
    if (weight <= start) return 0;
    return weight >= start + own ? cells : (weight - start) * cells / own;
}

/* The delta that comes after delta d of segment i; at the end the same one. */
static const adapter_lora_delta *delta_after(const adapter_lora_run *r, uint32_t i, share h, uint32_t d)
{
    if (d + 1 < h.count) return &h.deltas[d + 1];
    while (++i < r->plan->segments_count) {
        share next = segment_deltas(r, &r->plan->segments[i]);
        if (next.count) return next.deltas;
    }
    return &h.deltas[d];
}

/* Runs this part's cells: the parts cut one line of cells, weighed by cost, at even places. Units run
 * fastest: the rows of a block stay in L2 for all of them, and a prefill reads x once a delta. */
static void run_cells(const adapter_lora_run *r, bool expands, cell_fn run, uint32_t part, uint32_t parts)
{
    uint64_t total = total_weight(r, expands), start = 0;
    uint64_t low = total * part / parts, high = total * (part + 1) / parts;
    size_t s_stride = (size_t)ADAPTER_WAVE * r->rank_max;
    for (uint32_t i = 0; i < r->plan->segments_count; i++) {
        const adapter_segment *g = &r->plan->segments[i];
        share h = segment_deltas(r, g);
        for (uint32_t d = 0; d < h.count; d++) {
            const adapter_lora_delta *delta = &h.deltas[d];
            uint32_t units = units_of(delta, expands);
            uint64_t own = weight_of(delta, g->rows, expands),
                     cells = (uint64_t)units * row_blocks(g->rows);
            uint64_t end = cells_before(high, start, own, cells);
            const adapter_lora_delta *after = delta_after(r, i, h, d);
            for (uint64_t c = cells_before(low, start, own, cells); c < end; c++) {
                uint32_t block = (uint32_t)(c / units) * ROWS_CELL, left = g->rows - block;
                cell one = {
                    .delta = delta,
                    .after = after,
                    .s = r->s + (g->first + block) * s_stride + (size_t)d * r->rank_max,
                    .rows = r->plan->row_index + g->first + block,
                    .rows_count = left < ROWS_CELL ? left : ROWS_CELL,
                    .unit = (uint32_t)(c % units) * (expands ? 1 : RANKS),
                };
                run(r, &one);
            }
            start += own;
        }
    }
}

ALWAYS rc_vf load_weights(const void *p, rc_dtype stored, size_t at)
{
    return stored == RC_F32 ? rc_vf_load((const float *)p + at) : rc_vf_load_bf16((const uint16_t *)p + at);
}

ALWAYS size_t bytes_of(rc_dtype stored, size_t weights)
{
    return weights * rc_dtype_bytes(stored);
}

/* 32 weights that are read much later, and, in the same stream, 32 that are read soon. */
ALWAYS void bring(const char *later, const char *soon, rc_dtype stored)
{
    if (RC_TO_L2_FIRST) rc_vf_prefetch_l2(later, bytes_of(stored, 32));
    rc_vf_prefetch(RC_TO_L2_FIRST ? soon : later, bytes_of(stored, 32));
}

/* A part of a row of A past `in` is zero, and so is what x loads there. Meanwhile the next ranks' rows come
 * closer, from `next` on: each is a stream that memory begins anew. */
ALWAYS void shrink_step(rc_vf acc[RANKS][ROWS], const cell *c, rc_dtype stored, const float *const x[ROWS],
                        const char *next, uint32_t k, uint32_t lanes, int ranks, int rows)
{
    const char *a = c->delta->a;
    size_t stride = adapter_lora_a_stride(c->delta->in);
    rc_vf b[ROWS];
#pragma GCC unroll 4
    for (int m = 0; m < rows; m++) b[m] = lanes == 16 ? rc_vf_load(x[m] + k) : rc_vf_load_n(x[m] + k, lanes);
#pragma GCC unroll 4
    for (int i = 0; i < ranks; i++) {
        size_t at = (c->unit + i) * stride + k;
        if (k % 32 == 0)
            bring(next + bytes_of(stored, i * stride + k), a + bytes_of(stored, at + SHRINK_AHEAD), stored);
        rc_vf w = load_weights(a, stored, at);
#pragma GCC unroll 4
        for (int m = 0; m < rows; m++) acc[i][m] = rc_vf_fma(w, b[m], acc[i][m]);
    }
}

ALWAYS void shrink_tile(const adapter_lora_run *r, const cell *c, rc_dtype stored, int ranks, int rows)
{
    rc_vf acc[RANKS][ROWS];
    const float *x[ROWS];
    size_t s_stride = (size_t)ADAPTER_WAVE * r->rank_max;
    uint32_t in = c->delta->in, k = 0, unit = c->unit + RANKS;
    const char *next = c->after->a;
    if (unit < c->delta->rank)
        next = (const char *)c->delta->a + bytes_of(stored, unit * adapter_lora_a_stride(in));
    for (int m = 0; m < rows; m++) x[m] = r->x + c->rows[m] * r->x_stride;
#pragma GCC unroll 4
    for (int i = 0; i < ranks; i++)
#pragma GCC unroll 4
        for (int m = 0; m < rows; m++) acc[i][m] = rc_vf_zero();
    for (; k + 16 <= in; k += 16) shrink_step(acc, c, stored, x, next, k, 16, ranks, rows);
    if (k < in) shrink_step(acc, c, stored, x, next, k, in - k, ranks, rows);
#pragma GCC unroll 4
    for (int i = 0; i < ranks; i++)
#pragma GCC unroll 4
        for (int m = 0; m < rows; m++) c->s[m * s_stride + c->unit + i] = rc_vf_sum(acc[i][m]);
}

ALWAYS void shrink_rows(const adapter_lora_run *r, cell c, rc_dtype stored, int rows)
{
    uint32_t left = c.delta->rank - c.unit;
    if (left >= RANKS) {
        shrink_tile(r, &c, stored, RANKS, rows);
        return;
    }
    for (; left; left--, c.unit++) shrink_tile(r, &c, stored, 1, rows);
}

static cell cell_tail(const adapter_lora_run *r, const cell *c, uint32_t done)
{
    cell tail = *c;
    tail.s += (size_t)done * ADAPTER_WAVE * r->rank_max;
    tail.rows += done;
    tail.rows_count -= done;
    return tail;
}

ALWAYS void shrink_stored(const adapter_lora_run *r, const cell *c, rc_dtype stored)
{
    uint32_t m = 0;
    for (; m + ROWS <= c->rows_count; m += ROWS) shrink_rows(r, cell_tail(r, c, m), stored, ROWS);
    for (; m < c->rows_count; m++) shrink_rows(r, cell_tail(r, c, m), stored, 1);
}

static void shrink_cell(const adapter_lora_run *r, const cell *c)
{
    if (c->delta->stored == RC_F32) shrink_stored(r, c, RC_F32);
    else shrink_stored(r, c, RC_BF16);
}

/* Two vectors of columns for some rows. */
ALWAYS void expand_tile(const adapter_lora_run *r, const cell *c, rc_dtype stored, int rows)
{
    rc_vf acc[ROWS][2];
    const adapter_lora_delta *d = c->delta;
    size_t s_stride = (size_t)ADAPTER_WAVE * r->rank_max,
           panel = (size_t)c->unit * d->rank * ADAPTER_LORA_PANEL,
           far = panel + EXPAND_FAR, whole = (size_t)units_of(d, true) * d->rank * ADAPTER_LORA_PANEL;
    const char *later = far < whole ? (const char *)d->b + bytes_of(stored, far)
                                    : (const char *)c->after->b + bytes_of(stored, far - whole);
#pragma GCC unroll 4
    for (int m = 0; m < rows; m++) acc[m][0] = acc[m][1] = rc_vf_zero();
    for (uint32_t i = 0; i < d->rank; i++) {
        size_t at = panel + (size_t)i * ADAPTER_LORA_PANEL;
        bring(later + bytes_of(stored, (size_t)i * ADAPTER_LORA_PANEL),
              (const char *)d->b + bytes_of(stored, at + EXPAND_AHEAD), stored);
        rc_vf low = load_weights(d->b, stored, at);
        rc_vf high = load_weights(d->b, stored, at + 16);
#pragma GCC unroll 4
        for (int m = 0; m < rows; m++) {
            rc_vf s = rc_vf_set1(c->s[m * s_stride + i]);
            acc[m][0] = rc_vf_fma(s, low, acc[m][0]);
            acc[m][1] = rc_vf_fma(s, high, acc[m][1]);
        }
    }
    uint32_t column = c->unit * ADAPTER_LORA_PANEL, left = d->out - column;
    rc_vf scaling = rc_vf_set1(d->scaling);
    for (int m = 0; m < rows; m++) {
        float *y = r->y + c->rows[m] * r->y_stride + d->out_offset + column;
        for (uint32_t v = 0; v < 2 && 16 * v < left; v++) {
            uint32_t lanes = left - 16 * v < 16 ? left - 16 * v : 16;
            rc_vf base = rc_vf_load_n(y + 16 * v, lanes);
            rc_vf_store_n(y + 16 * v, rc_vf_add(base, rc_vf_mul(scaling, acc[m][v])), lanes);
        }
    }
}

ALWAYS void expand_stored(const adapter_lora_run *r, const cell *c, rc_dtype stored)
{
    uint32_t m = 0;
    for (; m + ROWS <= c->rows_count; m += ROWS) {
        cell some = cell_tail(r, c, m);
        expand_tile(r, &some, stored, ROWS);
    }
    for (; m < c->rows_count; m++) {
        cell one = cell_tail(r, c, m);
        expand_tile(r, &one, stored, 1);
    }
}

static void expand_cell(const adapter_lora_run *r, const cell *c)
{
    if (c->delta->stored == RC_F32) expand_stored(r, c, RC_F32);
    else expand_stored(r, c, RC_BF16);
}

void RC_FAMILY(adapter_lora_shrink)(const adapter_lora_run *r, uint32_t part, uint32_t parts)
{
    run_cells(r, false, shrink_cell, part, parts);
}

void RC_FAMILY(adapter_lora_expand)(const adapter_lora_run *r, uint32_t part, uint32_t parts)
{
    run_cells(r, true, expand_cell, part, parts);
}
