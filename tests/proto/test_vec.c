/* The vector of every family that this CPU runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "runtime/backend/cpu_family.h"
#include "tests/proto/vec_checks.h"

typedef struct family {
    const char *name;
    void (*moves)(void);
    double (*exponential)(uint64_t *digest);
} family;

#define FAMILY(name) {#name, vec_check_moves_##name, vec_check_exp_##name},
static const family families[] = {
    FAMILY(portable)
#if MICA_HAVE_avx2
    FAMILY(avx2)
#endif
#if MICA_HAVE_avx512
    FAMILY(avx512)
#endif
#if MICA_HAVE_avx512_bf16
    FAMILY(avx512_bf16)
#endif
};
enum { FAMILIES = sizeof families / sizeof families[0] };

static void loads_stores_and_trees_are_the_same_in_every_family(void **state)
{
    (void)state;
    for (int i = 0; i < FAMILIES; i++)
        if (rt_cpu_family_usable(families[i].name)) families[i].moves();
}

static void exp_is_within_2_ulp_and_the_same_with_fma(void **state)
{
    (void)state;
    uint64_t first = 0, digest;
    for (int i = 0; i < FAMILIES; i++) {
        if (!rt_cpu_family_usable(families[i].name)) continue;
        assert_true(families[i].exponential(&digest) < 2);
        if (i == 1) first = digest;
        if (i > 1) assert_true(digest == first);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_stores_and_trees_are_the_same_in_every_family),
        cmocka_unit_test(exp_is_within_2_ulp_and_the_same_with_fma),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
