/* When the next step is told to a device that runs ahead: an eighth of a step, and twice what telling takes,
 * before the end of the one that runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/engine/step_pace.h"

#define MS INT64_C(1000000)

/* Steps of step_ns, each told while another ran, until what they take is known. */
static rt_step_pace after_steps(int64_t step_ns, int64_t telling_ns, int64_t *now)
{
    rt_step_pace p = {0};
    *now = 100 * MS;
    rt_step_pace_told(&p, *now - telling_ns, *now);
    rt_step_pace_ended(&p, false, *now);
    for (int i = 0; i < 100; i++) {
        *now += step_ns;
        rt_step_pace_told(&p, *now - telling_ns, *now);
        rt_step_pace_ended(&p, true, *now);
    }
    return p;
}

static void a_step_is_told_at_once_until_its_length_is_known(void **state)
{
    rt_step_pace p = {0};
    (void)state;
    rt_step_pace_told(&p, 100 * MS, 100 * MS);
    assert_int_equal(rt_step_pace_next_at(&p, false), 0);
    rt_step_pace_ended(&p, false, 200 * MS); /* the device may have paused before it: this says nothing */
    assert_int_equal(rt_step_pace_next_at(&p, true), 0);
    rt_step_pace_ended(&p, true, 210 * MS);
    assert_int_equal(p.step_ns, 10 * MS);
    assert_true(rt_step_pace_next_at(&p, true) > 210 * MS);
}

static void short_steps_are_told_at_once(void **state)
{
    int64_t now;
    (void)state;
    rt_step_pace p = after_steps(RT_PACE_SHORT_NS - 1, 0, &now);
    assert_int_equal(rt_step_pace_next_at(&p, true), 0);
    p = after_steps(RT_PACE_SHORT_NS, 0, &now);
    assert_int_equal(rt_step_pace_next_at(&p, true), now + RT_PACE_SHORT_NS * 7 / 8);
}

static void a_step_is_told_before_the_end_of_the_one_that_runs(void **state)
{
    int64_t now;
    (void)state;
    rt_step_pace p = after_steps(8 * MS, MS / 2, &now);
    assert_int_equal(rt_step_pace_next_at(&p, true), now + 8 * MS - MS - 2 * MS / 2);
}

/* A device that was idle began with the step when it was told, not when the one before ended. */
static void after_a_pause_a_step_is_counted_from_when_it_was_told(void **state)
{
    int64_t now;
    (void)state;
    rt_step_pace p = after_steps(8 * MS, 0, &now);
    rt_step_pace_told(&p, now + 49 * MS, now + 50 * MS);
    assert_int_equal(rt_step_pace_next_at(&p, false), now + (50 + 8 - 1 - 2) * MS);
    assert_int_equal(rt_step_pace_next_at(&p, true), now + (8 - 1 - 2) * MS);
}

static void what_takes_longer_to_tell_than_to_run_is_told_at_the_start(void **state)
{
    int64_t now;
    (void)state;
    rt_step_pace p = after_steps(8 * MS, 5 * MS, &now);
    assert_int_equal(rt_step_pace_next_at(&p, true), now);
}

/* Told too late, a device pauses; told too early, a request may miss the step. Pauses are worse: short steps
 * and long tellings count at once, the opposite by an eighth. */
static void figures_follow_at_once_to_the_careful_side_and_slowly_back(void **state)
{
    int64_t now;
    (void)state;
    rt_step_pace p = after_steps(8 * MS, MS, &now);
    rt_step_pace_ended(&p, true, now += 4 * MS);
    assert_int_equal(p.step_ns, 4 * MS);
    rt_step_pace_ended(&p, true, now += 12 * MS);
    assert_int_equal(p.step_ns, 5 * MS);
    rt_step_pace_ended(&p, false, now += 100 * MS);
    assert_int_equal(p.step_ns, 5 * MS);
    rt_step_pace_ended(&p, true, now += 5 * MS);
    assert_int_equal(p.step_ns, 5 * MS);
    rt_step_pace_told(&p, now - 3 * MS, now);
    assert_int_equal(p.telling_ns, 3 * MS);
    rt_step_pace_told(&p, now - MS, now);
    assert_int_equal(p.telling_ns, 3 * MS - 2 * MS / 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_told_at_once_until_its_length_is_known),
        cmocka_unit_test(short_steps_are_told_at_once),
        cmocka_unit_test(a_step_is_told_before_the_end_of_the_one_that_runs),
        cmocka_unit_test(after_a_pause_a_step_is_counted_from_when_it_was_told),
        cmocka_unit_test(what_takes_longer_to_tell_than_to_run_is_told_at_the_start),
        cmocka_unit_test(figures_follow_at_once_to_the_careful_side_and_slowly_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
