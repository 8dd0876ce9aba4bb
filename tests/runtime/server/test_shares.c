/* Tenants' shares by themselves: limits as they are written, fairness in units, and a random walk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/server/shares.h"
#include "tests/support/prng.h"

static const rt_share_limits no_limits = {1000, RT_NO_LIMIT, RT_NO_LIMIT, RT_NO_LIMIT, RT_NO_LIMIT};
enum { SECOND = 1000000 };

static uint32_t nothing_cached(const rt_share_item *item)
{
    (void)item;
    return 0;
}

/* As much as the prompt is long. */
static uint32_t all_cached(const rt_share_item *item)
{
    return item->prompt_tokens;
}

static uint32_t list(rt_shares *s, const char *name, rt_share_limits limits, int64_t now)
{
    uint32_t share;
    rc_msg msg;
    assert_int_equal(rt__shares_list(s, name, &limits, now, &share, &msg), RC_OK);
    return share;
}

static rc_code arrive(rt_shares *s, rt_share_item *item, uint32_t share, uint32_t tokens, int64_t now,
                      int64_t *retry)
{
    rc_msg msg;
    *item = (rt_share_item){.share = share, .prompt_tokens = tokens};
    return rt__shares_arrive(s, item, now, retry, &msg);
}

static void concurrency_then_queue(void **state)
{
    (void)state;
    rt_shares *s = rt__shares_create(100, 100000);
    rt_share_limits l = no_limits;
    rt_share_item items[6];
    int64_t retry;
    l.max_concurrency = 2;
    l.max_queue = 1;
    uint32_t a = list(s, "a", l, 0);
    assert_int_equal(arrive(s, &items[0], a, 5, 0, &retry), RC_OK);
    assert_ptr_equal(rt__shares_next(s, nothing_cached), &items[0]);
    assert_int_equal(arrive(s, &items[1], a, 5, 0, &retry), RC_OK);
    assert_int_equal(arrive(s, &items[2], a, 5, 0, &retry), RC_OK); /* one place inside, one to wait */
    assert_int_equal(arrive(s, &items[3], a, 5, 0, &retry), RC_RESOURCE_EXHAUSTED);
    assert_int_equal(retry, 0);
    assert_ptr_equal(rt__shares_next(s, nothing_cached), &items[1]);
    assert_null(rt__shares_next(s, nothing_cached));
    assert_int_equal(arrive(s, &items[3], a, 5, 0, &retry), RC_RESOURCE_EXHAUSTED);
    rt__shares_leave(s, &items[0]);
    assert_ptr_equal(rt__shares_next(s, nothing_cached), &items[2]);
    rt__shares_check(s);
    for (int i = 1; i < 3; i++) rt__shares_leave(s, &items[i]);
    rt__shares_leave(s, &items[2]);
    rt__shares_check(s);
    rt__shares_destroy(s);
}

static void buckets_fill_evenly(void **state)
{
    (void)state;
    rt_shares *s = rt__shares_create(100, 100000);
    rt_share_limits l = no_limits;
    rt_share_item item;
    int64_t retry;
    l.requests_per_minute = 60;
    l.tokens_per_minute = 600;
    uint32_t a = list(s, "a", l, 0);
    for (int i = 0; i < 60; i++) {
        assert_int_equal(arrive(s, &item, a, 10, 0, &retry), RC_OK);
        rt__shares_leave(s, &item);
    }
    assert_int_equal(arrive(s, &item, a, 10, 0, &retry), RC_RESOURCE_EXHAUSTED);
    assert_int_equal(retry, SECOND);
    assert_int_equal(arrive(s, &item, a, 10, SECOND - 1, &retry), RC_RESOURCE_EXHAUSTED);
    assert_int_equal(arrive(s, &item, a, 10, SECOND, &retry), RC_OK);
    assert_ptr_equal(rt__shares_next(s, nothing_cached), &item);
    rt__shares_generated(s, &item, 300, SECOND); /* half a minute's worth */
    rt__shares_leave(s, &item);
    assert_int_equal(arrive(s, &item, a, 10, 20 * SECOND, &retry), RC_RESOURCE_EXHAUSTED);
    assert_int_equal(retry, 12 * SECOND); /* at second 32: 300 paid back, and 10 more */
    assert_int_equal(arrive(s, &item, a, 10, 32 * SECOND, &retry), RC_OK);
    rt__shares_leave(s, &item);
    /* A prompt larger than a minute's worth goes when the bucket is full. */
    assert_int_equal(arrive(s, &item, a, 5000, 60 * SECOND, &retry), RC_RESOURCE_EXHAUSTED);
    assert_int_equal(arrive(s, &item, a, 5000, 200 * SECOND, &retry), RC_OK);
    rt__shares_leave(s, &item);
    rt__shares_destroy(s);
}

static void a_reload_keeps_what_was_used(void **state)
{
    (void)state;
    rt_shares *s = rt__shares_create(100, 100000);
    rt_share_limits l = no_limits;
    rt_share_item items[4];
    int64_t retry;
    l.requests_per_minute = 2;
    uint32_t a = list(s, "a", l, 0), b = list(s, "b", no_limits, 0);
    assert_int_equal(arrive(s, &items[0], a, 1, 0, &retry), RC_OK);
    assert_int_equal(arrive(s, &items[1], a, 1, 0, &retry), RC_OK);
    rt__shares_begin_list(s);
    l.requests_per_minute = 3;
    assert_int_equal(list(s, "a", l, 0), a);
    assert_int_equal(arrive(s, &items[2], a, 1, 0, &retry), RC_OK);
    assert_int_equal(arrive(s, &items[3], a, 1, 0, &retry), RC_RESOURCE_EXHAUSTED);
    assert_int_equal(list(s, "c", no_limits, 0), b); /* b is forgotten: it had nothing */
    rt__shares_begin_list(s);
    assert_int_not_equal(list(s, "d", no_limits, 0), a); /* a is not: it holds three */
    for (int i = 0; i < 3; i++) rt__shares_leave(s, &items[i]);
    rt__shares_check(s);
    rt__shares_destroy(s);
}

/* A server that computes one unit a tick for whom the shares let in. Gives the units of each tenant after
 * `ticks`, while all of them always have something waiting. */
static void run(const rt_share_limits *limits, const uint32_t *prompt, uint32_t output, uint32_t count,
                uint64_t *units, uint64_t ticks)
{
    enum { DEPTH = 4 };
    rt_shares *s = rt__shares_create(2, 4000);
    rt_share_item items[8][DEPTH];
    uint32_t shares[8];
    int64_t retry;
    for (uint32_t i = 0; i < count; i++) {
        char name[2] = {(char)('a' + i), 0};
        shares[i] = list(s, name, limits[i], 0);
        units[i] = 0;
        for (uint32_t k = 0; k < DEPTH; k++)
            assert_int_equal(arrive(s, &items[i][k], shares[i], prompt[i], 0, &retry), RC_OK);
    }
    for (uint64_t tick = 0; tick < ticks;) {
        rt_share_item *item = rt__shares_next(s, nothing_cached);
        assert_non_null(item);
        uint32_t i = 0;
        while (shares[i] != item->share) i++;
        rt__shares_first_token(s, item, 0);
        for (uint32_t t = 0; t < output; t++) rt__shares_generated(s, item, 1, 0);
        units[i] += item->prompt_tokens + output + 1;
        tick += item->prompt_tokens + output + 1;
        rt__shares_leave(s, item);
        assert_int_equal(arrive(s, item, shares[i], prompt[i], 0, &retry), RC_OK);
        rt__shares_check(s);
    }
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t k = 0; k < DEPTH; k++) rt__shares_leave(s, &items[i][k]);
    rt__shares_destroy(s);
}

static void shares_follow_weights_whatever_the_sizes(void **state)
{
    (void)state;
    rt_share_limits limits[3] = {no_limits, no_limits, no_limits};
    uint64_t units[3];
    limits[1].weight = 2000;
    limits[2].weight = 500;
    run(limits, (uint32_t[]){10, 900, 100}, 20, 3, units, 700000);
    double unit = (double)(units[0] + units[1] + units[2]) / 3.5;
    assert_true(units[0] > 0.98 * unit && units[0] < 1.02 * unit);
    assert_true(units[1] > 1.96 * unit && units[1] < 2.04 * unit);
    assert_true(units[2] > 0.49 * unit && units[2] < 0.51 * unit);
}

/* One that comes rarely goes in at once, however much another has waiting. */
static void a_flood_holds_nobody_up(void **state)
{
    (void)state;
    rt_shares *s = rt__shares_create(4, 4000);
    rt_share_item flood[1000], rare;
    int64_t retry;
    uint32_t a = list(s, "a", no_limits, 0), b = list(s, "b", no_limits, 0), inside = 0;
    for (int i = 0; i < 1000; i++) assert_int_equal(arrive(s, &flood[i], a, 900, 0, &retry), RC_OK);
    for (uint32_t round = 0; round < 50; round++) {
        rt_share_item *item;
        while ((item = rt__shares_next(s, nothing_cached))) inside++;
        assert_int_equal(inside, 4 + round);
        assert_int_equal(arrive(s, &rare, b, 100, 0, &retry), RC_OK);
        rt__shares_leave(s, &flood[round]);
        assert_ptr_equal(rt__shares_next(s, nothing_cached), &rare);
        rt__shares_leave(s, &rare);
        rt__shares_check(s);
    }
    for (int i = 0; i < 1000; i++) rt__shares_leave(s, &flood[i]);
    rt__shares_check(s);
    rt__shares_destroy(s);
}

/* A flood of long prompts leaves places, and its window keeps no short one out; who is alone has all. */
static void places_are_kept_for_those_below_their_part(void **state)
{
    (void)state;
    enum { PLACES = 16, KEPT = 2, WINDOW = 400 };
    rt_shares *s = rt__shares_create(PLACES, WINDOW);
    rt_share_item flood[PLACES + 1], few[KEPT + 1];
    int64_t retry;
    uint32_t a = list(s, "a", no_limits, 0), inside = 0;
    for (int i = 0; i <= PLACES; i++) assert_int_equal(arrive(s, &flood[i], a, 350, 0, &retry), RC_OK);
    for (; rt__shares_next(s, nothing_cached); inside++) rt__shares_first_token(s, &flood[inside], 0);
    assert_int_equal(inside, PLACES);
    rt__shares_leave(s, &flood[0]);
    uint32_t b = list(s, "b", no_limits, 0);
    assert_null(rt__shares_next(s, nothing_cached)); /* from now on there is somebody to keep places for */
    rt__shares_leave(s, &flood[1]);
    assert_null(rt__shares_next(s, nothing_cached));
    rt__shares_leave(s, &flood[2]);
    assert_ptr_equal(rt__shares_next(s, nothing_cached), &flood[PLACES]); /* and stays in its prompt */
    assert_int_equal(arrive(s, &few[0], b, 201, 0, &retry), RC_OK);
    assert_null(rt__shares_next(s, nothing_cached)); /* not short */
    rt__shares_leave(s, &few[0]);
    for (int i = 0; i <= KEPT; i++) assert_int_equal(arrive(s, &few[i], b, 100, 0, &retry), RC_OK);
    assert_ptr_equal(rt__shares_next(s, nothing_cached), &few[0]);
    assert_ptr_equal(rt__shares_next(s, nothing_cached), &few[1]);
    assert_null(rt__shares_next(s, nothing_cached)); /* no more at a time, and no place */
    rt__shares_first_token(s, &few[0], 0);
    rt__shares_leave(s, &few[0]);
    assert_int_equal(arrive(s, &few[0], b, 101, 0, &retry), RC_OK);
    assert_ptr_equal(rt__shares_next(s, nothing_cached), &few[2]);
    assert_null(rt__shares_next(s, nothing_cached)); /* with what is inside it would be too much */
    rt__shares_check(s);
    for (int i = 0; i <= PLACES; i++) rt__shares_leave(s, &flood[i]);
    for (int i = 0; i <= KEPT; i++) rt__shares_leave(s, &few[i]);
    rt__shares_check(s);
    rt__shares_destroy(s);
}

/* What is cached goes first, and yet nobody is passed for ever. */
static void the_longest_cached_goes_first_with_ageing(void **state)
{
    (void)state;
    enum { LOOK = RT_SHARES_LOOKAHEAD, PASSES = RT_SHARES_PASSES };
    rt_shares *s = rt__shares_create(1, 4000);
    rt_share_item items[LOOK + 1], more[PASSES + 1];
    int64_t retry;
    uint32_t a = list(s, "a", no_limits, 0);
    for (uint32_t i = 0; i <= LOOK; i++)
        assert_int_equal(arrive(s, &items[i], a, 10 + i, 0, &retry), RC_OK);
    assert_ptr_equal(rt__shares_next(s, all_cached), &items[LOOK - 1]); /* the last one is not looked at */
    for (uint32_t i = 0; i < PASSES - 1; i++) {
        rt__shares_leave(s, i ? &more[i - 1] : &items[LOOK - 1]);
        for (uint32_t k = 1; !i && k <= LOOK; k++) rt__shares_leave(s, &items[k]);
        assert_int_equal(arrive(s, &more[i], a, 100, 0, &retry), RC_OK);
        assert_ptr_equal(rt__shares_next(s, all_cached), &more[i]);
        assert_int_equal(items[0].passes, i + 2);
    }
    rt__shares_leave(s, &more[PASSES - 2]);
    assert_int_equal(arrive(s, &more[PASSES - 1], a, 100, 0, &retry), RC_OK);
    assert_ptr_equal(rt__shares_next(s, all_cached), &items[0]);
    rt__shares_leave(s, &items[0]);
    assert_ptr_equal(rt__shares_next(s, nothing_cached), &more[PASSES - 1]);
    rt__shares_leave(s, &more[PASSES - 1]);
    rt__shares_check(s);
    rt__shares_destroy(s);
}

static void a_random_walk_keeps_its_books(void **state)
{
    (void)state;
    enum { ITEMS = 60, TENANTS = 5, STEPS = 200000 };
    prng r = {7};
    rt_shares *s = rt__shares_create(6, 300);
    rt_share_item items[ITEMS] = {{0}};
    uint32_t shares[TENANTS];
    int64_t now = 0, retry;
    for (int step = 0; step < STEPS; step++) {
        uint32_t what = prng_below(&r, 10), i = prng_below(&r, ITEMS), t = prng_below(&r, TENANTS);
        now += prng_below(&r, 20000);
        if (step % 1000 == 0) {
            rt__shares_begin_list(s);
            for (uint32_t k = 0; k < TENANTS; k++) {
                char name[2] = {(char)('a' + k), 0};
                rt_share_limits l = {1 + prng_below(&r, 3000), 1 + prng_below(&r, 4), prng_below(&r, 6),
                                     1 + prng_below(&r, 5000), 1 + prng_below(&r, 90000)};
                shares[k] = list(s, name, l, now);
            }
        }
        if (what < 4 && items[i].state == RT_ITEM_OUT)
            (void)arrive(s, &items[i], shares[t], 1 + prng_below(&r, 200), now, &retry);
        else if (what < 7)
            while (rt__shares_next(s, all_cached)) continue;
        else if (what == 7)
            rt__shares_first_token(s, &items[i], prng_below(&r, 20));
        else if (what == 8)
            rt__shares_generated(s, &items[i], 1 + prng_below(&r, 3), now);
        else
            rt__shares_leave(s, &items[i]);
        rt__shares_check(s);
    }
    for (int i = 0; i < ITEMS; i++) rt__shares_leave(s, &items[i]);
    for (uint32_t k = 0; k < TENANTS; k++) {
        assert_int_equal(rt__shares_held(s, shares[k]), 0);
        assert_int_equal(rt__shares_inside(s, shares[k]), 0);
    }
    rt__shares_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(concurrency_then_queue),
        cmocka_unit_test(buckets_fill_evenly),
        cmocka_unit_test(a_reload_keeps_what_was_used),
        cmocka_unit_test(shares_follow_weights_whatever_the_sizes),
        cmocka_unit_test(a_flood_holds_nobody_up),
        cmocka_unit_test(places_are_kept_for_those_below_their_part),
        cmocka_unit_test(the_longest_cached_goes_first_with_ageing),
        cmocka_unit_test(a_random_walk_keeps_its_books),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
