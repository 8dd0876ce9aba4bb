/* Block formats of GGUF tensors. Every product and sum is one float32 rounding in the order of ggml's
 * dequantize_row_*, so the values are the same bits. */
#include "proto/dtype.h"
#include "runtime/model/gguf.h"

enum { QK = 32, QK_K = 256, K_SCALES = 12 };

typedef void (*dequantize_block)(const uint8_t *block, float *out);

typedef struct quant_type {
    const char *name;
    uint32_t block, bytes;   /* elements and bytes of a block */
    dequantize_block to_f32; /* NULL: only its size is known */
} quant_type;

static float load_f16(const uint8_t *p)
{
    return rc_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

static uint32_t load_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void f32_block(const uint8_t *block, float *out)
{
    memcpy(out, block, sizeof *out);
}
static void f16_block(const uint8_t *block, float *out)
{
    *out = load_f16(block);
}
static void bf16_block(const uint8_t *block, float *out)
{
    *out = rc_bf16_to_f32((uint16_t)(block[0] | block[1] << 8));
}

/* d | 32 int8 */
static void q8_0_block(const uint8_t *block, float *out)
{
    float d = load_f16(block);
    for (int i = 0; i < QK; i++) out[i] = (float)(int8_t)block[2 + i] * d;
}

/* d | 16 bytes: low halves are the first 16 elements */
static void q4_0_block(const uint8_t *block, float *out)
{
    float d = load_f16(block);
    const uint8_t *q = block + 2;
    for (int i = 0; i < QK / 2; i++) {
        out[i] = (float)((q[i] & 15) - 8) * d;
        out[i + QK / 2] = (float)((q[i] >> 4) - 8) * d;
    }
}

/* d | m | 16 bytes */
static void q4_1_block(const uint8_t *block, float *out)
{
    float d = load_f16(block), m = load_f16(block + 2);
    const uint8_t *q = block + 4;
    for (int i = 0; i < QK / 2; i++) {
        out[i] = (float)(q[i] & 15) * d + m;
        out[i + QK / 2] = (float)(q[i] >> 4) * d + m;
    }
}

/* d | 32 fifth bits | 16 bytes */
static void q5_0_block(const uint8_t *block, float *out)
{
    float d = load_f16(block);
    uint32_t high = load_u32(block + 2);
    const uint8_t *q = block + 6;
    for (int i = 0; i < QK / 2; i++) {
        int low = (q[i] & 15) | (int)(high >> i & 1) << 4;
        int up = (q[i] >> 4) | (int)(high >> (i + QK / 2) & 1) << 4;
        out[i] = (float)(low - 16) * d;
        out[i + QK / 2] = (float)(up - 16) * d;
    }
}

/* d | m | 32 fifth bits | 16 bytes */
static void q5_1_block(const uint8_t *block, float *out)
{
    float d = load_f16(block), m = load_f16(block + 2);
    uint32_t high = load_u32(block + 4);
    const uint8_t *q = block + 8;
    for (int i = 0; i < QK / 2; i++) {
        int low = (q[i] & 15) | (int)(high >> i & 1) << 4;
        int up = (q[i] >> 4) | (int)(high >> (i + QK / 2) & 1) << 4;
        out[i] = (float)low * d + m;
        out[i + QK / 2] = (float)up * d + m;
    }
}

/* 16 bytes scale|min | 64 bytes of 2 bits | d | dmin */
static void q2_k_block(const uint8_t *block, float *out)
{
    const uint8_t *scales = block, *q = block + QK_K / 16;
    float d = load_f16(block + 80), dmin = load_f16(block + 82);
    for (int s = 0; s < QK_K / 16; s++) {
        float scale = d * (float)(scales[s] & 15), min = dmin * (float)(scales[s] >> 4);
        const uint8_t *part = q + s / 8 * 32 + s % 2 * 16;
        int shift = s % 8 / 2 * 2;
        for (int i = 0; i < 16; i++) out[16 * s + i] = scale * (float)(part[i] >> shift & 3) - min;
    }
}

/* 32 bytes of third bits | 64 bytes of 2 bits | 12 bytes of 16 6-bit scales | d */
static void q3_k_block(const uint8_t *block, float *out)
{
    const uint8_t *high = block, *q = block + 32, *packed = block + 96;
    float d = load_f16(block + 108);
    for (int s = 0; s < QK_K / 16; s++) {
        int low4 = packed[s % 8] >> (s / 8 * 4) & 15, high2 = packed[8 + s % 4] >> (s / 4 * 2) & 3;
        float scale = d * (float)((low4 | high2 << 4) - 32);
        int from = s % 2 * 16, shift = s % 8 / 2 * 2, bit = s / 2;
        for (int i = 0; i < 16; i++) {
            int low = q[s / 8 * 32 + from + i] >> shift & 3;
            out[16 * s + i] = scale * (float)(low - (high[from + i] >> bit & 1 ? 0 : 4));
        }
    }
}

/* Scale and min s of 8, six bits each, of Q4_K and Q5_K. */
static void k_scale_min(const uint8_t *packed, int s, float *scale, float *min)
{
    if (s < 4) {
        *scale = (float)(packed[s] & 63);
        *min = (float)(packed[s + 4] & 63);
    } else {
        *scale = (float)((packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4);
        *min = (float)((packed[s + 4] >> 4) | (packed[s] >> 6) << 4);
    }
}

/* d | dmin | 12 bytes of scales and mins | 128 bytes: a 32-byte run holds two parts of 32 */
static void q4_k_block(const uint8_t *block, float *out)
{
    float d = load_f16(block), dmin = load_f16(block + 2);
    for (int s = 0; s < QK_K / 32; s++) {
        float scale, min;
        k_scale_min(block + 4, s, &scale, &min);
        scale *= d;
        min *= dmin;
        const uint8_t *q = block + 4 + K_SCALES + s / 2 * 32;
        int shift = s % 2 * 4;
        for (int i = 0; i < 32; i++) out[32 * s + i] = scale * (float)(q[i] >> shift & 15) - min;
    }
}

/* d | dmin | 12 bytes of scales and mins | 32 bytes of fifth bits | 128 bytes as in Q4_K */
static void q5_k_block(const uint8_t *block, float *out)
{
    float d = load_f16(block), dmin = load_f16(block + 2);
    const uint8_t *high = block + 4 + K_SCALES;
    for (int s = 0; s < QK_K / 32; s++) {
        float scale, min;
        k_scale_min(block + 4, s, &scale, &min);
        scale *= d;
        min *= dmin;
        const uint8_t *q = high + 32 + s / 2 * 32;
        int shift = s % 2 * 4;
        for (int i = 0; i < 32; i++) {
            int value = (q[i] >> shift & 15) | (high[i] >> s & 1) << 4;
            out[32 * s + i] = scale * (float)value - min;
        }
    }
}

/* 128 bytes of 4 bits | 64 bytes of 2 bits | 16 int8 scales | d */
static void q6_k_block(const uint8_t *block, float *out)
{
    float d = load_f16(block + 208);
    for (int s = 0; s < QK_K / 16; s++) {
        float scale = d * (float)(int8_t)block[192 + s];
        int half = s / 8, part = s % 8 / 2, from = s % 2 * 16;
        const uint8_t *low = block + half * 64 + part % 2 * 32 + from;
        const uint8_t *high = block + 128 + half * 32 + from;
        int low_shift = part / 2 * 4, high_shift = part * 2;
        for (int i = 0; i < 16; i++) {
            int value = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
            out[16 * s + i] = scale * (float)(value - 32);
        }
    }
}

/* Indexed by ggml's type number; an empty name is a number that ggml does not use (any more). */
static const quant_type types[] = {
    [0] = {"F32", 1, 4, f32_block},
    [1] = {"F16", 1, 2, f16_block},
    [2] = {"Q4_0", QK, 18, q4_0_block},
    [3] = {"Q4_1", QK, 20, q4_1_block},
    [6] = {"Q5_0", QK, 22, q5_0_block},
    [7] = {"Q5_1", QK, 24, q5_1_block},
    [8] = {"Q8_0", QK, 34, q8_0_block},
    [9] = {"Q8_1", QK, 40, NULL},
    [10] = {"Q2_K", QK_K, 84, q2_k_block},
    [11] = {"Q3_K", QK_K, 110, q3_k_block},
    [12] = {"Q4_K", QK_K, 144, q4_k_block},
    [13] = {"Q5_K", QK_K, 176, q5_k_block},
    [14] = {"Q6_K", QK_K, 210, q6_k_block},
    [15] = {"Q8_K", QK_K, 292, NULL},
    [16] = {"IQ2_XXS", QK_K, 66, NULL},
    [17] = {"IQ2_XS", QK_K, 74, NULL},
    [18] = {"IQ3_XXS", QK_K, 98, NULL},
    [19] = {"IQ1_S", QK_K, 50, NULL},
    [20] = {"IQ4_NL", QK, 18, NULL},
    [21] = {"IQ3_S", QK_K, 110, NULL},
    [22] = {"IQ2_S", QK_K, 82, NULL},
    [23] = {"IQ4_XS", QK_K, 136, NULL},
    [24] = {"I8", 1, 1, NULL},
    [25] = {"I16", 1, 2, NULL},
    [26] = {"I32", 1, 4, NULL},
    [27] = {"I64", 1, 8, NULL},
    [28] = {"F64", 1, 8, NULL},
    [29] = {"IQ1_M", QK_K, 56, NULL},
    [30] = {"BF16", 1, 2, bf16_block},
    [34] = {"TQ1_0", QK_K, 54, NULL},
    [35] = {"TQ2_0", QK_K, 66, NULL},
    [39] = {"MXFP4", QK, 17, NULL},
};

static const quant_type *find_type(uint32_t type)
{
    if (type >= sizeof types / sizeof *types || !types[type].name) return NULL;
    return &types[type];
}

bool rt_gguf_type_known(uint32_t type)
{
    const quant_type *t = find_type(type);
    return t && t->to_f32;
}

const char *rt_gguf_type_name(uint32_t type)
{
    const quant_type *t = find_type(type);
    return t ? t->name : NULL;
}

uint32_t rt_gguf_type_block(uint32_t type)
{
    const quant_type *t = find_type(type);
    return t ? t->block : 0;
}

size_t rt_gguf_row_bytes(uint32_t type, uint64_t elements)
{
    const quant_type *t = find_type(type);
    RC_ASSERT(t && elements % t->block == 0);
    return (size_t)(elements / t->block * t->bytes);
}

void rt_gguf_row(uint32_t type, const void *src, uint64_t elements, float *out)
{
    const quant_type *t = find_type(type);
    RC_ASSERT(t && t->to_f32 && elements % t->block == 0);
    const uint8_t *block = src;
    if (t->to_f32 == f32_block) {
        memcpy(out, src, elements * sizeof *out);
        return;
    }
    for (uint64_t i = 0; i < elements; i += t->block, block += t->bytes) t->to_f32(block, out + i);
}
