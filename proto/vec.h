/* proto/vec.h - sixteen float32 lanes, for kernel files that are compiled once for each CPU family.
 *
 * CMake's mica_kernels() compiles such a file with -DRC_KERNELS=<family> and that family's flags; every
 * function that it exports is named RC_FAMILY(name), which gives name_avx512 and so on.
 *
 *     family                  rc_vf             a*b + c
 *     avx512, avx512_bf16     one __m512        rounded once
 *     avx2                    two __m256        rounded once
 *     portable                4 x 4 floats      rounded twice
 *
 * Rules
 * 1. Lanes are logical: lane i means the same in every family, so code that only combines lane i with
 *    lane i gives the same bits in avx2 and avx512 (in portable too where it uses no rc_vf_fma).
 * 2. Across lanes there are two functions, rc_vf_sum and rc_vf_top, with one tree: lane i with i + 8,
 *    then 4, 2, 1.
 * 3. The _n functions touch n elements, 0 <= n <= 16, and not a byte more; lanes from n on load as +0.
 *    A tail computed with them has the bits of the same elements in a full vector.
 * 4. No pointer needs alignment. Pointers may alias between calls.
 * 5. max(a, b) and min(a, b) give b where either is NaN.
 *
 * Only C: no C++ program has kernels.
 */
#ifndef PROTO_VEC_H
#define PROTO_VEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "proto/dtype.h"

#define RC_VEC_JOIN2_(name, family) name##_##family
#define RC_VEC_JOIN_(name, family) RC_VEC_JOIN2_(name, family)
#ifdef RC_KERNELS
#define RC_FAMILY(name) RC_VEC_JOIN_(name, RC_KERNELS)
#endif

enum { RC_LANES = 16 };

/* How many of a vector's lanes there are from element `at` of `count` on. */
static inline uint32_t rc_vf_lanes(uint32_t at, uint32_t count)
{
    return count - at < RC_LANES ? count - at : RC_LANES;
}

/* Brings lines into the cache; past the end of what there is no harm is done. */
static inline __attribute__((always_inline)) void rc_vf_prefetch(const void *at, size_t bytes)
{
#pragma GCC unroll 2
    for (size_t line = 0; line < bytes; line += 64) __builtin_prefetch((const char *)at + line, 0, 3);
}
/* A Xeon (AVX-512 without bf16 dot) has 16 lines on their way into L1 at once, too few for what memory takes:
 * there a stream of weights comes to L2 first, and one row of bf16 takes 96 % of the bandwidth instead of 80.
 * The other families keep the one step that they were measured with. */
#if defined(__AVX512F__) && !defined(__AVX512BF16__)
enum { RC_TO_L2_FIRST = 1 };
#else
enum { RC_TO_L2_FIRST = 0 };
#endif

/* Into L2, and no closer. */
static inline __attribute__((always_inline)) void rc_vf_prefetch_l2(const void *at, size_t bytes)
{
#pragma GCC unroll 2
    for (size_t line = 0; line < bytes; line += 64) __builtin_prefetch((const char *)at + line, 0, 2);
}

/* 1.5 * 2^23: adding it leaves the nearest integer in the low bits of a float. */
#define RC_VF_ROUND_ 0x1.8p23f

/* What was loaded is not kept in a register for later: it would put something else out. */
static inline __attribute__((always_inline)) void rc_vf_forget(void) { __asm__ volatile("" : : : "memory"); }

/* Each family's file defines RC_REGISTERS, how many vector registers there are, rc_vf and
 *     rc_vf_zero()  rc_vf_set1(x)
 *     rc_vf_load(p)  rc_vf_load_n(p, n)  rc_vf_store(p, v)  rc_vf_store_n(p, v, n)       float32
 *     rc_vf_load_bf16(p)  rc_vf_load_bf16_n(p, n)                                        exact
 *     rc_vf_store_bf16(p, v)  rc_vf_store_bf16_n(p, v, n)          to nearest even, NaN kept, denormals too
 *     rc_vf_load_i8(p)  rc_vf_load_i8_n(p, n)                                            exact
 *     rc_vf_store_i8(p, v)  rc_vf_store_i8_n(p, v, n)    to nearest even; lanes are -128 to 127 once rounded
 *     rc_vf_load_bits(p)  rc_vf_load_bits_n(p, n)    32-bit words of any meaning, such as pairs of bf16
 *     rc_vf_pair_low(v)  rc_vf_pair_high(v)          the bf16 in the low or high half of each word
 *     rc_vf_add sub mul div max min                  lane by lane
 *     rc_vf_fma(a, b, c)                             a * b + c
 *     rc_vf_add_times(&sum, &x, v)                   sum = x * v + sum
 *     rc_vf_keep(v, n, fill)                         lanes below n of v, fill's from n on
 *     rc_vf_sum(v)  rc_vf_top(v)                     over the lanes
 *     rc_vf_any_above(v, x)                          whether a lane of v is greater than that of x
 *     rc_vf_transpose(r)                             r[16]: lane j of r[i] and lane i of r[j] change places
 *     rc_vf_scale2_(v, t, x, least)                  v * 2^k, rounded once, where t = k + RC_VF_ROUND_; 0
 *                                                    in lanes of x that are `least` or less */
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "proto/vec_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "proto/vec_avx2.h"
#else
#include "proto/vec_portable.h"
#endif

/* e^x of x that is at most 89 or NaN; see rc_vf_exp(). */
static inline rc_vf rc_vf_exp_to_89(rc_vf x)
{
    const float least = -104;
    x = rc_vf_max(rc_vf_set1(least), x);
    rc_vf t = rc_vf_fma(x, rc_vf_set1(0x1.715476p0f), rc_vf_set1(RC_VF_ROUND_));
    rc_vf k = rc_vf_sub(t, rc_vf_set1(RC_VF_ROUND_));
    rc_vf r = rc_vf_fma(k, rc_vf_set1(-0x1.63p-1f), x);
    r = rc_vf_fma(k, rc_vf_set1(0x1.bd0106p-13f), r);
    rc_vf p = rc_vf_set1(0x1.6a4746p-10f);
    p = rc_vf_fma(p, r, rc_vf_set1(0x1.1239a2p-7f));
    p = rc_vf_fma(p, r, rc_vf_set1(0x1.5558b6p-5f));
    p = rc_vf_fma(p, r, rc_vf_set1(0x1.555492p-3f));
    p = rc_vf_fma(p, r, rc_vf_set1(0x1.fffffcp-2f));
    p = rc_vf_fma(rc_vf_mul(r, r), p, r);
    return rc_vf_scale2_(rc_vf_add(p, rc_vf_set1(1.0f)), t, x, least);
}

/* e^x, off by less than 2 units in the last place, denormal results included; 0 at -inf, inf where it
 * overflows, NaN at NaN, exactly 1 at 0.
 * How    x = k ln 2 + r; e^r = 1 + r + r^2 P(r), P of degree 4 and minimax on |r| <= ln 2 / 2 (3e-9);
 *        ln 2 in two parts, of which the first times k is exact. */
static inline rc_vf rc_vf_exp(rc_vf x) { return rc_vf_exp_to_89(rc_vf_min(rc_vf_set1(89.0f), x)); }

#endif
