#include "tests/proto/vec_checks.h"

#include <math.h>

#include "proto/rc.h"
#include "proto/vec.h"

static uint32_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 32);
}

/* Bits of every kind: denormals, infinities, NaN, values halfway between two bf16. */
static void odd_bits(uint64_t *state, uint32_t u[16])
{
    for (int i = 0; i < 16; i++) {
        u[i] = next(state);
        uint32_t kind = next(state) % 8;
        if (kind == 0) u[i] &= 0x80007fffu;
        if (kind == 1) u[i] |= 0x7f800000u;
        if (kind == 2) u[i] = (u[i] & 0xffff0000u) | 0x8000u;
        if (kind == 3) u[i] = 0x7f800001u;
    }
}

static void check_partial(const uint32_t u[16], uint32_t n)
{
    float from[17], to[17], lanes[16];
    uint16_t half[17], want[16];
    memset(to, 0x11, sizeof to);
    memset(half, 0x11, sizeof half);
    memcpy(from, u, 16 * sizeof *u);
    rc_vf_store(lanes, rc_vf_load_n(from, n));
    for (uint32_t i = 0; i < 16; i++) RC_ASSERT(rc_f32_to_bits(lanes[i]) == (i < n ? u[i] : 0));
    rc_vf_store_n(to, rc_vf_load(from), n);
    for (uint32_t i = 0; i < 17; i++) RC_ASSERT(rc_f32_to_bits(to[i]) == (i < n ? u[i] : 0x11111111u));
    rc_vf_store(lanes, rc_vf_keep(rc_vf_load(from), n, rc_vf_set1(-3)));
    for (uint32_t i = 0; i < 16; i++)
        RC_ASSERT(rc_f32_to_bits(lanes[i]) == (i < n ? u[i] : rc_f32_to_bits(-3)));
    for (int i = 0; i < 16; i++) want[i] = rc_f32_to_bf16(rc_bits_to_f32(u[i]));
    rc_vf_store_bf16_n(half, rc_vf_load(from), n);
    for (uint32_t i = 0; i < 17; i++) RC_ASSERT(half[i] == (i < n ? want[i] : 0x1111));
    rc_vf_store(lanes, rc_vf_load_bf16_n(want, n));
    for (uint32_t i = 0; i < 16; i++)
        RC_ASSERT(rc_f32_to_bits(lanes[i]) == (i < n ? (uint32_t)want[i] << 16 : 0));
}

static void check_whole(const uint32_t u[16])
{
    uint16_t half[16];
    float low[16], high[16];
    rc_vf_store_bf16(half, rc_vf_load_bits(u));
    rc_vf_store(low, rc_vf_pair_low(rc_vf_load_bits(u)));
    rc_vf_store(high, rc_vf_pair_high(rc_vf_load_bits(u)));
    for (int i = 0; i < 16; i++) {
        RC_ASSERT(half[i] == rc_f32_to_bf16(rc_bits_to_f32(u[i])));
        RC_ASSERT(rc_f32_to_bits(low[i]) == u[i] << 16);
        RC_ASSERT(rc_f32_to_bits(high[i]) == (u[i] & 0xffff0000u));
    }
}

/* Every quarter from -128.25 to 127.25: whole numbers, halves and what lies between. */
static void check_bytes(void)
{
    for (int first = -513; first <= 509 - 15; first++) {
        float from[16], lanes[16];
        int8_t all[17], some[17];
        for (int i = 0; i < 16; i++) from[i] = (float)(first + i) / 4;
        memset(all, 0x11, sizeof all);
        rc_vf_store_i8(all, rc_vf_load(from));
        for (int i = 0; i < 16; i++) RC_ASSERT(all[i] == (int)rintf(from[i]));
        RC_ASSERT(all[16] == 0x11);
        rc_vf_store(lanes, rc_vf_load_i8(all));
        for (int i = 0; i < 16; i++) RC_ASSERT(lanes[i] == (float)all[i]);
        for (uint32_t n = 0; n <= 16; n++) {
            memset(some, 0x11, sizeof some);
            rc_vf_store_i8_n(some, rc_vf_load(from), n);
            for (uint32_t i = 0; i < 17; i++) RC_ASSERT(some[i] == (i < n ? all[i] : 0x11));
            rc_vf_store(lanes, rc_vf_load_i8_n(all, n));
            for (uint32_t i = 0; i < 16; i++) RC_ASSERT(lanes[i] == (i < n ? (float)all[i] : 0));
        }
    }
}

static void check_trees(uint64_t *state)
{
    float x[16], sum[16], top[16];
    for (int i = 0; i < 16; i++) sum[i] = top[i] = x[i] = (float)(next(state) >> 8) * 0x1p-20f - 8;
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) {
            sum[i] += sum[i + width];
            top[i] = top[i] > top[i + width] ? top[i] : top[i + width];
        }
    RC_ASSERT(rc_vf_sum(rc_vf_load(x)) == sum[0]);
    RC_ASSERT(rc_vf_top(rc_vf_load(x)) == top[0]);
    RC_ASSERT(!rc_vf_any_above(rc_vf_load(x), rc_vf_set1(top[0])));
    for (int i = 0; i < 16; i++) {
        float bounds[16];
        for (int j = 0; j < 16; j++) bounds[j] = j == i ? nextafterf(x[j], -INFINITY) : x[j];
        RC_ASSERT(rc_vf_any_above(rc_vf_load(x), rc_vf_load(bounds)));
        bounds[i] = NAN;
        RC_ASSERT(!rc_vf_any_above(rc_vf_load(x), rc_vf_load(bounds)));
    }
}

/* What is written in assembly has the bits of the multiply-add that it stands for. */
static void check_products(uint64_t *state)
{
    float x, v[16], sums[16], sum[16], want[16];
    for (int i = 0; i < 16; i++) {
        v[i] = (float)(next(state) >> 8) * 0x1p-20f - 8;
        sums[i] = (float)(next(state) >> 8) * 0x1p-12f;
    }
    x = v[next(state) % 16] * 3;
    rc_vf of_sum = rc_vf_load(sums);
    rc_vf_add_times(&of_sum, &x, rc_vf_load(v));
    rc_vf_store(sum, of_sum);
    rc_vf_store(want, rc_vf_fma(rc_vf_set1(x), rc_vf_load(v), rc_vf_load(sums)));
    for (int i = 0; i < 16; i++) RC_ASSERT(rc_f32_to_bits(sum[i]) == rc_f32_to_bits(want[i]));
}

static void check_transpose(void)
{
    rc_vf r[16];
    float row[16];
    for (int i = 0; i < 16; i++) {
        for (int j = 0; j < 16; j++) row[j] = (float)(16 * i + j);
        r[i] = rc_vf_load(row);
    }
    rc_vf_transpose(r);
    for (int i = 0; i < 16; i++) {
        rc_vf_store(row, r[i]);
        for (int j = 0; j < 16; j++) RC_ASSERT(row[j] == (float)(16 * j + i));
    }
}

void RC_FAMILY(vec_check_moves)(void)
{
    uint64_t state = 1;
    for (int round = 0; round < 2000; round++) {
        uint32_t u[16];
        odd_bits(&state, u);
        check_whole(u);
        check_trees(&state);
        check_products(&state);
        for (uint32_t n = 0; n <= 16; n++) check_partial(u, n);
    }
    check_transpose();
    check_bytes();
}

/* Units in the last place that y is off e^x by. */
static double error_of(float x, float y)
{
    if (isnan(x)) return isnan(y) ? 0 : INFINITY;
    double want = exp((double)x);
    if (want > 0x1.ffffffp127) return isinf(y) ? 0 : INFINITY;
    if (want < 0x1p-151) return y == 0 ? 0 : INFINITY;
    int exponent;
    frexp(want, &exponent);
    return fabs(y - want) / ldexp(1, (exponent < -125 ? -125 : exponent) - 24);
}

double RC_FAMILY(vec_check_exp)(uint64_t *digest)
{
    double worst = 0;
    *digest = 0;
    for (uint64_t bits = 0; bits < 0x100000000u; bits += 16 * 331) {
        float x[16], y[16];
        for (uint32_t i = 0; i < 16; i++) x[i] = rc_bits_to_f32((uint32_t)(bits + 331 * i));
        rc_vf_store(y, rc_vf_exp(rc_vf_load(x)));
        for (int i = 0; i < 16; i++) {
            double error = error_of(x[i], y[i]);
            if (error > worst) worst = error;
            *digest = *digest * 31 + (isnan(y[i]) ? 1 : rc_f32_to_bits(y[i]));
        }
    }
    float ends[16] = {0, -INFINITY, INFINITY};
    rc_vf_store(ends, rc_vf_exp(rc_vf_load(ends)));
    RC_ASSERT(ends[0] == 1 && ends[1] == 0 && isinf(ends[2]));
    return worst;
}
