/* Every allocation of decoding, collecting and writing fails in turn: no crash, no leak, one line of why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "tests/support/answer.h"

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);

static long left = -1; /* allocations until one fails; negative: none does */

static bool fails(void)
{
    return left >= 0 && left-- == 0;
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}
void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : __real_calloc(count, bytes);
}
void *__wrap_realloc(void *old, size_t bytes)
{
    return fails() ? NULL : __real_realloc(old, bytes);
}

/* As answer_body(), with allocations failing everywhere but in what is not ours: the engine, and jansson's
 * parser, whose strings silently lose characters where memory is short. */
static rc_code answer_failing(mica *m, const char *body, long at, rt_bytes *out, rc_msg *msg)
{
    json_t *json = NULL;
    rt_completion_request *r = NULL;
    rt_completion_reply *reply = NULL;
    mica_event e;
    uint64_t id;
    rc_code code = rt_json_read(body, strlen(body), &json, msg);
    left = at;
    if (code == RC_OK) code = rt_completion_request_decode(json, FAKE_VOCAB, &r, msg);
    if (code == RC_OK) code = rt_completion_reply_create(&reply, r, m, msg);
    for (size_t i = 0; code == RC_OK && i < r->prompts_count; i++) {
        long saved = left;
        mica_request q = rt_completion_request_of(r, i);
        left = -1;
        code = mica_submit(m, &q, &id, msg);
        left = saved;
    }
    while (mica_poll(m, 0, &e))
        if (code == RC_OK) code = rt_completion_reply_add(reply, &e, msg);
    if (code == RC_OK) code = rt_completion_reply_write(reply, "cmpl-7", 1234, out, msg);
    left = -1;
    rt_completion_reply_destroy(reply);
    rt_completion_request_destroy(r);
    json_decref(json);
    return code;
}

static void each_allocation_may_fail(void **state)
{
    (void)state;
    static const char body[] = "{\"prompt\":[\"xy\",[120,121]],\"n\":2,\"max_tokens\":3,\"logprobs\":3,"
                               "\"prompt_logprobs\":2,\"echo\":true,"
                               "\"return_token_ids\":true,\"stop\":\"q\",\"stop_token_ids\":[1],\"logit_"
                               "bias\":{\"1\":2},\"length_penalty\":1}";
    mica_options o = MICA_OPTIONS_INIT;
    mica *m;
    rt_bytes good = {0};
    rc_msg msg;
    o.model = "base";
    assert_int_equal(mica_open(&o, &m, &msg), RC_OK);
    assert_int_equal(answer_failing(m, body, -1, &good, &msg), RC_OK);
    long at = 0;
    for (rc_code code = RC_RESOURCE_EXHAUSTED; code != RC_OK; at++) {
        rt_bytes out = {0};
        code = answer_failing(m, body, at, &out, &msg);
        if (code != RC_OK && code != RC_RESOURCE_EXHAUSTED) fail_msg("allocation %ld: %s", at, msg.text);
        if (code == RC_OK) assert_string_equal(out.data, good.data);
        rt_bytes_deinit(&out);
    }
    print_message("%ld allocations failed in turn\n", at - 1);
    rt_bytes_deinit(&good);
    mica_close(m);
}

int main(void)
{
    json_set_alloc_funcs(__wrap_malloc, free);
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_allocation_may_fail)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
