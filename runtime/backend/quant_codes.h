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
/* A block of 32 k by 32 columns. A code where it is in a word, its lowest bit at p, below the exponent of
 * 2^(23 - p), is the float 2^(23 - p) + code; `base` of p / 4 is what to subtract. Of 4 bits all words of a
 * line get the bits of all those exponents at once, so that one mask leaves a code with its own. */
typedef struct code_block {
    const uint8_t *codes;
    __m256i exponents;
    __m256 base[4];
} code_block;

ALWAYS __m256i exponent_of(int p) { return _mm256_set1_epi32((127 + 23 - p) << 23); }

static inline code_block block_of(const rt_quant *q, const uint16_t values[64], const uint8_t *codes)
{
    code_block b = {.codes = codes, .exponents = _mm256_setzero_si256()};
    for (int i = 0; i < 4; i++) {
        b.exponents = _mm256_or_si256(b.exponents, exponent_of(4 * i));
        b.base[i] = _mm256_set1_ps((float)(1 << (23 - 4 * i)) - (float)q->offset);
    }
    __asm__("" : "+x"(b.exponents)); /* known, each use would mask first and have an `or` of its own */
    (void)values;
    return b;
}

/* Eight words, moved up by so many bits, or down where that is less than 0. */
ALWAYS __m256i words_at(const uint8_t *at, int up)
{
    __m256i words = _mm256_loadu_si256((const __m256i *)(const void *)at);
    return up < 0 ? _mm256_srli_epi32(words, -up) : up > 0 ? _mm256_slli_epi32(words, up) : words;
}

/* Eight codes of 4 bits: those of operand o of the line, of 8 columns from byte `at` of its words on, whose
 * upper halves have the odd k. */
ALWAYS __m256 nibble_value(const code_block *b, int line, int o, int at, bool is_odd)
{
    __m256i words = _mm256_or_si256(words_at(b->codes + 64 * line + at, is_odd ? -16 : 0), b->exponents);
    __m256i own = _mm256_or_si256(exponent_of(4 * o), _mm256_set1_epi32(15 << (4 * o)));
    return _mm256_sub_ps(_mm256_castsi256_ps(_mm256_and_si256(words, own)), b->base[o]);
}

/* The same of 5 or 6 bits, joined where a word has them 4 or 8 bits up. */
ALWAYS __m256 joined_value(const code_block *b, int line, int o, int at, bool is_odd, const int bits)
{
    const int p = o % 2 * 4, down = is_odd ? 16 : 0;
    const uint8_t *more = b->codes + 512 + 64 * (bits == 5 ? line / 4 : line / 2) + at;
    const int first = bits == 5 ? 4 * (line % 4) + o : 2 * (4 * (line % 2) + o);
    __m256i low = words_at(b->codes + 64 * line + at, -(o / 2 * 8 + down));
    __m256i upper = words_at(more, p + 4 - first - down);
    low = _mm256_and_si256(low, _mm256_set1_epi32(15 << p));
    upper = _mm256_and_si256(upper, _mm256_set1_epi32(((1 << (bits - 4)) - 1) << (p + 4)));
    __m256i value = _mm256_or_si256(_mm256_or_si256(low, upper), exponent_of(p));
    return _mm256_sub_ps(_mm256_castsi256_ps(value), b->base[p / 4]);
}

ALWAYS __m256 narrow_value(const code_block *b, int line, int o, int at, bool is_odd, const int bits)
{
    return bits == 4 ? nibble_value(b, line, o, at, is_odd) : joined_value(b, line, o, at, is_odd, bits);
}

ALWAYS void byte_values(const uint8_t *codes, __m256 *even, __m256 *odd)
{
    __m256i words = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)codes));
    *even = _mm256_cvtepi32_ps(_mm256_madd_epi16(words, _mm256_set1_epi32(1)));
    *odd = _mm256_cvtepi32_ps(_mm256_srai_epi32(words, 16));
}

/* Operand 4 line + o as float32: its even k and its odd k. */
ALWAYS void values_of(const code_block *b, int line, int o, const int bits, rc_vf *even, rc_vf *odd)
{
    if (bits == 8) {
        const uint8_t *bytes = b->codes + 32 * (4 * line + o);
        byte_values(bytes, &even->lo, &odd->lo);
        byte_values(bytes + 16, &even->hi, &odd->hi);
        return;
    }
    *even = (rc_vf){narrow_value(b, line, o, 0, false, bits), narrow_value(b, line, o, 32, false, bits)};
    *odd = (rc_vf){narrow_value(b, line, o, 0, true, bits), narrow_value(b, line, o, 32, true, bits)};
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
