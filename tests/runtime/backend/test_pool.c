/* The pool: every part runs exactly once in every run, with fewer and with more threads than cores. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/backend/pool.h"

enum { THREADS_MAX = 9 };

typedef struct tally {
    uint32_t runs[THREADS_MAX][16]; /* a line of its own for each part */
    uint32_t parts;
} tally;

static void count(void *arg, uint32_t part, uint32_t parts)
{
    tally *t = arg;
    t->runs[part][0]++;
    if (part == 0) t->parts = parts;
}

static void each_part_runs_once_in_each_run(void **state)
{
    (void)state;
    const uint32_t threads[] = {1, 2, 3, 5, THREADS_MAX};
    for (int i = 0; i < 5; i++) {
        rt_pool *p = NULL;
        tally t = {0};
        assert_int_equal(rt_pool_create(threads[i], &p, NULL), RC_OK);
        assert_int_equal(rt_pool_threads(p), threads[i]);
        for (uint32_t run = 1; run <= 3000; run++) {
            rt_pool_run(p, count, &t);
            for (uint32_t part = 0; part < threads[i]; part++) assert_int_equal(t.runs[part][0], run);
        }
        assert_int_equal(t.parts, threads[i]);
        rt_pool_destroy(p);
    }
}

static void a_pool_that_never_ran_is_destroyed(void **state)
{
    (void)state;
    rt_pool *p = NULL;
    assert_int_equal(rt_pool_create(4, &p, NULL), RC_OK);
    rt_pool_destroy(p);
    rt_pool_destroy(NULL);
}

static void an_impossible_number_of_threads_is_refused(void **state)
{
    (void)state;
    rt_pool *p = NULL;
    rc_msg msg;
    assert_int_equal(rt_pool_create(0, &p, &msg), RC_INVALID_ARGUMENT);
    assert_int_equal(rt_pool_create(RT_POOL_THREADS_MAX + 1, &p, &msg), RC_INVALID_ARGUMENT);
    assert_non_null(strstr(msg.text, "1025"));
    assert_null(p);
}

static void shares_cover_everything_once(void **state)
{
    (void)state;
    for (uint32_t things = 0; things < 40; things++)
        for (uint32_t parts = 1; parts < 12; parts++) {
            uint32_t expected = 0, first, end;
            for (uint32_t part = 0; part < parts; part++) {
                rt_share(things, part, parts, &first, &end);
                assert_int_equal(first, expected);
                assert_true(end - first <= things / parts + 1);
                expected = end;
            }
            assert_int_equal(expected, things);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_part_runs_once_in_each_run),
        cmocka_unit_test(a_pool_that_never_ran_is_destroyed),
        cmocka_unit_test(an_impossible_number_of_threads_is_refused),
        cmocka_unit_test(shares_cover_everything_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
