#include "runtime/backend/quant.h"

#include <math.h>
#include <strings.h>

#include "proto/dtype.h"
#include "proto/rc.h"
#include "runtime/backend/matrix.h"

static const rt_quant formats[] = {
    {"Q4_0", 2, 18, 32, 32, 4, -8, false, false, false},
    {"Q4_1", 3, 20, 32, 32, 4, 0, true, false, false},
    {"Q5_0", 6, 22, 32, 32, 5, -16, false, false, false},
    {"Q5_1", 7, 24, 32, 32, 5, 0, true, false, false},
    {"Q8_0", 8, 34, 32, 32, 8, 0, false, false, false},
    {"Q4_K", 12, 144, 256, 32, 4, 0, true, true, false},
    {"Q5_K", 13, 176, 256, 32, 5, 0, true, true, false},
    {"Q6_K", 14, 210, 256, 16, 6, -32, false, true, true},
};

enum {
    FORMATS = sizeof formats / sizeof *formats,
    Q4_0 = 2,
    Q6_K = 14,
    NIBBLES_BYTES = RT_PANEL * RT_QUANT_BLOCK / 2,
    BIT_BYTES = RT_PANEL * RT_QUANT_BLOCK / 8
};

const rt_quant *rt_quant_find(uint32_t ggml_type)
{
    for (int i = 0; i < FORMATS; i++)
        if (formats[i].ggml_type == ggml_type) return &formats[i];
    return NULL;
}

const rt_quant *rt_quant_named(const char *name)
{
    for (int i = 0; i < FORMATS; i++)
        if (strcasecmp(formats[i].name, name) == 0) return &formats[i];
    return NULL;
}

size_t rt_quant_codes_bytes(const rt_quant *q) { return (size_t)q->bits * BIT_BYTES; }

static size_t runs_of(const rt_quant *q) { return q->group / q->run; }

size_t rt_quant_group_bytes(const rt_quant *q)
{
    size_t scales = (q->has_min ? 2 : 1) * RT_PANEL;
    return q->group / RT_QUANT_BLOCK * rt_quant_codes_bytes(q) + scales * sizeof(uint16_t) +
           (q->has_factors ? scales * runs_of(q) : 0);
}

static uint16_t load_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

static void store_u16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

/* Nibbles of 32 elements: low halves are the first 16; `high`: NULL, or their fifth bits. */
static void unpack_32(const uint8_t *q, const uint8_t *high, uint8_t *codes)
{
    for (int i = 0; i < 16; i++) {
        codes[i] = q[i] & 15;
        codes[i + 16] = q[i] >> 4;
    }
    for (int i = 0; high && i < 32; i++) codes[i] |= (uint8_t)((high[i / 8] >> (i % 8) & 1) << 4);
}

/* Scales and minima of Q4_K and Q5_K, six bits each in 12 bytes. */
static void unpack_factors(const uint8_t *packed, rt_quant_group *g)
{
    for (int s = 0; s < 4; s++) {
        g->factors[s] = packed[s] & 63;
        g->min_factors[s] = packed[s + 4] & 63;
        g->factors[s + 4] = (uint8_t)((packed[s + 8] & 15) | (packed[s] >> 6) << 4);
        g->min_factors[s + 4] = (uint8_t)((packed[s + 8] >> 4) | (packed[s + 4] >> 6) << 4);
    }
}

/* d | dmin | 12 bytes of factors | (32 bytes of fifth bits) | 128 bytes: a run of 32 holds two parts of 32 */
static void unpack_k(const rt_quant *q, const uint8_t *block, rt_quant_group *g)
{
    const uint8_t *high = q->bits == 5 ? block + 16 : NULL, *low = block + (high ? 48 : 16);
    unpack_factors(block + 4, g);
    for (int i = 0; i < 256; i++) {
        int part = i / 32, lane = i % 32;
        g->codes[i] = low[part / 2 * 32 + lane] >> part % 2 * 4 & 15;
        if (high) g->codes[i] |= (uint8_t)((high[lane] >> part & 1) << 4);
    }
}

/* 128 bytes of 4 bits | 64 bytes of 2 bits | 16 int8 factors | d */
static void unpack_q6_k(const uint8_t *block, rt_quant_group *g)
{
    memcpy(g->factors, block + 192, 16);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, part = i % 128 / 32, lane = i % 32;
        int low = block[half * 64 + part % 2 * 32 + lane] >> part / 2 * 4 & 15;
        g->codes[i] = (uint8_t)(low | (block[128 + half * 32 + lane] >> part * 2 & 3) << 4);
    }
}

void rt_quant_unpack(const rt_quant *q, const uint8_t *block, rt_quant_group *out)
{
    if (q->ggml_type == Q6_K) {
        out->d = load_u16(block + 208);
        unpack_q6_k(block, out);
        return;
    }
    out->d = load_u16(block);
    const uint8_t *at = block + 2;
    if (q->has_min) {
        out->min = load_u16(at);
        at += 2;
    }
    if (q->has_factors) unpack_k(q, block, out);
    else if (q->bits == 8) memcpy(out->codes, at, 32);
    else if (q->bits == 5) unpack_32(at + 4, at, out->codes);
    else unpack_32(at, NULL, out->codes);
}

/* Where element k of a block, of column `column`, is: its operand, and its word within that. */
typedef struct spot {
    uint32_t operand, word;
} spot;

static spot spot_of(uint32_t k, uint32_t column)
{
    return (spot){k / 2 * 2 + column / 16, column % 16 * 2 + k % 2};
}

/* The word that holds the operand's bits, of a plane with `bits` (1, 2 or 4) an operand; and their shift. */
static uint8_t *plane_word(uint8_t *plane, uint32_t bits, spot at, uint32_t *shift)
{
    uint32_t operands = 16 / bits;
    *shift = at.operand % operands * bits;
    return plane + (at.operand / operands * 32 + at.word) * 2;
}

static void put_bits(uint8_t *plane, uint32_t bits, spot at, uint32_t value)
{
    uint32_t shift;
    uint8_t *word = plane_word(plane, bits, at, &shift);
    store_u16(word, (uint16_t)(load_u16(word) | value << shift));
}

static uint32_t get_bits(const uint8_t *plane, uint32_t bits, spot at)
{
    uint32_t shift;
    const uint8_t *word = plane_word((uint8_t *)(uintptr_t)plane, bits, at, &shift);
    return (uint32_t)load_u16(word) >> shift & ((1u << bits) - 1);
}

/* d, the minimum's, the factors and the minimum's, of a column. */
typedef struct scale_spots {
    size_t d, min, factors, min_factors; /* bytes into the group; factors are RT_PANEL apart */
} scale_spots;

static scale_spots scales_at(const rt_quant *q, uint32_t column)
{
    scale_spots s;
    s.d = q->group / RT_QUANT_BLOCK * rt_quant_codes_bytes(q) + column * sizeof(uint16_t);
    s.min = s.d + RT_PANEL * sizeof(uint16_t);
    s.factors = s.d - column + (q->has_min ? 2 : 1) * RT_PANEL * sizeof(uint16_t);
    s.min_factors = s.factors + runs_of(q) * RT_PANEL;
    return s;
}

void rt_quant_put(const rt_quant *q, uint8_t *group, uint32_t column, const rt_quant_group *g)
{
    scale_spots s = scales_at(q, column);
    for (uint32_t k = 0; k < q->group; k++) {
        uint8_t *codes = group + k / RT_QUANT_BLOCK * rt_quant_codes_bytes(q);
        spot at = spot_of(k % RT_QUANT_BLOCK, column);
        if (q->bits == 8) {
            codes[at.operand * 32 + at.word] = g->codes[k];
            continue;
        }
        put_bits(codes, 4, at, g->codes[k] & 15);
        if (q->bits > 4) put_bits(codes + NIBBLES_BYTES, q->bits - 4, at, g->codes[k] >> 4);
    }
    store_u16(group + s.d, g->d);
    if (q->has_min) store_u16(group + s.min, g->min);
    for (uint32_t r = 0; q->has_factors && r < runs_of(q); r++) {
        group[s.factors + r * RT_PANEL] = g->factors[r];
        if (q->has_min) group[s.min_factors + r * RT_PANEL] = g->min_factors[r];
    }
}

void rt_quant_get(const rt_quant *q, const uint8_t *group, uint32_t column, rt_quant_group *out)
{
    scale_spots s = scales_at(q, column);
    for (uint32_t k = 0; k < q->group; k++) {
        const uint8_t *codes = group + k / RT_QUANT_BLOCK * rt_quant_codes_bytes(q);
        spot at = spot_of(k % RT_QUANT_BLOCK, column);
        uint32_t code = q->bits == 8 ? codes[at.operand * 32 + at.word] : get_bits(codes, 4, at);
        if (q->bits == 5 || q->bits == 6) code |= get_bits(codes + NIBBLES_BYTES, q->bits - 4, at) << 4;
        out->codes[k] = (uint8_t)code;
    }
    out->d = load_u16(group + s.d);
    if (q->has_min) out->min = load_u16(group + s.min);
    for (uint32_t r = 0; q->has_factors && r < runs_of(q); r++) {
        out->factors[r] = group[s.factors + r * RT_PANEL];
        if (q->has_min) out->min_factors[r] = group[s.min_factors + r * RT_PANEL];
    }
}

void rt_quant_values(const rt_quant *q, const rt_quant_group *g, float *out)
{
    float d = rc_f16_to_f32(g->d), min = q->has_min ? rc_f16_to_f32(g->min) : 0;
    for (uint32_t k = 0; k < q->group; k++) {
        uint32_t r = k / q->run;
        float scale = d, low = min;
        if (q->has_factors) {
            scale *= q->signed_factors ? (float)(int8_t)g->factors[r] : (float)g->factors[r];
            low *= -(float)g->min_factors[r];
        }
        int code = q->bits == 8 ? (int8_t)g->codes[k] : g->codes[k];
        float value = (float)(code + q->offset) * scale;
        out[k] = q->has_min ? value + low : value;
    }
}

/* To nearest even, as a cast to float16 does. */
static uint16_t to_f16(float x)
{
    uint32_t u = rc_f32_to_bits(x), sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) /* denormal: in units of 2^-24, which adding 2^-1 rounds to */
        return (uint16_t)(sign | (rc_f32_to_bits(rc_bits_to_f32(magnitude) + 0.5f) - rc_f32_to_bits(0.5f)));
    uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | (magnitude - (112u << 23) + 0xfffu + odd) >> 13);
}

static void row_block_q8_0(const float *x, uint8_t *block)
{
    float top = 0;
    for (int i = 0; i < 32; i++) top = fmaxf(top, fabsf(x[i]));
    float d = top / 127, inverse = d != 0 ? 1 / d : 0;
    store_u16(block, to_f16(d));
    for (int i = 0; i < 32; i++) block[2 + i] = (uint8_t)(int8_t)roundf(x[i] * inverse);
}

static uint8_t q4_0_code(float x)
{
    int code = (int8_t)(x + 8.5f);
    return (uint8_t)(code < 15 ? code : 15);
}

static void row_block_q4_0(const float *x, uint8_t *block)
{
    float top = 0, extreme = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(x[i]) > top) {
            top = fabsf(x[i]);
            extreme = x[i];
        }
    float d = extreme / -8, inverse = d != 0 ? 1 / d : 0;
    store_u16(block, to_f16(d));
    for (int i = 0; i < 16; i++)
        block[2 + i] = (uint8_t)(q4_0_code(x[i] * inverse) | q4_0_code(x[i + 16] * inverse) << 4);
}

void rt_quant_row(const rt_quant *q, const float *x, uint32_t k, uint8_t *blocks)
{
    RC_ASSERT(k % RT_QUANT_BLOCK == 0 && q->group == RT_QUANT_BLOCK);
    for (uint32_t i = 0; i < k; i += RT_QUANT_BLOCK, blocks += q->block_bytes)
        if (q->ggml_type == Q4_0) row_block_q4_0(x + i, blocks);
        else row_block_q8_0(x + i, blocks);
}
