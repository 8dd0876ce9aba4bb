#include "runtime/backend/cpu_family.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

typedef struct family {
    const char *name;
    const rt_kernels *(*kernels)(void);
    bool (*runs)(void);
} family;

static bool always(void) { return true; }

#if defined(__x86_64__)
/* clang 14 does not know "f16c" in __builtin_cpu_supports. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static bool has_avx512_bf16(void) { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

/* Intel's vdpbf16ps has half the rate of its FMA (173 against 355 GFLOP/s on two Emerald Rapids cores);
 * AMD's, from Zen 4 on, has twice (467 against 230; on Zen 5 1055 against 525). */
static bool has_fast_bf16_dot(void)
{
    unsigned a, b, c, d;
    if (!has_avx512_bf16() || !__get_cpuid(0, &a, &b, &c, &d)) return false;
    return b == signature_AMD_ebx && c == signature_AMD_ecx && d == signature_AMD_edx;
}
#else
static bool has_avx2(void) { return false; }
static bool has_avx512(void) { return false; }
static bool has_avx512_bf16(void) { return false; }
static bool has_fast_bf16_dot(void) { return false; }
#endif

/* In order of preference. */
static const family families[] = {
#if MICA_HAVE_avx512_bf16
    {"avx512_bf16", rt_kernels_avx512_bf16, has_avx512_bf16},
#endif
#if MICA_HAVE_avx512
    {"avx512", rt_kernels_avx512, has_avx512},
#endif
#if MICA_HAVE_avx2
    {"avx2", rt_kernels_avx2, has_avx2},
#endif
    {"portable", rt_kernels_portable, always},
};

enum { FAMILIES = sizeof families / sizeof families[0] };

static const family *find(const char *name)
{
    for (int i = 0; i < FAMILIES; i++)
        if (strcmp(families[i].name, name) == 0) return &families[i];
    return NULL;
}

bool rt_cpu_family_usable(const char *name)
{
    const family *f = find(name);
    return f && f->runs();
}

static const rt_kernels *fastest(void)
{
    for (int i = 0; i < FAMILIES; i++) {
        bool is_dot = strcmp(families[i].name, "avx512_bf16") == 0;
        if (is_dot ? has_fast_bf16_dot() : families[i].runs()) return families[i].kernels();
    }
    return rt_kernels_portable();
}

static bool is_known(const char *name)
{
    return !strcmp(name, "avx512_bf16") || !strcmp(name, "avx512") || !strcmp(name, "avx2") ||
           !strcmp(name, "portable");
}

rc_code rt_cpu_family_choose(const char *name, const rt_kernels **out, rc_msg *msg)
{
    if (!name || strcmp(name, "auto") == 0) {
        *out = fastest();
        return RC_OK;
    }
    if (!is_known(name))
        return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg,
                                "kernels '%.100s' are unknown; expected auto, portable, "
                                "avx2, avx512 or avx512_bf16",
                                name),
                        msg, "kernels");
    const family *f = find(name);
    if (!f) return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg, "this build has no '%s' kernels", name), msg,
                            "kernels");
    if (!f->runs())
        return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg, "this CPU cannot run '%s' kernels", name), msg,
                        "kernels");
    *out = f->kernels();
    return RC_OK;
}
