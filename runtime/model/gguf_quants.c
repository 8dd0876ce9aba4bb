/* Block formats of GGUF tensors. Every product and sum is one float32 rounding in the order of ggml's
 * dequantize_row_*, so the values are the same bits. */
#include "proto/dtype.h"
#include "runtime/backend/quant.h"
#include "runtime/model/gguf.h"

enum { QK = 32, QK_K = 256 };

typedef void (*dequantize_block)(const uint8_t *block, float *out);

typedef struct quant_type {
    const char *name;
    uint32_t block, bytes;   /* elements and bytes of a block */
    dequantize_block to_f32; /* NULL: matrices keep it (quant.h), or only its size is known */
} quant_type;

static float load_f16(const uint8_t *p)
{
    return rc_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
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

/* A block of a format that matrices keep. */
static void kept_block(const rt_quant *q, const uint8_t *block, float *out)
{
    rt_quant_group group;
    rt_quant_unpack(q, block, &group);
    rt_quant_values(q, &group, out);
}

/* Indexed by ggml's type number; an empty name is a number that ggml does not use (any more). */
static const quant_type types[] = {
    [0] = {"F32", 1, 4, f32_block},
    [1] = {"F16", 1, 2, f16_block},
    [2] = {"Q4_0", QK, 18, NULL},
    [3] = {"Q4_1", QK, 20, NULL},
    [6] = {"Q5_0", QK, 22, NULL},
    [7] = {"Q5_1", QK, 24, NULL},
    [8] = {"Q8_0", QK, 34, NULL},
    [9] = {"Q8_1", QK, 40, NULL},
    [10] = {"Q2_K", QK_K, 84, q2_k_block},
    [11] = {"Q3_K", QK_K, 110, q3_k_block},
    [12] = {"Q4_K", QK_K, 144, NULL},
    [13] = {"Q5_K", QK_K, 176, NULL},
    [14] = {"Q6_K", QK_K, 210, NULL},
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
    return t && (t->to_f32 || rt_quant_find(type));
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
    const rt_quant *kept = rt_quant_find(type);
    RC_ASSERT(t && (t->to_f32 || kept) && elements % t->block == 0);
    const uint8_t *block = src;
    if (t->to_f32 == f32_block) {
        memcpy(out, src, elements * sizeof *out);
        return;
    }
    for (uint64_t i = 0; i < elements; i += t->block, block += t->bytes)
        if (kept) kept_block(kept, block, out + i);
        else t->to_f32(block, out + i);
}
