/* tests/runtime/backend/backend_support.h - an open CPU device, random numbers and naive products. */
#ifndef TESTS_RUNTIME_BACKEND_SUPPORT_H
#define TESTS_RUNTIME_BACKEND_SUPPORT_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/backend/backend.h"
#include "runtime/backend/cpu_family.h"

static const char *const all_families[] = {"portable", "avx2", "avx512", "avx512_bf16"};

#define EACH_USABLE_FAMILY(name)                                                      \
    for (int family_ = 0; family_ < 4; family_++)                                     \
        for (const char *name = all_families[family_]; name && rt_cpu_family_usable(name); name = NULL)

static inline float next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*seed >> 32) * 0x1p-31f;
}

static inline float *random_floats(size_t count, uint64_t seed)
{
    float *f = malloc((count + 1) * sizeof *f);
    assert_non_null(f);
    for (size_t i = 0; i < count; i++) f[i] = next_random(&seed);
    return f;
}

static inline float *nan_floats(size_t count)
{
    float *f = malloc((count + 1) * sizeof *f);
    assert_non_null(f);
    for (size_t i = 0; i <= count; i++) f[i] = NAN;
    return f;
}

static inline rt_device *open_device(const char *kernels, uint32_t threads, uint32_t rows_max,
                                     uint32_t width_max)
{
    rt_device_options o = {
        .threads = threads,
        .kernels = kernels,
        .rows_max = rows_max,
        .width_max = width_max,
        .slots_max = 8,
        .layers = 3,
        .linears = 4,
        .lora_rank_max = 64,
        .kv = {.layers = 3, .kv_heads = 2, .head_dim = 8, .block_tokens = 4, .element_bytes = 4},
        .kv_blocks = 5,
        .heads = 4,
    };
    rt_device *d = NULL;
    rc_msg msg;
    assert_int_equal(rt_backend_cpu()->open(&o, &d, &msg), RC_OK);
    return d;
}

static inline rt_matrix *make_matrix(rt_device *d, uint32_t n, uint32_t k, rc_dtype stored, const float *w)
{
    rt_matrix *m = NULL;
    rc_msg msg;
    assert_int_equal(rt_backend_cpu()->matrix_create(d, n, k, stored, &m, &msg), RC_OK);
    rt_backend_cpu()->matrix_fill(m, 0, n, w, RC_F32, k);
    return m;
}

static inline float as_stored(float f, rc_dtype stored)
{
    return stored == RC_F32 ? f : rc_bf16_to_f32(rc_f32_to_bf16(f));
}

/* The bf16 dot family rounds x on its way into a product with a bf16 matrix. */
static inline float as_operand(float f, rc_dtype stored, const char *kernels)
{
    return strcmp(kernels, "avx512_bf16") == 0 ? as_stored(f, stored) : f;
}

#endif
