/* The C interface on a real, tiny model: what a program may rely on, from one thread and from many. */
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/mica.h"

#define MODEL MICA_SOURCE_DIR "/tests/golden/models/granite"
#define ADAPTER(name) MODEL "/adapters/" name

enum { ANSWER_MAX = 64 };

typedef struct answer {
    int32_t ids[ANSWER_MAX];
    uint32_t count;
    char text[1024];
    size_t text_bytes;
    mica_finish finish;
    char stop_text[64];
    uint32_t cached, activation;
} answer;

static mica *open_model(uint32_t seqs)
{
    mica_options o = MICA_OPTIONS_INIT;
    mica *m;
    rc_msg err = { 0 };
    o.model = MODEL;
    o.served_model_name = "base";
    o.kv_cache_memory_bytes = 1 << 20;
    o.max_num_seqs = seqs;
    o.threads = 2;
    if (mica_open(&o, &m, &err) != RC_OK) fail_msg("%s", err.text);
    return m;
}

static mica_request request(const char *model, const char *prompt, uint32_t max_tokens)
{
    mica_request r = MICA_REQUEST_INIT;
    r.model = model;
    r.prompt_text = prompt;
    r.prompt_text_bytes = strlen(prompt);
    r.max_tokens = max_tokens;
    r.temperature = 0;
    r.ignore_eos = true;
    return r;
}

static uint64_t submit(mica *m, mica_request *r, answer *a)
{
    rc_msg err = { 0 };
    uint64_t id;
    memset(a, 0, sizeof *a);
    r->user = a;
    if (mica_submit(m, r, &id, &err) != RC_OK) fail_msg("%s", err.text);
    return id;
}

static void take(const mica_event *e)
{
    answer *a = e->user;
    for (uint32_t i = 0; i < e->tokens_count; i++) a->ids[a->count++] = e->tokens[i].id;
    memcpy(a->text + a->text_bytes, e->text, e->text_bytes);
    a->text_bytes += e->text_bytes;
    a->cached = e->prompt->cached_tokens;
    a->activation = e->prompt->activation;
    assert_int_equal(a->finish, MICA_RUNNING);
    a->finish = e->finish;
    if (e->stop_text) memcpy(a->stop_text, e->stop_text, e->stop_text_bytes);
}

static void finish_all(mica *m)
{
    mica_event e;
    while (mica_poll(m, -1, &e)) take(&e);
}

static void a_stop_string_over_several_tokens_ends_the_text_before_it(void **state)
{
    mica *m = open_model(4);
    mica_request r = request(NULL, "How many blocks?", 24);
    answer whole, cut, kept;
    submit(m, &r, &whole);
    finish_all(m);
    assert_int_equal(whole.count, 24);
    assert_true(whole.text_bytes > 12);
    mica_text stop = { whole.text + 5, 6 };
    const char *at = strstr(whole.text, (char[7]){ stop.bytes[0], stop.bytes[1], stop.bytes[2], stop.bytes[3],
                                                   stop.bytes[4], stop.bytes[5], 0 });
    r.stop = &stop;
    r.stop_count = 1;
    submit(m, &r, &cut);
    finish_all(m);
    assert_int_equal(cut.finish, MICA_STOP);
    assert_int_equal(cut.text_bytes, at - whole.text);
    assert_memory_equal(cut.text, whole.text, cut.text_bytes);
    assert_memory_equal(cut.stop_text, stop.bytes, stop.count);
    r.include_stop_str_in_output = true;
    submit(m, &r, &kept);
    finish_all(m);
    assert_int_equal(kept.text_bytes, cut.text_bytes + stop.count);
    mica_close(m);
    (void)state;
}

static void an_unloaded_name_is_unknown_and_a_reloaded_one_is_new_content(void **state)
{
    mica *m = open_model(2);
    rc_msg err;
    uint64_t id;
    answer first, second, base;
    mica_request r = request("x", "How many blocks?", 8), plain = request("base", "How many blocks?", 8);
    assert_int_equal(mica_submit(m, &r, &id, &err), RC_NOT_FOUND);
    assert_string_equal(err.param, "model");
    assert_int_equal(mica_adapter_load(m, "x", ADAPTER("lora-all"), &err), RC_OK);
    assert_int_equal(mica_adapter_load(m, "x", ADAPTER("lora-o"), &err), RC_ALREADY_EXISTS);
    submit(m, &r, &first);
    assert_int_equal(mica_adapter_unload(m, "x", &err), RC_OK); /* the running request ends on its weights */
    assert_int_equal(mica_submit(m, &r, &id, &err), RC_NOT_FOUND);
    assert_int_equal(mica_adapter_load(m, "x", ADAPTER("lora-o"), &err), RC_OK);
    submit(m, &r, &second);
    submit(m, &plain, &base);
    finish_all(m);
    assert_int_equal(first.finish, MICA_LENGTH);
    assert_int_equal(second.cached, 0); /* nothing of the old content, nothing of base */
    assert_memory_not_equal(first.ids, second.ids, 8 * sizeof(int32_t));
    assert_memory_not_equal(first.ids, base.ids, 8 * sizeof(int32_t));
    assert_int_equal(mica_adapter_unload(m, "y", &err), RC_NOT_FOUND);
    assert_int_equal(mica_adapter_load(m, "base", ADAPTER("lora-o"), &err), RC_ALREADY_EXISTS);
    assert_int_equal(mica_adapter_load(m, "z", MODEL "/nowhere", &err), RC_NOT_FOUND);
    mica_close(m);
    (void)state;
}

static void a_request_may_be_cancelled_in_any_state_and_ends_once(void **state)
{
    mica *m = open_model(1);
    mica_request r = request(NULL, "How many blocks?", 60);
    answer a[6];
    uint64_t id[6];
    struct pollfd fd = { .fd = mica_fd(m), .events = POLLIN };
    for (int i = 0; i < 6; i++) id[i] = submit(m, &r, &a[i]);
    mica_cancel(m, id[5]); /* waiting */
    mica_cancel(m, id[0]); /* perhaps running */
    mica_cancel(m, id[0]);
    mica_cancel(m, 12345);
    assert_int_equal(poll(&fd, 1, 20000), 1);
    finish_all(m);
    mica_cancel(m, id[1]); /* long gone */
    assert_int_equal(a[5].finish, MICA_CANCELLED);
    for (int i = 1; i < 5; i++) assert_int_equal(a[i].finish, MICA_LENGTH);
    for (int i = 2; i < 5; i++) assert_memory_equal(a[i].ids, a[1].ids, sizeof a[1].ids);
    assert_int_equal(mica_get_stats(m).blocks_live, 0);
    mica_close(m);
    (void)state;
}

static void base_and_an_activated_adapter_share_all_rows_before_the_activation(void **state)
{
    static const char *prompt = "<|start_of_role|>user<|end_of_role|>How many blocks?<|end_of_text|>\n"
                                "<|start_of_role|>assistant<|end_of_role|>";
    mica *m = open_model(4);
    mica_request r = request(NULL, prompt, 4);
    answer base, adapted, again;
    rc_msg err;
    assert_int_equal(mica_adapter_load(m, "a", ADAPTER("alora-header"), &err), RC_OK);
    submit(m, &r, &base);
    finish_all(m);
    r.model = "a";
    submit(m, &r, &adapted);
    finish_all(m);
    assert_true(adapted.activation != MICA_NEVER);
    assert_int_equal(adapted.cached, adapted.activation);
    submit(m, &r, &again);
    finish_all(m);
    assert_true(again.cached > adapted.cached); /* its own rows are its own */
    assert_memory_equal(again.ids, adapted.ids, 4 * sizeof(int32_t));
    mica_close(m);
    (void)state;
}

/* What it says is what the next request is then given. */
static void what_is_cached_can_be_asked_before(void **state)
{
    static const char *prompt = "<|start_of_role|>user<|end_of_role|>How many blocks?<|end_of_text|>\n"
                                "<|start_of_role|>assistant<|end_of_role|>";
    static const char *const MODELS[] = {NULL, "base", "alora", "lora"};
    mica *m = open_model(4);
    mica_request r = request(NULL, prompt, 4);
    answer a;
    rc_msg err;
    (void)state;
    assert_int_equal(mica_adapter_load(m, "alora", ADAPTER("alora-header"), &err), RC_OK);
    assert_int_equal(mica_adapter_load(m, "lora", ADAPTER("lora-all"), &err), RC_OK);
    assert_int_equal(mica_cached_tokens(m, &r), 0);
    submit(m, &r, &a);
    finish_all(m);
    for (int i = 0; i < 8; i++) {
        r.model = MODELS[i % 4];
        r.cache_salt = i < 4 ? NULL : "own";
        uint32_t cached = mica_cached_tokens(m, &r);
        submit(m, &r, &a);
        finish_all(m);
        assert_int_equal(a.cached, cached);
        assert_int_equal(cached > 0, i % 4 != 3 && i != 4); /* LoRA's own, and the first with the salt */
    }
    r.prompt_logprobs = 0;
    assert_int_equal(mica_cached_tokens(m, &r), 0);
    r.prompt_logprobs = -1;
    r.model = "nobody";
    assert_int_equal(mica_cached_tokens(m, &r), 0);
    mica_close(m);
}

/* mica_check() says what mica_submit() then says, and queues nothing. */
static void what_would_be_refused_can_be_asked_before(void **state)
{
    static const char *const MODELS[] = {NULL, "alora", "lora", "nobody"};
    mica *m = open_model(4);
    uint64_t id;
    rc_msg asked, said;
    answer a;
    int refused = 0;
    (void)state;
    assert_int_equal(mica_adapter_load(m, "alora", ADAPTER("alora-header"), &said), RC_OK);
    assert_int_equal(mica_adapter_load(m, "lora", ADAPTER("lora-all"), &said), RC_OK);
    for (unsigned i = 0; i < 64; i++) {
        mica_request r = request(MODELS[i % 4], "How many blocks?", i & 4 ? 4 : 100000);
        r.has_activation = i & 8;
        r.activation = i & 16 ? 1000 : 2;
        r.require_activation = i & 32;
        r.user = &a;
        a = (answer){0};
        rc_code code = mica_check(m, &r, &asked);
        assert_int_equal(mica_get_stats(m).waiting + mica_get_stats(m).running, 0);
        assert_int_equal(mica_submit(m, &r, &id, &said), code);
        refused += code != RC_OK;
        if (code != RC_OK) {
            assert_string_equal(asked.text, said.text);
            assert_string_equal(asked.param, said.param);
        }
        finish_all(m);
    }
    assert_in_range(refused, 32, 60);
    mica_close(m);
}

/* A prompt beyond the model's length is made whole, then cut, as mica_submit() does it. */
static void the_prompt_of_a_request_can_be_had_as_ids(void **state)
{
    enum { TIMES = 200, KEPT = 7 };
    static char text[17 * TIMES + 1];
    mica *m = open_model(2);
    mica_request r = request(NULL, text, 4);
    answer by_text, by_ids;
    int32_t *ids, *own;
    size_t count, own_count;
    (void)state;
    for (int i = 0; i < TIMES; i++) strcat(text, "How many blocks? ");
    r.prompt_text_bytes = strlen(text);
    assert_int_equal(mica_prompt_ids(m, &r, &ids, &count, NULL), RC_INVALID_ARGUMENT);
    r.truncate_prompt_tokens = KEPT;
    assert_int_equal(mica_prompt_ids(m, &r, &ids, &count, NULL), RC_OK);
    assert_int_equal(count, KEPT);
    submit(m, &r, &by_text);
    r.truncate_prompt_tokens = 0;
    r.prompt_ids = ids;
    r.prompt_ids_count = count;
    submit(m, &r, &by_ids);
    finish_all(m);
    assert_memory_equal(by_text.ids, by_ids.ids, 4 * sizeof *ids);
    assert_int_equal(mica_prompt_ids(m, &r, &own, &own_count, NULL), RC_OK);
    assert_int_equal(own_count, count);
    assert_memory_equal(own, ids, count * sizeof *ids);
    free(own);
    free(ids);
    mica_close(m);
}

/* ---- many threads ---- */

typedef struct crowd {
    mica *m;
    unsigned seed;
} crowd;

static void *submits(void *arg)
{
    crowd *c = arg;
    static const char *const MODELS[] = { NULL, "a", "b", "c" };
    for (int i = 0; i < 60; i++) {
        mica_request r = request(MODELS[rand_r(&c->seed) % 4], "How many blocks are there?",
                                 1 + (uint32_t)rand_r(&c->seed) % 12);
        uint64_t id;
        rc_msg err;
        r.n = 1 + (uint32_t)rand_r(&c->seed) % 3;
        r.temperature = 1;
        mica_cached_tokens(c->m, &r);
        if (mica_submit(c->m, &r, &id, &err) == RC_OK && rand_r(&c->seed) % 4 == 0) mica_cancel(c->m, id);
        mica_get_stats(c->m);
    }
    return NULL;
}

static void *changes_adapters(void *arg)
{
    crowd *c = arg;
    static const char *const NAMES[] = { "a", "b", "c" };
    static const char *const PATHS[] = { ADAPTER("alora-all"), ADAPTER("lora-qkv"), ADAPTER("alora-empty") };
    for (int i = 0; i < 60; i++) {
        unsigned k = (unsigned)rand_r(&c->seed) % 3;
        rc_msg err;
        if (mica_adapter_load(c->m, NAMES[k], PATHS[k], &err) != RC_OK)
            mica_adapter_unload(c->m, NAMES[k], &err);
    }
    return NULL;
}

static void threads_may_submit_cancel_load_and_unload_at_once(void **state)
{
    mica *m = open_model(4);
    crowd crowds[4] = { { m, 1 }, { m, 2 }, { m, 3 }, { m, 4 } };
    pthread_t threads[4];
    mica_event e;
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, i == 3 ? changes_adapters : submits, &crowds[i]);
    for (int quiet = 0; quiet < 20;) quiet = mica_poll(m, 10, &e) ? 0 : quiet + 1;
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    while (mica_poll(m, -1, &e)) continue;
    mica_stats s = mica_get_stats(m);
    assert_int_equal(s.running + s.waiting, 0);
    assert_int_equal(s.blocks_live, 0);
    mica_close(m);
    (void)state;
}

static void closing_ends_what_still_runs(void **state)
{
    mica *m = open_model(2);
    mica_request r = request(NULL, "How many blocks?", 60);
    answer a[3];
    for (int i = 0; i < 3; i++) submit(m, &r, &a[i]);
    mica_close(m);
    (void)state;
}

static mica_info info_of(const char *kv_cache_dtype, const char *dtype)
{
    mica_options o = MICA_OPTIONS_INIT;
    mica *m;
    rc_msg err = {0};
    o.model = MODEL;
    o.dtype = dtype;
    o.kv_cache_dtype = kv_cache_dtype;
    o.kv_cache_memory_bytes = 1 << 20;
    if (mica_open(&o, &m, &err) != RC_OK) fail_msg("%s", err.text);
    mica_info info = mica_get_info(m);
    info.model_name = info.dtype = info.device = NULL;
    mica_close(m);
    return info;
}

/* A row of D elements takes 4 D, 2 D or D + 4 bytes. */
static void int8_keeps_more_positions_in_the_same_memory(void **state)
{
    (void)state;
    double float32 = info_of("auto", "float32").blocks, bfloat16 = info_of(NULL, "bfloat16").blocks;
    double int8 = info_of("int8", "float32").blocks;
    assert_true(int8 == info_of("int8", "bfloat16").blocks);
    assert_true(float32 < bfloat16 && bfloat16 < int8 && int8 < 2 * bfloat16);
}

static void an_unknown_type_of_kv_is_refused_by_name(void **state)
{
    (void)state;
    mica_options o = MICA_OPTIONS_INIT;
    mica *m;
    rc_msg err = {0};
    o.model = MODEL;
    o.kv_cache_dtype = "fp8";
    assert_int_equal(mica_open(&o, &m, &err), RC_INVALID_ARGUMENT);
    assert_string_equal(err.text, "--kv-cache-dtype must be auto or int8, got 'fp8'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stop_string_over_several_tokens_ends_the_text_before_it),
        cmocka_unit_test(an_unloaded_name_is_unknown_and_a_reloaded_one_is_new_content),
        cmocka_unit_test(a_request_may_be_cancelled_in_any_state_and_ends_once),
        cmocka_unit_test(base_and_an_activated_adapter_share_all_rows_before_the_activation),
        cmocka_unit_test(what_is_cached_can_be_asked_before),
        cmocka_unit_test(what_would_be_refused_can_be_asked_before),
        cmocka_unit_test(the_prompt_of_a_request_can_be_had_as_ids),
        cmocka_unit_test(threads_may_submit_cancel_load_and_unload_at_once),
        cmocka_unit_test(closing_ends_what_still_runs),
        cmocka_unit_test(int8_keeps_more_positions_in_the_same_memory),
        cmocka_unit_test(an_unknown_type_of_kv_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
