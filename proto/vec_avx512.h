/* proto/vec_avx512.h - rc_vf as one __m512; included by proto/vec.h. */
#ifndef PROTO_VEC_AVX512_H
#define PROTO_VEC_AVX512_H

#include <immintrin.h>

enum { RC_REGISTERS = 32 };

typedef __m512 rc_vf;

static inline __mmask16 rc_vf_mask_(uint32_t n) { return (__mmask16)((1u << n) - 1); }

static inline rc_vf rc_vf_zero(void) { return _mm512_setzero_ps(); }
static inline rc_vf rc_vf_set1(float x) { return _mm512_set1_ps(x); }
static inline rc_vf rc_vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline rc_vf rc_vf_load_n(const float *p, uint32_t n)
{
    return _mm512_maskz_loadu_ps(rc_vf_mask_(n), p);
}
static inline void rc_vf_store(float *p, rc_vf v) { _mm512_storeu_ps(p, v); }
static inline void rc_vf_store_n(float *p, rc_vf v, uint32_t n)
{
    _mm512_mask_storeu_ps(p, rc_vf_mask_(n), v);
}
static inline rc_vf rc_vf_load_bits(const void *p) { return _mm512_loadu_ps(p); }
static inline rc_vf rc_vf_load_bits_n(const void *p, uint32_t n)
{
    return _mm512_maskz_loadu_ps(rc_vf_mask_(n), p);
}

static inline rc_vf rc_vf_widen_(__m256i h)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* Not vcvtneps2bf16: that one flushes denormals. */
static inline __m256i rc_vf_narrow_(rc_vf v)
{
    __m512i u = _mm512_castps_si512(v), high = _mm512_srli_epi32(u, 16);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(_mm512_srli_epi32(up, 16), nan, quiet));
}

static inline rc_vf rc_vf_load_bf16(const uint16_t *p)
{
    return rc_vf_widen_(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline rc_vf rc_vf_load_bf16_n(const uint16_t *p, uint32_t n)
{
    return rc_vf_widen_(_mm256_maskz_loadu_epi16(rc_vf_mask_(n), p));
}
static inline void rc_vf_store_bf16(uint16_t *p, rc_vf v)
{
    _mm256_storeu_si256((__m256i *)(void *)p, rc_vf_narrow_(v));
}
static inline void rc_vf_store_bf16_n(uint16_t *p, rc_vf v, uint32_t n)
{
    _mm256_mask_storeu_epi16(p, rc_vf_mask_(n), rc_vf_narrow_(v));
}
static inline rc_vf rc_vf_load_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
static inline rc_vf rc_vf_load_i8_n(const int8_t *p, uint32_t n)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(rc_vf_mask_(n), p)));
}
static inline void rc_vf_store_i8(int8_t *p, rc_vf v)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}
static inline void rc_vf_store_i8_n(int8_t *p, rc_vf v, uint32_t n)
{
    _mm_mask_storeu_epi8(p, rc_vf_mask_(n), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}
static inline rc_vf rc_vf_pair_low(rc_vf v)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(v), 16));
}
static inline rc_vf rc_vf_pair_high(rc_vf v)
{
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32((int)0xffff0000u)));
}

static inline rc_vf rc_vf_add(rc_vf a, rc_vf b) { return _mm512_add_ps(a, b); }
static inline rc_vf rc_vf_sub(rc_vf a, rc_vf b) { return _mm512_sub_ps(a, b); }
static inline rc_vf rc_vf_mul(rc_vf a, rc_vf b) { return _mm512_mul_ps(a, b); }
static inline rc_vf rc_vf_div(rc_vf a, rc_vf b) { return _mm512_div_ps(a, b); }
static inline rc_vf rc_vf_max(rc_vf a, rc_vf b) { return _mm512_max_ps(a, b); }
static inline rc_vf rc_vf_min(rc_vf a, rc_vf b) { return _mm512_min_ps(a, b); }
static inline rc_vf rc_vf_fma(rc_vf a, rc_vf b, rc_vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline void rc_vf_add_times(rc_vf *sum, const float *x, rc_vf v)
{
    *sum = rc_vf_fma(rc_vf_set1(*x), v, *sum);
}
static inline bool rc_vf_any_above(rc_vf v, rc_vf x)
{
    return _mm512_cmp_ps_mask(v, x, _CMP_GT_OQ) != 0;
}
static inline rc_vf rc_vf_keep(rc_vf v, uint32_t n, rc_vf fill)
{
    return _mm512_mask_mov_ps(fill, rc_vf_mask_(n), v);
}

/* The tree from eight lanes on. */
#define RC_VF_FOLD_(op, op4)                                                                           \
    __m256 b_ = op(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));                           \
    __m128 c_ = op4(_mm256_castps256_ps128(b_), _mm256_extractf128_ps(b_, 1));                         \
    c_ = op4(c_, _mm_movehl_ps(c_, c_));                                                               \
    return _mm_cvtss_f32(op4(c_, _mm_movehdup_ps(c_)))
static inline float rc_vf_sum(rc_vf v) { RC_VF_FOLD_(_mm256_add_ps, _mm_add_ps); }
static inline float rc_vf_top(rc_vf v) { RC_VF_FOLD_(_mm256_max_ps, _mm_max_ps); }
#undef RC_VF_FOLD_

static inline rc_vf rc_vf_low64_(rc_vf a, rc_vf b)
{
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
static inline rc_vf rc_vf_high64_(rc_vf a, rc_vf b)
{
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

/* 4 x 4 transposes inside the 128-bit quarters, then the quarters. */
static inline void rc_vf_transpose(rc_vf r[16])
{
    rc_vf t[16];
    for (int i = 0; i < 16; i += 4) {
        rc_vf a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
        rc_vf c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
        t[i] = rc_vf_low64_(a, c);
        t[i + 1] = rc_vf_high64_(a, c);
        t[i + 2] = rc_vf_low64_(b, d);
        t[i + 3] = rc_vf_high64_(b, d);
    }
    for (int j = 0; j < 4; j++) {
        rc_vf a = _mm512_shuffle_f32x4(t[j], t[4 + j], 0x88), b = _mm512_shuffle_f32x4(t[j], t[4 + j], 0xdd);
        rc_vf c = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0x88);
        rc_vf d = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0xdd);
        r[j] = _mm512_shuffle_f32x4(a, c, 0x88);
        r[4 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
        r[8 + j] = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[12 + j] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

/* Lanes that come out as 0 are masked: a result too small for a float, 0 included, takes Intel's microcode
 * 250 cycles, and of attention's weights many a vector has one, as what is not seen is e^-inf. */
static inline rc_vf rc_vf_scale2_(rc_vf v, rc_vf t, rc_vf x, float least)
{
    __mmask16 lives = _mm512_cmp_ps_mask(x, _mm512_set1_ps(least), _CMP_NLE_UQ);
    return _mm512_maskz_scalef_ps(lives, v, _mm512_sub_ps(t, _mm512_set1_ps(RC_VF_ROUND_)));
}

#endif
