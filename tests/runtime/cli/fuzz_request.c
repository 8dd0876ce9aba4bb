/* A batch line from anyone: parsing, decoding, and answering what was decoded never break. */
#include <stdint.h>
#include <stdlib.h>

#include "runtime/cli/batch_line.h"
#include "runtime/cli/completion_reply.h"
#include "tests/support/fake_mica.h"

static void answer(mica *m, const rt_completion_request *r)
{
    rt_completion_reply *reply = NULL;
    rt_bytes out = {0};
    uint64_t id;
    mica_event e;
    if (r->prompts_count * r->common.n > 64 || r->common.max_tokens > 64) return;
    if (rt_completion_reply_create(&reply, r, m, NULL) != RC_OK) return;
    uint32_t submitted = 0;
    for (size_t i = 0; i < r->prompts_count; i++) {
        mica_request q = rt_completion_request_of(r, i);
        submitted += mica_submit(m, &q, &id, NULL) == RC_OK;
    }
    bool is_whole = submitted == r->prompts_count;
    while (mica_poll(m, 0, &e))
        if (rt_completion_reply_add(reply, &e, NULL) != RC_OK) is_whole = false;
    if (is_whole && rt_completion_reply_write(reply, "cmpl-0", 0, &out, NULL) == RC_OK) {
        json_error_t error;
        json_t *back = json_loadb(out.data, out.count, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &error);
        RC_ASSERT(back ||
                  json_error_code(&error) == json_error_null_byte_in_key); /* valid, but not for jansson */
        json_decref(back);
    }
    rt_bytes_deinit(&out);
    rt_completion_reply_destroy(reply);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    rt_batch_line line;
    rt_completion_request *r = NULL;
    rc_msg msg;
    mica *m;
    mica_options options = MICA_OPTIONS_INIT;
    options.model = "base";
    fake.is_silent = true;
    if (size > 1 << 16 || mica_open(&options, &m, NULL) != RC_OK) return 0;
    rc_code code = rt__batch_line_decode(&line, (const char *)data, size, 1, &msg);
    if (code == RC_OK) code = rt__batch_line_check(&line, &msg);
    if (code == RC_OK && rt_completion_request_decode(line.body, FAKE_VOCAB, &r, &msg) == RC_OK) answer(m, r);
    rt_completion_request_destroy(r);
    rt__batch_line_deinit(&line);
    mica_close(m);
    return 0;
}
