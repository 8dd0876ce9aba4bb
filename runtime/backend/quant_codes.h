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
/* A block of 32 k by 32 columns, and codes + offset: as bf16 for codes from 0 and from 32 on, as float32 for
 * those from 0 and from 16 on. */
typedef struct code_block {
    const uint8_t *codes;
    __m512i low, high;
    rc_vf wide[2];
} code_block;

static inline code_block block_of(const rt_quant *q, const uint16_t values[64], const uint8_t *codes)
{
    (void)q;
    return (code_block){codes, _mm512_loadu_si512(values), _mm512_loadu_si512(values + 32),
                        {rc_vf_load_bf16(values), rc_vf_load_bf16(values + 16)}};
}

/* Operand 4 line + o of 4, 5 or 6 bits: each word has its code in its lowest bits. */
ALWAYS __m512i narrow_codes(const code_block *b, int line, int o, const int bits)
{
    __m512i low = _mm512_srli_epi16(_mm512_loadu_si512(b->codes + 64 * line), (unsigned)(4 * o));
    if (bits == 4) return low;
    const uint8_t *more = b->codes + 512 + 64 * (bits == 5 ? line / 4 : line / 2);
    int shift = bits == 5 ? 4 * (line % 4) + o : 2 * (4 * (line % 2) + o);
    __m512i upper = _mm512_slli_epi16(_mm512_srli_epi16(_mm512_loadu_si512(more), (unsigned)shift), 4);
    return _mm512_ternarylogic_epi64(_mm512_set1_epi16(15), low, upper, 0xca); /* its low 4 bits */
}

/* The same as pairs of bf16: a permutation reads the lowest 5 bits of a word or, of two tables, 6. */
ALWAYS __m512i narrow_words(const code_block *b, int line, int o, const int bits)
{
    __m512i codes = narrow_codes(b, line, o, bits);
    return bits < 6 ? _mm512_permutexvar_epi16(codes, b->low)
                    : _mm512_permutex2var_epi16(b->low, codes, b->high);
}

/* Operand o of 8 bits: its even k and its odd k. A byte with its highest bit turned is code + 128, and with
 * an exponent above it a float that only wants a subtraction. A conversion would want two shifts first, for
 * which a Xeon has one port: in cache one row is 10 % slower that way. */
ALWAYS void byte_values(const code_block *b, int o, rc_vf *even, rc_vf *odd)
{
    const __m256i *bytes = (const __m256i *)(const void *)(b->codes + 32 * o);
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bytes));
    const int keep_and_turn = 0x6a; /* (first & second) ^ third */
    __m512i low = _mm512_ternarylogic_epi32(words, _mm512_set1_epi32(0xff), _mm512_set1_epi32(0x4b000080),
                                            keep_and_turn);
    __m512i high = _mm512_ternarylogic_epi32(words, _mm512_set1_epi32(0xff00),
                                             _mm512_set1_epi32(0x47008000), keep_and_turn);
    *even = rc_vf_sub(_mm512_castsi512_ps(low), rc_vf_set1(0x1p23f + 128));
    *odd = rc_vf_sub(_mm512_castsi512_ps(high), rc_vf_set1(0x1p15f + 128));
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

/* The same as float32: its even k and its odd k. Up to 5 bits each comes out of a table of its own, the even
 * one by the lowest bits of 32: in cache one row is 20 % faster than by taking pairs apart. */
ALWAYS void values_of(const code_block *b, int line, int o, const int bits, rc_vf *even, rc_vf *odd)
{
    if (bits == 8) {
        byte_values(b, 4 * line + o, even, odd);
        return;
    }
    if (bits == 6) {
        rc_vf pairs = _mm512_castsi512_ps(narrow_words(b, line, o, bits));
        *even = rc_vf_pair_low(pairs);
        *odd = rc_vf_pair_high(pairs);
        return;
    }
    const __mmask32 upper_words = 0xaaaaaaaa;
    __m512i codes = narrow_codes(b, line, o, bits);
    *even = bits == 4 ? _mm512_permutexvar_ps(codes, b->wide[0])
                      : _mm512_permutex2var_ps(b->wide[0], codes, b->wide[1]);
    *odd = _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(upper_words, codes, b->low));
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
