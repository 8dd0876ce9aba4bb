/* What is to be sent later comes when it is due, once, and not before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/server/send_wheel.h"
#include "tests/support/prng.h"

enum { ITEMS = 200, MS = 1000000 };

typedef struct timed {
    rt_send_item item; /* the first member */
    int64_t due_ns;
    bool is_in;
} timed;

static int64_t later(int64_t now_ns, int64_t due_ns)
{
    int64_t most = now_ns + (int64_t)(RT_SEND_WHEEL_MS - 1) * MS;
    return due_ns < most ? due_ns : most;
}

/* Takes what is due; all of it is, and nothing that was due two milliseconds ago is left. */
static void take_all(rt_send_wheel *w, timed *all, int64_t now_ns)
{
    rt_send_item *item;
    uint32_t left = 0;
    while ((item = rt__send_wheel_take(w, now_ns))) {
        timed *t = (timed *)item;
        assert_true(t->is_in);
        assert_true(t->due_ns <= now_ns);
        t->is_in = false;
    }
    for (int i = 0; i < ITEMS; i++) {
        left += all[i].is_in;
        if (all[i].is_in) assert_true(all[i].due_ns > now_ns - 2 * MS);
    }
    assert_int_equal(w->count, left);
}

static void each_comes_once_when_it_is_due(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        prng r = {seed};
        rt_send_wheel w = {0};
        timed all[ITEMS] = {0};
        int64_t now = 1 + (int64_t)prng_below(&r, 100 * MS);
        for (int step = 0; step < 2000; step++) {
            timed *t = &all[prng_below(&r, ITEMS)];
            if (!t->is_in) {
                t->due_ns = later(now, now - MS + (int64_t)prng_below(&r, 40 * MS));
                rt__send_wheel_add(&w, &t->item, now, t->due_ns);
                t->is_in = true;
            }
            /* mostly a moment passes; sometimes nobody looks for longer than a turn takes */
            now += prng_one_in(&r, 50) ? 100 * MS : prng_one_in(&r, 4) ? (int64_t)prng_below(&r, 3 * MS) : 0;
            take_all(&w, all, now);
        }
        take_all(&w, all, now + 100 * MS);
        assert_int_equal(w.count, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_comes_once_when_it_is_due)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
