/* The body of a completion: every field's good values arrive, every bad one is refused by its name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/json_in.h"
#include "runtime/cli/completion_request.h"

enum { VOCAB = 100 };
static rc_msg msg;

static rt_completion_request *decode(const char *body)
{
    json_t *json = NULL;
    rt_completion_request *r = NULL;
    assert_int_equal(rt_json_read(body, strlen(body), &json, &msg), RC_OK);
    rc_code code = rt_completion_request_decode(json, VOCAB, &r, &msg);
    json_decref(json);
    assert_true((code == RC_OK) == (r != NULL));
    return r;
}

static void bad_values_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *body, *param;
    } cases[] = {
        {"[]", "body"},
        {"{}", "prompt"},
        {"{\"prompt\":null}", "prompt"},
        {"{\"prompt\":[]}", "prompt"},
        {"{\"prompt\":[[]]}", "prompt"},
        {"{\"prompt\":[[1],[]]}", "prompt"},
        {"{\"prompt\":7}", "prompt"},
        {"{\"prompt\":{}}", "prompt"},
        {"{\"prompt\":[1,\"a\"]}", "prompt"},
        {"{\"prompt\":[\"a\",1]}", "prompt"},
        {"{\"prompt\":[\"a\",null]}", "prompt"},
        {"{\"prompt\":[[\"a\"]]}", "prompt"},
        {"{\"prompt\":[[[1]]]}", "prompt"},
        {"{\"prompt\":[true]}", "prompt"},
        {"{\"prompt\":[1.5]}", "prompt"},
        {"{\"prompt\":[-1]}", "prompt"},
        {"{\"prompt\":[100]}", "prompt"},
        {"{\"prompt\":[99999999999999999999999]}", "prompt"},
        {"{\"prompt\":\"a\",\"model\":1}", "model"},
        {"{\"prompt\":\"a\",\"max_tokens\":0}", "max_tokens"},
        {"{\"prompt\":\"a\",\"max_tokens\":-1}", "max_tokens"},
        {"{\"prompt\":\"a\",\"max_tokens\":1.5}", "max_tokens"},
        {"{\"prompt\":\"a\",\"max_tokens\":\"5\"}", "max_tokens"},
        {"{\"prompt\":\"a\",\"max_tokens\":true}", "max_tokens"},
        {"{\"prompt\":\"a\",\"max_tokens\":4294967296}", "max_tokens"},
        {"{\"prompt\":\"a\",\"max_tokens\":1e999}", "max_tokens"},
        {"{\"prompt\":\"a\",\"max_tokens\":123456789012345678901234567890}", "max_tokens"},
        {"{\"prompt\":\"a\",\"min_tokens\":-1}", "min_tokens"},
        {"{\"prompt\":\"a\",\"min_tokens\":17}", "min_tokens"},
        {"{\"prompt\":\"a\",\"stop\":1}", "stop"},
        {"{\"prompt\":\"a\",\"stop\":\"\"}", "stop"},
        {"{\"prompt\":\"a\",\"stop\":[\"b\",\"\"]}", "stop"},
        {"{\"prompt\":\"a\",\"stop\":[\"b\",3]}", "stop"},
        {"{\"prompt\":\"a\",\"stop_token_ids\":3}", "stop_token_ids"},
        {"{\"prompt\":\"a\",\"stop_token_ids\":[100]}", "stop_token_ids"},
        {"{\"prompt\":\"a\",\"stop_token_ids\":[\"1\"]}", "stop_token_ids"},
        {"{\"prompt\":\"a\",\"ignore_eos\":1}", "ignore_eos"},
        {"{\"prompt\":\"a\",\"include_stop_str_in_output\":\"true\"}", "include_stop_str_in_output"},
        {"{\"prompt\":\"a\",\"temperature\":-0.1}", "temperature"},
        {"{\"prompt\":\"a\",\"temperature\":\"1\"}", "temperature"},
        {"{\"prompt\":\"a\",\"temperature\":1e999}", "temperature"},
        {"{\"prompt\":\"a\",\"top_p\":0}", "top_p"},
        {"{\"prompt\":\"a\",\"top_p\":1e-60}", "top_p"},
        {"{\"prompt\":\"a\",\"top_p\":1.01}", "top_p"},
        {"{\"prompt\":\"a\",\"top_k\":-2}", "top_k"},
        {"{\"prompt\":\"a\",\"top_k\":1.5}", "top_k"},
        {"{\"prompt\":\"a\",\"min_p\":-0.1}", "min_p"},
        {"{\"prompt\":\"a\",\"min_p\":1.1}", "min_p"},
        {"{\"prompt\":\"a\",\"seed\":9223372036854775808}", "seed"},
        {"{\"prompt\":\"a\",\"seed\":\"7\"}", "seed"},
        {"{\"prompt\":\"a\",\"n\":0}", "n"},
        {"{\"prompt\":\"a\",\"n\":2,\"temperature\":0}", "n"},
        {"{\"prompt\":\"a\",\"n\":129}", "n"},
        {"{\"prompt\":\"a\",\"frequency_penalty\":2.1}", "frequency_penalty"},
        {"{\"prompt\":\"a\",\"presence_penalty\":-2.1}", "presence_penalty"},
        {"{\"prompt\":\"a\",\"repetition_penalty\":0}", "repetition_penalty"},
        {"{\"prompt\":\"a\",\"logit_bias\":[]}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"x\":1}}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"\":1}}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"100\":1}}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"01\":1}}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"99999999999\":1}}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"1\":101}}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logit_bias\":{\"1\":null}}", "logit_bias"},
        {"{\"prompt\":\"a\",\"logprobs\":21}", "logprobs"},
        {"{\"prompt\":\"a\",\"logprobs\":-1}", "logprobs"},
        {"{\"prompt\":\"a\",\"logprobs\":true}", "logprobs"},
        {"{\"prompt\":\"a\",\"prompt_logprobs\":21}", "prompt_logprobs"},
        {"{\"prompt\":\"a\",\"echo\":0}", "echo"},
        {"{\"prompt\":\"a\",\"add_special_tokens\":\"no\"}", "add_special_tokens"},
        {"{\"prompt\":\"a\",\"skip_special_tokens\":[]}", "skip_special_tokens"},
        {"{\"prompt\":\"a\",\"return_token_ids\":1}", "return_token_ids"},
        {"{\"prompt\":\"a\",\"return_tokens_as_token_ids\":1}", "return_tokens_as_token_ids"},
        {"{\"prompt\":\"a\",\"cache_salt\":\"\"}", "cache_salt"},
        {"{\"prompt\":\"a\",\"cache_salt\":\"a\\u0000b\"}", "cache_salt"},
        {"{\"prompt\":\"a\",\"cache_salt\":5}", "cache_salt"},
        {"{\"prompt\":\"a\",\"priority\":2147483648}", "priority"},
        {"{\"prompt\":\"a\",\"activation\":-1}", "activation"},
        {"{\"prompt\":\"a\",\"activation\":\"0\"}", "activation"},
        {"{\"prompt\":\"a\",\"require_activation\":1}", "require_activation"},
        {"{\"prompt\":\"a\",\"best_of\":3}", "best_of"},
        {"{\"prompt\":\"a\",\"best_of\":0}", "best_of"},
        {"{\"prompt\":\"a\",\"stream\":true}", "stream"},
        {"{\"prompt\":\"a\",\"suffix\":\"x\"}", "suffix"},
        {"{\"prompt\":\"a\",\"user\":1}", "user"},
        {"{\"prompt\":\"a\",\"stream_options\":{}}", "stream_options"},
        {"{\"prompt\":\"a\",\"use_beam_search\":true}", "use_beam_search"},
        {"{\"prompt\":\"a\",\"max_token\":1}", "max_token"},
        {"{\"prompt\":\"a\",\"Max_tokens\":1}", "Max_tokens"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (decode(cases[i].body)) fail_msg("accepted: %s", cases[i].body);
        if (strcmp(msg.param, cases[i].param))
            fail_msg("%s: about '%s': %s", cases[i].body, msg.param, msg.text);
        if (!strstr(msg.text, cases[i].param) && strcmp(cases[i].param, "body"))
            fail_msg("%s: does not name the field: %s", cases[i].body, msg.text);
    }
}

static void messages_quote_the_value_and_what_was_expected(void **state)
{
    (void)state;
    assert_null(decode("{\"prompt\":\"a\",\"max_tokens\":\"many\"}"));
    assert_string_equal(msg.text, "max_tokens is \"many\"; expected a whole number from 1 to 2147483647");
    assert_null(decode("{\"prompt\":\"a\",\"max_tokn\":5}"));
    assert_string_equal(msg.text, "unknown field \"max_tokn\"; the nearest is \"max_tokens\"");
    assert_null(decode("{\"prompt\":[1,2,777]}"));
    assert_string_equal(msg.text, "prompt has token id 777; expected 0 to 99");
}

/* What is as large as it may be is taken; one more is refused, and the limit is said. */
static void lists_and_texts_have_the_limits_that_messages_name(void **state)
{
    static const struct {
        const char *before, *item, *between, *after;
        unsigned most;
        const char *limit;
    } cases[] = {
        {"{\"prompt\":\"a\",\"stop\":[", "\"b\"", ",", "]}", 64, "at most 64,"},
        {"{\"prompt\":\"a\",\"stop\":\"", "b", "", "\"}", 1024, "1 to 1024 bytes"},
        {"{\"prompt\":\"a\",\"stop_token_ids\":[", "7", ",", "]}", 256, "at most 256"},
        {"{\"prompt\":\"a\",\"cache_salt\":\"", "b", "", "\"}", 256, "1 to 256 bytes"},
        {"{\"n\":128,\"prompt\":[", "\"a\"", ",", "]}", 128, "at most 16384"},
        {"{\"prompt\":[", "\"a\"", ",", "]}", 16384, "at most 16384"},
    };
    static char body[1 << 17];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (unsigned more = 0; more < 2; more++) {
            char *at = stpcpy(body, cases[i].before);
            for (unsigned k = 0; k < cases[i].most + more; k++)
                at = stpcpy(stpcpy(at, k ? cases[i].between : ""), cases[i].item);
            strcpy(at, cases[i].after);
            rt_completion_request *r = decode(body);
            if (more ? r || !strstr(msg.text, cases[i].limit) : !r)
                fail_msg("%s: %u of %u: %s", cases[i].before, cases[i].most + more, cases[i].most,
                         r ? "accepted" : msg.text);
            rt_completion_request_destroy(r);
        }
}

static void null_and_inert_fields_are_as_if_absent(void **state)
{
    (void)state;
    rt_completion_request *r = decode("{\"prompt\":\"a\",\"max_tokens\":null,\"temperature\":null,\"seed\":"
                                      "null,\"stop\":null,\"user\":\"me\","
                                      "\"stream\":false,\"best_of\":1,\"suffix\":null,\"stream_options\":"
                                      "null,\"logprobs\":null,\"length_penalty\":1,"
                                      "\"response_format\":{\"type\":\"text\"},\"metadata\":{\"a\":1},\"n\":"
                                      "2,\"logit_bias\":null,\"activation\":null}");
    assert_non_null(r);
    mica_request d = MICA_REQUEST_INIT, q = rt_completion_request_of(r, 0);
    assert_int_equal(q.max_tokens, d.max_tokens);
    assert_true(q.temperature == 1);
    assert_false(q.has_seed);
    assert_false(q.has_activation);
    assert_int_equal(q.logprobs, -1);
    assert_int_equal(q.prompt_logprobs, -1);
    assert_null(q.model);
    rt_completion_request_destroy(r);
}

static void every_field_arrives(void **state)
{
    (void)state;
    rt_completion_request *r =
        decode("{\"model\":\"uq\",\"prompt\":\"a\\u0000b\",\"max_tokens\":7.0,\"min_tokens\":3,\"stop\":["
               "\"x\",\"yz\"],"
               "\"stop_token_ids\":[5,6],\"ignore_eos\":true,\"include_stop_str_in_output\":true,"
               "\"temperature\":0.5,\"top_p\":0.25,"
               "\"top_k\":-1,\"min_p\":0.125,\"seed\":-9223372036854775808,\"n\":3,\"frequency_penalty\":-2,"
               "\"presence_penalty\":2,"
               "\"repetition_penalty\":1.5,\"logit_bias\":{\"17\":-100,\"0\":2.5},\"logprobs\":4,\"prompt_"
               "logprobs\":2,\"echo\":true,"
               "\"add_special_tokens\":false,\"skip_special_tokens\":false,\"return_token_ids\":true,"
               "\"return_tokens_as_token_ids\":true,\"cache_salt\":\"s\",\"priority\":-5,\"activation\":0,"
               "\"require_activation\":true}");
    assert_non_null(r);
    mica_request q = rt_completion_request_of(r, 0);
    assert_string_equal(q.model, "uq");
    assert_int_equal(q.prompt_text_bytes, 3);
    assert_int_equal(q.max_tokens, 7);
    assert_int_equal(q.min_tokens, 3);
    assert_int_equal(q.stop_count, 2);
    assert_string_equal(q.stop[1].bytes, "yz");
    assert_int_equal(q.stop_token_ids[1], 6);
    assert_true(q.ignore_eos && q.include_stop_str_in_output && q.require_activation && q.has_activation &&
                q.has_seed);
    assert_true(q.temperature == 0.5f && q.top_p == 0.25f && q.min_p == 0.125f &&
                q.repetition_penalty == 1.5f);
    assert_true(q.frequency_penalty == -2 && q.presence_penalty == 2);
    assert_int_equal(q.top_k, -1);
    assert_true(q.seed == INT64_MIN);
    assert_int_equal(q.n, 3);
    assert_int_equal(q.logit_bias_count, 2);
    assert_int_equal(q.logit_bias[0].token, 17);
    assert_true(q.logit_bias[0].bias == -100 && q.logit_bias[1].bias == 2.5f);
    assert_int_equal(q.logprobs, 4);
    assert_int_equal(q.prompt_logprobs, 4); /* echo shows logprobs of the prompt too */
    assert_int_equal(r->prompt_logprobs, 2);
    assert_false(q.add_special_tokens || q.skip_special_tokens);
    assert_true(r->echo && r->return_token_ids && r->return_tokens_as_token_ids);
    assert_string_equal(q.cache_salt, "s");
    assert_int_equal(q.priority, -5);
    assert_int_equal(q.activation, 0);
    rt_completion_request_destroy(r);
}

static void prompts_come_in_every_form(void **state)
{
    (void)state;
    rt_completion_request *r = decode("{\"prompt\":[1,2,99]}");
    assert_int_equal(r->prompts_count, 1);
    assert_int_equal(r->prompts[0].ids_count, 3);
    assert_int_equal(r->prompts[0].ids[2], 99);
    rt_completion_request_destroy(r);
    r = decode("{\"prompt\":[\"ab\",[3,4],\"\"],\"n\":2}");
    assert_int_equal(r->prompts_count, 3);
    mica_request q = rt_completion_request_of(r, 1);
    assert_null(q.prompt_text);
    assert_int_equal(q.prompt_ids_count, 2);
    assert_int_equal(q.prompt_ids[1], 4);
    assert_int_equal(q.first_choice, 2);
    q = rt_completion_request_of(r, 2);
    assert_non_null(q.prompt_text);
    assert_int_equal(q.prompt_text_bytes, 0);
    assert_int_equal(q.first_choice, 4);
    rt_completion_request_destroy(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_values_are_refused_by_name),
        cmocka_unit_test(messages_quote_the_value_and_what_was_expected),
        cmocka_unit_test(lists_and_texts_have_the_limits_that_messages_name),
        cmocka_unit_test(null_and_inert_fields_are_as_if_absent),
        cmocka_unit_test(every_field_arrives),
        cmocka_unit_test(prompts_come_in_every_form),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
