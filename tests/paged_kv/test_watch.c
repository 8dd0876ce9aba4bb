/* What a watcher of the block manager is told. */
#include "tests/paged_kv/kv_scene.h"

typedef struct told {
    uint64_t stored[16], removed[16];
    kv_change last; /* stored; its pointers are not to be followed */
    int stored_count, removed_count, cleared_count;
} told;

static void listen(void *ctx, const kv_change *c)
{
    told *t = ctx;
    if (c->kind == KV_STORED) {
        t->last = *c;
        t->stored[t->stored_count++ % 16] = c->hash;
    } else if (c->kind == KV_REMOVED) {
        t->removed[t->removed_count++ % 16] = c->hash;
    } else {
        t->cleared_count++;
    }
}

static void who_watches_is_told_of_full_blocks_parents_first_and_of_evictions_children_first(void **state)
{
    (void)state;
    told t = {.stored_count = 0};
    kv *m = create(4, 2);
    kv_watch(m, listen, &t);
    assert_int_equal(t.cleared_count, 1);
    kv_seq seq = start(m, run(0), 3 * B - 1, base);
    assert_int_equal(t.stored_count, 2);
    assert_true(t.last.has_parent && t.last.parent == t.stored[0] && t.last.hash != t.stored[0]);
    extend(m, seq, run(0), 3 * B);
    assert_int_equal(t.stored_count, 3);
    serve(m, run(0), 3 * B, base); /* found, or as a twin */
    assert_int_equal(t.stored_count, 3);
    stop(m, seq);
    assert_int_equal(t.removed_count, 0);
    serve(m, run(1000), 3 * B + 1, base);
    assert_int_equal(t.removed_count, 3);
    for (int i = 0; i < 3; i++) assert_true(t.removed[i] == t.stored[2 - i]);
    serve(m, run(0), 3 * B, base); /* the same content has the same hashes */
    assert_int_equal(t.stored_count, 9);
    for (int i = 0; i < 3; i++) assert_true(t.stored[6 + i] == t.stored[i]);
    kv_destroy(m);
}

/* The last of the blocks that this sequence fills in a cache of its own. */
static kv_change stored_by(kv_identity identity, const char *salt, uint64_t domain, uint32_t count)
{
    kv_options o = {.blocks_max = 8, .block_tokens = B, .seqs_max = 2, .seq_tokens_max = 64,
                    .enable_prefix_cache = true, .adapter_domain = domain};
    told t = {.stored_count = 0};
    uint32_t other;
    kv *m;
    assert_int_equal(kv_create(&o, &m, NULL), RC_OK);
    kv_watch(m, listen, &t);
    if (domain) assert_int_equal(kv_salt_intern(m, "other", 5, &other, NULL), RC_OK);
    assert_int_equal(kv_salt_intern(m, salt, strlen(salt), &identity.salt, NULL), RC_OK);
    serve(m, run(0), count, identity);
    kv_destroy(m);
    return t.last;
}

static void a_blocks_hash_is_its_contents_in_every_manager(void **state)
{
    (void)state;
    kv_change one = stored_by(base, "", 0, 2 * B);
    assert_true(one.hash == stored_by(base, "", 9, 2 * B).hash);
    assert_true(one.hash != stored_by(base, "", 0, B).hash);
    assert_int_equal(one.adapter, 0);
    assert_int_equal(one.first_adapted, B);
    /* what is adapted later only is base's */
    assert_true(one.hash == stored_by(adapted(7, 2 * B), "", 0, 2 * B + 1).hash);
    kv_change late = stored_by(adapted(7, 2 * B - 1), "", 0, 2 * B);
    assert_true(late.parent == one.parent && late.hash != one.hash);
    assert_int_equal(late.adapter, 7);
    assert_int_equal(late.first_adapted, B - 1);
    assert_true(late.hash != stored_by(adapted(7, 2 * B - 2), "", 0, 2 * B).hash);
    assert_true(late.hash != stored_by(adapted(8, 2 * B - 1), "", 0, 2 * B).hash);
    assert_true(late.hash != stored_by(adapted(7, 2 * B - 1), "", 1, 2 * B).hash);
    /* by the salt's bytes, whatever its id */
    kv_change salted = stored_by(base, "salt", 0, B);
    assert_int_equal(salted.salt_bytes, 4);
    assert_true(salted.hash == stored_by(base, "salt", 1, B).hash);
    assert_true(salted.hash != stored_by(base, "", 0, B).hash);
}

static void a_block_shortened_in_place_is_told_as_removed(void **state)
{
    (void)state;
    told t = {.stored_count = 0};
    kv *m = create(1, 1);
    kv_hit hit;
    kv_watch(m, listen, &t);
    serve(m, run(0), B, base);
    kv_seq seq = open_hit(m, forked(0, 5), B, base, &hit);
    assert_int_equal(hit.tokens, 5);
    assert_int_equal(t.removed_count, 1);
    assert_true(t.removed[0] == t.stored[0]);
    stop(m, seq);
    kv_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_watches_is_told_of_full_blocks_parents_first_and_of_evictions_children_first),
        cmocka_unit_test(a_blocks_hash_is_its_contents_in_every_manager),
        cmocka_unit_test(a_block_shortened_in_place_is_told_as_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
