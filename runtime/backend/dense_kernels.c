/* runtime/backend/dense_kernels.c - y = x W^T (+ bias); compiled once per family.
 *
 * Every element of y is one float32 accumulator that runs over k in increasing order with one instruction
 * per k (per pair of k for bf16 dot). Tiles only choose which accumulators are in registers together, and an
 * accumulator that waits in y between two depth blocks is exact, so rows, threads and tiles change no bit.
 *
 * Few rows: panel after panel, each block straight from memory: a linear stream. Many rows: depth block
 * after depth block, so that the packed rows of one block stay in L2 for all panels; a bf16 block of a panel is
 * widened to float32 once and then read by every tile.
 */
#include "proto/vec.h"

#include "runtime/backend/family_parts.h"

#define ALWAYS static inline __attribute__((always_inline))

#if defined(__AVX512F__)
enum { TILE_ROWS = 12, VECTORS = 2 }; /* 24 accumulators of 32 registers */
#elif defined(__AVX2__)
enum { TILE_ROWS = 6, VECTORS = 1 };  /* 12 accumulators of 16 registers */
#else
enum { TILE_ROWS = 2, VECTORS = 1 };  /* 8 accumulators of 16 registers */
#endif
enum {
    STRIPE = 16 * VECTORS,  /* columns of a tile */
    LINES_AHEAD = 32,       /* of a stream over weights */
    LINEAR_FLOATS = 128 << 10 /* packed rows up to this size stay in L2 whole */
};

/* One tile of one depth block. */
typedef struct tile {
    const void *x;  /* first row, RT_X_STRIDE apart */
    const void *w;  /* first column of the stripe */
    uint32_t depth; /* k in this block; even for bf16 */
    float *y;
    size_t y_stride;
    const float *bias; /* to add at the end, or NULL */
    bool starts;       /* accumulators start at zero, not from y */
} tile;

typedef void (*tile_fn)(const tile *t);

ALWAYS void tile_begin(const tile *t, rc_vf acc[][VECTORS], int rows)
{
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            acc[r][v] = t->starts ? rc_vf_zero() : rc_vf_load(t->y + (size_t)r * t->y_stride + 16 * v);
}

ALWAYS void tile_end(const tile *t, rc_vf acc[][VECTORS], int rows)
{
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
        rc_vf bias = t->bias ? rc_vf_load(t->bias + 16 * v) : rc_vf_zero();
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            rc_vf sum = t->bias ? rc_vf_add(acc[r][v], bias) : acc[r][v];
            rc_vf_store(t->y + (size_t)r * t->y_stride + 16 * v, sum);
        }
    }
}

ALWAYS void step_f32(rc_vf acc[][VECTORS], const rc_vf w[VECTORS], const float *x, int rows)
{
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        rc_vf a = rc_vf_set1(x[r * RT_X_STRIDE]);
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) acc[r][v] = rc_vf_fma(a, w[v], acc[r][v]);
    }
}

/* A float32 panel, or a widened bf16 one. */
ALWAYS void tile_f32(const tile *t, int rows)
{
    rc_vf acc[TILE_ROWS][VECTORS];
    tile_begin(t, acc, rows);
    const float *x = t->x, *w = t->w;
    for (uint32_t k = 0; k < t->depth; k++, x++, w += RT_PANEL) {
        rc_vf b[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) b[v] = rc_vf_load(w + 16 * v);
        step_f32(acc, b, x, rows);
    }
    tile_end(t, acc, rows);
}

ALWAYS void prefetch_pair(const uint16_t *w)
{
    for (int v = 0; v < VECTORS; v++) __builtin_prefetch(w + 32 * (v + LINES_AHEAD), 0, 3);
}

/* A bf16 panel against float32 rows: the even k of a pair, then the odd one. */
ALWAYS void tile_bf16(const tile *t, int rows)
{
    rc_vf acc[TILE_ROWS][VECTORS];
    tile_begin(t, acc, rows);
    const float *x = t->x;
    const uint16_t *w = t->w;
    for (uint32_t k = 0; k < t->depth; k += 2, x += 2, w += 2 * RT_PANEL) {
        rc_vf even[VECTORS], odd[VECTORS];
        prefetch_pair(w);
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
            rc_vf pairs = rc_vf_load_bits(w + 32 * v);
            even[v] = rc_vf_pair_low(pairs);
            odd[v] = rc_vf_pair_high(pairs);
        }
        step_f32(acc, even, x, rows);
        step_f32(acc, odd, x + 1, rows);
    }
    tile_end(t, acc, rows);
}

#if defined(__AVX512BF16__)
/* A bf16 panel against bf16 rows. */
ALWAYS void tile_dot(const tile *t, int rows)
{
    rc_vf acc[TILE_ROWS][VECTORS];
    tile_begin(t, acc, rows);
    const uint16_t *x = t->x, *w = t->w;
    for (uint32_t k = 0; k < t->depth; k += 2, x += 2, w += 2 * RT_PANEL) {
        __m512bh b[VECTORS];
        prefetch_pair(w);
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) b[v] = (__m512bh)_mm512_loadu_si512(w + 32 * v);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            int pair;
            memcpy(&pair, x + r * RT_X_STRIDE, sizeof pair);
            __m512bh a = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], a, b[v]);
        }
    }
    tile_end(t, acc, rows);
}
#define DOT 1
#else
#define DOT 0
#endif

#define TILE(kind, rows) \
    static void kind##_##rows(const tile *t) { kind(t, rows); }
#if defined(__AVX512F__)
#define TILES(kind) \
    TILE(kind, 1) TILE(kind, 2) TILE(kind, 3) TILE(kind, 4) TILE(kind, 5) TILE(kind, 6) \
    TILE(kind, 7) TILE(kind, 8) TILE(kind, 9) TILE(kind, 10) TILE(kind, 11) TILE(kind, 12) \
    static const tile_fn kind##s[TILE_ROWS] = {kind##_1, kind##_2, kind##_3, kind##_4, kind##_5, kind##_6, \
                                               kind##_7, kind##_8, kind##_9, kind##_10, kind##_11, kind##_12};
#elif defined(__AVX2__)
#define TILES(kind) \
    TILE(kind, 1) TILE(kind, 2) TILE(kind, 3) TILE(kind, 4) TILE(kind, 5) TILE(kind, 6) \
    static const tile_fn kind##s[TILE_ROWS] = {kind##_1, kind##_2, kind##_3, kind##_4, kind##_5, kind##_6};
#else
#define TILES(kind) \
    TILE(kind, 1) TILE(kind, 2) \
    static const tile_fn kind##s[TILE_ROWS] = {kind##_1, kind##_2};
#endif

TILES(tile_f32)
#if DOT
TILES(tile_dot)
#else
TILES(tile_bf16)
#endif

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* One part's walk over a product. */
typedef struct walk {
    const rt_dense *d;
    float *wide;         /* this part's buffer for a widened block */
    uint32_t depth;      /* of the matrix as stored */
    uint32_t blocks;     /* depth blocks */
    uint32_t tiles;      /* that the rows are dealt to */
    size_t x_bytes;      /* of an element of packed rows */
    bool is_dot, widens;
} walk;

static void widen(const uint16_t *w, uint32_t depth, float *wide)
{
    for (uint32_t k = 0; k < depth; k += 2, w += 2 * RT_PANEL, wide += 2 * RT_PANEL)
        for (int half = 0; half < 2; half++) {
            rc_vf pairs = rc_vf_load_bits(w + 32 * half);
            rc_vf_store(wide + 16 * half, rc_vf_pair_low(pairs));
            rc_vf_store(wide + RT_PANEL + 16 * half, rc_vf_pair_high(pairs));
        }
}

/* The matrix ends inside the stripe: the tile works on a copy that is as wide as it expects. */
static void tile_ragged(tile_fn run, tile t, uint32_t rows, uint32_t columns)
{
    float copy[TILE_ROWS * STRIPE], bias[STRIPE] = {0};
    float *y = t.y;
    if (!t.starts)
        for (uint32_t r = 0; r < rows; r++) {
            memset(copy + r * STRIPE, 0, STRIPE * sizeof *copy);
            memcpy(copy + r * STRIPE, y + r * t.y_stride, columns * sizeof *copy);
        }
    if (t.bias) t.bias = memcpy(bias, t.bias, columns * sizeof *bias);
    size_t stride = t.y_stride;
    t.y = copy;
    t.y_stride = STRIPE;
    run(&t);
    for (uint32_t r = 0; r < rows; r++) memcpy(y + r * stride, copy + r * STRIPE, columns * sizeof *copy);
}

/* All rows against one stripe of one block; meanwhile brings `ahead`, the next block, into the cache. */
static void stripe(const walk *s, uint32_t panel, uint32_t column, uint32_t block, const void *w,
                   const tile_fn *kernels, const char *ahead, size_t ahead_bytes)
{
    const rt_dense *d = s->d;
    uint32_t first = panel * RT_PANEL + column, k0 = block * RT_DEPTH_BLOCK;
    uint32_t columns = least(STRIPE, d->w->n - first);
    bool ends = block + 1 == s->blocks;
    for (uint32_t i = 0; i < s->tiles; i++) {
        uint32_t row, end;
        row = (uint32_t)((uint64_t)d->rows * i / s->tiles);
        end = (uint32_t)((uint64_t)d->rows * (i + 1) / s->tiles);
        tile t = {
            .x = (const char *)d->packed + ((size_t)block * d->rows + row) * RT_X_STRIDE * s->x_bytes,
            .w = w,
            .depth = least(RT_DEPTH_BLOCK, s->depth - k0),
            .y = d->y + row * d->y_stride + first,
            .y_stride = d->y_stride,
            .bias = ends && d->bias ? d->bias + first : NULL,
            .starts = block == 0,
        };
        size_t until = ahead_bytes * (i + 1) / s->tiles;
        for (size_t at = ahead_bytes * i / s->tiles / 64 * 64; at < until; at += 64)
            __builtin_prefetch(ahead + at, 0, 2);
        if (columns == STRIPE) kernels[end - row - 1](&t);
        else tile_ragged(kernels[end - row - 1], t, end - row, columns);
    }
}

/* All rows against one block of a panel; next_* is the block that comes after it. */
static void panel_block(const walk *s, uint32_t panel, uint32_t block, uint32_t next_panel, uint32_t next_block)
{
    const rt_matrix *m = s->d->w;
    const char *w = rt_matrix_at(m, panel, (size_t)block * RT_DEPTH_BLOCK);
    size_t column_bytes = m->stored == RC_BF16 ? 4 : 4; /* a bf16 line holds two k */
    const tile_fn *kernels = tile_f32s;
    const char *ahead = NULL;
    size_t ahead_bytes = 0;
    if (m->stored == RC_BF16) {
#if DOT
        kernels = tile_dots;
#else
        kernels = tile_bf16s;
#endif
    }
    if (s->tiles > 1) {
        size_t k0 = (size_t)next_block * RT_DEPTH_BLOCK;
        uint32_t depth = least(RT_DEPTH_BLOCK, s->depth - (uint32_t)k0);
        ahead = rt_matrix_at(m, next_panel, k0);
        ahead_bytes = (size_t)depth * RT_PANEL * rc_dtype_bytes(m->stored) * STRIPE / RT_PANEL;
    }
    if (s->widens) {
        uint32_t depth = least(RT_DEPTH_BLOCK, s->depth - block * RT_DEPTH_BLOCK);
        widen((const uint16_t *)(const void *)w, depth, s->wide);
        w = (const char *)s->wide;
        kernels = tile_f32s;
    }
    for (uint32_t c = 0; c < RT_PANEL && panel * RT_PANEL + c < m->n; c += STRIPE)
        stripe(s, panel, c, block, w + c * column_bytes, kernels,
               ahead + (ahead_bytes * (c / STRIPE)), ahead_bytes);
}

void RC_FAMILY(rt_dense_run)(const rt_dense *d, uint32_t part, uint32_t parts)
{
    const rt_matrix *m = d->w;
    uint32_t panels = rt_matrix_panels(m->n);
    uint32_t first = (uint32_t)((uint64_t)panels * part / parts);
    uint32_t end = (uint32_t)((uint64_t)panels * (part + 1) / parts);
    walk s = {.d = d, .wide = d->wide + (size_t)part * RT_WIDE_FLOATS};
    s.depth = (uint32_t)rt_matrix_depth(m->k, m->stored);
    s.blocks = (s.depth + RT_DEPTH_BLOCK - 1) / RT_DEPTH_BLOCK;
    s.tiles = (d->rows + TILE_ROWS - 1) / TILE_ROWS;
    s.is_dot = DOT && m->stored == RC_BF16;
    s.x_bytes = s.is_dot ? 2 : 4;
    s.widens = !s.is_dot && m->stored == RC_BF16 && s.tiles > 1;
    if ((size_t)d->rows * s.depth <= LINEAR_FLOATS) {
        for (uint32_t p = first; p < end; p++)
            for (uint32_t b = 0; b < s.blocks; b++) {
                bool last = b + 1 == s.blocks;
                panel_block(&s, p, b, last ? least(p + 1, end - 1) : p, last ? 0 : b + 1);
            }
    } else {
        for (uint32_t b = 0; b < s.blocks; b++)
            for (uint32_t p = first; p < end; p++) {
                bool last = p + 1 == end;
                panel_block(&s, p, b, last ? first : p + 1, last ? least(b + 1, s.blocks - 1) : b);
            }
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
    uint32_t stored = (uint32_t)rt_matrix_depth(m->k, m->stored);
    uint32_t end = (uint32_t)((uint64_t)d->rows * (part + 1) / parts);
    for (uint32_t r = (uint32_t)((uint64_t)d->rows * part / parts); r < end; r++)
        for (uint32_t k0 = 0, b = 0; k0 < stored; k0 += RT_DEPTH_BLOCK, b++) {
            const float *x = d->x + r * d->x_stride + k0;
            size_t at = ((size_t)b * d->rows + r) * RT_X_STRIDE;
            uint32_t depth = least(RT_DEPTH_BLOCK, m->k - k0), deep = least(RT_DEPTH_BLOCK, stored - k0);
            if (DOT && m->stored == RC_BF16) pack_bf16(x, depth, deep, (uint16_t *)d->packed + at);
            else pack_f32(x, depth, deep, (float *)d->packed + at);
        }
}
