/* Changes of the cache on their way from one thread to another: nothing is lost but whole batches, in order.
 */
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/api/kv_queue.h"
#include "tests/support/prng.h"

enum { B = 16, ROUNDS = 200000 };

static mica__kv_queue *create(uint32_t changes)
{
    mica__kv_queue *q;
    assert_int_equal(mica__kv_queue_create(changes, B, &q, NULL), RC_OK);
    return q;
}

static bool is_readable(const mica__kv_queue *q)
{
    struct pollfd fd = {.fd = mica__kv_queue_fd(q), .events = POLLIN};
    return poll(&fd, 1, 0) == 1;
}

static void add_removed(mica__kv_queue *q, uint64_t hash)
{
    mica__kv_queue_add(q, &(mica_kv_change){.kind = MICA_KV_REMOVED, .hash = hash});
}

static void a_batch_comes_as_it_was_added_once_it_has_ended(void **state)
{
    (void)state;
    int32_t tokens[B] = {7, -1, 1 << 30};
    mica_kv_change stored = {.kind = MICA_KV_STORED,
                             .hash = UINT64_MAX,
                             .has_parent = true,
                             .parent = 5,
                             .tokens = tokens,
                             .tokens_count = B,
                             .adapter = "uq",
                             .adapter_id = 3,
                             .first_adapted = 4,
                             .cache_salt = "s"},
                   c;
    mica__kv_queue *q = create(8);
    mica__kv_queue_add(q, &stored);
    assert_false(is_readable(q));
    assert_false(mica__kv_queue_take(q, &c));
    add_removed(q, 9);
    mica__kv_queue_end(q);
    mica__kv_queue_end(q); /* nothing came since */
    tokens[0] = 0;
    assert_true(is_readable(q));
    assert_true(mica__kv_queue_take(q, &c));
    assert_true(c.kind == MICA_KV_STORED && c.hash == UINT64_MAX && c.has_parent && c.parent == 5);
    assert_true(c.tokens_count == B && c.tokens[0] == 7 && c.tokens[1] == -1 && c.tokens[2] == 1 << 30);
    assert_string_equal(c.adapter, "uq");
    assert_string_equal(c.cache_salt, "s");
    assert_true(c.adapter_id == 3 && c.first_adapted == 4 && c.batch == 0 && !c.ends_batch && c.time_ns > 0);
    assert_true(mica__kv_queue_take(q, &c));
    assert_true(c.kind == MICA_KV_REMOVED && c.hash == 9 && c.batch == 0 && c.ends_batch);
    assert_true(!c.tokens && !c.adapter && !c.cache_salt && !c.has_parent);
    assert_false(mica__kv_queue_take(q, &c));
    assert_false(is_readable(q));
    add_removed(q, 10);
    mica__kv_queue_end(q);
    assert_true(is_readable(q) && mica__kv_queue_take(q, &c));
    assert_int_equal(c.batch, 1);
    mica__kv_queue_destroy(q);
    mica__kv_queue_destroy(NULL);
}

static void a_batch_without_room_is_dropped_whole_and_its_number_with_it(void **state)
{
    (void)state;
    mica__kv_queue *q = create(4);
    mica_kv_change c;
    add_removed(q, 1);
    mica__kv_queue_end(q);
    for (uint64_t i = 0; i < 100; i++) add_removed(q, 100 + i);
    mica__kv_queue_end(q);
    add_removed(q, 2);
    mica__kv_queue_end(q);
    assert_true(mica__kv_queue_take(q, &c) && c.hash == 1 && c.batch == 0 && c.ends_batch);
    assert_true(mica__kv_queue_take(q, &c) && c.hash == 2 && c.batch == 2 && c.ends_batch);
    assert_false(mica__kv_queue_take(q, &c));
    for (uint64_t batch = 3; batch < 5000; batch++) { /* round and round the ring */
        add_removed(q, batch);
        add_removed(q, ~batch);
        mica__kv_queue_end(q);
        assert_true(mica__kv_queue_take(q, &c) && c.hash == batch && c.batch == batch && !c.ends_batch);
        assert_true(mica__kv_queue_take(q, &c) && c.hash == ~batch && c.batch == batch && c.ends_batch);
    }
    mica__kv_queue_destroy(q);
}

/* The k-th change of a batch, from its number alone. */
static mica_kv_change change_of(uint64_t batch, uint32_t k, int32_t *tokens, char *name, char *salt)
{
    prng r = {batch * 64 + k};
    mica_kv_change c = {.kind = prng_one_in(&r, 3) ? MICA_KV_REMOVED : MICA_KV_STORED, .hash = prng_next(&r)};
    if (c.kind == MICA_KV_REMOVED) return c;
    for (int i = 0; i < B; i++) tokens[i] = (int32_t)prng_next(&r);
    c.tokens = tokens;
    c.tokens_count = B;
    for (int i = 0; i < 2; i++) {
        uint32_t bytes = prng_one_in(&r, 2) ? prng_range(&r, 1, 256) : 0;
        char *text = i ? salt : name;
        memset(text, 'a' + (int)prng_below(&r, 26), bytes);
        text[bytes] = 0;
        if (bytes && i == 0) c.adapter = name;
        if (bytes && i == 1) c.cache_salt = salt;
    }
    return c;
}

static uint32_t changes_of(uint64_t batch)
{
    prng r = {~batch};
    return prng_range(&r, 1, 12);
}

typedef struct writing {
    mica__kv_queue *queue;
    atomic_bool is_over;
} writing;

static void *write_all(void *arg)
{
    writing *w = arg;
    mica__kv_queue *queue = w->queue;
    int32_t tokens[B];
    char name[257], salt[257];
    for (uint64_t batch = 0; batch < ROUNDS; batch++) {
        for (uint32_t k = 0; k < changes_of(batch); k++) {
            mica_kv_change c = change_of(batch, k, tokens, name, salt);
            mica__kv_queue_add(queue, &c);
        }
        mica__kv_queue_end(queue);
    }
    atomic_store(&w->is_over, true);
    return NULL;
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? !strcmp(a, b) : a == b;
}

static void check_change(const mica_kv_change *c, uint32_t k)
{
    int32_t tokens[B];
    char name[257], salt[257];
    mica_kv_change expected = change_of(c->batch, k, tokens, name, salt);
    assert_int_equal(c->kind, expected.kind);
    assert_true(c->hash == expected.hash && c->tokens_count == expected.tokens_count);
    if (c->tokens_count) assert_memory_equal(c->tokens, tokens, sizeof tokens);
    assert_true(same_text(c->adapter, expected.adapter) && same_text(c->cache_salt, expected.cache_salt));
    assert_int_equal(c->ends_batch, k + 1 == changes_of(c->batch));
}

/* Takes what there is; now and then it lets the ring fill. */
static void a_reader_beside_the_writer_sees_whole_batches_in_order(void **state)
{
    (void)state;
    mica__kv_queue *q = create(64);
    writing w = {.queue = q};
    pthread_t writer;
    uint64_t batches = 0, next = 0, looks = 0;
    uint32_t k = 0;
    assert_int_equal(pthread_create(&writer, NULL, write_all, &w), 0);
    while (next < ROUNDS || k > 0) {
        mica_kv_change c;
        struct pollfd fd = {.fd = mica__kv_queue_fd(q), .events = POLLIN};
        if (++looks % 1024 == 0) poll(NULL, 0, 1);
        if (!mica__kv_queue_take(q, &c)) {
            if (poll(&fd, 1, 10) == 0 && atomic_load(&w.is_over)) break; /* the last were dropped */
            continue;
        }
        if (k == 0) assert_true(c.batch >= next);
        if (k > 0) assert_true(c.batch + 1 == next);
        check_change(&c, k);
        next = c.batch + 1;
        k = c.ends_batch ? 0 : k + 1;
        batches += c.ends_batch;
    }
    pthread_join(writer, NULL);
    assert_int_equal(k, 0);
    assert_true(batches > 0); /* on a busy machine most are dropped; the first fits */
    mica__kv_queue_destroy(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch_comes_as_it_was_added_once_it_has_ended),
        cmocka_unit_test(a_batch_without_room_is_dropped_whole_and_its_number_with_it),
        cmocka_unit_test(a_reader_beside_the_writer_sees_whole_batches_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
