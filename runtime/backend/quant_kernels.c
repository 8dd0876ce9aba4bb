/* runtime/backend/quant_kernels.c - y = x W^T (+ bias) with quantised W (quant.h); compiled once per family.
 *
 * A stretch of a panel is expanded into the operands of the product, codes as exact integers, and the tiles
 * of all rows run over it while it is in the cache:
 *
 *     codes, factors, d  ->  operands  float32 [k][32], or bf16 [k/2][2][16][2] where x is rounded to bf16
 *                            scale     float32 [run][32]
 *                            minimum   float32 [run][32]
 *
 *     each run:  sum = 0;  sum += x[k] * operand[k] ...;
 *                y += scale * sum;  y += minimum * (sum of x over the run)
 *
 * An element of y is one float32 accumulator over runs in increasing order, a run one accumulator over k in
 * increasing order, so rows, threads and stretches change no bit. The accumulators of y wait on the stack
 * while those of a run are in registers: one load and one store per 16 or 32 k.
 *
 * But in portable C, up to DIRECT_MOST rows read the codes themselves: an operand is made in a register where
 * the product wants it, in the same order, and is never stored. More rows share what expanding costs.
 */
#include "runtime/backend/family_parts.h"
#include "runtime/backend/gate.h"
#include "runtime/backend/pool.h"
#include "runtime/backend/quant_stretch.h"
#include "runtime/backend/tile_shape.h"

enum {
    DIRECT_ROWS = PANEL_ROWS < 4 ? 3 : 4, /* of a tile that reads the codes: registers are out */
    /* Rows up to which such tiles take turns; more share the cost of expanding, which on a Xeon pays late: 8
     * rows are 1.1 to 1.5 times as fast without, 12 rows 1.1 times. On Zen 3 8 rows take 1.25 to 1.8 times as
     * long without. */
    DIRECT_MOST = PAIRS ? TILE_ROWS : DIRECT_ROWS,
    EXPANDED_ROWS = SIXTEEN_REGISTERS ? 5 : TILE_ROWS, /* of a tile that reads what was expanded */
    FEW_DEPTH = 256,     /* a stretch for few rows: its operands stay in L1 */
    LINES_AHEAD = 8192,  /* while rows read the codes, a line at a time: 4096 is 12 % slower on Zen 5 */
    SUM_RUN = 32         /* k of a run of the formats that have minima */
};

/* Some rows by one stripe of columns over one stretch. */
typedef struct tile {
    const stretch *s;
    const char *x;     /* first row, RT_X_STRIDE apart */
    const char *sums;  /* of x over each run: floats, rows RT_X_STRIDE apart */
    const uint8_t *codes; /* of the stretch's first group, where its codes are not expanded */
    uint32_t column;   /* of the stripe in the panel */
    uint32_t lanes[VECTORS];
    float *y;
    size_t y_stride;
    const float *bias; /* to add at the end, or NULL */
    bool starts;
} tile;

typedef void (*tile_fn)(const tile *t);

ALWAYS void begin(const tile *t, rc_vf acc[][VECTORS], int rows, int vectors)
{
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            acc[r][v] = t->starts ? rc_vf_zero()
                                  : rc_vf_load_n(t->y + (size_t)r * t->y_stride + 16 * v, t->lanes[v]);
}

ALWAYS void end(const tile *t, rc_vf acc[][VECTORS], int rows, int vectors)
{
    for (int v = 0; v < vectors; v++) {
        rc_vf bias = t->bias ? rc_vf_load_n(t->bias + 16 * v, t->lanes[v]) : rc_vf_zero();
        for (int r = 0; r < rows; r++) {
            rc_vf sum = t->bias ? rc_vf_add(acc[r][v], bias) : acc[r][v];
            rc_vf_store_n(t->y + (size_t)r * t->y_stride + 16 * v, sum, t->lanes[v]);
        }
    }
}

/* k of a run without a test between: with 16 registers the loop's own pointers wait on the stack. */
#if defined(__AVX512F__)
enum { TOGETHER = 1, LINES_TOGETHER = 8 };
#else
enum { TOGETHER = 8, LINES_TOGETHER = 4 };
#endif

/* One run into sum. w, x: the run's first operand of the stripe, and first element of the first row. */
ALWAYS void run_f32(rc_vf sum[][VECTORS], const float *w, const float *x, uint32_t depth, int rows)
{
    const int vectors = vectors_of(rows);
    for (uint32_t k = 0; k < depth; k += TOGETHER, w += TOGETHER * RT_PANEL, x += TOGETHER)
#pragma GCC unroll 8
        for (int i = 0; i < TOGETHER; i++) {
            rc_vf b[VECTORS];
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) b[v] = rc_vf_load(w + i * RT_PANEL + 16 * v);
            step_f32(sum, b, x + i, rows, vectors);
        }
}

#if DOT
ALWAYS void run_dot(rc_vf sum[][VECTORS], const uint16_t *w, const uint16_t *x, uint32_t depth, int rows)
{
    for (uint32_t k = 0; k < depth; k += 2, w += 2 * RT_PANEL, x += 2) {
        __m512bh b[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) b[v] = (__m512bh)_mm512_loadu_si512(w + 32 * v);
        step_dot(sum, b, x, rows);
    }
}
#endif

/* The run's scales and, or NULL, its minima into the accumulators. */
ALWAYS void scale_run(const tile *t, rc_vf acc[][VECTORS], rc_vf sum[][VECTORS], uint32_t run,
                      const rc_vf scale[VECTORS], const rc_vf *min, int rows, int vectors)
{
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) {
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) acc[r][v] = rc_vf_fma(scale[v], sum[r][v], acc[r][v]);
        if (!min) continue;
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            float x;
            memcpy(&x, t->sums + r * RT_X_STRIDE + run * sizeof x, sizeof x);
            acc[r][v] = rc_vf_fma(min[v], rc_vf_set1(x), acc[r][v]);
        }
    }
}

ALWAYS void load_columns(const tile *t, const float *of_runs, uint32_t run, rc_vf out[VECTORS], int vectors)
{
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++)
        out[v] = rc_vf_load(of_runs + (size_t)run * RT_PANEL + t->column + 16 * v);
}

ALWAYS void begin_run(rc_vf sum[][VECTORS], int rows, int vectors)
{
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) sum[r][v] = rc_vf_zero();
}

ALWAYS void end_run(const tile *t, rc_vf acc[][VECTORS], rc_vf sum[][VECTORS], uint32_t run, bool has_min,
                    int rows)
{
    const int vectors = vectors_of(rows);
    rc_vf scale[VECTORS], min[VECTORS];
    load_columns(t, t->s->scale, run, scale, vectors);
    if (has_min) load_columns(t, t->s->min, run, min, vectors);
    scale_run(t, acc, sum, run, scale, has_min ? min : NULL, rows, vectors);
}

ALWAYS void tile_runs(const tile *t, bool dots, bool has_min, int rows)
{
    rc_vf acc[TILE_ROWS][VECTORS], sum[TILE_ROWS][VECTORS];
    const stretch *s = t->s;
    const int vectors = vectors_of(rows);
    begin(t, acc, rows, vectors);
    for (uint32_t k = 0, run = 0; k < s->depth; k += s->run, run++) {
        begin_run(sum, rows, vectors);
#if DOT
        if (dots) {
            const uint16_t *w = (const uint16_t *)s->operands + (size_t)k * RT_PANEL + 2 * t->column;
            run_dot(sum, w, (const uint16_t *)(const void *)t->x + k, s->run, rows);
        } else
#endif
        {
            const float *w = (const float *)s->operands + (size_t)k * RT_PANEL + t->column;
            run_f32(sum, w, (const float *)(const void *)t->x + k, s->run, rows);
        }
        end_run(t, acc, sum, run, has_min, rows);
    }
    (void)dots;
    end(t, acc, rows, vectors);
}
ALWAYS void plain_f32(const tile *t, int rows) { tile_runs(t, false, false, rows); }
ALWAYS void min_f32(const tile *t, int rows) { tile_runs(t, false, true, rows); }
TILES(plain_f32)
TILES(min_f32)
#if DOT
ALWAYS void plain_dot(const tile *t, int rows) { tile_runs(t, true, false, rows); }
ALWAYS void min_dot(const tile *t, int rows) { tile_runs(t, true, true, rows); }
TILES(plain_dot)
TILES(min_dot)
#endif

#if PAIRS
/* Two tiles of the same rows. */
ALWAYS void pair_runs(const tile *t, const tile *u, bool has_min)
{
    rc_vf acc[2][PAIR_ROWS][VECTORS], sum[2][PAIR_ROWS][VECTORS];
    const float *w = t->s->operands, *x = (const float *)(const void *)t->x;
    const ptrdiff_t other = (const float *)u->s->operands - w;
    const uint32_t depth = t->s->depth, run_depth = t->s->run;
    begin(t, acc[0], PAIR_ROWS, VECTORS);
    begin(u, acc[1], PAIR_ROWS, VECTORS);
    for (uint32_t k = 0, run = 0; k < depth; k += run_depth, run++) {
        begin_run(sum[0], PAIR_ROWS, VECTORS);
        begin_run(sum[1], PAIR_ROWS, VECTORS);
        for (uint32_t i = 0; i < run_depth; i += PAIR_STEPS)
#pragma GCC unroll 4
            for (int step = 0; step < PAIR_STEPS; step++, w += RT_PANEL, x++) step_pair(sum, w, other, x);
        end_run(t, acc[0], sum[0], run, has_min, PAIR_ROWS);
        end_run(u, acc[1], sum[1], run, has_min, PAIR_ROWS);
    }
    end(t, acc[0], PAIR_ROWS, VECTORS);
    end(u, acc[1], PAIR_ROWS, VECTORS);
}
static void plain_pair(const tile *t, const tile *u) { pair_runs(t, u, false); }
static void min_pair(const tile *t, const tile *u) { pair_runs(t, u, true); }
#endif

#if defined(__AVX2__)
/* ---- tiles of few rows: each code goes from its line through registers into the product ---- */

ALWAYS void direct_line(const tile *t, const code_block *b, int line, uint32_t k, rc_vf sum[][VECTORS],
                        const bool dots, const int bits, int rows)
{
    const int bytes = 16 * bits; /* of codes for these 4 k */
    if (RC_TO_L2_FIRST) rc_vf_prefetch_l2(b->codes + bytes * line + L2_AHEAD, (size_t)bytes);
    rc_vf_prefetch(b->codes + bytes * line + LINES_AHEAD, (size_t)bytes);
#pragma GCC unroll 2
    for (int o = 0; o < 4; o += 2, k += 2) {
#if DOT
        if (dots) {
            __m512bh w[VECTORS] = {(__m512bh)words_of(b, line, o, bits),
                                   (__m512bh)words_of(b, line, o + 1, bits)};
            step_dot(sum, w, (const uint16_t *)(const void *)t->x + k, rows);
            continue;
        }
#endif
        rc_vf even[VECTORS], odd[VECTORS];
        const float *x = (const float *)(const void *)t->x + k;
        values_of(b, line, o, bits, &even[0], &odd[0]);
        values_of(b, line, o + 1, bits, &even[1], &odd[1]);
        step_f32(sum, even, x, rows, VECTORS);
        step_f32(sum, odd, x + 1, rows, VECTORS);
    }
    (void)dots;
}

ALWAYS void times_factors(const rc_vf d[VECTORS], const uint8_t *factors, bool is_signed, float sign,
                          rc_vf out[VECTORS])
{
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
        rc_vf values = load_factors(factors + 16 * v, is_signed);
        out[v] = rc_vf_mul(d[v], rc_vf_mul(rc_vf_set1(sign), values));
    }
}

#if defined(__AVX512F__)
/* What expand_scales would leave of a group, bit for bit, as registers: a tile has all columns of a panel. */
typedef struct group_scales {
    rc_vf d[VECTORS], min[VECTORS];
    const uint8_t *factors, *min_factors;
    bool has_min, has_factors, is_signed;
} group_scales;

ALWAYS group_scales scales_of(const rt_quant *q, const uint8_t *d, const int bits)
{
    group_scales s = {.has_min = bits < 6 && q->has_min, .has_factors = bits < 8 && q->has_factors,
                      .is_signed = bits == 6};
    s.factors = d + (s.has_min ? 4 : 2) * RT_PANEL;
    s.min_factors = s.factors + q->group / q->run * RT_PANEL;
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
        s.d[v] = load_f16(d + 32 * v);
        if (s.has_min) s.min[v] = load_f16(d + 2 * RT_PANEL + 32 * v);
    }
    return s;
}

/* Run i of the group, run `run` of the stretch. */
ALWAYS void scale_from(const group_scales *s, uint32_t i, const tile *t, rc_vf acc[][VECTORS],
                       rc_vf sum[][VECTORS], uint32_t run, int rows)
{
    rc_vf scale[VECTORS], min[VECTORS];
    if (!s->has_factors) {
        scale_run(t, acc, sum, run, s->d, s->has_min ? s->min : NULL, rows, VECTORS);
        return;
    }
    times_factors(s->d, s->factors + i * RT_PANEL, s->is_signed, 1, scale);
    if (s->has_min) times_factors(s->min, s->min_factors + i * RT_PANEL, false, -1, min);
    scale_run(t, acc, sum, run, scale, s->has_min ? min : NULL, rows, VECTORS);
}
#else
/* The same where registers are out: float16 become floats again for each run, unless runs are short. Fields
 * are set one by one: a struct that is copied goes through the stack, by instructions that loads wait for. */
typedef struct group_scales {
    rc_vf short_d[VECTORS];
    const uint8_t *d, *factors, *min_factors;
    bool has_min, has_factors, is_short;
} group_scales;

ALWAYS void scales_of(const rt_quant *q, const uint8_t *d, const int bits, group_scales *s)
{
    s->d = d;
    s->has_min = bits < 6 && q->has_min;
    s->has_factors = bits < 8 && q->has_factors;
    s->is_short = bits == 6;
    s->factors = d + (s->has_min ? 4 : 2) * RT_PANEL;
    s->min_factors = s->factors + q->group / q->run * RT_PANEL;
    for (int v = 0; s->is_short && v < VECTORS; v++) s->short_d[v] = load_f16(d + 32 * v);
}

ALWAYS void scale_from(const group_scales *s, uint32_t i, const tile *t, rc_vf acc[][VECTORS],
                       rc_vf sum[][VECTORS], uint32_t run, int rows)
{
    rc_vf scale[VECTORS], min[VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
        scale[v] = s->is_short ? s->short_d[v] : load_f16(s->d + 32 * v);
        if (s->has_min) min[v] = load_f16(s->d + 2 * RT_PANEL + 32 * v);
    }
    if (s->has_factors) {
        times_factors(scale, s->factors + i * RT_PANEL, s->is_short, 1, scale);
        if (s->has_min) times_factors(min, s->min_factors + i * RT_PANEL, false, -1, min);
    }
    scale_run(t, acc, sum, run, scale, s->has_min ? min : NULL, rows, VECTORS);
}
#endif

ALWAYS void sum_run(const tile *t, const code_block *b, int line, uint32_t k, rc_vf sum[][VECTORS],
                    const bool dots, const int bits, int rows)
{
    const int lines = bits == 6 ? RT_QUANT_RUN_MIN / 4 : 8; /* of the formats with 6 bits a run is 16 k */
    begin_run(sum, rows, VECTORS);
#pragma GCC unroll LINES_TOGETHER
    for (int i = 0; i < lines; i++) direct_line(t, b, line + i, k + 4 * (uint32_t)i, sum, dots, bits, rows);
}

ALWAYS void direct(const tile *t, const bool dots, const int bits, int rows)
{
    const rt_quant *q = t->s->format;
    rc_vf acc[DIRECT_ROWS][VECTORS], sum[DIRECT_ROWS][VECTORS];
    code_block b = block_of(q, t->s->values, t->codes);
    size_t group_bytes = rt_quant_group_bytes(q), codes_bytes = rt_quant_codes_bytes(q);
    uint32_t run = 0;
    begin(t, acc, rows, VECTORS);
    for (uint32_t k0 = 0; k0 < t->s->depth; k0 += q->group) {
        b.codes = t->codes + k0 / q->group * group_bytes;
        const uint8_t *d = b.codes + q->group / RT_QUANT_BLOCK * codes_bytes;
#if defined(__AVX512F__)
        group_scales s = scales_of(q, d, bits);
#else
        group_scales s;
        scales_of(q, d, bits, &s);
#endif
        for (uint32_t k = k0, i = 0; k < k0 + q->group; k += RT_QUANT_BLOCK, b.codes += codes_bytes) {
            sum_run(t, &b, 0, k, sum, dots, bits, rows);
            scale_from(&s, i++, t, acc, sum, run++, rows);
            if (bits != 6) continue;
            sum_run(t, &b, 4, k + RT_QUANT_RUN_MIN, sum, dots, bits, rows);
            scale_from(&s, i++, t, acc, sum, run++, rows);
        }
    }
    end(t, acc, rows, VECTORS);
}

#define DIRECT(kind, dots, bits, rows) \
    static void direct_##kind##_##bits##_##rows(const tile *t) { direct(t, dots, bits, rows); }
#if defined(__AVX512F__)
#define DIRECT_MORE(kind, dots, bits) DIRECT(kind, dots, bits, 3) DIRECT(kind, dots, bits, 4)
#define DIRECT_NAMES(kind, bits) direct_##kind##_##bits##_3, direct_##kind##_##bits##_4
#else
#define DIRECT_MORE(kind, dots, bits) DIRECT(kind, dots, bits, 3)
#define DIRECT_NAMES(kind, bits) direct_##kind##_##bits##_3
#endif
#define DIRECTS(kind, dots, bits) \
    DIRECT(kind, dots, bits, 1) DIRECT(kind, dots, bits, 2) DIRECT_MORE(kind, dots, bits) \
    static const tile_fn direct_##kind##_##bits##s[DIRECT_ROWS] = { \
        direct_##kind##_##bits##_1, direct_##kind##_##bits##_2, DIRECT_NAMES(kind, bits)};
#define DIRECT_BITS(kind, dots) \
    DIRECTS(kind, dots, 4) DIRECTS(kind, dots, 5) DIRECTS(kind, dots, 6) DIRECTS(kind, dots, 8) \
    static const tile_fn *const directs_##kind[9] = {[4] = direct_##kind##_4s, [5] = direct_##kind##_5s, \
                                                     [6] = direct_##kind##_6s, [8] = direct_##kind##_8s};
DIRECT_BITS(f32, false)
#if DOT
DIRECT_BITS(dot, true)
#endif

static const tile_fn *directs_for(const stretch *s)
{
#if DOT
    if (s->rounded) return directs_dot[s->format->bits];
#endif
    return directs_f32[s->format->bits];
}
#else
static const tile_fn *directs_for(const stretch *s)
{
    (void)s;
    return NULL;
}
#endif

static const tile_fn *tiles_for(const stretch *s)
{
    if (!s->is_expanded) return directs_for(s);
#if DOT
    if (s->rounded) return s->has_min ? min_dots : plain_dots;
#endif
    return s->has_min ? min_f32s : plain_f32s;
}

#if defined(__AVX2__)
enum { HAS_DIRECT = 1 };
#else
enum { HAS_DIRECT = 0 };
#endif

/* One part's walk. */
typedef struct walk {
    const rt_dense *d;
    stretch s[2];     /* of a panel, or of a pair */
    float *y;         /* the first one's first column of the first row; the other's columns follow */
    size_t y_stride;
    uint32_t block_depth;
    uint32_t pairs;   /* tiles of both panels of a pair; the rows before them have tiles of each */
} walk;

/* A panel, and which of the two whose columns are side by side in y. */
typedef struct place {
    uint32_t panel, side;
} place;

/* Panels that do not pair take turns in one, so that what few rows expand stays in L1. */
static stretch *stretch_at(walk *w, place at) { return &w->s[w->pairs ? at.side : 0]; }

/* Rows from `row` on against the stretch from k0 on: its columns from c on. */
static tile tile_of(walk *w, place at, uint32_t k0, uint32_t row, uint32_t c)
{
    const rt_dense *d = w->d;
    const stretch *s = stretch_at(w, at);
    size_t x_size = s->rounded ? sizeof(uint16_t) : sizeof(float);
    uint32_t block = k0 / w->block_depth, within = k0 % w->block_depth, column = at.panel * RT_PANEL + c;
    const char *x = (const char *)d->packed + ((size_t)block * d->rows + row) * RT_X_STRIDE;
    tile t = {
        .s = s,
        .x = x + within * x_size,
        .codes = stretch_codes(d->w, at.panel, k0),
        .sums = x + RT_X_BYTES + within / SUM_RUN * sizeof(float),
        .column = c,
        .y = w->y + row * w->y_stride + at.side * RT_PANEL + c,
        .y_stride = w->y_stride,
        .bias = d->bias && k0 + s->depth == d->w->k ? d->bias + column : NULL,
        .starts = k0 == 0,
    };
    for (uint32_t v = 0; v < VECTORS; v++) {
        uint32_t left = d->w->n - column;
        t.lanes[v] = left > 16 * v ? least(16, left - 16 * v) : 0;
    }
    return t;
}

/* Columns of a tile: all where it reads codes. */
static inline uint32_t stripe_of(const stretch *s, uint32_t rows)
{
    if (HAS_DIRECT && PANEL_ROWS < TILE_ROWS && !s->is_expanded) return RT_PANEL;
    return 16 * (uint32_t)vectors_of((int)rows);
}

/* The first `rows` against k0 .. k0 + depth. */
static void panel_stretch(walk *w, place at, uint32_t k0, uint32_t depth, uint32_t rows)
{
    stretch *s = stretch_at(w, at);
    const uint32_t most = s->is_expanded ? EXPANDED_ROWS : DIRECT_ROWS;
    const uint32_t tiles = (rows + most - 1) / most, columns = w->d->w->n - at.panel * RT_PANEL;
    s->depth = depth;
    if (s->is_expanded) expand(w->d->w, at.panel, k0, s);
    for (uint32_t i = 0; i < tiles; i++) {
        uint32_t row, end_row;
        rt_share(rows, i, tiles, &row, &end_row);
        uint32_t stripe = stripe_of(s, end_row - row);
        for (uint32_t c = 0; c < least(RT_PANEL, columns); c += stripe) {
            tile t = tile_of(w, at, k0, row, c);
            tiles_for(s)[end_row - row - 1](&t);
        }
    }
}

#if PAIRS
static void pair_stretch(walk *w, const place at[2], uint32_t k0, uint32_t depth)
{
    const uint32_t rows = w->d->rows, before = rows - w->pairs * PAIR_ROWS;
    for (int i = 0; i < 2; i++) panel_stretch(w, at[i], k0, depth, before);
    for (uint32_t row = before; row < rows; row += PAIR_ROWS) {
        tile t = tile_of(w, at[0], k0, row, 0), u = tile_of(w, at[1], k0, row, 0);
        if (t.s->has_min) min_pair(&t, &u);
        else plain_pair(&t, &u);
    }
}
#endif

/* k0 .. k0 + depth of one or two panels, in stretches. */
static void panels_block(walk *w, const place *at, uint32_t count, uint32_t k0, uint32_t depth,
                         uint32_t stretch_depth)
{
    const uint32_t end = k0 + depth;
#if PAIRS
    if (w->pairs && count == 2) {
        for (uint32_t k = k0; k < end; k += stretch_depth)
            pair_stretch(w, at, k, least(stretch_depth, end - k));
        return;
    }
#endif
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t k = k0; k < end; k += stretch_depth)
            panel_stretch(w, at[i], k, least(stretch_depth, end - k), w->d->rows);
}

/* A panel of gate, the same of up, and SwiGLU while both are in the cache. */
static void run_gated(walk *w, uint32_t part, uint32_t parts)
{
    const rt_dense *d = w->d;
    uint32_t panels = d->next->k / RT_PANEL, p, end_panel;
    w->y = rt_patch(d, part);
    w->y_stride = RT_PATCH_STRIDE;
    for (rt_share(panels, part, parts, &p, &end_panel); p < end_panel; p++) {
        panels_block(w, (place[]){{p, 0}, {p + panels, 1}}, 2, 0, d->w->k, w->block_depth);
        rt_gate_panel(d, p, w->y);
    }
}

static walk plan_walk(const rt_dense *d, uint32_t part)
{
    const rt_matrix *m = d->w;
    float *scratch = d->scratch + (size_t)part * RT_SCRATCH_FLOATS;
    walk w = {.d = d, .block_depth = block_depth(m), .y_stride = d->y_stride, .pairs = pairs_of(d->rows)};
    stretch s = {.run = m->quant->run, .rounded = packs_bf16(m), .has_min = m->quant->has_min,
                 .is_expanded = !HAS_DIRECT || d->rows > DIRECT_MOST, .format = m->quant};
    for (int i = 0; i < 64; i++)
        s.values[i] = rc_f32_to_bf16((float)((m->quant->bits == 4 ? i % 16 : i) + m->quant->offset));
    for (int i = 0; i < 2; i++, scratch += RT_WIDE_FLOATS) {
        s.operands = scratch;
        s.scale = scratch + RT_OPERANDS_FLOATS;
        s.min = s.scale + RUNS_MAX * RT_PANEL;
        w.s[i] = s;
    }
    return w;
}

/* Few rows walk along a panel in short stretches; many rows take a panel's whole depth block at once, and all
 * panels before the next depth block, so that the block's packed rows stay in the cache. */
void RC_FAMILY(rt_quant_run)(const rt_dense *d, uint32_t part, uint32_t parts)
{
    const rt_matrix *m = d->w;
    walk w = plan_walk(d, part);
    if (d->next) {
        run_gated(&w, part, parts);
        return;
    }
    const bool is_one_tile = d->rows <= EXPANDED_ROWS;
    const uint32_t stretch_depth = is_one_tile && w.s[0].is_expanded ? FEW_DEPTH : w.block_depth;
    const uint32_t outer = is_one_tile ? m->k : w.block_depth;
    uint32_t first, end_panel;
    rt_share(rt_matrix_panels(m->n), part, parts, &first, &end_panel);
    for (uint32_t k0 = 0; k0 < m->k; k0 += outer)
        for (uint32_t p = first; p < end_panel; p += 2) {
            w.y = d->y + (size_t)p * RT_PANEL;
            panels_block(&w, (place[]){{p, 0}, {p + 1, 1}}, least(2, end_panel - p), k0,
                         least(outer, m->k - k0), stretch_depth);
        }
}

/* Sums of x over each run of 32, behind the packed row. */
ALWAYS void pack_sums(const rt_matrix *m, char *row, uint32_t depth)
{
    float *sums = (float *)(void *)(row + RT_X_BYTES);
    for (uint32_t k = 0; k < depth; k += SUM_RUN) {
        rc_vf low, high;
        if (packs_bf16(m)) {
            low = rc_vf_load_bf16((uint16_t *)(void *)row + k);
            high = rc_vf_load_bf16((uint16_t *)(void *)row + k + 16);
        } else {
            low = rc_vf_load((float *)(void *)row + k);
            high = rc_vf_load((float *)(void *)row + k + 16);
        }
        sums[k / SUM_RUN] = rc_vf_sum(rc_vf_add(low, high));
    }
}

void RC_FAMILY(rt_quant_pack)(const rt_dense *d, uint32_t part, uint32_t parts)
{
    RC_FAMILY(rt_dense_pack)(d, part, parts);
    if (!d->w->quant->has_min) return;
    uint32_t step = block_depth(d->w), r, end_row;
    for (rt_share(d->rows, part, parts, &r, &end_row); r < end_row; r++)
        for (uint32_t k = 0, b = 0; k < d->w->k; k += step, b++)
            pack_sums(d->w, (char *)d->packed + ((size_t)b * d->rows + r) * RT_X_STRIDE,
                      least(step, d->w->k - k));
}
