/* runtime/backend/dense_kernels.c - y = x W^T (+ bias); compiled once per family.
 *
 * Every element of y is a sum of chains, added in their order; a chain is one float32 accumulator that goes
 * over some k in increasing order with one instruction per k (per pair of k for bf16 dot). All tiles have the
 * same chains and choose only what is in registers together, so rows, threads and tiles change no bit.
 *
 * Few rows: panel after panel, each block straight from memory: a linear stream. Many rows: depth block
 * after depth block, so that the packed rows of one block stay in L2 for all panels; except with AVX2, the
 * first tile over a bf16 block leaves it widened to float32 for the others. By AVX-512's multiply-adds those
 * meet two panels:
 *
 *                          panel              panel
 *     7 to 12 rows of x    a tile that widens, each
 *     6 rows               one tile of both
 *     6 rows               one tile of both ...
 */
#include "proto/vec.h"

#include "runtime/backend/family_parts.h"
#include "runtime/backend/gate.h"
#include "runtime/backend/pool.h"
#include "runtime/backend/tile_shape.h"

enum {
    BYTES_AHEAD = 6144,     /* of a stream over weights; of 8 rows 4096 costs Zen 5 8 %, 8192 Zen 4 6 % */
    LINEAR_BYTES = 512 << 10 /* packed rows up to this size stay in L2 whole */
};

/* The first tile over a block brings its share of the next block too: memory is never idle. */
enum { FIRST_FETCHES = SIXTEEN_REGISTERS };
/* k of a chain where weights are float32: one over all k of a hidden size of 600 leaves 3.5 times the
 * rounding error in log probabilities. bf16 rounds far more than that, and its chain is a depth block. */
enum { FLOAT_CHAIN = 128 };
enum { STREAM_AHEAD = RC_TO_L2_FIRST ? L2_AHEAD : BYTES_AHEAD }; /* where nobody else brings the next block */
enum { RUNS_FETCHING = 64 }; /* at most: of more, each would bring less than a line for a k */

/* One tile of one depth block. */
typedef struct tile {
    const void *x;  /* first row, RT_X_STRIDE bytes apart */
    const void *w;  /* first column of the stripe */
    uint32_t depth; /* k in this block; even for bf16 */
    uint32_t chain; /* k of one accumulator, of a panel that is float32 */
    float *y;
    size_t y_stride;
    const float *bias; /* to add at the end, or NULL */
    bool starts;       /* y holds nothing yet */
    float *wide;       /* where tile_widen leaves the block as float32 */
    const char *ahead; /* what to bring into the cache meanwhile: ahead_step bytes for each k, or, ... */
    size_t ahead_step; /* ... by a pair, for each PAIR_STEPS */
} tile;

typedef void (*tile_fn)(const tile *t);

ALWAYS void tile_begin(rc_vf acc[][VECTORS], int rows)
{
    const int vectors = vectors_of(rows);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) acc[r][v] = rc_vf_zero();
}

/* k0 .. k1 of the tile is summed; y has what came before. */
ALWAYS void tile_end(const tile *t, rc_vf acc[][VECTORS], int rows, uint32_t k0, uint32_t k1)
{
    const int vectors = vectors_of(rows);
    const bool adds = k0 || !t->starts, biases = t->bias && k1 == t->depth;
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) {
        rc_vf bias = biases ? rc_vf_load(t->bias + 16 * v) : rc_vf_zero();
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            float *y = t->y + (size_t)r * t->y_stride + 16 * v;
            rc_vf sum = adds ? rc_vf_add(rc_vf_load(y), acc[r][v]) : acc[r][v];
            rc_vf_store(y, biases ? rc_vf_add(sum, bias) : sum);
        }
    }
}

/* A float32 panel, or a widened bf16 one. */
ALWAYS void tile_f32(const tile *t, int rows)
{
    const int vectors = vectors_of(rows);
    rc_vf acc[TILE_ROWS][VECTORS];
    const float *x = t->x, *w = t->w;
    const char *ahead = t->ahead;
    for (uint32_t k = 0, k0 = 0, k1; k0 < t->depth; k0 = k1) {
        k1 = least(k0 + t->chain, t->depth);
        tile_begin(acc, rows);
        for (; k < k1; k++, x++, w += RT_PANEL, ahead += t->ahead_step) {
            rc_vf b[VECTORS];
            __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) b[v] = rc_vf_load(w + 16 * v);
            step_f32(acc, b, x, rows, vectors);
        }
        tile_end(t, acc, rows, k0, k1);
    }
}

/* One line of what comes next. */
ALWAYS void bring(const char *ahead, const uint16_t *w)
{
    __builtin_prefetch(ahead, 0, RC_TO_L2_FIRST ? 2 : 3);
    if (RC_TO_L2_FIRST) __builtin_prefetch((const char *)w + BYTES_AHEAD, 0, 3);
}

/* Pairs of k without a test between: on a Xeon 4 are worth 6 % to 8 rows, 8 cost 12 rows as much. */
enum { K_PAIRS = PAIRS || SIXTEEN_REGISTERS ? 4 : 1 };

#if SIXTEEN_REGISTERS
/* Every tile widens bf16 itself: on Zen 3 shifts and masks have ports beside the multiply-adds', and a block
 * that the first one left as float32 would be twice the bytes to read from L2.
 *
 * One k into the accumulators of vector v. */
ALWAYS void step_vector(rc_vf acc[][VECTORS], int v, rc_vf w, const float *x, int rows)
{
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) rc_vf_add_times(&acc[r][v], x + r * (RT_X_STRIDE / sizeof *x), w);
}

/* The even k of a pair, then the odd one, for which the pair is loaded again: no register could keep it. */
ALWAYS void step_bf16(rc_vf acc[][VECTORS], const uint16_t *w, const float *x, int rows)
{
    const int vectors = vectors_of(rows);
#pragma GCC unroll 4
    for (int i = 0; i < 2 * vectors; i++) {
        const int odd = i / vectors, v = i % vectors;
        rc_vf pairs = rc_vf_load_bits(w + 32 * v);
        step_vector(acc, v, odd ? rc_vf_pair_high(pairs) : rc_vf_pair_low(pairs), x + odd, rows);
        rc_vf_forget();
    }
}

/* A bf16 panel against float32 rows. A core that is shared between hyperthreads takes in three instructions a
 * cycle, not six, of which two are to multiply and add: so there are few tests and prefetches. */
ALWAYS void tile_bf16(const tile *t, int rows)
{
    rc_vf acc[TILE_ROWS][VECTORS];
    tile_begin(acc, rows);
    const float *x = t->x;
    const uint16_t *w = t->w;
    const char *ahead = t->ahead;
    const uint32_t depth = t->depth;
    const size_t step = t->ahead_step;
    uint32_t k = 0;
    for (; k + 2 * K_PAIRS <= depth; k += 2 * K_PAIRS, x += 2 * K_PAIRS, w += 2 * K_PAIRS * RT_PANEL)
#pragma GCC unroll 4
        for (int i = 0; i < K_PAIRS; i++, ahead += 2 * step) {
            __builtin_prefetch(ahead, 0, 3);
            if (vectors_of(rows) == 2) __builtin_prefetch(ahead + step, 0, 3); /* no other run will */
            step_bf16(acc, w + 2 * i * RT_PANEL, x + 2 * i, rows);
        }
    for (; k < depth; k += 2, x += 2, w += 2 * RT_PANEL) step_bf16(acc, w, x, rows);
    tile_end(t, acc, rows, 0, depth);
}
#else

/* A bf16 panel against float32 rows: the even k of a pair, then the odd one. */
ALWAYS void tile_pairs(const tile *t, int rows, bool keeps)
{
    const int vectors = vectors_of(rows);
    rc_vf acc[TILE_ROWS][VECTORS];
    tile_begin(acc, rows);
    const float *x = t->x;
    const uint16_t *w = t->w;
    const char *ahead = t->ahead;
    float *wide = t->wide;
#pragma GCC unroll K_PAIRS
    for (uint32_t k = 0; k < t->depth; k += 2, x += 2, w += 2 * RT_PANEL) {
        rc_vf even[VECTORS], odd[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            rc_vf pairs = rc_vf_load_bits(w + 32 * v);
            even[v] = rc_vf_pair_low(pairs);
            odd[v] = rc_vf_pair_high(pairs);
            if (!keeps) continue;
            rc_vf_store(wide + 16 * v, even[v]);
            rc_vf_store(wide + RT_PANEL + 16 * v, odd[v]);
        }
        wide += 2 * RT_PANEL;
        bring(ahead, w);
        step_f32(acc, even, x, rows, vectors);
        bring(ahead + t->ahead_step, w + RT_PANEL);
        step_f32(acc, odd, x + 1, rows, vectors);
        ahead += 2 * t->ahead_step;
    }
    tile_end(t, acc, rows, 0, t->depth);
}
ALWAYS void tile_bf16(const tile *t, int rows) { tile_pairs(t, rows, false); }
ALWAYS void tile_widen(const tile *t, int rows) { tile_pairs(t, rows, true); }
#endif

#if PAIRS
/* Two tiles of float32 operands and the same rows. */
static void tile_pair(const tile *t, const tile *second)
{
    rc_vf acc[2][PAIR_ROWS][VECTORS];
    const float *x = t->x, *w = t->w;
    const ptrdiff_t other = (const float *)second->w - w;
    const char *ahead = t->ahead;
    for (uint32_t k = 0, k0 = 0, k1; k0 < t->depth; k0 = k1) {
        k1 = least(k0 + t->chain, t->depth);
        tile_begin(acc[0], PAIR_ROWS);
        tile_begin(acc[1], PAIR_ROWS);
        for (; k + PAIR_STEPS <= k1; k += PAIR_STEPS, ahead += t->ahead_step) {
            for (size_t line = 0; line < t->ahead_step; line += 64) __builtin_prefetch(ahead + line, 0, 2);
#pragma GCC unroll 4
            for (int i = 0; i < PAIR_STEPS; i++, x++, w += RT_PANEL) step_pair(acc, w, other, x);
        }
        for (; k < k1; k++, x++, w += RT_PANEL) step_pair(acc, w, other, x);
        tile_end(t, acc[0], PAIR_ROWS, k0, k1);
        tile_end(second, acc[1], PAIR_ROWS, k0, k1);
    }
}
#endif

#if defined(__AVX512BF16__)
/* A bf16 panel against bf16 rows. */
ALWAYS void tile_dot(const tile *t, int rows)
{
    rc_vf acc[TILE_ROWS][VECTORS];
    tile_begin(acc, rows);
    const uint16_t *x = t->x, *w = t->w;
    const char *ahead = t->ahead;
    for (uint32_t k = 0; k < t->depth; k += 2, x += 2, w += 2 * RT_PANEL) {
        __m512bh b[VECTORS];
        __builtin_prefetch(ahead, 0, 3);
        __builtin_prefetch(ahead + t->ahead_step, 0, 3);
        ahead += 2 * t->ahead_step;
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) b[v] = (__m512bh)_mm512_loadu_si512(w + 32 * v);
        step_dot(acc, b, x, rows);
    }
    tile_end(t, acc, rows, 0, t->depth);
}
#endif

TILES(tile_f32)
#if DOT
TILES(tile_dot)
#else
TILES(tile_bf16)
#if !SIXTEEN_REGISTERS
TILES(tile_widen)
#endif
#endif

/* One part's walk over a product. */
typedef struct walk {
    const rt_dense *d;
    float *y;              /* of the first panel, or the part's patch */
    size_t y_stride;
    float *wide;           /* this part's buffer for a widened block */
    uint32_t depth;        /* of the matrix as stored */
    uint32_t blocks;       /* depth blocks */
    uint32_t block_depth;  /* k of a whole one */
    uint32_t chain;        /* k of one accumulator */
    uint32_t end;          /* of the part's panels */
    uint32_t pairs;        /* tiles of two panels; the rows before them are dealt to one of each panel */
    uint32_t tiles;        /* that the rows are dealt to */
    uint32_t runs;         /* of them over a block of a whole panel */
    size_t k_bytes;        /* of a panel for one k */
    const tile_fn *first;  /* the block's first tile reads it from memory ... */
    const tile_fn *others; /* ... the others from the cache */
    bool widens;           /* and then as the first one left it in `wide` */
} walk;

/* Panels are visited in order, those of gate and up in turn. */
typedef struct place {
    uint32_t visit, block;
} place;

static uint32_t panel_at(const walk *s, place at)
{
    if (!s->d->next) return at.visit;
    return at.visit / 2 + (at.visit % 2 ? s->d->next->k / RT_PANEL : 0);
}

/* The panel's first column of the first row. */
static float *y_at(const walk *s, place at)
{
    return s->y + (size_t)(s->d->next ? at.visit % 2 : at.visit) * RT_PANEL;
}

static const char *weights_at(const walk *s, place at)
{
    return rt_matrix_at(s->d->w, panel_at(s, at), (size_t)at.block * s->block_depth);
}

static uint32_t depth_of(const walk *s, place at)
{
    return least(s->block_depth, s->depth - at.block * s->block_depth);
}

/* The matrix ends inside the stripe: the tile works on a copy that is as wide as it expects. */
static void tile_ragged(tile_fn run, tile t, uint32_t rows, uint32_t columns)
{
    float copy[TILE_ROWS * RT_PANEL], bias[RT_PANEL] = {0};
    float *y = t.y;
    if (!t.starts)
        for (uint32_t r = 0; r < rows; r++) {
            memset(copy + r * RT_PANEL, 0, RT_PANEL * sizeof *copy);
            memcpy(copy + r * RT_PANEL, y + r * t.y_stride, columns * sizeof *copy);
        }
    if (t.bias) t.bias = memcpy(bias, t.bias, columns * sizeof *bias);
    size_t stride = t.y_stride;
    t.y = copy;
    t.y_stride = RT_PANEL;
    run(&t);
    for (uint32_t r = 0; r < rows; r++) memcpy(y + r * stride, copy + r * RT_PANEL, columns * sizeof *copy);
}

static uint32_t tile_row(const walk *s, uint32_t i)
{
    return (uint32_t)((uint64_t)s->d->rows * i / s->tiles);
}

/* y waits in memory between depth blocks; by the time a tile ends the next one's rows should be back. */
static void prefetch_rows(const walk *s, uint32_t row, uint32_t end, const float *y, uint32_t columns)
{
    for (; row < end; row++)
        for (uint32_t c = 0; c < columns; c += 16)
            __builtin_prefetch(y + row * s->y_stride + c, 1, 3);
}

/* Of one block of one panel, from this row and this column of the panel on. */
static tile tile_of(const walk *s, place at, uint32_t row, uint32_t c)
{
    const rt_dense *d = s->d;
    return (tile){
        .x = (const char *)d->packed + ((size_t)at.block * d->rows + row) * RT_X_STRIDE,
        .w = weights_at(s, at) + c * sizeof(float), /* 4 bytes a column: a float, or a pair of bf16 */
        .depth = depth_of(s, at),
        .chain = s->chain,
        .y = y_at(s, at) + row * s->y_stride + c,
        .y_stride = s->y_stride,
        .bias = d->bias && at.block + 1 == s->blocks ? d->bias + panel_at(s, at) * RT_PANEL + c : NULL,
        .starts = at.block == 0,
        .wide = s->wide + c,
    };
}

/* What a run over a block brings into the cache meanwhile: its share of the block that comes next, or, where
 * one run has all the work or the shares would be less than a line, what it will read itself. */
static void fetch_ahead(const walk *s, place at, place next, uint32_t run, tile *t)
{
    uint32_t first = FIRST_FETCHES ? 0 : 1, sharing = s->runs - first;
    if (run < first || s->runs == 1 || sharing > RUNS_FETCHING) {
        t->ahead = weights_at(s, at) + (s->runs == 1 ? STREAM_AHEAD : BYTES_AHEAD);
        t->ahead_step = run ? 0 : s->k_bytes;
        return;
    }
    t->ahead = weights_at(s, next) + depth_of(s, next) * s->k_bytes * (run - first) / sharing;
    t->ahead_step = s->k_bytes / sharing;
}

/* gate and up are summed: is SwiGLU due? */
static void end_block(const walk *s, place at)
{
    if (s->d->next && at.visit % 2 && at.block + 1 == s->blocks) rt_gate_panel(s->d, at.visit / 2, s->y);
}

/* All rows against one block of a panel. */
static void panel_block(const walk *s, place at, place next)
{
    uint32_t width = least(RT_PANEL, s->d->w->n - panel_at(s, at) * RT_PANEL), runs = 0;
    for (uint32_t i = 0; i < s->tiles; i++) {
        uint32_t row = tile_row(s, i), end = tile_row(s, i + 1), stripe = 16 * vectors_of(end - row);
        bool cached = i > 0;
        for (uint32_t c = 0; c < width; c += stripe, runs++) {
            uint32_t columns = least(stripe, width - c);
            tile t = tile_of(s, at, row, c);
            if (cached && s->widens) t.w = t.wide;
            fetch_ahead(s, at, next, runs, &t);
            if (!t.starts && i + 1 < s->tiles)
                prefetch_rows(s, end, tile_row(s, i + 2), y_at(s, at) + c, columns);
            tile_fn run = (cached ? s->others : s->first)[end - row - 1];
            if (columns == stripe) run(&t);
            else tile_ragged(run, t, end - row, columns);
        }
    }
    end_block(s, at);
}

#if PAIRS
/* What tile i brings: its share of the next pair's blocks, the first half of the tiles of one's. */
static void fetch_pair(const walk *s, place next, uint32_t i, tile *t)
{
    uint32_t half = (s->pairs + 1) / 2, panel = i / half, sharing = panel ? s->pairs - half : half;
    if (s->pairs < 2 || next.visit + panel >= s->end) return;
    next.visit += panel;
    t->ahead = weights_at(s, next) + depth_of(s, next) * s->k_bytes * (i - panel * half) / sharing;
    t->ahead_step = PAIR_STEPS * s->k_bytes / sharing;
}

/* All rows against one block of two panels. */
static void pair_block(const walk *s, place at, place next)
{
    const place second = {at.visit + 1, at.block};
    const uint32_t before = s->d->rows - s->pairs * PAIR_ROWS;
    for (int i = 0; i < 2; i++) {
        tile t = tile_of(s, i ? second : at, 0, 0);
        t.wide += i * RT_WIDE_FLOATS;
        t.ahead = (const char *)t.w + BYTES_AHEAD;
        t.ahead_step = s->k_bytes;
        s->first[before - 1](&t);
    }
    for (uint32_t i = 0, row = before; i < s->pairs; i++, row += PAIR_ROWS) {
        tile t = tile_of(s, at, row, 0), u = tile_of(s, second, row, 0);
        if (s->widens) {
            t.w = t.wide;
            u.w = t.wide + RT_WIDE_FLOATS;
        }
        fetch_pair(s, next, i, &t);
        if (!t.starts && i + 1 < s->pairs)
            prefetch_rows(s, row + PAIR_ROWS, row + 2 * PAIR_ROWS, t.y - row * s->y_stride, 2 * RT_PANEL);
        tile_pair(&t, &u);
    }
    end_block(s, second);
}
#endif

/* Panels that are visited together. */
static uint32_t together(const walk *s, uint32_t visit)
{
    bool whole = s->d->next || (visit + 2) * RT_PANEL <= s->d->w->n;
    return s->pairs && whole && visit + 2 <= s->end ? 2 : 1;
}

/* All rows against one block of a panel, or of the two that are visited together. */
static void walk_block(const walk *s, place at, place next)
{
#if PAIRS
    if (together(s, at.visit) == 2) {
        pair_block(s, at, next);
        return;
    }
#endif
    panel_block(s, at, next);
}

static walk plan_walk(const rt_dense *d, uint32_t part)
{
    const rt_matrix *m = d->w;
    walk s = {.d = d, .y = d->y, .y_stride = d->y_stride, .first = tile_f32s, .others = tile_f32s};
    if (d->next) {
        s.y = rt_patch(d, part);
        s.y_stride = RT_PATCH_STRIDE;
    }
    s.wide = d->scratch + (size_t)part * RT_SCRATCH_FLOATS;
    s.depth = (uint32_t)rt_matrix_depth(m->k, m->stored);
    s.block_depth = block_depth(m);
    s.chain = m->stored == RC_F32 ? FLOAT_CHAIN : s.block_depth;
    s.blocks = (s.depth + s.block_depth - 1) / s.block_depth;
    s.tiles = (d->rows + TILE_ROWS - 1) / TILE_ROWS;
    s.pairs = pairs_of(d->rows);
    for (uint32_t i = 0; i < s.tiles; i++)
        s.runs += (uint32_t)(VECTORS / vectors_of((int)(tile_row(&s, i + 1) - tile_row(&s, i))));
    s.k_bytes = RT_PANEL * rc_dtype_bytes(m->stored);
    if (m->stored != RC_BF16) return s;
#if DOT
    s.first = s.others = tile_dots;
#else
    s.first = tile_bf16s;
    s.others = tile_bf16s;
#if !SIXTEEN_REGISTERS
    s.widens = s.tiles > 1;
    if (s.widens) {
        s.first = tile_widens;
        s.others = tile_f32s;
    }
#endif
#endif
    return s;
}

void RC_FAMILY(rt_dense_run)(const rt_dense *d, uint32_t part, uint32_t parts)
{
    walk s = plan_walk(d, part);
    const uint32_t panels = rt_matrix_panels(d->w->n), unit = d->next || s.pairs ? 2 : 1;
    uint32_t first, end;
    rt_share((panels + unit - 1) / unit, part, parts, &first, &end);
    first *= unit;
    s.end = end = least(unit * end, panels);
    if (d->next || (size_t)d->rows * s.blocks * RT_X_BYTES <= LINEAR_BYTES) {
        for (uint32_t p = first, after; p < end; p = after) {
            after = p + together(&s, p);
            for (uint32_t b = 0; b < s.blocks; b++) {
                bool last = b + 1 == s.blocks;
                walk_block(&s, (place){p, b}, last ? (place){least(after, end - 1), 0} : (place){p, b + 1});
            }
        }
        return;
    }
    for (uint32_t b = 0; b < s.blocks; b++)
        for (uint32_t p = first, after; p < end; p = after) {
            after = p + together(&s, p);
            bool last = after == end;
            walk_block(&s, (place){p, b},
                       last ? (place){first, least(b + 1, s.blocks - 1)} : (place){after, b});
        }
}

static void pack_f32(const float *x, uint32_t depth, uint32_t stored_depth, float *out)
{
    memcpy(out, x, depth * sizeof *out);
    if (stored_depth > depth) out[depth] = 0;
}

static void pack_bf16(const float *x, uint32_t depth, uint32_t stored_depth, uint16_t *out)
{
    uint32_t k = 0;
    for (; k + 16 <= depth; k += 16) rc_vf_store_bf16(out + k, rc_vf_load(x + k));
    rc_vf_store_bf16_n(out + k, rc_vf_load_n(x + k, depth - k), depth - k);
    if (stored_depth > depth) out[depth] = 0;
}

void RC_FAMILY(rt_dense_pack)(const rt_dense *d, uint32_t part, uint32_t parts)
{
    const rt_matrix *m = d->w;
    uint32_t stored = (uint32_t)rt_matrix_depth(m->k, m->quant ? RC_F32 : m->stored);
    uint32_t step = block_depth(m), r, end;
    for (rt_share(d->rows, part, parts, &r, &end); r < end; r++)
        for (uint32_t k0 = 0, b = 0; k0 < stored; k0 += step, b++) {
            const float *x = d->x + r * d->x_stride + k0;
            char *out = (char *)d->packed + ((size_t)b * d->rows + r) * RT_X_STRIDE;
            uint32_t depth = least(step, m->k - k0), deep = least(step, stored - k0);
            if (packs_bf16(m)) pack_bf16(x, depth, deep, (uint16_t *)(void *)out);
            else pack_f32(x, depth, deep, (float *)(void *)out);
        }
}
