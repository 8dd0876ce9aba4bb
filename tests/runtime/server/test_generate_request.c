/* A GenerateRequest as bytes on the wire: good values arrive, bad ones are refused by their field's name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/server/generate_request.h"

enum { VOCAB = 300 };
#define TEXT                                                                                                 \
    "\x1a\x01"                                                                                               \
    "a"
#define ONE "\x00\x00\x80\x3f" /* floats */
#define TWO "\x00\x00\x00\x40"
#define THREE "\x00\x00\x40\x40"
#define MINUS "\x00\x00\x80\xbf"
#define NOT_A_NUMBER "\x00\x00\xc0\x7f"
#define INFINITE "\x00\x00\x80\x7f"
#define ID_299 "\xab\x02" /* varints */
#define ID_300 "\xac\x02"
#define HUGE "\xff\xff\xff\xff\x0f"

static rc_msg msg;

static rc_code decode(rt_generate_request *r, const char *bytes, size_t count)
{
    return rt__generate_request_decode(r, (const uint8_t *)bytes, count, VOCAB, &msg);
}

static void bad_values_are_refused_by_name(void **state)
{
    (void)state;
#define CASE(bytes, param)                                                                                   \
    {                                                                                                        \
        bytes, sizeof bytes - 1, param                                                                       \
    }
    static const struct {
        const char *bytes;
        size_t count;
        const char *param;
    } cases[] = {
        CASE("", "prompt"),
        CASE("\x22\x00", "prompt"),
        CASE("\x1a\x00", "text"),
        CASE("\x1a\x02"
             "a\xff",
             "text"),
        CASE("\x22\x04\x0a\x02" ID_300, "token_ids"),
        CASE("\x22\x07\x0a\x05" HUGE, "token_ids"),
        CASE(TEXT "\x0a\x02"
                  "a\x00",
             "request_id"),
        CASE(TEXT "\x0a\x01"
                  "\xc0",
             "request_id"),
        CASE(TEXT "\x12\x01"
                  "\x00",
             "model"),
        CASE(TEXT "\x7a\x02"
                  "\xed\xa0",
             "lora_name"),
        CASE(TEXT "\x6a\x01"
                  "\x80",
             "session_id"),
        CASE(TEXT "\x72\x00", "media"),
        CASE(TEXT "\x2d" MINUS, "temperature"),
        CASE(TEXT "\x2d" NOT_A_NUMBER, "temperature"),
        CASE(TEXT "\x2d" INFINITE, "temperature"),
        CASE(TEXT "\x58" HUGE, "truncate_prompt_tokens"),
        CASE(TEXT "\x32\x02\x08\x02", "sampling.num_sequences"),
        CASE(TEXT "\x32\x06\x10" HUGE, "sampling.top_k"),
        CASE(TEXT "\x32\x05\x1d" TWO, "sampling.top_p"),
        CASE(TEXT "\x32\x05\x1d" MINUS, "sampling.top_p"),
        CASE(TEXT "\x32\x05\x1d" NOT_A_NUMBER, "sampling.top_p"),
        CASE(TEXT "\x32\x05\x25" TWO, "sampling.min_p"),
        CASE(TEXT "\x3a\x05\x0d" THREE, "decoding.presence_penalty"),
        CASE(TEXT "\x3a\x05\x15" NOT_A_NUMBER, "decoding.frequency_penalty"),
        CASE(TEXT "\x3a\x05\x1d" MINUS, "decoding.repetition_penalty"),
        CASE(TEXT "\x3a\x0a\x22\x08\x08" ID_300 "\x15" ONE, "decoding.logit_bias"),
        CASE(TEXT "\x3a\x09\x22\x07\x08\x01\x15" INFINITE, "decoding.logit_bias"),
        CASE(TEXT "\x3a\x03\x2a\x01\x05", "decoding.allowed_token_ids"),
        CASE(TEXT "\x3a\x02\x32\x00", "decoding.structured_output"),
        CASE(TEXT "\x3a\x03\x3a\x01"
                  "a",
             "decoding.structured_output"),
        CASE(TEXT "\x3a\x02\x42\x00", "decoding.structured_output"),
        CASE(TEXT "\x3a\x02\x4a\x00", "decoding.structured_output"),
        CASE(TEXT "\x3a\x02\x50\x00", "decoding.structured_output"),
        CASE(TEXT "\x3a\x02\x5a\x00", "decoding.structured_output"),
        CASE(TEXT "\x42\x06\x08" HUGE, "stopping.max_new_tokens"),
        CASE(TEXT "\x42\x06\x10" HUGE, "stopping.min_new_tokens"),
        CASE(TEXT "\x42\x04\x1a\x02" ID_300, "stopping.stop_token_ids"),
        CASE(TEXT "\x42\x02\x22\x00", "stopping.stop_strings"),
        CASE(TEXT "\x42\x03\x22\x01\xff", "stopping.stop_strings"),
        CASE(TEXT "\x4a\x04\x3a\x02\x08\x15", "response.output_candidates"),
        CASE(TEXT "\x4a\x04\x3a\x02\x12\x00", "response.output_candidates"),
        CASE(TEXT "\x4a\x04\x3a\x02\x18\x01", "response.output_candidates"),
        CASE(TEXT "\x4a\x04\x1a\x02\x18\x00", "response.prompt_candidates"),
        CASE(TEXT "\x52\x03\x12\x01\x00", "kv.cache_salt"),
        CASE(TEXT "\x52\x02\x1a\x00", "kv.kv_transfer_params"),
        CASE(TEXT "\x52\x02\x22\x00", "kv.ec_transfer_params"),
    };
#undef CASE
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rt_generate_request r;
        rc_code code = decode(&r, cases[i].bytes, cases[i].count);
        if (code != RC_INVALID_ARGUMENT || strcmp(msg.param, cases[i].param) ||
            !strstr(msg.text, cases[i].param))
            fail_msg("case %zu: code %d, '%s' about '%s', expected '%s'", i, code, msg.text, msg.param,
                     cases[i].param);
    }
}

static void long_lists_and_strings_are_refused(void **state)
{
    (void)state;
    static const struct {
        unsigned char head[8];
        size_t head_count, repeats;
        unsigned char each[4];
        size_t each_count;
        const char *param;
    } cases[] = {
        {"\x0a\x81\x02", 3, 257, "a", 1, "request_id"},
        {"\x12\x81\x08", 3, 1025, "a", 1, "model"},
        {"\x52\x84\x02\x12\x81\x02", 6, 257, "a", 1, "kv.cache_salt"},
        {"\x42\xc3\x01", 3, 65,
         "\x22\x01"
         "a",
         3, "stopping.stop_strings"},
        {"\x42\x84\x08\x22\x81\x08", 6, 1025, "a", 1, "stopping.stop_strings"},
        {"\x42\x84\x02\x1a\x81\x02", 6, 257, "\x01", 1, "stopping.stop_token_ids"},
        {"\x3a\x84\x20", 3, 1025, "\x22\x02\x08\x01", 4, "decoding.logit_bias"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char bytes[8192] = TEXT;
        size_t at = sizeof TEXT - 1;
        rt_generate_request r;
        memcpy(bytes + at, cases[i].head, cases[i].head_count);
        at += cases[i].head_count;
        for (size_t k = 0; k < cases[i].repeats; k++, at += cases[i].each_count)
            memcpy(bytes + at, cases[i].each, cases[i].each_count);
        assert_int_equal(decode(&r, bytes, at), RC_INVALID_ARGUMENT);
        assert_string_equal(msg.param, cases[i].param);
    }
}

static void what_is_no_message_is_refused(void **state)
{
    (void)state;
    static const char *const cases[] = {"\x1a",
                                        "\x1a\x05"
                                        "a",
                                        "\x0f", TEXT "\x32\x05\x08"};
    rt_generate_request r;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(decode(&r, cases[i], strlen(cases[i])), RC_INVALID_ARGUMENT);
}

static void what_is_not_set_has_its_default(void **state)
{
    (void)state;
    rt_generate_request r;
    assert_int_equal(decode(&r, TEXT, 3), RC_OK);
    assert_true(r.q.temperature == 0 && r.q.top_p == 1 && r.q.min_p == 0 && r.q.repetition_penalty == 1);
    assert_int_equal(r.q.top_k, 0);
    assert_int_equal(r.q.max_tokens, 0);
    assert_int_equal(r.q.logprobs, -1);
    assert_int_equal(r.q.prompt_logprobs, -1);
    assert_int_equal(r.q.n, 1);
    assert_false(r.q.has_seed);
    assert_true(r.q.skip_special_tokens && r.q.add_special_tokens);
    assert_true(r.wants.text && !r.wants.ids && !r.wants.logprobs && !r.wants.candidates);
    assert_null(r.q.key);
    assert_null(r.q.model);
    assert_null(r.q.cache_salt);
    assert_null(r.served_name);
    rt__generate_request_deinit(&r);
}

static void a_zero_is_as_if_not_set_but_for_temperature_and_seed(void **state)
{
    (void)state;
    static const char bytes[] = TEXT "\x2d\x00\x00\x00\x00"
                                     "\x32\x09\x10\x00\x1d\x00\x00\x00\x00\x28\x00"
                                     "\x3a\x05\x1d\x00\x00\x00\x00";
    rt_generate_request r;
    assert_int_equal(decode(&r, bytes, sizeof bytes - 1), RC_OK);
    assert_true(r.q.top_p == 1 && r.q.repetition_penalty == 1 && r.q.temperature == 0);
    assert_true(r.q.has_seed && r.q.seed == 0);
    rt__generate_request_deinit(&r);
}

static void every_field_arrives(void **state)
{
    (void)state;
    static const char bytes[] =
        "\x0a\x02id\x12\x01m\x22\x06\x0a\x04" ID_299 "\x01\x02"
        "\x2d" ONE "\x32\x09\x10\x05\x1d" ONE "\x28\x07"
        "\x3a\x13\x22\x07\x08\x05\x15" ONE
        "\x22\x08\x08\x85\x00\x15" TWO /* the same key twice: the last counts */
        "\x42\x10\x08\x09\x10\x02\x1a\x02\x03\x04\x22\x02xy\x28\x01\x30\x01"
        "\x4a\x12\x08\x01\x10\x01\x1a\x02\x08\x02\x20\x00\x28\x01\x30\x01\x3a\x02\x08\x03"
        "\x52\x03\x12\x01s\x58\x02\x60\x03\x6a\x01q\x7a\x01l";
    rt_generate_request r;
    assert_int_equal(decode(&r, bytes, sizeof bytes - 1), RC_OK);
    assert_string_equal(r.q.key, "id");
    assert_string_equal(r.served_name, "m");
    assert_string_equal(r.q.model, "l");
    assert_string_equal(r.q.cache_salt, "s");
    assert_int_equal(r.q.prompt_ids_count, 3);
    assert_int_equal(r.q.prompt_ids[0], 299);
    assert_true(r.q.temperature == 1 && r.q.top_p == 1 && r.q.top_k == 5);
    assert_true(r.q.has_seed && r.q.seed == 7);
    assert_int_equal(r.q.logit_bias_count, 1);
    assert_true(r.q.logit_bias[0].token == 5 && r.q.logit_bias[0].bias == 2);
    assert_int_equal(r.q.max_tokens, 9);
    assert_int_equal(r.q.min_tokens, 2);
    assert_int_equal(r.q.stop_token_ids_count, 2);
    assert_int_equal(r.q.stop_count, 1);
    assert_memory_equal(r.q.stop[0].bytes, "xy", 2);
    assert_true(r.q.include_stop_str_in_output && r.q.ignore_eos);
    assert_int_equal(r.q.logprobs, 3);
    assert_int_equal(r.q.prompt_logprobs, 2);
    assert_true(r.wants.prompt_ids && r.wants.prompt_logprobs && r.wants.prompt_candidates);
    assert_true(!r.wants.text && r.wants.ids && r.wants.logprobs && r.wants.candidates);
    assert_int_equal(r.q.truncate_prompt_tokens, 2);
    assert_int_equal(r.q.priority, 3);
    rt__generate_request_deinit(&r);
}

static void a_bypass_is_a_salt_that_nobody_else_has(void **state)
{
    (void)state;
    static const char bytes[] = TEXT "\x52\x05\x08\x01\x12\x01s";
    rt_generate_request a, b;
    assert_int_equal(decode(&a, bytes, sizeof bytes - 1), RC_OK);
    assert_int_equal(decode(&b, bytes, sizeof bytes - 1), RC_OK);
    assert_string_not_equal(a.q.cache_salt, b.q.cache_salt);
    assert_true(strlen(a.q.cache_salt) > 32);
    rt__generate_request_deinit(&a);
    rt__generate_request_deinit(&b);
}

static void the_engines_refusals_name_the_messages_field(void **state)
{
    (void)state;
    rc_about(rc_fail(RC_INVALID_ARGUMENT, &msg, "too many"), &msg, "max_tokens");
    rt__generate_request_explain(&msg);
    assert_string_equal(msg.text, "stopping.max_new_tokens: too many");
    assert_string_equal(msg.param, "stopping.max_new_tokens");
    rc_about(rc_fail(RC_INVALID_ARGUMENT, &msg, "prompt is empty"), &msg, "prompt");
    rt__generate_request_explain(&msg);
    assert_string_equal(msg.text, "prompt is empty");
    rc_fail(RC_RESOURCE_EXHAUSTED, &msg, "no room");
    rt__generate_request_explain(&msg);
    assert_string_equal(msg.text, "no room");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_values_are_refused_by_name),
        cmocka_unit_test(long_lists_and_strings_are_refused),
        cmocka_unit_test(what_is_no_message_is_refused),
        cmocka_unit_test(what_is_not_set_has_its_default),
        cmocka_unit_test(a_zero_is_as_if_not_set_but_for_temperature_and_seed),
        cmocka_unit_test(every_field_arrives),
        cmocka_unit_test(a_bypass_is_a_salt_that_nobody_else_has),
        cmocka_unit_test(the_engines_refusals_name_the_messages_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
