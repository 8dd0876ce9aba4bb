/* proto/vec_portable.h - rc_vf as four vectors of four floats, in GNU C: any 128-bit unit (SSE2, NEON)
 * takes them as they are; included by proto/vec.h. */
#ifndef PROTO_VEC_PORTABLE_H
#define PROTO_VEC_PORTABLE_H

typedef float rc_v4f_ __attribute__((vector_size(16)));
typedef int32_t rc_v4i_ __attribute__((vector_size(16)));
typedef uint32_t rc_v4u_ __attribute__((vector_size(16)));

enum { RC_REGISTERS = 16 };

typedef struct rc_vf {
    rc_v4f_ q[4];
} rc_vf;

static inline rc_vf rc_vf_set1(float x)
{
    rc_v4f_ v = {x, x, x, x};
    return (rc_vf){{v, v, v, v}};
}
static inline rc_vf rc_vf_zero(void) { return rc_vf_set1(0); }
static inline rc_vf rc_vf_load_bits(const void *p)
{
    rc_vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline rc_vf rc_vf_load_bits_n(const void *p, uint32_t n)
{
    rc_vf v = rc_vf_zero();
    memcpy(&v, p, n * sizeof(float));
    return v;
}
static inline rc_vf rc_vf_load(const float *p) { return rc_vf_load_bits(p); }
static inline rc_vf rc_vf_load_n(const float *p, uint32_t n) { return rc_vf_load_bits_n(p, n); }
static inline void rc_vf_store(float *p, rc_vf v) { memcpy(p, &v, sizeof v); }
static inline void rc_vf_store_n(float *p, rc_vf v, uint32_t n) { memcpy(p, &v, n * sizeof *p); }

static inline rc_vf rc_vf_load_bf16(const uint16_t *p)
{
    uint32_t u[16];
    for (int i = 0; i < 16; i++) u[i] = (uint32_t)p[i] << 16;
    return rc_vf_load_bits(u);
}
static inline rc_vf rc_vf_load_bf16_n(const uint16_t *p, uint32_t n)
{
    uint16_t h[16] = {0};
    memcpy(h, p, n * sizeof *h);
    return rc_vf_load_bf16(h);
}
static inline void rc_vf_store_bf16_n(uint16_t *p, rc_vf v, uint32_t n)
{
    float f[16];
    rc_vf_store(f, v);
    for (uint32_t i = 0; i < n; i++) p[i] = rc_f32_to_bf16(f[i]);
}
static inline void rc_vf_store_bf16(uint16_t *p, rc_vf v) { rc_vf_store_bf16_n(p, v, 16); }
static inline rc_vf rc_vf_load_i8_n(const int8_t *p, uint32_t n)
{
    float f[16] = {0};
    for (uint32_t i = 0; i < n; i++) f[i] = (float)p[i];
    return rc_vf_load(f);
}
static inline rc_vf rc_vf_load_i8(const int8_t *p) { return rc_vf_load_i8_n(p, 16); }
static inline void rc_vf_store_i8_n(int8_t *p, rc_vf v, uint32_t n)
{
    float f[16];
    rc_vf_store(f, v);
    for (uint32_t i = 0; i < n; i++) p[i] = (int8_t)(f[i] + RC_VF_ROUND_ - RC_VF_ROUND_);
}
static inline void rc_vf_store_i8(int8_t *p, rc_vf v) { rc_vf_store_i8_n(p, v, 16); }
static inline rc_vf rc_vf_pair_low(rc_vf v)
{
    for (int i = 0; i < 4; i++) v.q[i] = (rc_v4f_)((rc_v4u_)v.q[i] << 16);
    return v;
}
static inline rc_vf rc_vf_pair_high(rc_vf v)
{
    for (int i = 0; i < 4; i++) v.q[i] = (rc_v4f_)((rc_v4u_)v.q[i] & 0xffff0000u);
    return v;
}

/* a where the mask is all ones, b where it is 0. */
static inline rc_v4f_ rc_v4f_select_(rc_v4i_ mask, rc_v4f_ a, rc_v4f_ b)
{
    return (rc_v4f_)((mask & (rc_v4i_)a) | (~mask & (rc_v4i_)b));
}
static inline rc_v4f_ rc_v4f_max_(rc_v4f_ a, rc_v4f_ b) { return rc_v4f_select_(a > b, a, b); }

#define RC_VF_QUARTERS_(e)                                                                             \
    for (int i = 0; i < 4; i++) a.q[i] = e;                                                            \
    return a
static inline rc_vf rc_vf_add(rc_vf a, rc_vf b) { RC_VF_QUARTERS_(a.q[i] + b.q[i]); }
static inline rc_vf rc_vf_sub(rc_vf a, rc_vf b) { RC_VF_QUARTERS_(a.q[i] - b.q[i]); }
static inline rc_vf rc_vf_mul(rc_vf a, rc_vf b) { RC_VF_QUARTERS_(a.q[i] * b.q[i]); }
static inline rc_vf rc_vf_div(rc_vf a, rc_vf b) { RC_VF_QUARTERS_(a.q[i] / b.q[i]); }
static inline rc_vf rc_vf_max(rc_vf a, rc_vf b) { RC_VF_QUARTERS_(rc_v4f_max_(a.q[i], b.q[i])); }
static inline rc_vf rc_vf_min(rc_vf a, rc_vf b)
{
    RC_VF_QUARTERS_(rc_v4f_select_(a.q[i] < b.q[i], a.q[i], b.q[i]));
}
static inline rc_vf rc_vf_fma(rc_vf a, rc_vf b, rc_vf c) { RC_VF_QUARTERS_(a.q[i] * b.q[i] + c.q[i]); }
#undef RC_VF_QUARTERS_

static inline void rc_vf_add_times(rc_vf *sum, const float *x, rc_vf v)
{
    *sum = rc_vf_fma(rc_vf_set1(*x), v, *sum);
}
static inline bool rc_vf_any_above(rc_vf v, rc_vf x)
{
    rc_v4i_ above = {0};
    for (int i = 0; i < 4; i++) above |= v.q[i] > x.q[i];
    return above[0] | above[1] | above[2] | above[3];
}
static inline rc_vf rc_vf_keep(rc_vf v, uint32_t n, rc_vf fill)
{
    const rc_v4i_ lanes = {0, 1, 2, 3};
    for (int i = 0; i < 4; i++) {
        rc_v4i_ left = {(int32_t)n - 4 * i, (int32_t)n - 4 * i, (int32_t)n - 4 * i, (int32_t)n - 4 * i};
        v.q[i] = rc_v4f_select_(left > lanes, v.q[i], fill.q[i]);
    }
    return v;
}

static inline float rc_vf_sum(rc_vf v)
{
    rc_v4f_ c = (v.q[0] + v.q[2]) + (v.q[1] + v.q[3]);
    return (c[0] + c[2]) + (c[1] + c[3]);
}
static inline float rc_vf_top(rc_vf v)
{
    rc_v4f_ c = rc_v4f_max_(rc_v4f_max_(v.q[0], v.q[2]), rc_v4f_max_(v.q[1], v.q[3]));
    float even = c[0] > c[2] ? c[0] : c[2], odd = c[1] > c[3] ? c[1] : c[3];
    return even > odd ? even : odd;
}

static inline void rc_vf_transpose(rc_vf r[16])
{
    float m[16][16];
    for (int i = 0; i < 16; i++) rc_vf_store(m[i], r[i]);
    for (int i = 0; i < 16; i++) {
        float row[16];
        for (int j = 0; j < 16; j++) row[j] = m[j][i];
        r[i] = rc_vf_load(row);
    }
}

/* By two powers of which the first keeps v normal, so that only the second rounds. */
static inline rc_vf rc_vf_scale2_(rc_vf v, rc_vf t, rc_vf x, float least)
{
    (void)x;
    (void)least;
    const rc_v4f_ round = {RC_VF_ROUND_, RC_VF_ROUND_, RC_VF_ROUND_, RC_VF_ROUND_};
    for (int i = 0; i < 4; i++) {
        rc_v4u_ k = (rc_v4u_)t.q[i] - (rc_v4u_)round, first = (rc_v4u_)((rc_v4i_)k >> 1);
        v.q[i] *= (rc_v4f_)((first + 127u) << 23);
        v.q[i] *= (rc_v4f_)((k - first + 127u) << 23);
    }
    return v;
}

#endif
