/* Payloads of K/V events: bytes by hand where they are few, else as msgpack's unpacker reads them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <msgpack.h>

#include "runtime/server/kv_batch.h"

enum { B = 8 };

static const int32_t tokens[3 * B] = {1, 127, 128, 255, 256, 65536, 7, 8, 9, 10, 11, 12};

static mica_kv_change stored(uint64_t hash, uint64_t parent, int block)
{
    return (mica_kv_change){.kind = MICA_KV_STORED,
                            .time_ns = 1500000000,
                            .hash = hash,
                            .has_parent = parent != 0,
                            .parent = parent,
                            .tokens = tokens + block * B,
                            .tokens_count = B,
                            .first_adapted = B};
}

static mica_kv_change removed(uint64_t hash)
{
    return (mica_kv_change){.kind = MICA_KV_REMOVED, .time_ns = 1500000000, .hash = hash};
}

/* The payload of these changes, as msgpack's own text. */
static void expect(bool as_arrays, const mica_kv_change *changes, size_t count, const char *expected)
{
    rt_kv_batch *b = rt__kv_batch_create(as_arrays, B);
    char text[4096] = "";
    for (int again = 0; again < 2; again++) { /* nothing of a batch is left in the next */
        msgpack_unpacked read;
        rt_bytes payload;
        size_t at = 0;
        for (size_t i = 0; i < count; i++) rt__kv_batch_add(b, &changes[i]);
        assert_true(rt__kv_batch_take(b, &payload));
        msgpack_unpacked_init(&read);
        assert_int_equal(msgpack_unpack_next(&read, payload.data, payload.count, &at),
                         MSGPACK_UNPACK_SUCCESS);
        assert_int_equal(at, payload.count);
        msgpack_object_print_buffer(text, sizeof text, read.data);
        assert_string_equal(text, expected);
        msgpack_unpacked_destroy(&read);
        rt_bytes_deinit(&payload);
    }
    rt__kv_batch_destroy(b);
}

static void bytes_are_as_msgpack_says(void **state)
{
    (void)state;
    static const unsigned char expected[] = "\x93\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00" /* [1.5, */
                                            "\x92\x81\xa4type\xb0"                     /* [{"type": */
                                            "AllBlocksCleared"
                                            "\x84\xa4type\xac" /* {"type": */
                                            "BlockRemoved\xac"
                                            "block_hashes\x92\xcf\xff\xff\xff\xff\xff\xff\xff\xff\x05"
                                            "\xa6medium\xa3GPU\xa9group_idx\x00"
                                            "\x00"; /* }], 0] */
    mica_kv_change changes[] = {{.kind = MICA_KV_CLEARED}, removed(UINT64_MAX), removed(5)};
    rt_kv_batch *b = rt__kv_batch_create(false, B);
    rt_bytes payload;
    for (int i = 0; i < 3; i++) rt__kv_batch_add(b, &changes[i]);
    assert_true(rt__kv_batch_take(b, &payload));
    assert_int_equal(payload.count, sizeof expected - 1);
    assert_memory_equal(payload.data, expected, payload.count);
    rt_bytes_deinit(&payload);
    rt__kv_batch_destroy(b);
}

static void blocks_of_one_chain_are_one_event(void **state)
{
    (void)state;
    mica_kv_change changes[] = {stored(11, 0, 0), stored(12, 11, 1), removed(3), stored(13, 11, 1)};
    expect(false, changes, 4,
           "[1.500000, [{\"type\"=>\"BlockStored\", \"block_hashes\"=>[11, 12], \"parent_block_hash\"=>nil, "
           "\"token_ids\"=>[1, 127, 128, 255, 256, 65536, 7, 8, 9, 10, 11, 12, 0, 0, 0, 0], "
           "\"block_size\"=>8, \"lora_id\"=>nil, \"medium\"=>\"GPU\", \"lora_name\"=>nil, "
           "\"extra_keys\"=>[nil, nil], \"group_idx\"=>0, \"kv_cache_spec_kind\"=>\"full_attention\"}, "
           "{\"type\"=>\"BlockRemoved\", \"block_hashes\"=>[3], \"medium\"=>\"GPU\", \"group_idx\"=>0}, "
           "{\"type\"=>\"BlockStored\", \"block_hashes\"=>[13], \"parent_block_hash\"=>11, "
           "\"token_ids\"=>[9, 10, 11, 12, 0, 0, 0, 0], \"block_size\"=>8, \"lora_id\"=>nil, "
           "\"medium\"=>\"GPU\", \"lora_name\"=>nil, \"extra_keys\"=>[nil], \"group_idx\"=>0, "
           "\"kv_cache_spec_kind\"=>\"full_attention\"}], 0]");
}

static void where_the_adapter_begins_another_event_does(void **state)
{
    (void)state;
    mica_kv_change changes[] = {stored(11, 0, 0), stored(12, 11, 1), stored(13, 12, 2)};
    changes[0].cache_salt = "salt";
    for (int i = 1; i < 3; i++) changes[i].adapter = "uq", changes[i].adapter_id = 3;
    changes[1].first_adapted = 2;
    expect(true, changes, 3,
           "[1.500000, [[\"BlockStored\", [11], nil, [1, 127, 128, 255, 256, 65536, 7, 8], 8, nil, \"GPU\", "
           "nil, [[\"salt\"]], 0, \"full_attention\", nil], "
           "[\"BlockStored\", [12, 13], 11, [9, 10, 11, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8, 3, "
           "\"GPU\", \"uq\", [[\"uq\"], [\"uq\"]], 0, \"full_attention\", nil]], 0]");
    changes[0].adapter = "uq", changes[0].adapter_id = 3;
    mica_kv_change whole[] = {changes[0], removed(1)};
    expect(true, whole, 2,
           "[1.500000, [[\"BlockStored\", [11], nil, [1, 127, 128, 255, 256, 65536, 7, 8], 8, 3, \"GPU\", "
           "\"uq\", [[\"uq\", \"salt\"]], 0, \"full_attention\", nil], "
           "[\"BlockRemoved\", [1], \"GPU\", 0]], 0]");
    mica_kv_change cleared[] = {{.kind = MICA_KV_CLEARED}};
    expect(true, cleared, 1, "[0.000000, [[\"AllBlocksCleared\"]], 0]");
}

/* A consumer refuses a whole payload for a string that is no UTF-8. */
static void a_name_that_is_no_text_goes_as_bytes(void **state)
{
    (void)state;
    mica_kv_change c = stored(1, 0, 0);
    rt_kv_batch *b = rt__kv_batch_create(true, B);
    rt_bytes payload;
    c.adapter = "a\xff", c.adapter_id = 1;
    rt__kv_batch_add(b, &c);
    assert_true(rt__kv_batch_take(b, &payload));
    assert_non_null(memmem(payload.data, payload.count,
                           "\xa3GPU\xc4\x02"
                           "a\xff\x91\x91\xc4\x02"
                           "a\xff",
                           14));
    rt_bytes_deinit(&payload);
    rt__kv_batch_destroy(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_as_msgpack_says),
        cmocka_unit_test(blocks_of_one_chain_are_one_event),
        cmocka_unit_test(where_the_adapter_begins_another_event_does),
        cmocka_unit_test(a_name_that_is_no_text_goes_as_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
