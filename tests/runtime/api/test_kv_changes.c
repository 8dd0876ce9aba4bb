/* What a program learns of the cache through mica_kv_poll(), on a real, tiny model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/mica.h"

#define MODEL MICA_SOURCE_DIR "/tests/golden/models/granite"

enum { B = 16, PROMPT = 4 * B };

static mica *open_model(uint32_t changes_max)
{
    static const mica_adapter_ref adapters[] = {{"alora", MODEL "/adapters/alora-all"}};
    mica_options o = MICA_OPTIONS_INIT;
    rc_msg err;
    mica *m;
    o.model = MODEL;
    o.num_gpu_blocks = 8;
    o.max_num_seqs = 2;
    o.threads = 1;
    o.adapters = adapters;
    o.adapters_count = 1;
    o.kv_changes_max = changes_max;
    if (mica_open(&o, &m, &err) != RC_OK) fail_msg("%s", err.text);
    return m;
}

/* One request over ids first, first + 1, ..., to its end; activation: MICA_NEVER for base. */
static void ask(mica *m, int32_t first, uint32_t activation, const char *salt, const char *unload)
{
    int32_t ids[PROMPT];
    mica_request r = MICA_REQUEST_INIT;
    mica_event e = {.request_done = false};
    uint64_t id;
    rc_msg err;
    for (int i = 0; i < PROMPT; i++) ids[i] = first + i;
    r.prompt_ids = ids;
    r.prompt_ids_count = PROMPT;
    r.max_tokens = 2;
    r.ignore_eos = true;
    r.temperature = 0;
    r.cache_salt = salt;
    r.model = activation == MICA_NEVER ? NULL : "alora";
    r.has_activation = activation != MICA_NEVER;
    if (r.has_activation) r.activation = activation;
    if (mica_submit(m, &r, &id, &err) != RC_OK) fail_msg("%s", err.text);
    if (unload) assert_int_equal(mica_adapter_unload(m, unload, &err), RC_OK);
    while (!e.request_done) assert_true(mica_poll(m, 10000, &e));
}

static mica_kv_change expect(mica *m, mica_kv_kind kind)
{
    mica_kv_change c;
    assert_true(mica_kv_poll(m, &c));
    assert_int_equal(c.kind, kind);
    return c;
}

static void blocks_before_the_activation_are_bases_and_an_unloaded_adapter_has_its_name(void **state)
{
    (void)state;
    mica *m = open_model(1000);
    mica_kv_change c;
    assert_true(mica_kv_fd(m) >= 0);
    c = expect(m, MICA_KV_CLEARED);
    assert_true(c.batch == 0 && c.ends_batch);
    ask(m, 20, 2 * B + 3, "salt", "alora");
    uint64_t parent = 0;
    for (uint32_t i = 0; i < 4; i++) {
        c = expect(m, MICA_KV_STORED);
        assert_int_equal(c.has_parent, i > 0);
        assert_true(i == 0 || c.parent == parent);
        assert_int_equal(c.tokens_count, B);
        for (int t = 0; t < B; t++) assert_int_equal(c.tokens[t], 20 + (int)i * B + t);
        assert_int_equal(c.first_adapted, i < 2 ? B : i == 2 ? 3 : 0);
        assert_int_equal(c.adapter_id, i < 2 ? 0 : 1);
        if (i < 2) assert_null(c.adapter);
        if (i >= 2) assert_string_equal(c.adapter, "alora");
        if (i == 0) assert_string_equal(c.cache_salt, "salt");
        if (i > 0) assert_null(c.cache_salt);
        parent = c.hash;
    }
    assert_true(c.ends_batch && c.batch == 1);
    assert_false(mica_kv_poll(m, &c));
    mica_close(m);
}

static void an_eviction_is_told_and_what_is_found_again_is_not(void **state)
{
    (void)state;
    mica *m = open_model(1000);
    mica_kv_change c;
    uint64_t first = 0;
    expect(m, MICA_KV_CLEARED);
    ask(m, 20, MICA_NEVER, NULL, NULL);
    for (int i = 0; i < 4; i++) {
        c = expect(m, MICA_KV_STORED);
        if (i == 0) first = c.hash;
    }
    ask(m, 20, MICA_NEVER, NULL, NULL);
    assert_false(mica_kv_poll(m, &c));
    ask(m, 100, MICA_NEVER, NULL, NULL);
    ask(m, 180, MICA_NEVER, NULL, NULL);
    bool is_gone = false;
    while (mica_kv_poll(m, &c)) is_gone |= c.kind == MICA_KV_REMOVED && c.hash == first;
    assert_true(is_gone);
    mica_close(m);
}

static void what_nobody_takes_is_dropped_and_no_request_waits(void **state)
{
    (void)state;
    mica *m = open_model(2);
    mica_kv_change c;
    for (int i = 0; i < 6; i++) ask(m, 20 + 20 * i, MICA_NEVER, NULL, NULL);
    c = expect(m, MICA_KV_CLEARED);
    uint64_t seen = c.ends_batch;
    while (mica_kv_poll(m, &c)) seen += c.ends_batch;
    ask(m, 10, MICA_NEVER, NULL, NULL);
    assert_true(mica_kv_poll(m, &c) && c.batch > seen);
    mica_close(m);
    m = open_model(0);
    assert_int_equal(mica_kv_fd(m), -1);
    ask(m, 10, MICA_NEVER, NULL, NULL);
    assert_false(mica_kv_poll(m, &c));
    mica_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_before_the_activation_are_bases_and_an_unloaded_adapter_has_its_name),
        cmocka_unit_test(an_eviction_is_told_and_what_is_found_again_is_not),
        cmocka_unit_test(what_nobody_takes_is_dropped_and_no_request_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
