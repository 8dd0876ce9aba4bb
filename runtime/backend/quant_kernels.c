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
 * But in portable C, up to DIRECT_ROWS rows read the codes themselves: an operand is made in a register where
 * the product wants it, in the same order, and is never stored. More rows share what expanding costs.
 */
#include "runtime/backend/family_parts.h"
#include "runtime/backend/gate.h"
#include "runtime/backend/pool.h"
#include "runtime/backend/quant_codes.h"
#include "runtime/backend/tile_shape.h"

enum {
    DIRECT_ROWS = PANEL_ROWS < 4 ? PANEL_ROWS : 4, /* more share the cost of expanding; registers are out */
    FEW_DEPTH = 256,     /* a stretch for few rows: its operands stay in L1 */
    CODES_AHEAD = 2048,  /* bytes of a stream over weights while it is expanded, a group at once */
    LINES_AHEAD = 8192,  /* while rows read the codes, a line at a time: 4096 is 12 % slower on Zen 5 */
    RUNS_MAX = RT_X_BYTES / 2 / RT_QUANT_RUN_MIN,
    SUM_RUN = 32         /* k of a run of the formats that have minima */
};

/* A panel's stretch, expanded. */
typedef struct stretch {
    void *operands;
    float *scale, *min; /* [runs][32] */
    uint32_t depth, run;
    bool rounded, has_min;
    bool is_expanded; /* else tiles read the codes themselves */
    const rt_quant *format;
    uint16_t values[64]; /* bf16: code + offset; with 4 bits again after 16, so that no bit need be cut off */
} stretch;

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

/* ---- expanding ---- */

#if defined(__AVX2__)
ALWAYS void expand_block(const code_block *b, const stretch *s, uint32_t k, const int bits)
{
    for (int line = 0; line < 8; line++)
#pragma GCC unroll 4
        for (int o = 0; o < 4; o++) {
            size_t at = (size_t)(k + 4 * (uint32_t)line + 2 * (uint32_t)(o / 2)) * RT_PANEL;
#if DOT
            if (s->rounded) {
                _mm512_storeu_si512((uint16_t *)s->operands + at + 32 * (o % 2), words_of(b, line, o, bits));
                continue;
            }
#endif
            rc_vf even, odd;
            float *out = (float *)s->operands + at + 16 * (o % 2);
            values_of(b, line, o, bits, &even, &odd);
            rc_vf_store(out, even);
            rc_vf_store(out + RT_PANEL, odd);
        }
}

static void expand_codes(const rt_quant *q, const uint8_t *codes, const stretch *s, uint32_t k)
{
    code_block b = block_of(q, s->values, codes);
    if (q->bits == 8) expand_block(&b, s, k, 8);
    else if (q->bits == 4) expand_block(&b, s, k, 4);
    else if (q->bits == 5) expand_block(&b, s, k, 5);
    else expand_block(&b, s, k, 6);
}
#else
static void expand_codes(const rt_quant *q, const uint8_t *codes, const stretch *s, uint32_t k)
{
    float *out = (float *)s->operands + (size_t)k * RT_PANEL;
    for (uint32_t o = 0; o < 32; o++)
        for (uint32_t w = 0; w < 32; w++)
            out[(o / 2 * 2 + w % 2) * RT_PANEL + o % 2 * 16 + w / 2] =
                (float)(code_of(q, codes, o, w) + q->offset);
}
#endif

static void expand_factors(const uint8_t *factors, bool is_signed, float sign, const float d[RT_PANEL],
                           float *out)
{
    for (int c = 0; c < RT_PANEL; c++)
        out[c] = d[c] * (sign * (is_signed ? (float)(int8_t)factors[c] : (float)factors[c]));
}

/* Scales and minima of the group whose first run is `run`. */
static void expand_scales(const rt_quant *q, const uint8_t *d, const stretch *s, uint32_t run)
{
    float scale[RT_PANEL], min[RT_PANEL];
    const uint8_t *factors = d + (q->has_min ? 4 : 2) * RT_PANEL;
    uint32_t runs = q->group / q->run;
    for (int c = 0; c < RT_PANEL; c += 16) {
        rc_vf_store(scale + c, load_f16(d + 2 * c));
        if (q->has_min) rc_vf_store(min + c, load_f16(d + 2 * (RT_PANEL + c)));
    }
    for (uint32_t r = 0; r < runs; r++) {
        float *to = s->scale + (size_t)(run + r) * RT_PANEL, *low = s->min + (size_t)(run + r) * RT_PANEL;
        if (!q->has_factors) {
            memcpy(to, scale, sizeof scale);
            if (q->has_min) memcpy(low, min, sizeof min);
            continue;
        }
        expand_factors(factors + r * RT_PANEL, q->signed_factors, 1, scale, to);
        if (q->has_min) expand_factors(factors + (runs + r) * RT_PANEL, false, -1, min, low);
    }
}

/* ---- tiles ---- */

ALWAYS void begin(const tile *t, rc_vf acc[][VECTORS], int rows)
{
    const int vectors = vectors_of(rows);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            acc[r][v] = t->starts ? rc_vf_zero()
                                  : rc_vf_load_n(t->y + (size_t)r * t->y_stride + 16 * v, t->lanes[v]);
}

ALWAYS void end(const tile *t, rc_vf acc[][VECTORS], int rows)
{
    const int vectors = vectors_of(rows);
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
enum { TOGETHER = 1 };
#else
enum { TOGETHER = 8 };
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
            step_f32(sum, b, x + i, rows);
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
                      const rc_vf scale[VECTORS], const rc_vf *min, int rows)
{
    const int vectors = vectors_of(rows);
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

ALWAYS void tile_runs(const tile *t, bool dots, bool has_min, int rows)
{
    const int vectors = vectors_of(rows);
    rc_vf acc[TILE_ROWS][VECTORS], sum[TILE_ROWS][VECTORS];
    const stretch *s = t->s;
    begin(t, acc, rows);
    for (uint32_t k = 0, run = 0; k < s->depth; k += s->run, run++) {
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) sum[r][v] = rc_vf_zero();
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
        rc_vf scale[VECTORS], min[VECTORS];
        load_columns(t, s->scale, run, scale, vectors);
        if (has_min) load_columns(t, s->min, run, min, vectors);
        scale_run(t, acc, sum, run, scale, has_min ? min : NULL, rows);
    }
    (void)dots;
    end(t, acc, rows);
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

#if defined(__AVX2__)
/* ---- tiles of few rows: each code goes from its line through registers into the product ---- */

ALWAYS void direct_line(const tile *t, const code_block *b, int line, uint32_t k, rc_vf sum[][VECTORS],
                        const bool dots, const int bits, int rows)
{
    const int bytes = 16 * bits; /* of codes for these 4 k */
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
        step_f32(sum, even, x, rows);
        step_f32(sum, odd, x + 1, rows);
    }
    (void)dots;
}

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

ALWAYS void times_factors(const rc_vf d[VECTORS], const uint8_t *factors, bool is_signed, float sign,
                          rc_vf out[VECTORS])
{
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
        rc_vf values = load_factors(factors + 16 * v, is_signed);
        out[v] = rc_vf_mul(d[v], rc_vf_mul(rc_vf_set1(sign), values));
    }
}

/* Run i of the group, run `run` of the stretch. */
ALWAYS void scale_from(const group_scales *s, uint32_t i, const tile *t, rc_vf acc[][VECTORS],
                       rc_vf sum[][VECTORS], uint32_t run, int rows)
{
    rc_vf scale[VECTORS], min[VECTORS];
    if (!s->has_factors) {
        scale_run(t, acc, sum, run, s->d, s->has_min ? s->min : NULL, rows);
        return;
    }
    times_factors(s->d, s->factors + i * RT_PANEL, s->is_signed, 1, scale);
    if (s->has_min) times_factors(s->min, s->min_factors + i * RT_PANEL, false, -1, min);
    scale_run(t, acc, sum, run, scale, s->has_min ? min : NULL, rows);
}

ALWAYS void sum_run(const tile *t, const code_block *b, int line, uint32_t k, rc_vf sum[][VECTORS],
                    const bool dots, const int bits, int rows)
{
    const int lines = bits == 6 ? RT_QUANT_RUN_MIN / 4 : 8; /* of the formats with 6 bits a run is 16 k */
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) sum[r][v] = rc_vf_zero();
#pragma GCC unroll 8
    for (int i = 0; i < lines; i++) direct_line(t, b, line + i, k + 4 * (uint32_t)i, sum, dots, bits, rows);
}

ALWAYS void direct(const tile *t, const bool dots, const int bits, int rows)
{
    const rt_quant *q = t->s->format;
    rc_vf acc[DIRECT_ROWS][VECTORS], sum[DIRECT_ROWS][VECTORS];
    code_block b = block_of(q, t->s->values, t->codes);
    size_t group_bytes = rt_quant_group_bytes(q), codes_bytes = rt_quant_codes_bytes(q);
    uint32_t run = 0;
    begin(t, acc, rows);
    for (uint32_t k0 = 0; k0 < t->s->depth; k0 += q->group) {
        b.codes = t->codes + k0 / q->group * group_bytes;
        const uint8_t *d = b.codes + q->group / RT_QUANT_BLOCK * codes_bytes;
        group_scales s = scales_of(q, d, bits);
        for (uint32_t k = k0, i = 0; k < k0 + q->group; k += RT_QUANT_BLOCK, b.codes += codes_bytes) {
            sum_run(t, &b, 0, k, sum, dots, bits, rows);
            scale_from(&s, i++, t, acc, sum, run++, rows);
            if (bits != 6) continue;
            sum_run(t, &b, 4, k + RT_QUANT_RUN_MIN, sum, dots, bits, rows);
            scale_from(&s, i++, t, acc, sum, run++, rows);
        }
    }
    end(t, acc, rows);
}

#define DIRECT(kind, dots, bits, rows) \
    static void direct_##kind##_##bits##_##rows(const tile *t) { direct(t, dots, bits, rows); }
#if defined(__AVX512F__)
#define DIRECT_MORE(kind, dots, bits) DIRECT(kind, dots, bits, 3) DIRECT(kind, dots, bits, 4)
#define DIRECT_NAMES(kind, bits) direct_##kind##_##bits##_3, direct_##kind##_##bits##_4
#else
#define DIRECT_MORE(kind, dots, bits)
#define DIRECT_NAMES(kind, bits)
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

static const uint8_t *stretch_codes(const rt_matrix *m, uint32_t panel, uint32_t k0)
{
    return (const uint8_t *)rt_matrix_panel(m, panel) + k0 / m->quant->group * rt_quant_group_bytes(m->quant);
}

/* k of a stretch from k0 on; both are multiples of the group. */
static void expand(const rt_matrix *m, uint32_t panel, uint32_t k0, stretch *s)
{
    const rt_quant *q = m->quant;
    size_t group_bytes = rt_quant_group_bytes(q), codes_bytes = rt_quant_codes_bytes(q);
    const uint8_t *group = stretch_codes(m, panel, k0);
    for (uint32_t k = 0; k < s->depth; k += q->group, group += group_bytes) {
        const uint8_t *codes = group;
        rc_vf_prefetch(group + CODES_AHEAD, group_bytes);
        for (uint32_t b = 0; b < q->group; b += RT_QUANT_BLOCK, codes += codes_bytes)
            expand_codes(q, codes, s, k + b);
        expand_scales(q, codes, s, k / q->run);
    }
}

#if defined(__AVX2__)
enum { HAS_DIRECT = 1 };
#else
enum { HAS_DIRECT = 0 };
#endif

/* One part's walk. */
typedef struct walk {
    const rt_dense *d;
    stretch s;
    uint32_t block_depth, tiles;
    float *y; /* the panel's first column of the first row */
    size_t y_stride;
} walk;

/* All rows against k0 .. k0 + s.depth of a panel. */
static void panel_stretch(walk *w, uint32_t panel, uint32_t k0)
{
    const rt_dense *d = w->d;
    size_t x_size = w->s.rounded ? sizeof(uint16_t) : sizeof(float);
    uint32_t block = k0 / w->block_depth, within = k0 % w->block_depth;
    const char *packed = (const char *)d->packed + (size_t)block * d->rows * RT_X_STRIDE;
    bool ends = k0 + w->s.depth == d->w->k;
    if (w->s.is_expanded) expand(d->w, panel, k0, &w->s);
    for (uint32_t i = 0; i < w->tiles; i++) {
        uint32_t row, end_row;
        rt_share(d->rows, i, w->tiles, &row, &end_row);
        const char *x = packed + (size_t)row * RT_X_STRIDE;
        uint32_t stripe = 16 * (uint32_t)vectors_of((int)(end_row - row));
        for (uint32_t c = 0; c < RT_PANEL && panel * RT_PANEL + c < d->w->n; c += stripe) {
            uint32_t column = panel * RT_PANEL + c;
            tile t = {
                .s = &w->s,
                .x = x + within * x_size,
                .codes = stretch_codes(d->w, panel, k0),
                .sums = x + RT_X_BYTES + within / SUM_RUN * sizeof(float),
                .column = c,
                .y = w->y + row * w->y_stride + c,
                .y_stride = w->y_stride,
                .bias = d->bias && ends ? d->bias + column : NULL,
                .starts = k0 == 0,
            };
            for (uint32_t v = 0; v < VECTORS; v++) {
                uint32_t left = d->w->n - column;
                t.lanes[v] = left > 16 * v ? least(16, left - 16 * v) : 0;
            }
            tiles_for(&w->s)[end_row - row - 1](&t);
        }
    }
}

/* k0 .. k0 + depth of a panel, in stretches. */
static void panel_block(walk *w, uint32_t panel, uint32_t k0, uint32_t depth, uint32_t stretch_depth)
{
    for (uint32_t k = 0; k < depth; k += w->s.depth) {
        w->s.depth = least(stretch_depth, depth - k);
        panel_stretch(w, panel, k0 + k);
    }
}

/* A panel of gate, the same of up, and SwiGLU while both are in the cache. */
static void run_gated(walk *w, uint32_t part, uint32_t parts)
{
    const rt_dense *d = w->d;
    uint32_t panels = d->next->k / RT_PANEL, p, end_panel;
    float *patch = rt_patch(d, part);
    w->y_stride = RT_PATCH_STRIDE;
    for (rt_share(panels, part, parts, &p, &end_panel); p < end_panel; p++) {
        for (uint32_t up = 0; up < 2; up++) {
            w->y = patch + up * RT_PANEL;
            panel_block(w, p + up * panels, 0, d->w->k, w->block_depth);
        }
        rt_gate_panel(d, p, patch);
    }
}

/* Few rows walk along a panel in short stretches; many rows take a panel's whole depth block at once, and all
 * panels before the next depth block, so that the block's packed rows stay in the cache. */
void RC_FAMILY(rt_quant_run)(const rt_dense *d, uint32_t part, uint32_t parts)
{
    const rt_matrix *m = d->w;
    float *scratch = d->scratch + (size_t)part * RT_SCRATCH_FLOATS;
    walk w = {.d = d, .block_depth = block_depth(m), .tiles = (d->rows + TILE_ROWS - 1) / TILE_ROWS,
              .y_stride = d->y_stride};
    w.s = (stretch){.operands = scratch, .scale = scratch + RT_OPERANDS_FLOATS, .run = m->quant->run,
                    .rounded = packs_bf16(m), .has_min = m->quant->has_min, .format = m->quant};
    w.s.is_expanded = !HAS_DIRECT || d->rows > DIRECT_ROWS;
    for (int i = 0; i < 64; i++)
        w.s.values[i] = rc_f32_to_bf16((float)((m->quant->bits == 4 ? i % 16 : i) + m->quant->offset));
    w.s.min = w.s.scale + RUNS_MAX * RT_PANEL;
    uint32_t first, end_panel, few = w.tiles == 1 && w.s.is_expanded ? FEW_DEPTH : w.block_depth;
    if (d->next) {
        run_gated(&w, part, parts);
        return;
    }
    rt_share(rt_matrix_panels(m->n), part, parts, &first, &end_panel);
    uint32_t outer = w.tiles == 1 ? m->k : w.block_depth;
    for (uint32_t k0 = 0; k0 < m->k; k0 += outer)
        for (uint32_t p = first; p < end_panel; p++) {
            w.y = d->y + (size_t)p * RT_PANEL;
            panel_block(&w, p, k0, least(outer, m->k - k0), few);
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
