/* runtime/backend/tile_shape.h - what the files of dense kernels share: how much of a product is in registers
 * together, and a step of it. Only for files that mica_kernels() compiles. */
#ifndef RUNTIME_BACKEND_TILE_SHAPE_H
#define RUNTIME_BACKEND_TILE_SHAPE_H

#include "proto/vec.h"

#include "runtime/backend/kernels.h"

#define ALWAYS static inline __attribute__((always_inline))

/* A tile is up to TILE_ROWS rows of x by a vector of columns; up to PANEL_ROWS by two, a whole panel. */
#if defined(__AVX512F__)
enum { TILE_ROWS = 12, PANEL_ROWS = 12 }; /* 24 accumulators of 32 registers */
#elif defined(__AVX2__)
enum { TILE_ROWS = 6, PANEL_ROWS = 2 };   /* 12 accumulators of 16 registers */
#else
enum { TILE_ROWS = 2, PANEL_ROWS = 0 };   /* 8 accumulators of 16 registers */
#endif
enum { VECTORS = 2 };                     /* at most; vectors_of(rows) of them */
/* Of many rows, by AVX-512's multiply-adds, PAIR_ROWS by two panels: 10 loads for 24 of them, where a panel
 * with 12 rows takes 14. A core that is shared between hyperthreads, as two virtual CPUs often are, has too
 * few loads and decoded instructions for its multiply-adds: there that is 6 to 10 % on a Xeon. */
enum { PAIR_ROWS = 6 };

ALWAYS int vectors_of(int rows) { return rows <= PANEL_ROWS ? 2 : 1; }

#if defined(__AVX512BF16__)
#define DOT 1
#else
#define DOT 0
#endif
#if defined(__AVX2__) && !defined(__AVX512F__)
#define SIXTEEN_REGISTERS 1
#else
#define SIXTEEN_REGISTERS 0
#endif
#if defined(__AVX512F__) && !DOT
#define PAIRS 1
#else
#define PAIRS 0
#endif

enum { L2_AHEAD = 32 << 10 }; /* bytes of a stream that comes to L2 first */

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

/* One k into each accumulator: x's rows, RT_X_STRIDE bytes apart, by `w`'s columns. */
ALWAYS void step_f32(rc_vf acc[][VECTORS], const rc_vf w[VECTORS], const float *x, int rows, int vectors)
{
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        rc_vf a = rc_vf_set1(x[r * (RT_X_STRIDE / sizeof *x)]);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) acc[r][v] = rc_vf_fma(a, w[v], acc[r][v]);
    }
}

#if PAIRS
enum { PAIR_STEPS = 4 }; /* k without a test between: 4 % where hyperthreads share a core */

/* One k into the accumulators of two tiles; the second one's columns are `other` floats from w. */
ALWAYS void step_pair(rc_vf acc[2][PAIR_ROWS][VECTORS], const float *w, ptrdiff_t other, const float *x)
{
    rc_vf b[2][VECTORS] = {{rc_vf_load(w), rc_vf_load(w + 16)},
                           {rc_vf_load(w + other), rc_vf_load(w + other + 16)}};
#pragma GCC unroll 6
    for (int r = 0; r < PAIR_ROWS; r++) {
        rc_vf a = rc_vf_set1(x[r * (RT_X_STRIDE / sizeof *x)]);
#pragma GCC unroll 4
        for (int i = 0; i < 2 * VECTORS; i++)
            acc[i / 2][r][i % 2] = rc_vf_fma(a, b[i / 2][i % 2], acc[i / 2][r][i % 2]);
    }
}
#endif

#if DOT
/* One pair of k. */
ALWAYS void step_dot(rc_vf acc[][VECTORS], const __m512bh w[VECTORS], const uint16_t *x, int rows)
{
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        int pair;
        memcpy(&pair, x + r * (RT_X_STRIDE / sizeof *x), sizeof pair);
        __m512bh a = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], a, w[v]);
    }
}
#endif

static inline uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* Tiles of two panels that some rows have; the 7 to 12 before them, or all, have tiles of one. */
static inline uint32_t pairs_of(uint32_t rows)
{
    return PAIRS && rows > TILE_ROWS ? (rows - TILE_ROWS + PAIR_ROWS - 1) / PAIR_ROWS : 0;
}

/* Are x's rows rounded to bf16 for this matrix? */
static inline bool packs_bf16(const rt_matrix *m)
{
    return DOT && (m->quant ? m->rounds_x : m->stored == RC_BF16);
}

/* k of a row that one depth block holds. */
static inline uint32_t block_depth(const rt_matrix *m)
{
    return RT_X_BYTES / (packs_bf16(m) ? sizeof(uint16_t) : sizeof(float));
}

/* Sixteen float16, exactly. */
#if defined(__AVX512F__)
static inline rc_vf load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
#elif defined(__F16C__)
static inline rc_vf load_f16(const void *p)
{
    const __m128i *h = p;
    return (rc_vf){_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1))};
}
#else
static inline rc_vf load_f16(const void *p)
{
    float f[16];
    for (int i = 0; i < 16; i++) f[i] = rc_load_f32(p, RC_F16, i);
    return rc_vf_load(f);
}
#endif

#endif
