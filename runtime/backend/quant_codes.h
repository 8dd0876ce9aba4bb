/* runtime/backend/quant_codes.h - the codes of a panel (quant.h) as numbers, taken apart in each family's own
 * way. Only for files that mica_kernels() compiles.
 *
 *     block_of(q, values, codes)                      a block of 32 k by 32 columns
 *     values_of(block, line, o, bits, &even, &odd)    code + offset of operand 4 line + o as float32
 *     words_of(block, line, o, bits)                  the same as pairs of bf16, for bf16 dot products
 *     code_of(q, codes, operand, word)                one code, in portable C
 */
#ifndef RUNTIME_BACKEND_QUANT_CODES_H
#define RUNTIME_BACKEND_QUANT_CODES_H

#include "proto/vec.h"

#include "runtime/backend/quant.h"
#include "runtime/backend/tile_shape.h"

#if defined(__AVX512F__)
/* A block of 32 k by 32 columns, and codes + offset as bf16 for codes from 0 and from 32 on. */
typedef struct code_block {
    const uint8_t *codes;
    __m512i low, high;
} code_block;

static inline code_block block_of(const rt_quant *q, const uint16_t values[64], const uint8_t *codes)
{
    (void)q;
    return (code_block){codes, _mm512_loadu_si512(values), _mm512_loadu_si512(values + 32)};
}

/* Operand 4 line + o of 4, 5 or 6 bits as pairs of bf16: shifted words are indices, of which a permutation
 * reads the lowest 5 bits or, of two tables, 6. */
ALWAYS __m512i narrow_words(const code_block *b, int line, int o, const int bits)
{
    __m512i index = _mm512_srli_epi16(_mm512_loadu_si512(b->codes + 64 * line), (unsigned)(4 * o));
    if (bits == 4) return _mm512_permutexvar_epi16(index, b->low);
    const uint8_t *more = b->codes + 512 + 64 * (bits == 5 ? line / 4 : line / 2);
    int shift = bits == 5 ? 4 * (line % 4) + o : 2 * (4 * (line % 2) + o);
    __m512i upper = _mm512_slli_epi16(_mm512_srli_epi16(_mm512_loadu_si512(more), (unsigned)shift), 4);
    index = _mm512_ternarylogic_epi64(_mm512_set1_epi16(15), index, upper, 0xca); /* its low 4 bits */
    return bits == 5 ? _mm512_permutexvar_epi16(index, b->low)
                     : _mm512_permutex2var_epi16(b->low, index, b->high);
}

/* Operand o of 8 bits: its even k and its odd k. */
ALWAYS void byte_values(const code_block *b, int o, rc_vf *even, rc_vf *odd)
{
    const __m256i *bytes = (const __m256i *)(const void *)(b->codes + 32 * o);
    __m512i words = _mm512_cvtepi8_epi16(_mm256_loadu_si256(bytes));
    *even = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(words, 16), 16));
    *odd = _mm512_cvtepi32_ps(_mm512_srai_epi32(words, 16));
}

#if DOT
/* An operand as pairs of bf16, which hold integers below 2^8 exactly. */
ALWAYS __m512i words_of(const code_block *b, int line, int o, const int bits)
{
    const __m128i *bytes = (const __m128i *)(const void *)(b->codes + 32 * (4 * line + o));
    if (bits < 8) return narrow_words(b, line, o, bits);
    rc_vf low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes)));
    rc_vf high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes + 1)));
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}
#endif

/* The same as float32: its even k and its odd k. */
ALWAYS void values_of(const code_block *b, int line, int o, const int bits, rc_vf *even, rc_vf *odd)
{
    if (bits == 8) {
        byte_values(b, 4 * line + o, even, odd);
        return;
    }
    rc_vf pairs = _mm512_castsi512_ps(narrow_words(b, line, o, bits));
    *even = rc_vf_pair_low(pairs);
    *odd = rc_vf_pair_high(pairs);
}
#elif defined(__AVX2__)
/* A block of 32 k by 32 columns. Code c where it is in a word, at bit p, below the exponent of 2^(23 - p), is
 * 2^(23 - p) + c; `base` of p = 0 and p = 4 is what to subtract. */
typedef struct code_block {
    const uint8_t *codes;
    __m256 base[2];
} code_block;

static inline code_block block_of(const rt_quant *q, const uint16_t values[64], const uint8_t *codes)
{
    float offset = (float)q->offset;
    (void)values;
    return (code_block){codes, {_mm256_set1_ps(0x1p23f - offset), _mm256_set1_ps(0x1p19f - offset)}};
}

/* Eight codes: nibble n of each word `low`, above it the other bits, from bit `at` of `more`. */
ALWAYS __m256 narrow_value(const code_block *b, __m256i low, int n, __m256i more, int at, const int bits)
{
    const int p = n % 2 * 4, to = p + 4;
    __m256i code = _mm256_and_si256(_mm256_srli_epi32(low, n / 2 * 8), _mm256_set1_epi32(15 << p));
    if (bits > 4) {
        more = at > to ? _mm256_srli_epi32(more, at - to) : _mm256_slli_epi32(more, to - at);
        more = _mm256_and_si256(more, _mm256_set1_epi32(((1 << (bits - 4)) - 1) << to));
        code = _mm256_or_si256(code, more);
    }
    __m256i above = _mm256_or_si256(code, _mm256_set1_epi32((127 + 23 - p) << 23));
    return _mm256_sub_ps(_mm256_castsi256_ps(above), b->base[n % 2]);
}

ALWAYS void byte_values(const uint8_t *codes, __m256 *even, __m256 *odd)
{
    __m256i words = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)codes));
    *even = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(words, 16), 16));
    *odd = _mm256_cvtepi32_ps(_mm256_srai_epi32(words, 16));
}

/* Operand 4 line + o as float32: its even k and its odd k. */
ALWAYS void values_of(const code_block *b, int line, int o, const int bits, rc_vf *even, rc_vf *odd)
{
    const uint8_t *bytes = b->codes + 32 * (4 * line + o), *low = b->codes + 64 * line;
    if (bits == 8) {
        byte_values(bytes, &even->lo, &odd->lo);
        byte_values(bytes + 16, &even->hi, &odd->hi);
        return;
    }
    const uint8_t *more = bits == 4 ? low : b->codes + 512 + 64 * (bits == 5 ? line / 4 : line / 2);
    int at = bits == 5 ? 4 * (line % 4) + o : 2 * (4 * (line % 2) + o);
    rc_vf words = rc_vf_load_bits(low), upper = rc_vf_load_bits(more);
    __m256i lo = _mm256_castps_si256(words.lo), hi = _mm256_castps_si256(words.hi);
    __m256i up_lo = _mm256_castps_si256(upper.lo), up_hi = _mm256_castps_si256(upper.hi);
    *even = (rc_vf){narrow_value(b, lo, o, up_lo, at, bits), narrow_value(b, hi, o, up_hi, at, bits)};
    *odd = (rc_vf){narrow_value(b, lo, o + 4, up_lo, at + 16, bits),
                   narrow_value(b, hi, o + 4, up_hi, at + 16, bits)};
}
#else
static inline int code_of(const rt_quant *q, const uint8_t *codes, uint32_t operand, uint32_t word)
{
    uint16_t low, more;
    uint32_t bits = q->bits - 4, operands = bits ? 16 / bits : 1;
    if (q->bits == 8) return (int8_t)codes[operand * 32 + word];
    memcpy(&low, codes + 64 * (operand / 4) + 2 * word, sizeof low);
    int code = low >> operand % 4 * 4 & 15;
    if (!bits) return code;
    memcpy(&more, codes + 512 + 64 * (operand / operands) + 2 * word, sizeof more);
    return code | (int)((uint32_t)more >> operand % operands * bits & ((1u << bits) - 1)) << 4;
}
#endif

#if defined(__AVX2__)
/* Sixteen factors of runs as float32. */
ALWAYS rc_vf load_factors(const uint8_t *p, bool is_signed)
{
    if (is_signed) return rc_vf_load_i8((const int8_t *)p);
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
#if defined(__AVX512F__)
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
#else
    return (rc_vf){_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
                   _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
#endif
}
#endif

#endif
