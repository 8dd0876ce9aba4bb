/* runtime/backend/quant_stretch.h - some k of a quantised panel, expanded to the operands of a product. Only
 * for files that mica_kernels() compiles. */
#ifndef RUNTIME_BACKEND_QUANT_STRETCH_H
#define RUNTIME_BACKEND_QUANT_STRETCH_H

#include "runtime/backend/quant_codes.h"
#include "runtime/backend/tile_shape.h"

enum {
    CODES_AHEAD = 2048, /* bytes of a stream over weights while it is expanded, a group at once */
    RUNS_MAX = RT_X_BYTES / 2 / RT_QUANT_RUN_MIN
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

#endif
