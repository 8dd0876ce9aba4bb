#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "adapters/registry.h"

static adapter_registry *with(uint32_t slots, uint32_t contents)
{
    adapter_registry *r;
    const adapter_registry_options o = {slots, contents};
    assert_int_equal(adapter_registry_create(&o, &r, NULL), RC_OK);
    return r;
}

static adapter_content *added(adapter_registry *r, const char *name)
{
    adapter_weights *w = calloc(1, sizeof *w);
    assert_int_equal(adapter_registry_add(r, name, w, NULL), RC_OK);
    return adapter_registry_find(r, name);
}

static adapter_content *held(adapter_registry *r, const char *name)
{
    adapter_content *c = added(r, name);
    adapter_hold(r, c);
    return c;
}

static adapter_job taken(adapter_registry *r)
{
    adapter_job job;
    assert_true(adapter_registry_next_job(r, &job));
    return job;
}

static bool idle(adapter_registry *r)
{
    adapter_job job;
    return !adapter_registry_next_job(r, &job);
}

/* Pins a content that is not resident yet. */
static uint32_t brought_in(adapter_registry *r, adapter_content *c)
{
    assert_int_equal(adapter_pin(r, c), ADAPTER_NO_SLOT);
    adapter_job job = taken(r);
    assert_ptr_equal(job.content, c);
    adapter_registry_job_done(r, &job, true);
    return adapter_pin(r, c);
}

static void a_name_is_loaded_once_and_its_ids_are_never_used_again(void **state)
{
    (void)state;
    adapter_registry *r = with(1, 2);
    adapter_weights w = {0};
    rc_msg msg;
    uint64_t first = adapter_content_id(added(r, "uq"));
    assert_int_equal(adapter_registry_add(r, "uq", &w, &msg), RC_ALREADY_EXISTS);
    assert_non_null(strstr(msg.text, "'uq'"));
    assert_int_equal(adapter_registry_remove(r, "uq", NULL), RC_OK);
    assert_int_equal(adapter_registry_remove(r, "uq", &msg), RC_NOT_FOUND);
    assert_true(adapter_content_id(added(r, "uq")) > first);
    adapter_registry_destroy(r);
}

static void bad_names_and_one_too_many_are_refused(void **state)
{
    (void)state;
    adapter_registry *r = with(1, 1);
    adapter_weights w = {0};
    char name[ADAPTER_NAME_BYTES_MAX + 2];
    memset(name, 'a', sizeof name);
    name[sizeof name - 1] = 0;
    assert_int_equal(adapter_registry_add(r, "", &w, NULL), RC_INVALID_ARGUMENT);
    assert_int_equal(adapter_registry_add(r, name, &w, NULL), RC_INVALID_ARGUMENT);
    name[ADAPTER_NAME_BYTES_MAX] = 0;
    added(r, name);
    assert_int_equal(adapter_registry_add(r, "b", &w, NULL), RC_RESOURCE_EXHAUSTED);
    adapter_registry_destroy(r);
}

static void names_are_listed_in_the_order_of_adding(void **state)
{
    (void)state;
    adapter_registry *r = with(1, 4);
    added(r, "c");
    added(r, "a");
    added(r, "b");
    assert_int_equal(adapter_registry_remove(r, "a", NULL), RC_OK);
    assert_int_equal(adapter_registry_count(r), 2);
    assert_string_equal(adapter_content_name(adapter_registry_at(r, 0)), "c");
    assert_string_equal(adapter_content_name(adapter_registry_at(r, 1)), "b");
    adapter_registry_destroy(r);
}

static void a_pin_waits_for_the_job_and_plans_it_once(void **state)
{
    (void)state;
    adapter_registry *r = with(2, 4);
    adapter_content *a = held(r, "a");
    assert_int_equal(adapter_pin(r, a), ADAPTER_NO_SLOT);
    assert_int_equal(adapter_pin(r, a), ADAPTER_NO_SLOT);
    adapter_job job = taken(r);
    assert_ptr_equal(job.content, a);
    assert_ptr_equal(job.weights, adapter_content_weights(a));
    assert_false(job.evicts);
    assert_true(idle(r));
    assert_int_equal(adapter_pin(r, a), ADAPTER_NO_SLOT);
    assert_int_equal(adapter_content_slot(a), ADAPTER_NO_SLOT);
    adapter_registry_job_done(r, &job, true);
    assert_int_equal(adapter_content_slot(a), job.slot);
    assert_int_equal(adapter_pin(r, a), job.slot);
    assert_true(idle(r));
    adapter_registry_destroy(r);
}

static void the_least_recently_unpinned_gives_its_slot(void **state)
{
    (void)state;
    adapter_registry *r = with(2, 4);
    adapter_content *a = held(r, "a"), *b = held(r, "b"), *c = held(r, "c");
    uint32_t slot_a = brought_in(r, a);
    brought_in(r, b);
    adapter_unpin(r, b);
    adapter_unpin(r, a);
    adapter_pin(r, b);
    adapter_unpin(r, b);
    assert_int_equal(adapter_pin(r, c), ADAPTER_NO_SLOT);
    assert_int_equal(adapter_content_slot(a), ADAPTER_NO_SLOT);
    adapter_job job = taken(r);
    assert_true(job.evicts && job.slot == slot_a && job.content == c);
    adapter_registry_job_done(r, &job, true);
    adapter_registry_check(r);
    adapter_registry_destroy(r);
}

static void a_pinned_slot_is_never_given_away(void **state)
{
    (void)state;
    adapter_registry *r = with(1, 4);
    adapter_content *a = held(r, "a"), *b = held(r, "b");
    brought_in(r, a);
    adapter_pin(r, a);
    adapter_unpin(r, a);
    assert_int_equal(adapter_pin(r, b), ADAPTER_NO_SLOT);
    assert_true(idle(r));
    assert_int_equal(adapter_registry_remove(r, "a", NULL), RC_OK);
    assert_int_equal(adapter_content_slot(a), 0);
    assert_int_equal(adapter_pin(r, a), 0);
    assert_int_equal(adapter_pin(r, b), ADAPTER_NO_SLOT);
    assert_true(idle(r));
    adapter_registry_destroy(r);
}

static void what_is_prefetched_takes_no_slot_from_those_who_are_waited_for(void **state)
{
    (void)state;
    adapter_registry *r = with(2, 4);
    adapter_content *a = held(r, "a"), *b = held(r, "b"), *c = held(r, "c");
    brought_in(r, a);
    assert_true(adapter_prefetch(r, b)); /* the empty one */
    assert_true(adapter_prefetch(r, b));
    adapter_job job = taken(r);
    assert_ptr_equal(job.content, b);
    adapter_registry_job_done(r, &job, true);
    assert_false(adapter_prefetch(r, c)); /* a is pinned, b is held */
    adapter_unpin(r, a);
    assert_false(adapter_prefetch(r, c));
    assert_true(idle(r));
    adapter_release(r, a);
    assert_true(adapter_prefetch(r, c)); /* nobody holds a any more */
    job = taken(r);
    assert_true(job.content == c && job.evicts);
    assert_int_equal(adapter_content_slot(a), ADAPTER_NO_SLOT);
    adapter_registry_job_done(r, &job, true);
    adapter_registry_check(r);
    adapter_registry_destroy(r);
}

static void a_removed_content_goes_with_its_last_hold_and_leaves_something_to_remove(void **state)
{
    (void)state;
    adapter_registry *r = with(1, 1);
    adapter_content *a = held(r, "a");
    adapter_weights w = {0};
    brought_in(r, a);
    assert_int_equal(adapter_registry_remove(r, "a", NULL), RC_OK);
    assert_null(adapter_registry_find(r, "a"));
    assert_int_equal(adapter_registry_add(r, "a", &w, NULL), RC_RESOURCE_EXHAUSTED);
    adapter_unpin(r, a);
    adapter_release(r, a);
    adapter_job job = taken(r);
    assert_true(job.content == NULL && job.weights == NULL && job.evicts && job.slot == 0);
    adapter_content *again = held(r, "a");
    assert_int_equal(adapter_pin(r, again), ADAPTER_NO_SLOT);
    assert_true(idle(r));
    adapter_registry_job_done(r, &job, true);
    assert_int_equal(brought_in(r, again), 0);
    adapter_registry_destroy(r);
}

static void stale_weights_are_dropped_by_the_next_load_if_it_comes_first(void **state)
{
    (void)state;
    adapter_registry *r = with(1, 2);
    adapter_content *a = held(r, "a");
    brought_in(r, a);
    adapter_unpin(r, a);
    adapter_release(r, a);
    assert_int_equal(adapter_registry_remove(r, "a", NULL), RC_OK);
    adapter_content *b = held(r, "b");
    assert_int_equal(adapter_pin(r, b), ADAPTER_NO_SLOT);
    adapter_job job = taken(r);
    assert_true(job.content == b && job.evicts);
    assert_true(idle(r));
    adapter_registry_job_done(r, &job, false);
    adapter_registry_check(r);
    assert_int_equal(adapter_pin(r, b), ADAPTER_NO_SLOT);
    job = taken(r);
    assert_false(job.evicts);
    adapter_registry_job_done(r, &job, true);
    assert_int_equal(adapter_pin(r, b), 0);
    adapter_registry_destroy(r);
}

static void a_content_outlives_the_job_that_reads_it(void **state)
{
    (void)state;
    adapter_registry *r = with(1, 2);
    adapter_content *a = held(r, "a");
    assert_int_equal(adapter_pin(r, a), ADAPTER_NO_SLOT);
    adapter_job job = taken(r);
    assert_int_equal(adapter_registry_remove(r, "a", NULL), RC_OK);
    adapter_release(r, a);
    adapter_registry_check(r);
    assert_ptr_equal(job.weights, adapter_content_weights(a));
    adapter_registry_job_done(r, &job, true);
    adapter_registry_check(r);
    job = taken(r);
    assert_true(job.content == NULL && job.evicts);
    adapter_registry_job_done(r, &job, true);
    adapter_registry_destroy(r);
}

static void a_plan_that_nobody_needs_any_more_is_dropped(void **state)
{
    (void)state;
    adapter_registry *r = with(1, 2);
    adapter_content *a = held(r, "a");
    assert_int_equal(adapter_pin(r, a), ADAPTER_NO_SLOT);
    assert_int_equal(adapter_registry_remove(r, "a", NULL), RC_OK);
    adapter_release(r, a);
    assert_true(idle(r));
    adapter_registry_check(r);
    adapter_registry_destroy(r);
}

static void without_slots_nothing_is_ever_planned(void **state)
{
    (void)state;
    adapter_registry *r = with(0, 1);
    adapter_content *a = held(r, "a");
    assert_int_equal(adapter_pin(r, a), ADAPTER_NO_SLOT);
    assert_true(idle(r));
    adapter_registry_destroy(r);
}

static void a_kept_content_is_brought_in_and_nobody_takes_its_slot(void **state)
{
    (void)state;
    adapter_registry *r = with(2, 4);
    rc_msg msg;
    adapter_content *kept = added(r, "kept"), *a = held(r, "a"), *b = held(r, "b");
    assert_int_equal(adapter_registry_keep(r, "nobody", &msg), RC_NOT_FOUND);
    assert_int_equal(adapter_registry_keep(r, "kept", &msg), RC_OK);
    assert_int_equal(adapter_registry_keep(r, "kept", &msg), RC_OK);
    assert_int_equal(adapter_registry_keep(r, "a", &msg), RC_RESOURCE_EXHAUSTED);
    adapter_job job = taken(r);
    assert_ptr_equal(job.content, kept);
    adapter_registry_job_done(r, &job, true);
    uint32_t slot = adapter_content_slot(kept);
    for (int i = 0; i < 3; i++) { /* the least recently used one is the one that is kept */
        adapter_content *next = i % 2 ? b : a;
        assert_int_not_equal(brought_in(r, next), slot);
        adapter_unpin(r, next);
        assert_int_equal(adapter_content_slot(kept), slot);
        adapter_registry_check(r);
    }
    assert_int_equal(adapter_registry_remove(r, "kept", &msg), RC_OK);
    assert_int_equal(adapter_registry_keep(r, "a", &msg), RC_OK); /* there is room to keep another */
    adapter_registry_check(r);
    adapter_release(r, a);
    adapter_release(r, b);
    adapter_registry_destroy(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_is_loaded_once_and_its_ids_are_never_used_again),
        cmocka_unit_test(bad_names_and_one_too_many_are_refused),
        cmocka_unit_test(names_are_listed_in_the_order_of_adding),
        cmocka_unit_test(a_pin_waits_for_the_job_and_plans_it_once),
        cmocka_unit_test(the_least_recently_unpinned_gives_its_slot),
        cmocka_unit_test(a_pinned_slot_is_never_given_away),
        cmocka_unit_test(what_is_prefetched_takes_no_slot_from_those_who_are_waited_for),
        cmocka_unit_test(a_removed_content_goes_with_its_last_hold_and_leaves_something_to_remove),
        cmocka_unit_test(stale_weights_are_dropped_by_the_next_load_if_it_comes_first),
        cmocka_unit_test(a_content_outlives_the_job_that_reads_it),
        cmocka_unit_test(a_plan_that_nobody_needs_any_more_is_dropped),
        cmocka_unit_test(without_slots_nothing_is_ever_planned),
        cmocka_unit_test(a_kept_content_is_brought_in_and_nobody_takes_its_slot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
