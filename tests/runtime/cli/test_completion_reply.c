/* The answer of a completion, byte by byte, from scripted events. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/answer.h"

static mica *m;

static int setup(void **state)
{
    static const mica_adapter_ref adapters[] = {{"lora", "a"}, {"alora", "b"}};
    mica_options o = MICA_OPTIONS_INIT;
    (void)state;
    o.model = "base";
    o.adapters = adapters;
    o.adapters_count = 2;
    return mica_open(&o, &m, NULL) == RC_OK ? 0 : 1;
}

static int teardown(void **state)
{
    (void)state;
    mica_close(m);
    return 0;
}

static void answers(const char *body, const char *expected)
{
    rt_bytes out = {0};
    rc_msg msg;
    if (answer_body(m, body, &out, &msg) != RC_OK) fail_msg("%s: %s", body, msg.text);
    json_t *back = json_loadb(out.data, out.count, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    assert_non_null(back);
    json_decref(back);
    assert_string_equal(out.data, expected);
    rt_bytes_deinit(&out);
}

#define HEAD(model)                                                                                          \
    "{\"id\":\"cmpl-7\",\"object\":\"text_completion\",\"created\":1234,\"model\":\"" model "\","            \
    "\"choices\":["
#define USAGE(p, c, t, cached)                                                                               \
    "],\"usage\":{\"prompt_tokens\":" #p ",\"completion_tokens\":" #c ",\"total_tokens\":" #t                \
    ",\"prompt_tokens_details\":{\"cached_tokens\":" #cached "}}"
#define NO_IDS "\"prompt_logprobs\":null,\"token_ids\":null,\"prompt_token_ids\":null}"

static void a_plain_answer_has_every_member(void **state)
{
    (void)state;
    answers("{\"prompt\":\"xy\",\"max_tokens\":3}",
            HEAD("base") "{\"index\":0,\"text\":\"def\",\"logprobs\":null,\"finish_reason\":\"length\","
                         "\"stop_reason\":null," NO_IDS USAGE(3, 3, 6, 1) ",\"adapter\":null}");
}

static void stops_say_why(void **state)
{
    (void)state;
    answers("{\"prompt\":\"xy\",\"max_tokens\":9,\"stop\":\"e\"}",
            HEAD("base") "{\"index\":0,\"text\":\"d\",\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_"
                         "reason\":\"e\"," NO_IDS USAGE(3, 2, 5, 1) ",\"adapter\":null}");
    answers("{\"prompt\":\"!eos\",\"add_special_tokens\":false}",
            HEAD("base") "{\"index\":0,\"text\":\"ef\",\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_"
                         "reason\":null," NO_IDS USAGE(4, 2, 6, 1) ",\"adapter\":null}");
}

static void what_the_adapter_did_is_told(void **state)
{
    (void)state;
    answers("{\"model\":\"lora\",\"prompt\":\"x\",\"max_tokens\":1}",
            HEAD("lora") "{\"index\":0,\"text\":\"c\",\"logprobs\":null,\"finish_reason\":\"length\",\"stop_"
                         "reason\":null," NO_IDS USAGE(
                             2, 1, 3, 1) ",\"adapter\":{\"name\":\"lora\",\"activation\":0}}");
    answers(
        "{\"model\":\"alora\",\"prompt\":[\"x|\",\"xy\"],\"max_tokens\":1}",
        HEAD("alora") "{\"index\":0,\"text\":\"d\",\"logprobs\":null,\"finish_reason\":\"length\",\"stop_"
                      "reason\":null," NO_IDS
                      ",{\"index\":1,\"text\":\"e\",\"logprobs\":null,\"finish_reason\":\"length\",\"stop_"
                      "reason\":null," NO_IDS USAGE(
                          6, 2, 8,
                          2) ",\"adapter\":{\"name\":\"alora\",\"activation\":2,\"activations\":[2,null]}}");
}

static void choices_of_prompts_are_counted_through(void **state)
{
    (void)state;
    answers("{\"prompt\":[[120],[120,120]],\"n\":2,\"max_tokens\":1,\"return_token_ids\":true}",
            HEAD("base") "{\"index\":0,\"text\":\"b\",\"logprobs\":null,\"finish_reason\":\"length\",\"stop_"
                         "reason\":null,\"prompt_logprobs\":null,"
                         "\"token_ids\":[98],\"prompt_token_ids\":[120]},"
                         "{\"index\":1,\"text\":\"c\",\"logprobs\":null,\"finish_reason\":\"length\",\"stop_"
                         "reason\":null,\"prompt_logprobs\":null,"
                         "\"token_ids\":[99],\"prompt_token_ids\":[120]},"
                         "{\"index\":2,\"text\":\"e\",\"logprobs\":null,\"finish_reason\":\"length\",\"stop_"
                         "reason\":null,\"prompt_logprobs\":null,"
                         "\"token_ids\":[101],\"prompt_token_ids\":[120,120]},"
                         "{\"index\":3,\"text\":\"f\",\"logprobs\":null,\"finish_reason\":\"length\",\"stop_"
                         "reason\":null,\"prompt_logprobs\":null,"
                         "\"token_ids\":[102],\"prompt_token_ids\":[120,120]}" USAGE(3, 4, 7,
                                                                                     2) ",\"adapter\":null}");
}

static void log_probabilities_have_openais_columns(void **state)
{
    (void)state;
    answers("{\"prompt\":\"xy\",\"max_tokens\":2,\"logprobs\":2}",
            HEAD("base") "{\"index\":0,\"text\":\"de\",\"logprobs\":{\"tokens\":[\"d\",\"e\"],\"token_"
                         "logprobs\":[-0.125,-0.25],"
                         "\"top_logprobs\":[{\"d\":-0.125,\"e\":-1.125},{\"e\":-0.25,\"f\":-1.25}],\"text_"
                         "offset\":[0,1]},"
                         "\"finish_reason\":\"length\",\"stop_reason\":null," NO_IDS USAGE(
                             3, 2, 5, 1) ",\"adapter\":null}");
    answers("{\"prompt\":\"xy\",\"max_tokens\":1,\"logprobs\":0,\"return_tokens_as_token_ids\":true}",
            HEAD("base") "{\"index\":0,\"text\":\"d\",\"logprobs\":{\"tokens\":[\"token_id:100\"],\"token_"
                         "logprobs\":[-0.125],"
                         "\"top_logprobs\":[{\"token_id:100\":-0.125}],\"text_offset\":[0]},"
                         "\"finish_reason\":\"length\",\"stop_reason\":null," NO_IDS USAGE(
                             3, 1, 4, 1) ",\"adapter\":null}");
}

static void echo_puts_the_prompt_first(void **state)
{
    (void)state;
    answers("{\"prompt\":\"xy\",\"max_tokens\":1,\"echo\":true}",
            HEAD("base") "{\"index\":0,\"text\":\"xyd\",\"logprobs\":null,\"finish_reason\":\"length\","
                         "\"stop_reason\":null," NO_IDS USAGE(3, 1, 4, 1) ",\"adapter\":null}");
    answers("{\"prompt\":[120,256],\"max_tokens\":1,\"echo\":true}",
            HEAD("base") "{\"index\":0,\"text\":\"x<s>c\",\"logprobs\":null,\"finish_reason\":\"length\","
                         "\"stop_reason\":null," NO_IDS USAGE(2, 1, 3, 1) ",\"adapter\":null}");
    /* The begin token stands in front of the text that was sent; places are characters of that text, a
     * token that is a part of one having its place. */
    answers(
        "{\"prompt\":\"\xc3\xa9y\",\"max_tokens\":1,\"echo\":true,\"logprobs\":1}",
        HEAD("base") "{\"index\":0,\"text\":\"\xc3\xa9y"
                     "e\",\"logprobs\":{\"tokens\":[\"\",\"\xef\xbf\xbd\",\"\xef\xbf\xbd\",\"y\",\"e\"],"
                     "\"token_logprobs\":[null,-9999.0,-0.1,-9999.0,-0.125],\"top_logprobs\":[null,{"
                     "\"\xef\xbf\xbd\":-9999.0,"
                     "\"A\":-0.25},{\"\xef\xbf\xbd\":-0.1,\"A\":-0.25},{\"y\":-9999.0,\"A\":-0.25},{\"e\":-0."
                     "125}],"
                     "\"text_offset\":[0,0,0,1,2]},\"finish_reason\":\"length\",\"stop_reason\":null," NO_IDS
                         USAGE(4, 1, 5, 1) ",\"adapter\":null}");
}

static void prompt_log_probabilities_are_vllms(void **state)
{
    (void)state;
    answers(
        "{\"prompt\":[120,66,121],\"max_tokens\":1,\"prompt_logprobs\":2}",
        HEAD("base") "{\"index\":0,\"text\":\"d\",\"logprobs\":null,\"finish_reason\":\"length\",\"stop_"
                     "reason\":null,"
                     "\"prompt_logprobs\":[null,"
                     "{\"66\":{\"logprob\":-9999.0,\"rank\":9,\"decoded_token\":\"B\"},"
                     "\"65\":{\"logprob\":-0.25,\"rank\":1,\"decoded_token\":\"A\"}},"
                     "{\"121\":{\"logprob\":-0.1,\"rank\":9,\"decoded_token\":\"y\"},"
                     "\"65\":{\"logprob\":-0.25,\"rank\":1,\"decoded_token\":\"A\"},"
                     "\"66\":{\"logprob\":-1.25,\"rank\":2,\"decoded_token\":\"B\"}}],"
                     "\"token_ids\":null,\"prompt_token_ids\":null}" USAGE(3, 1, 4, 1) ",\"adapter\":null}");
}

static void refusals_look_like_vllms(void **state)
{
    (void)state;
    rt_bytes out = {0};
    rc_msg msg;
    rc_about(rc_fail(RC_NOT_FOUND, &msg, "The model `x` does not exist."), &msg, "model");
    rt_completion_error_write(rt_completion_status(RC_NOT_FOUND), &msg, &out);
    assert_string_equal(
        out.data, "{\"error\":{\"message\":\"The model `x` does not exist.\",\"type\":\"NotFoundError\","
                  "\"param\":\"model\",\"code\":404}}");
    rt_bytes_deinit(&out);
    assert_int_equal(rt_completion_status(RC_INVALID_ARGUMENT), 400);
    assert_int_equal(rt_completion_status(RC_INTERNAL), 500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plain_answer_has_every_member),
        cmocka_unit_test(stops_say_why),
        cmocka_unit_test(what_the_adapter_did_is_told),
        cmocka_unit_test(choices_of_prompts_are_counted_through),
        cmocka_unit_test(log_probabilities_have_openais_columns),
        cmocka_unit_test(echo_puts_the_prompt_first),
        cmocka_unit_test(prompt_log_probabilities_are_vllms),
        cmocka_unit_test(refusals_look_like_vllms),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
