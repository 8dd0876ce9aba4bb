/* Who runs in a step: budget, order, yielding, waiting for a prefix. The whole is in sim_engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/sched/scheduler.h"

enum { BLOCK = 8 };

typedef struct scene {
    kv *cache;
    adapter_registry *adapters;
    rt_sched *sched;
    const rt_sched_entry *entries;
} scene;

static void no_copy(void *ctx, uint32_t from, uint32_t to, uint32_t rows)
{
    (void)ctx, (void)from, (void)to, (void)rows;
}

static scene make(uint32_t blocks, uint32_t rows_max, bool prefill_first)
{
    kv_options cache = {.blocks_max = blocks,
                        .block_tokens = BLOCK,
                        .seqs_max = 4,
                        .seq_tokens_max = blocks * BLOCK,
                        .enable_prefix_cache = true};
    adapter_registry_options adapters = { 1, 1 };
    scene s;
    assert_int_equal(kv_create(&cache, &s.cache, NULL), RC_OK);
    assert_int_equal(adapter_registry_create(&adapters, &s.adapters, NULL), RC_OK);
    rt_sched_options o = { .seqs_max = 8, .running_max = 4, .rows_max = rows_max, .block_tokens = BLOCK,
                           .prefill_first = prefill_first, .waits_for_prefix = true, .cache = s.cache,
                           .adapters = s.adapters, .copy_rows = no_copy };
    assert_int_equal(rt_sched_create(&o, &s.sched, NULL), RC_OK);
    return s;
}

static void end(scene *s)
{
    rt_sched_check(s->sched);
    rt_sched_destroy(s->sched);
    adapter_registry_destroy(s->adapters);
    kv_destroy(s->cache);
}

/* Tokens first, first + 1, ... */
static uint32_t add(scene *s, int32_t *tokens, int32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < 64; i++) tokens[i] = first + (int32_t)i;
    rt_sched_seq seq = { .tokens = tokens, .tokens_count = count, .identity = { .adapted_from = KV_NEVER } };
    return rt_sched_add(s->sched, &seq);
}

static uint32_t step(scene *s)
{
    uint32_t count = rt_sched_plan(s->sched, &s->entries);
    for (uint32_t i = 0; i < count; i++) rt_sched_committed(s->sched, &s->entries[i]);
    rt_sched_check(s->sched);
    return count;
}

static void a_decode_comes_before_a_chunk_and_the_chunk_takes_what_is_left(void **state)
{
    scene s = make(16, 10, false);
    int32_t x[64], y[64];
    uint32_t a = add(&s, x, 1, 6), b;
    assert_int_equal(step(&s), 1);
    rt_sched_append(s.sched, a);
    b = add(&s, y, 100, 20);
    assert_int_equal(step(&s), 2);
    assert_int_equal(s.entries[0].seq, a);
    assert_int_equal(s.entries[0].rows, 1);
    assert_int_equal(s.entries[1].seq, b);
    assert_int_equal(s.entries[1].rows, 9);
    assert_int_equal(rt_sched_computed(s.sched, b), 9);
    end(&s);
    (void)state;
}

static void a_short_prompt_does_not_wait_for_the_whole_of_a_long_one(void **state)
{
    scene s = make(16, 12, false);
    int32_t x[64], y[64], z[64];
    uint32_t a = add(&s, x, 1, 40), b, c;
    assert_int_equal(step(&s), 1);
    b = add(&s, y, 100, 3);
    assert_int_equal(step(&s), 2);
    assert_int_equal(rt_sched_computed(s.sched, b), 3);
    assert_int_equal(rt_sched_computed(s.sched, a), 12 + 9); /* a quarter, and what is left */
    c = add(&s, z, 200, 30);
    assert_int_equal(step(&s), 2);
    assert_int_equal(rt_sched_computed(s.sched, a), 24);
    assert_int_equal(rt_sched_computed(s.sched, c), 9);
    assert_int_equal(step(&s), 1); /* nobody waits any more: in order */
    assert_int_equal(rt_sched_computed(s.sched, a), 36);
    end(&s);
    (void)state;
}

static void a_prompt_is_not_begun_with_a_few_rows_that_another_can_use(void **state)
{
    scene s = make(16, 12, false);
    int32_t x[64], y[64], z[64];
    uint32_t a = add(&s, x, 1, 40), b, c;
    assert_int_equal(step(&s), 1);
    b = add(&s, y, 100, 7);
    c = add(&s, z, 200, 6);
    assert_int_equal(step(&s), 2); /* 3 of a, 7 of b, and 2 are left */
    assert_int_equal(rt_sched_computed(s.sched, b), 7);
    assert_int_equal(rt_sched_computed(s.sched, a), 12 + 5);
    assert_int_equal(step(&s), 2);
    assert_int_equal(rt_sched_computed(s.sched, c), 6); /* all of it at once */
    end(&s);
    (void)state;
}

static void prompts_may_all_come_before_any_decode(void **state)
{
    scene s = make(16, 10, true);
    int32_t x[64], y[64];
    uint32_t a = add(&s, x, 1, 6), b;
    assert_int_equal(step(&s), 1);
    rt_sched_append(s.sched, a);
    b = add(&s, y, 100, 20);
    for (int chunk = 0; chunk < 2; chunk++) {
        assert_int_equal(step(&s), 1);
        assert_int_equal(s.entries[0].seq, b);
    }
    assert_int_equal(step(&s), 1);
    assert_int_equal(s.entries[0].seq, a);
    end(&s);
    (void)state;
}

static void the_last_in_order_yields_and_comes_back_with_what_is_still_cached(void **state)
{
    scene s = make(4, 64, false);
    int32_t x[64], y[64];
    uint32_t a = add(&s, x, 1, 16), b = add(&s, y, 100, 16);
    assert_int_equal(step(&s), 2);
    rt_sched_append(s.sched, a); /* needs a third block: there is none */
    rt_sched_append(s.sched, b);
    assert_int_equal(step(&s), 1);
    assert_int_equal(s.entries[0].seq, a);
    assert_int_equal(rt_sched_get_stats(s.sched).preemptions, 1);
    rt_sched_remove(s.sched, a);
    assert_int_equal(step(&s), 1);
    assert_int_equal(s.entries[0].seq, b);
    assert_true(s.entries[0].position >= BLOCK); /* its first block was not evicted */
    assert_int_equal(rt_sched_first_hit(s.sched, b), 0);
    end(&s);
    (void)state;
}

static void a_prefix_that_is_being_computed_is_waited_for(void **state)
{
    scene s = make(16, 8, false);
    int32_t x[64], y[64];
    uint32_t a = add(&s, x, 1, 20), b = add(&s, y, 1, 24);
    for (int chunk = 0; chunk < 2; chunk++) {
        assert_int_equal(step(&s), 1);
        assert_int_equal(s.entries[0].seq, a);
    }
    assert_int_equal(step(&s), 1); /* a's last four rows */
    assert_int_equal(step(&s), 1);
    assert_int_equal(s.entries[0].seq, b);
    assert_int_equal(rt_sched_first_hit(s.sched, b), 20);
    end(&s);
    (void)state;
}

/* Four run, which is the most, and a fifth waits: its adapter does not wait for its turn. */
static void an_adapter_is_brought_in_while_its_sequence_cannot_run(void **state)
{
    scene s = make(16, 64, false);
    int32_t tokens[5][64];
    adapter_job job;
    assert_int_equal(adapter_registry_add(s.adapters, "a", calloc(1, sizeof(adapter_weights)), NULL), RC_OK);
    adapter_content *a = adapter_registry_find(s.adapters, "a");
    adapter_hold(s.adapters, a);
    for (int i = 0; i < 4; i++) add(&s, tokens[i], 1 + 100 * i, 6);
    assert_int_equal(step(&s), 4);
    for (int k = 0; k < 8; k++) tokens[4][k] = 900 + k;
    rt_sched_seq seq = {.tokens = tokens[4], .tokens_count = 8, .adapter = a,
                        .identity = {.adapter = adapter_content_id(a), .adapted_from = 0}};
    uint32_t last = rt_sched_add(s.sched, &seq);
    step(&s);
    assert_true(adapter_registry_next_job(s.adapters, &job));
    assert_ptr_equal(job.content, a);
    adapter_registry_job_done(s.adapters, &job, true);
    rt_sched_remove(s.sched, last);
    adapter_release(s.adapters, a);
    end(&s);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_adapter_is_brought_in_while_its_sequence_cannot_run),
        cmocka_unit_test(a_decode_comes_before_a_chunk_and_the_chunk_takes_what_is_left),
        cmocka_unit_test(a_short_prompt_does_not_wait_for_the_whole_of_a_long_one),
        cmocka_unit_test(a_prompt_is_not_begun_with_a_few_rows_that_another_can_use),
        cmocka_unit_test(prompts_may_all_come_before_any_decode),
        cmocka_unit_test(the_last_in_order_yields_and_comes_back_with_what_is_still_cached),
        cmocka_unit_test(a_prefix_that_is_being_computed_is_waited_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
