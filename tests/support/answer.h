/* tests/support/answer.h - the answer to one completion body, by way of the scripted engine. */
#ifndef TESTS_SUPPORT_ANSWER_H
#define TESTS_SUPPORT_ANSWER_H

#include <string.h>

#include "runtime/base/json_in.h"
#include "runtime/cli/completion_reply.h"
#include "tests/support/fake_mica.h"

/* Submits all prompts, polls to the end and writes the answer to `out`. */
static inline rc_code answer_body(mica *m, const char *body, rt_bytes *out, rc_msg *msg)
{
    json_t *json = NULL;
    rt_completion_request *r = NULL;
    rt_completion_reply *reply = NULL;
    mica_event e;
    uint64_t id;
    rc_code code = rt_json_read(body, strlen(body), &json, msg);
    if (code == RC_OK) code = rt_completion_request_decode(json, FAKE_VOCAB, &r, msg);
    if (code == RC_OK) code = rt_completion_reply_create(&reply, r, m, msg);
    for (size_t i = 0; code == RC_OK && i < r->prompts_count; i++) {
        mica_request q = rt_completion_request_of(r, i);
        code = mica_submit(m, &q, &id, msg);
    }
    while (mica_poll(m, 0, &e))
        if (code == RC_OK) code = rt_completion_reply_add(reply, &e, msg);
    if (code == RC_OK) code = rt_completion_reply_write(reply, "cmpl-7", 1234, out, msg);
    rt_completion_reply_destroy(reply);
    rt_completion_request_destroy(r);
    json_decref(json);
    return code;
}

#endif
