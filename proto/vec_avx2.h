/* proto/vec_avx2.h - rc_vf as two __m256 (lanes 0..7 and 8..15); included by proto/vec.h. */
#ifndef PROTO_VEC_AVX2_H
#define PROTO_VEC_AVX2_H

#include <immintrin.h>

enum { RC_REGISTERS = 16 };

typedef struct rc_vf {
    __m256 lo, hi;
} rc_vf;

/* Lanes below n, of lanes 0..7 (first 0) or 8..15 (first 8), as all ones. */
static inline __m256i rc_vf_mask_(uint32_t n, int first)
{
    __m256i lanes = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lanes);
}

static inline rc_vf rc_vf_zero(void) { return (rc_vf){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline rc_vf rc_vf_set1(float x) { return (rc_vf){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline rc_vf rc_vf_load(const float *p) { return (rc_vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline rc_vf rc_vf_load_n(const float *p, uint32_t n)
{
    if (n <= 8) return (rc_vf){_mm256_maskload_ps(p, rc_vf_mask_(n, 0)), _mm256_setzero_ps()};
    return (rc_vf){_mm256_loadu_ps(p), _mm256_maskload_ps(p + 8, rc_vf_mask_(n, 8))};
}
static inline void rc_vf_store(float *p, rc_vf v)
{
    _mm256_storeu_ps(p, v.lo);
    _mm256_storeu_ps(p + 8, v.hi);
}
static inline void rc_vf_store_n(float *p, rc_vf v, uint32_t n)
{
    _mm256_maskstore_ps(p, rc_vf_mask_(n, 0), v.lo);
    if (n > 8) _mm256_maskstore_ps(p + 8, rc_vf_mask_(n, 8), v.hi);
}
static inline rc_vf rc_vf_load_bits(const void *p) { return rc_vf_load(p); }
static inline rc_vf rc_vf_load_bits_n(const void *p, uint32_t n) { return rc_vf_load_n(p, n); }

static inline __m256 rc_vf_widen_(__m128i h)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
static inline __m256i rc_vf_narrow_(__m256 v)
{
    __m256i u = _mm256_castps_si256(v), high = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), quiet, nan);
}

static inline rc_vf rc_vf_load_bf16(const uint16_t *p)
{
    const __m128i *h = (const __m128i *)(const void *)p;
    return (rc_vf){rc_vf_widen_(_mm_loadu_si128(h)), rc_vf_widen_(_mm_loadu_si128(h + 1))};
}
static inline rc_vf rc_vf_load_bf16_n(const uint16_t *p, uint32_t n)
{
    uint16_t h[16] = {0};
    memcpy(h, p, n * sizeof *h);
    return rc_vf_load_bf16(h);
}
static inline void rc_vf_store_bf16(uint16_t *p, rc_vf v)
{
    __m256i packed = _mm256_packus_epi32(rc_vf_narrow_(v.lo), rc_vf_narrow_(v.hi));
    _mm256_storeu_si256((__m256i *)(void *)p, _mm256_permute4x64_epi64(packed, 0xd8));
}
static inline void rc_vf_store_bf16_n(uint16_t *p, rc_vf v, uint32_t n)
{
    uint16_t h[16];
    rc_vf_store_bf16(h, v);
    memcpy(p, h, n * sizeof *h);
}
static inline rc_vf rc_vf_load_i8(const int8_t *p)
{
    __m128i b = _mm_loadu_si128((const __m128i *)(const void *)p);
    return (rc_vf){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b)),
                   _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(b, 8)))};
}
static inline rc_vf rc_vf_load_i8_n(const int8_t *p, uint32_t n)
{
    int8_t b[16] = {0};
    memcpy(b, p, n);
    return rc_vf_load_i8(b);
}
static inline void rc_vf_store_i8(int8_t *p, rc_vf v)
{
    __m256i h = _mm256_packs_epi32(_mm256_cvtps_epi32(v.lo), _mm256_cvtps_epi32(v.hi));
    h = _mm256_permute4x64_epi64(h, 0xd8);
    __m128i b = _mm_packs_epi16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    _mm_storeu_si128((__m128i *)(void *)p, b);
}
static inline void rc_vf_store_i8_n(int8_t *p, rc_vf v, uint32_t n)
{
    int8_t b[16];
    rc_vf_store_i8(b, v);
    memcpy(p, b, n);
}
static inline __m256 rc_vf_pair_low_(__m256 v)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v), 16));
}
static inline rc_vf rc_vf_pair_low(rc_vf v) { return (rc_vf){rc_vf_pair_low_(v.lo), rc_vf_pair_low_(v.hi)}; }
static inline rc_vf rc_vf_pair_high(rc_vf v)
{
    __m256 high = _mm256_castsi256_ps(_mm256_set1_epi32((int)0xffff0000u));
    return (rc_vf){_mm256_and_ps(v.lo, high), _mm256_and_ps(v.hi, high)};
}

#define RC_VF_LANES_(op) return (rc_vf){op(a.lo, b.lo), op(a.hi, b.hi)}
static inline rc_vf rc_vf_add(rc_vf a, rc_vf b) { RC_VF_LANES_(_mm256_add_ps); }
static inline rc_vf rc_vf_sub(rc_vf a, rc_vf b) { RC_VF_LANES_(_mm256_sub_ps); }
static inline rc_vf rc_vf_mul(rc_vf a, rc_vf b) { RC_VF_LANES_(_mm256_mul_ps); }
static inline rc_vf rc_vf_div(rc_vf a, rc_vf b) { RC_VF_LANES_(_mm256_div_ps); }
static inline rc_vf rc_vf_max(rc_vf a, rc_vf b) { RC_VF_LANES_(_mm256_max_ps); }
static inline rc_vf rc_vf_min(rc_vf a, rc_vf b) { RC_VF_LANES_(_mm256_min_ps); }
#undef RC_VF_LANES_
static inline rc_vf rc_vf_fma(rc_vf a, rc_vf b, rc_vf c)
{
    return (rc_vf){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
/* In assembly: left to choose, GCC 12 moves sums about and keeps one of ten in memory, where a store and a
 * load take longer than the multiply-add that waits for them: half the speed. Beside twelve sums there are
 * registers for v, the number and one more. */
static inline __attribute__((always_inline)) void rc_vf_add_times(rc_vf *sum, const float *x, rc_vf v)
{
    __m256 a;
    __asm__("vbroadcastss %3, %2\n\tvfmadd231ps %4, %2, %0\n\tvfmadd231ps %5, %2, %1"
            : "+x"(sum->lo), "+x"(sum->hi), "=&x"(a)
            : "m"(*x), "x"(v.lo), "x"(v.hi));
}
static inline bool rc_vf_any_above(rc_vf v, rc_vf x)
{
    return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(v.lo, x.lo, _CMP_GT_OQ),
                                           _mm256_cmp_ps(v.hi, x.hi, _CMP_GT_OQ))) != 0;
}
static inline rc_vf rc_vf_keep(rc_vf v, uint32_t n, rc_vf fill)
{
    return (rc_vf){_mm256_blendv_ps(fill.lo, v.lo, _mm256_castsi256_ps(rc_vf_mask_(n, 0))),
                   _mm256_blendv_ps(fill.hi, v.hi, _mm256_castsi256_ps(rc_vf_mask_(n, 8)))};
}

#define RC_VF_FOLD_(op, op4)                                                                           \
    __m256 b_ = op(v.lo, v.hi);                                                                        \
    __m128 c_ = op4(_mm256_castps256_ps128(b_), _mm256_extractf128_ps(b_, 1));                         \
    c_ = op4(c_, _mm_movehl_ps(c_, c_));                                                               \
    return _mm_cvtss_f32(op4(c_, _mm_movehdup_ps(c_)))
static inline float rc_vf_sum(rc_vf v) { RC_VF_FOLD_(_mm256_add_ps, _mm_add_ps); }
static inline float rc_vf_top(rc_vf v) { RC_VF_FOLD_(_mm256_max_ps, _mm_max_ps); }
#undef RC_VF_FOLD_

static inline __m256 rc_vf_low64_(__m256 a, __m256 b)
{
    return _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}
static inline __m256 rc_vf_high64_(__m256 a, __m256 b)
{
    return _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}

/* An 8 x 8 transpose: 4 x 4 inside the 128-bit halves, then the halves. */
static inline void rc_vf_transpose8_(__m256 r[8])
{
    __m256 t[8];
    for (int i = 0; i < 8; i += 4) {
        __m256 a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
        __m256 c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
        t[i] = rc_vf_low64_(a, c);
        t[i + 1] = rc_vf_high64_(a, c);
        t[i + 2] = rc_vf_low64_(b, d);
        t[i + 3] = rc_vf_high64_(b, d);
    }
    for (int j = 0; j < 4; j++) {
        r[j] = _mm256_permute2f128_ps(t[j], t[4 + j], 0x20);
        r[4 + j] = _mm256_permute2f128_ps(t[j], t[4 + j], 0x31);
    }
}

static inline void rc_vf_transpose(rc_vf r[16])
{
    __m256 a[8], b[8], c[8], d[8];
    for (int i = 0; i < 8; i++) {
        a[i] = r[i].lo;
        b[i] = r[i].hi;
        c[i] = r[8 + i].lo;
        d[i] = r[8 + i].hi;
    }
    rc_vf_transpose8_(a);
    rc_vf_transpose8_(b);
    rc_vf_transpose8_(c);
    rc_vf_transpose8_(d);
    for (int i = 0; i < 8; i++) {
        r[i] = (rc_vf){a[i], c[i]};
        r[8 + i] = (rc_vf){b[i], d[i]};
    }
}

/* By two powers of which the first keeps v normal, so that only the second rounds. */
static inline __m256 rc_vf_scale2_half_(__m256 v, __m256 t)
{
    __m256i k = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_castps_si256(_mm256_set1_ps(RC_VF_ROUND_)));
    __m256i first = _mm256_srai_epi32(k, 1), second = _mm256_sub_epi32(k, first);
    __m256i bias = _mm256_set1_epi32(127);
    v = _mm256_mul_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(first, bias), 23)));
    return _mm256_mul_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(second, bias), 23)));
}
static inline rc_vf rc_vf_scale2_(rc_vf v, rc_vf t, rc_vf x, float least)
{
    (void)x;
    (void)least;
    return (rc_vf){rc_vf_scale2_half_(v.lo, t.lo), rc_vf_scale2_half_(v.hi, t.hi)};
}

#endif
