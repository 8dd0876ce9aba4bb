/* Events become messages: nothing is lost or told twice, however many events a message gathers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "inference.pb-c.h"
#include "runtime/base/utf8.h"
#include "runtime/server/generate_reply.h"
#include "runtime/server/wire_text.h"

static rc_msg msg;
static const int32_t prompt_ids[] = {4, 5, 6};
static const mica_prompt prompt = {
    .ids = prompt_ids, .count = 3, .cached_tokens = 2, .activation = MICA_NEVER};

static void add(rt_generate_reply *r, const char *text, int32_t id, mica_finish finish)
{
    mica_top top[] = {{id, -0.5f, 1}, {id + 1, -2, 2}};
    mica_token token = {.id = id, .logprob = -0.5f, .rank = 1, .top = top, .top_count = 2};
    mica_event e = {.prompt = &prompt,
                    .text = text,
                    .text_bytes = strlen(text),
                    .tokens = &token,
                    .tokens_count = 1,
                    .finish = finish,
                    .stop_token = -1};
    assert_int_equal(rt__generate_reply_add(r, &e, &msg), RC_OK);
}

static Vllm__GenerateResponse *pack(rt_generate_reply *r, bool with_prompt, bool with_output)
{
    rt_bytes out = {0};
    assert_int_equal(rt__generate_reply_pack(r, with_prompt, with_output, &out, &msg), RC_OK);
    Vllm__GenerateResponse *m = vllm__generate_response__unpack(NULL, out.count, (const uint8_t *)out.data);
    assert_non_null(m);
    rt_bytes_deinit(&out);
    return m;
}

static void done(Vllm__GenerateResponse *m)
{
    vllm__generate_response__free_unpacked(m, NULL);
}

static const rt_generate_wants all = {
    .prompt_ids = true, .text = true, .ids = true, .logprobs = true, .candidates = true};

static void what_gathers_is_one_message(void **state)
{
    (void)state;
    rt_generate_reply r;
    rt__generate_reply_init(&r, &all);
    assert_false(rt__generate_reply_has_prompt(&r) || rt__generate_reply_has_output(&r));
    add(&r, "a", 10, MICA_RUNNING);
    add(&r, "b", 11, MICA_RUNNING);
    assert_true(rt__generate_reply_has_prompt(&r));
    Vllm__GenerateResponse *m = pack(&r, true, false);
    assert_int_equal(m->prompt_info->num_prompt_tokens, 3);
    assert_int_equal(m->prompt_info->n_token_ids, 3);
    assert_null(m->outputs);
    done(m);
    m = pack(&r, false, true);
    assert_null(m->prompt_info);
    assert_int_equal(m->outputs->num_tokens, 2);
    assert_int_equal(m->outputs->n_token_ids, 2);
    assert_int_equal(m->outputs->token_ids[1], 11);
    assert_int_equal(m->outputs->n_candidate_tokens, 2);
    assert_int_equal(m->outputs->candidate_tokens[1]->n_tokens, 2);
    assert_int_equal(m->outputs->candidate_tokens[1]->tokens[1]->id, 12);
    assert_memory_equal(m->outputs->text.data, "ab", 2);
    assert_int_equal(m->outputs->has_finish_info_case, 0);
    done(m);
    assert_false(rt__generate_reply_has_prompt(&r) || rt__generate_reply_has_output(&r));
    add(&r, "", 13, MICA_LENGTH);
    m = pack(&r, false, true);
    assert_int_equal(m->outputs->num_tokens, 1);
    assert_int_equal(m->outputs->finish_info->num_output_tokens, 3);
    assert_int_equal(m->outputs->finish_info->finish_reason, VLLM__FINISH_INFO__FINISH_REASON__LENGTH);
    assert_int_equal(m->outputs->finish_info->stop_reason_case, 0);
    done(m);
    rt__generate_reply_deinit(&r);
}

static void ends_say_why(void **state)
{
    (void)state;
    static const rt_generate_wants none;
    static const struct {
        mica_finish finish;
        int32_t stop_token;
        const char *stop_text;
        int reason, kind;
    } cases[] = {
        {MICA_STOP, -1, NULL, VLLM__FINISH_INFO__FINISH_REASON__STOP,
         VLLM__FINISH_INFO__STOP_REASON_EOS_TOKEN_ID},
        {MICA_STOP, 0, NULL, VLLM__FINISH_INFO__FINISH_REASON__STOP,
         VLLM__FINISH_INFO__STOP_REASON_STOP_TOKEN_ID},
        {MICA_STOP, -1, "x", VLLM__FINISH_INFO__FINISH_REASON__STOP,
         VLLM__FINISH_INFO__STOP_REASON_STOP_STRING},
        {MICA_LENGTH, -1, NULL, VLLM__FINISH_INFO__FINISH_REASON__LENGTH, 0},
        {MICA_CANCELLED, -1, NULL, VLLM__FINISH_INFO__FINISH_REASON__ABORTED, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rt_generate_reply r;
        mica_token token = {.id = 0};
        mica_event e = {.tokens = &token,
                        .tokens_count = 1,
                        .finish = cases[i].finish,
                        .text = "",
                        .stop_token = cases[i].stop_token,
                        .stop_text = cases[i].stop_text,
                        .stop_text_bytes = cases[i].stop_text ? 1 : 0};
        rt__generate_reply_init(&r, &none);
        assert_int_equal(rt__generate_reply_add(&r, &e, &msg), RC_OK);
        Vllm__GenerateResponse *m = pack(&r, false, true);
        assert_int_equal(m->outputs->finish_info->finish_reason, cases[i].reason);
        assert_int_equal(m->outputs->finish_info->stop_reason_case, cases[i].kind);
        assert_int_equal(m->outputs->n_token_ids, 0);
        assert_int_equal(m->outputs->text.len, 0);
        done(m);
        rt__generate_reply_deinit(&r);
    }
}

static void a_prompts_first_token_has_no_log_probability(void **state)
{
    (void)state;
    const rt_generate_wants wants = {.prompt_logprobs = true, .prompt_candidates = true};
    mica_top top = {9, -3, 1};
    mica_token tokens[] = {{.id = 4, .logprob = 77},
                           {.id = 5, .logprob = -3, .rank = 1, .top = &top, .top_count = 1},
                           {.id = 6, .logprob = -4, .rank = 2, .top = &top, .top_count = 1}};
    mica_prompt p = prompt;
    mica_event e = {.prompt = &p, .text = "", .tokens = tokens, .tokens_count = 1};
    rt_generate_reply r;
    p.logprobs = tokens;
    rt__generate_reply_init(&r, &wants);
    assert_int_equal(rt__generate_reply_add(&r, &e, &msg), RC_OK);
    Vllm__GenerateResponse *m = pack(&r, true, true);
    assert_int_equal(m->prompt_info->n_logprobs, 3);
    assert_int_equal(m->prompt_info->n_ranks, 3);
    assert_true(m->prompt_info->logprobs[0] == 0 && m->prompt_info->ranks[0] == 0);
    assert_true(m->prompt_info->logprobs[2] == -4 && m->prompt_info->ranks[2] == 2);
    assert_int_equal(m->prompt_info->candidate_tokens[0]->n_tokens, 0);
    assert_int_equal(m->prompt_info->candidate_tokens[1]->tokens[0]->id, 9);
    assert_int_equal(m->prompt_info->n_token_ids, 0);
    done(m);
    rt__generate_reply_deinit(&r);
}

static void text_that_is_sent_is_utf8(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "", "plain", "\xff", "a\xc3", "\xed\xa0\x80z", "\xf0\x9f\x98\x80", "\xc0\xaf"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rt_bytes out = {0};
        size_t bytes = strlen(cases[i]);
        rt__wire_text_add(&out, cases[i], bytes);
        assert_int_equal(rt_utf8_valid(out.data ? out.data : "", out.count), out.count);
        if (rt_utf8_valid(cases[i], bytes) == bytes) assert_int_equal(out.count, bytes);
        rt_bytes_deinit(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_gathers_is_one_message),
        cmocka_unit_test(ends_say_why),
        cmocka_unit_test(a_prompts_first_token_has_no_log_probability),
        cmocka_unit_test(text_that_is_sent_is_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
