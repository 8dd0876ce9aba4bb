/* proto/dtype.h - the number formats of checkpoints, and exact conversions of the 16-bit ones.
 *
 * bf16 is the upper half of a float32; rounding is to nearest even, NaN stays NaN.
 */
#ifndef PROTO_DTYPE_H
#define PROTO_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum rc_dtype { RC_F32 = 1, RC_F16 = 2, RC_BF16 = 3 } rc_dtype;

static inline size_t rc_dtype_bytes(rc_dtype t) { return t == RC_F32 ? 4 : 2; }
static inline const char *rc_dtype_name(rc_dtype t)
{
    return t == RC_F32 ? "F32" : t == RC_F16 ? "F16" : "BF16";
}

static inline float rc_bits_to_f32(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t rc_f32_to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float rc_bf16_to_f32(uint16_t h) { return rc_bits_to_f32((uint32_t)h << 16); }

static inline uint16_t rc_f32_to_bf16(float f)
{
    uint32_t u = rc_f32_to_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static inline float rc_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 0x1fu, mantissa = h & 0x3ffu;
    if (exponent == 0x1f) return rc_bits_to_f32(sign | 0x7f800000u | mantissa << 13);
    if (exponent) return rc_bits_to_f32(sign | (exponent + 112) << 23 | mantissa << 13);
    float tiny = (float)mantissa * 0x1p-24f;
    return sign ? -tiny : tiny;
}

/* Element i of a row of type t, as float32. */
static inline float rc_load_f32(const void *row, rc_dtype t, size_t i)
{
    const unsigned char *p = (const unsigned char *)row + i * rc_dtype_bytes(t);
    uint16_t h;
    float f;
    if (t == RC_F32) {
        memcpy(&f, p, sizeof f);
        return f;
    }
    memcpy(&h, p, sizeof h);
    return t == RC_F16 ? rc_f16_to_f32(h) : rc_bf16_to_f32(h);
}

#ifdef __cplusplus
}
#endif
#endif
