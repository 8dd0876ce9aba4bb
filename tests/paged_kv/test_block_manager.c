/* What the block manager promises, one sentence a test. kv_check() follows whatever changes something. */
#include "tests/paged_kv/kv_scene.h"

static void assert_blocks(kv *m, uint32_t free_blocks, uint32_t cached, uint32_t live)
{
    kv_stats s = kv_get_stats(m);
    assert_int_equal(s.blocks_free, free_blocks);
    assert_int_equal(s.blocks_cached, cached);
    assert_int_equal(s.blocks_live, live);
}

static void a_finished_sequence_is_found_to_the_token_but_for_the_last(void **state)
{
    (void)state;
    kv *m = create(8, 2);
    serve(m, run(0), 21, base);
    assert_blocks(m, 5, 3, 0);
    assert_int_equal(kv_find(m, run(0), 40, base), 21);
    assert_int_equal(kv_find(m, run(0), 21, base), 20);
    assert_int_equal(kv_find(m, run(0), 17, base), 16);
    assert_int_equal(kv_find(m, run(0), 16, base), 15);
    assert_int_equal(kv_find(m, run(0), 1, base), 0);
    assert_int_equal(kv_find(m, run(0), 0, base), 0);
    assert_int_equal(kv_find(m, forked(0, 13), 40, base), 13);
    assert_int_equal(kv_find(m, forked(0, 0), 40, base), 0);
    kv_destroy(m);
}

static void the_half_filled_block_of_a_running_sequence_is_shared_by_copying_its_rows(void **state)
{
    (void)state;
    kv *m = create(8, 2);
    kv_hit hit;
    kv_seq first = start(m, run(0), 13, base);
    kv_seq second = open_hit(m, forked(0, 11), 30, base, &hit);
    uint32_t count;
    const uint32_t *table = kv_seq_blocks(m, first, &count), *other = kv_seq_blocks(m, second, &count);
    assert_int_equal(hit.tokens, 11);
    assert_int_equal(hit.copy_rows, 3);
    assert_int_equal(hit.copy_from, table[1]);
    assert_int_equal(hit.copy_to, other[1]);
    assert_int_equal(table[0], other[0]);
    assert_int_not_equal(table[1], other[1]);
    kv_destroy(m);
}

static void the_source_of_a_copy_stays_until_the_copy_is_done(void **state)
{
    (void)state;
    kv *m = create(4, 2);
    kv_hit hit;
    kv_seq first = start(m, run(0), 13, base), second = open_hit(m, run(0), 12, base, &hit);
    stop(m, first);
    assert_blocks(m, 1, 0, 3);
    assert_int_equal(kv_seq_reserve(m, second, 32), RC_RESOURCE_EXHAUSTED);
    assert_blocks(m, 1, 0, 3);
    kv_seq_copied(m, second);
    kv_check(m);
    assert_blocks(m, 1, 1, 2);
    assert_int_equal(kv_seq_reserve(m, second, 32), RC_OK);
    kv_destroy(m);
}

static void a_sequence_closed_before_its_copy_leaves_nothing_of_it(void **state)
{
    (void)state;
    kv *m = create(4, 2);
    kv_hit hit;
    kv_seq first = start(m, run(0), 13, base), second = open_hit(m, run(0), 12, base, &hit);
    stop(m, second);
    stop(m, first);
    assert_blocks(m, 2, 2, 0);
    kv_destroy(m);
}

static void a_cached_half_filled_block_goes_on_without_a_copy_when_all_its_rows_are_wanted(void **state)
{
    (void)state;
    kv *m = create(8, 2);
    kv_hit hit;
    serve(m, run(0), 13, base);
    open_hit(m, run(0), 30, base, &hit);
    assert_int_equal(hit.tokens, 13);
    assert_int_equal(hit.copy_rows, 0);
    assert_blocks(m, 6, 0, 2);
    kv_destroy(m);
}

static void base_and_adapters_share_rows_before_the_activation_in_both_directions(void **state)
{
    (void)state;
    kv *m = create(16, 2);
    serve(m, run(0), 30, base);
    assert_int_equal(kv_find(m, run(0), 40, adapted(7, 21)), 21);
    assert_int_equal(kv_find(m, run(0), 40, adapted(7, 16)), 16);
    assert_int_equal(kv_find(m, run(0), 40, adapted(7, 0)), 0);
    serve(m, run(1000), 30, adapted(7, 21));
    assert_int_equal(kv_find(m, run(1000), 40, base), 21);
    assert_int_equal(kv_find(m, run(1000), 40, adapted(8, 19)), 19);
    assert_int_equal(kv_find(m, run(1000), 40, adapted(8, 25)), 21);
    assert_int_equal(kv_find(m, run(1000), 40, adapted(7, 21)), 30);
    kv_destroy(m);
}

static void two_activations_inside_one_block_are_two_blocks(void **state)
{
    (void)state;
    kv *m = create(16, 2);
    serve(m, run(0), 24, adapted(7, 10));
    serve(m, run(0), 24, adapted(7, 12));
    assert_blocks(m, 16 - 5, 5, 0);
    assert_int_equal(kv_find(m, run(0), 40, adapted(7, 10)), 24);
    assert_int_equal(kv_find(m, run(0), 40, adapted(7, 12)), 24);
    assert_int_equal(kv_find(m, run(0), 40, adapted(7, 11)), 11);
    assert_int_equal(kv_find(m, run(0), 40, base), 12);
    kv_destroy(m);
}

static void base_has_one_name_however_it_is_written(void **state)
{
    (void)state;
    kv *m = create(8, 2);
    serve(m, run(0), 20, adapted(0, 3));
    assert_int_equal(kv_find(m, run(0), 40, base), 20);
    assert_int_equal(kv_find(m, run(0), 40, adapted(9, KV_NEVER)), 20);
    kv_destroy(m);
}

static void equal_blocks_computed_twice_become_one(void **state)
{
    (void)state;
    kv *m = create(8, 3);
    kv_hit hit;
    kv_seq a = open_hit(m, run(0), 17, base, &hit), b = open_hit(m, run(0), 17, base, &hit);
    assert_int_equal(hit.tokens, 0);
    extend(m, a, run(0), 10);
    extend(m, b, run(0), 17);
    uint32_t count;
    assert_int_equal(kv_seq_blocks(m, a, &count)[0], kv_seq_blocks(m, b, &count)[0]);
    assert_blocks(m, 4, 0, 4);
    extend(m, a, run(0), 17);
    assert_int_equal(kv_seq_blocks(m, a, &count)[1], kv_seq_blocks(m, b, &count)[1]);
    assert_blocks(m, 4, 0, 4);
    stop(m, a);
    stop(m, b);
    assert_blocks(m, 5, 3, 0);
    kv_destroy(m);
}

static void a_half_filled_block_is_not_kept_when_another_has_all_its_rows(void **state)
{
    (void)state;
    kv *m = create(8, 3);
    kv_seq longer = start(m, run(0), 6, base);
    kv_hit hit;
    kv_seq shorter;
    assert_int_equal(kv_seq_open(m, run(0), 4, base, 0, &shorter, &hit), RC_OK);
    extend(m, shorter, run(0), 4);
    stop(m, shorter);
    assert_blocks(m, 7, 0, 1);
    stop(m, longer);
    assert_blocks(m, 7, 1, 0);
    assert_int_equal(kv_seq_open(m, run(0), 20, base, 0, &longer, &hit), RC_OK);
    extend(m, longer, run(0), 7);
    assert_blocks(m, 6, 1, 1);
    extend(m, longer, run(0), 8);
    assert_blocks(m, 7, 0, 1);
    kv_destroy(m);
}

static void eviction_takes_the_least_recently_used_and_children_before_parents(void **state)
{
    (void)state;
    kv *m = create(6, 2);
    serve(m, run(0), 24, base);
    serve(m, run(1000), 24, base);
    kv_hit hit;
    kv_seq touch = open_hit(m, run(0), 25, base, &hit);
    stop(m, touch);
    serve(m, run(2000), 8, base);
    assert_int_equal(kv_find(m, run(0), 40, base), 24);
    assert_int_equal(kv_find(m, run(1000), 40, base), 16);
    serve(m, run(3000), 16, base);
    assert_int_equal(kv_find(m, run(0), 40, base), 24);
    assert_int_equal(kv_find(m, run(1000), 40, base), 0);
    assert_int_equal(kv_get_stats(m).evictions, 3);
    kv_destroy(m);
}

static void a_reservation_is_all_or_nothing_and_spares_what_its_sequence_found(void **state)
{
    (void)state;
    kv *m = create(4, 2);
    kv_hit hit;
    serve(m, run(0), 24, base);
    kv_seq seq = open_hit(m, run(0), 40, base, &hit);
    assert_int_equal(hit.tokens, 24);
    kv_stats before = kv_get_stats(m);
    assert_int_equal(kv_seq_reserve(m, seq, 40), RC_RESOURCE_EXHAUSTED);
    kv_stats after = kv_get_stats(m);
    assert_memory_equal(&before, &after, sizeof before);
    assert_int_equal(kv_seq_reserve(m, seq, 32), RC_OK);
    assert_int_equal(kv_seq_reserve(m, seq, 5), RC_OK);
    extend(m, seq, run(0), 32);
    kv_destroy(m);
}

static void an_open_without_room_changes_nothing(void **state)
{
    (void)state;
    kv *m = create(2, 3);
    kv_seq a = start(m, run(0), 13, base), b;
    kv_hit hit;
    kv_stats before = kv_get_stats(m);
    assert_int_equal(kv_seq_open(m, run(0), 12, base, UINT32_MAX, &b, &hit), RC_RESOURCE_EXHAUSTED);
    kv_check(m);
    kv_stats after = kv_get_stats(m);
    assert_memory_equal(&before, &after, sizeof before);
    assert_int_equal(kv_seq_open(m, run(0), 12, base, 8, &b, &hit), RC_OK);
    assert_int_equal(hit.tokens, 8);
    stop(m, b);
    stop(m, a);
    kv_destroy(m);

    m = create(8, 1);
    start(m, run(0), 3, base);
    assert_int_equal(kv_seq_open(m, run(0), 12, base, 0, &b, &hit), RC_RESOURCE_EXHAUSTED);
    kv_destroy(m);
}

static void the_only_block_is_shortened_in_place_when_no_copy_is_possible(void **state)
{
    (void)state;
    kv *m = create(1, 1);
    kv_hit hit;
    serve(m, run(0), 8, base);
    kv_seq seq = open_hit(m, forked(0, 5), 8, base, &hit);
    assert_int_equal(hit.tokens, 5);
    assert_int_equal(hit.copy_rows, 0);
    extend(m, seq, forked(0, 5), 8);
    stop(m, seq);
    assert_int_equal(kv_find(m, forked(0, 5), 9, base), 8);
    assert_int_equal(kv_find(m, run(0), 9, base), 5);
    kv_destroy(m);
}

static void reuse_is_bounded_by_the_caller(void **state)
{
    (void)state;
    kv *m = create(8, 2);
    kv_seq seq;
    kv_hit hit;
    serve(m, run(0), 24, base);
    assert_int_equal(kv_seq_open(m, run(0), 24, base, 0, &seq, &hit), RC_OK);
    assert_int_equal(hit.tokens, 0);
    stop(m, seq);
    assert_int_equal(kv_seq_open(m, run(0), 24, base, 18, &seq, &hit), RC_OK);
    assert_int_equal(hit.tokens, 18);
    assert_int_equal(hit.copy_rows, 2);
    kv_destroy(m);
}

static void a_cut_sequence_goes_on_under_an_adapter_and_its_old_rows_stay_findable(void **state)
{
    (void)state;
    kv *m = create(8, 2);
    kv_hit hit;
    kv_seq seq = start(m, run(0), 22, base);
    assert_int_equal(kv_seq_cut(m, seq, 12, adapted(7, 12), &hit), RC_OK);
    kv_check(m);
    assert_int_equal(kv_seq_length(m, seq), 12);
    assert_int_equal(hit.copy_rows, 4);
    kv_seq_copied(m, seq);
    extend(m, seq, run(0), 22);
    assert_int_equal(kv_find(m, run(0), 40, base), 22);
    assert_int_equal(kv_find(m, run(0), 40, adapted(7, 12)), 22);
    assert_int_equal(kv_find(m, run(0), 40, adapted(7, 13)), 13);
    assert_int_equal(kv_seq_cut(m, seq, 0, adapted(8, 0), &hit), RC_OK);
    assert_int_equal(hit.copy_rows, 0);
    extend(m, seq, run(0), 3);
    kv_destroy(m);
}

static void a_cut_that_cannot_copy_a_shared_block_changes_nothing(void **state)
{
    (void)state;
    kv *m = create(2, 2);
    kv_hit hit;
    kv_seq a = start(m, run(0), 8, base), b = start(m, run(0), 9, base);
    kv_stats before = kv_get_stats(m);
    assert_int_equal(kv_seq_cut(m, a, 4, base, &hit), RC_RESOURCE_EXHAUSTED);
    kv_check(m);
    kv_stats after = kv_get_stats(m);
    assert_memory_equal(&before, &after, sizeof before);
    assert_int_equal(kv_seq_length(m, a), 8);
    stop(m, b);
    assert_int_equal(kv_seq_cut(m, a, 4, base, &hit), RC_OK);
    kv_check(m);
    kv_destroy(m);
}

static void salts_never_meet(void **state)
{
    (void)state;
    kv *m = create(8, 2);
    kv_identity a = base, b = base;
    assert_int_equal(kv_salt_intern(m, "acme", 4, &a.salt, NULL), RC_OK);
    assert_int_equal(kv_salt_intern(m, "bolt", 4, &b.salt, NULL), RC_OK);
    serve(m, run(0), 20, a);
    assert_int_equal(kv_find(m, run(0), 40, a), 20);
    assert_int_equal(kv_find(m, run(0), 40, b), 0);
    assert_int_equal(kv_find(m, run(0), 40, base), 0);
    serve(m, run(0), 20, base);
    assert_blocks(m, 2, 6, 0);
    kv_destroy(m);
}

static void a_salt_is_remembered_while_blocks_have_it_and_gives_way_when_idle(void **state)
{
    (void)state;
    kv *m = create(8, 2); /* the empty salt and three others */
    kv_identity a = base, again = base;
    uint32_t others[3];
    rc_msg msg;
    assert_int_equal(kv_salt_intern(m, "a", 1, &a.salt, NULL), RC_OK);
    serve(m, run(0), 20, a);
    kv_salt_release(m, a.salt);
    kv_check(m);
    assert_int_equal(kv_salt_intern(m, "a", 1, &again.salt, NULL), RC_OK);
    assert_int_equal(again.salt, a.salt);
    assert_int_equal(kv_find(m, run(0), 40, again), 20);
    kv_salt_release(m, a.salt);
    assert_int_equal(kv_salt_intern(m, "b", 1, &others[0], NULL), RC_OK);
    assert_int_equal(kv_salt_intern(m, "c", 1, &others[1], NULL), RC_OK);
    assert_blocks(m, 5, 3, 0);
    assert_int_equal(kv_salt_intern(m, "d", 1, &others[2], NULL), RC_OK);
    kv_check(m);
    assert_blocks(m, 8, 0, 0);
    assert_int_equal(kv_salt_intern(m, "e", 1, &a.salt, &msg), RC_RESOURCE_EXHAUSTED);
    assert_string_equal(msg.text, "all 4 cache salts are in use");
    for (int i = 0; i < 3; i++) kv_salt_release(m, others[i]);
    kv_check(m);
    assert_int_equal(kv_salt_intern(m, "e", 1, &a.salt, &msg), RC_OK);
    kv_destroy(m);
}

static void salts_are_any_bytes_up_to_256(void **state)
{
    (void)state;
    kv *m = create(8, 2);
    unsigned char bytes[257] = {0};
    uint32_t none, zero, two, most;
    rc_msg msg;
    assert_int_equal(kv_salt_intern(m, NULL, 0, &none, &msg), RC_OK);
    assert_int_equal(none, 0);
    kv_salt_release(m, none);
    assert_int_equal(kv_salt_intern(m, bytes, 1, &zero, &msg), RC_OK);
    assert_int_equal(kv_salt_intern(m, bytes, 2, &two, &msg), RC_OK);
    assert_int_equal(kv_salt_intern(m, bytes, 256, &most, &msg), RC_OK);
    assert_true(zero != 0 && two != zero && most != two && most != zero);
    assert_int_equal(kv_salt_intern(m, bytes, 257, &most, &msg), RC_INVALID_ARGUMENT);
    assert_string_equal(msg.text, "the cache salt has 257 bytes; at most 256 are possible");
    kv_check(m);
    kv_destroy(m);
}

static void without_the_prefix_cache_nothing_is_found_and_blocks_go_free(void **state)
{
    (void)state;
    kv_options o = {.blocks_max = 8, .block_tokens = B, .seqs_max = 2, .seq_tokens_max = 64};
    kv *m;
    kv_hit hit;
    assert_int_equal(kv_create(&o, &m, NULL), RC_OK);
    kv_seq seq = start(m, run(0), 20, base);
    assert_int_equal(kv_find(m, run(0), 40, base), 0);
    assert_int_equal(kv_seq_cut(m, seq, 11, adapted(7, 11), &hit), RC_OK);
    assert_int_equal(hit.copy_rows, 0);
    kv_check(m);
    assert_blocks(m, 6, 0, 2);
    stop(m, seq);
    assert_blocks(m, 8, 0, 0);
    kv_destroy(m);
}

static void options_out_of_range_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        kv_options o;
        const char *text;
    } cases[] = {
        {{8, 12, 2, 64, 0, true, 0}, "block size 12 is not a power of two from 8 to 256"},
        {{8, 4, 2, 64, 0, true, 0}, "block size 4 is not a power of two from 8 to 256"},
        {{8, 512, 2, 64, 0, true, 0}, "block size 512 is not a power of two from 8 to 256"},
        {{0, 8, 2, 64, 0, true, 0}, "0 blocks of K/V; from 1 to 1073741824 are possible"},
        {{8, 8, 0, 64, 0, true, 0}, "0 sequences at once; from 1 to 1048576 are possible"},
        {{8, 8, 2, 0, 0, true, 0}, "0 positions a sequence; from 1 to 1073741824 are possible"},
        {{8, 8, 1 << 20, 1 << 30, 0, true, 0}, "1048576 sequences of 1073741824 positions each are too many"},
        {{8, 8, 2, 64, UINT32_MAX, true, 0}, "4294967295 cache salts; at most 1048576 are possible"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rc_msg msg;
        kv *m = NULL;
        assert_int_equal(kv_create(&cases[i].o, &m, &msg), RC_INVALID_ARGUMENT);
        assert_string_equal(msg.text, cases[i].text);
        assert_null(m);
        assert_int_equal(kv_bytes(&cases[i].o), 0);
    }
}

static size_t asked_bytes; /* by the last aligned_alloc() */
static bool alloc_fails;
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    asked_bytes = bytes;
    return alloc_fails ? NULL : __real_aligned_alloc(alignment, bytes);
}

static void create_takes_what_bytes_says_or_fails_cleanly(void **state)
{
    (void)state;
    kv_options o = {.blocks_max = 1000, .block_tokens = 16, .seqs_max = 3, .seq_tokens_max = 999};
    rc_msg msg;
    kv *m = NULL;
    alloc_fails = true;
    assert_int_equal(kv_create(&o, &m, &msg), RC_RESOURCE_EXHAUSTED);
    alloc_fails = false;
    assert_null(m);
    assert_non_null(strstr(msg.text, "no memory for the bookkeeping of 1000 K/V blocks"));
    assert_int_equal(kv_create(&o, &m, &msg), RC_OK);
    assert_int_equal(asked_bytes, kv_bytes(&o));
    kv_check(m);
    kv_destroy(m);
    kv_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_finished_sequence_is_found_to_the_token_but_for_the_last),
        cmocka_unit_test(the_half_filled_block_of_a_running_sequence_is_shared_by_copying_its_rows),
        cmocka_unit_test(the_source_of_a_copy_stays_until_the_copy_is_done),
        cmocka_unit_test(a_sequence_closed_before_its_copy_leaves_nothing_of_it),
        cmocka_unit_test(a_cached_half_filled_block_goes_on_without_a_copy_when_all_its_rows_are_wanted),
        cmocka_unit_test(base_and_adapters_share_rows_before_the_activation_in_both_directions),
        cmocka_unit_test(two_activations_inside_one_block_are_two_blocks),
        cmocka_unit_test(base_has_one_name_however_it_is_written),
        cmocka_unit_test(equal_blocks_computed_twice_become_one),
        cmocka_unit_test(a_half_filled_block_is_not_kept_when_another_has_all_its_rows),
        cmocka_unit_test(eviction_takes_the_least_recently_used_and_children_before_parents),
        cmocka_unit_test(a_reservation_is_all_or_nothing_and_spares_what_its_sequence_found),
        cmocka_unit_test(an_open_without_room_changes_nothing),
        cmocka_unit_test(the_only_block_is_shortened_in_place_when_no_copy_is_possible),
        cmocka_unit_test(reuse_is_bounded_by_the_caller),
        cmocka_unit_test(a_cut_sequence_goes_on_under_an_adapter_and_its_old_rows_stay_findable),
        cmocka_unit_test(a_cut_that_cannot_copy_a_shared_block_changes_nothing),
        cmocka_unit_test(salts_never_meet),
        cmocka_unit_test(a_salt_is_remembered_while_blocks_have_it_and_gives_way_when_idle),
        cmocka_unit_test(salts_are_any_bytes_up_to_256),
        cmocka_unit_test(without_the_prefix_cache_nothing_is_found_and_blocks_go_free),
        cmocka_unit_test(options_out_of_range_are_refused_by_name),
        cmocka_unit_test(create_takes_what_bytes_says_or_fails_cleanly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
