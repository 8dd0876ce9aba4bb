/* A GenerateRequest from anyone: decoding it, running it and packing its answer never break. */
#include <stdint.h>
#include <stdlib.h>

#include "inference.pb-c.h"
#include "runtime/base/utf8.h"
#include "runtime/server/generate_reply.h"
#include "tests/support/fake_mica.h"

static void check_answer(rt_generate_reply *r)
{
    rt_bytes out = {0};
    RC_ASSERT(rt__generate_reply_pack(r, rt__generate_reply_has_prompt(r), true, &out, NULL) == RC_OK);
    Vllm__GenerateResponse *back =
        vllm__generate_response__unpack(NULL, out.count, (const uint8_t *)out.data);
    RC_ASSERT(back && back->outputs);
    const ProtobufCBinaryData *text = &back->outputs->text;
    RC_ASSERT(rt_utf8_valid((const char *)text->data, text->len) == text->len);
    vllm__generate_response__free_unpacked(back, NULL);
    rt_bytes_deinit(&out);
}

static void answer(mica *m, const rt_generate_request *request)
{
    rt_generate_reply reply;
    uint64_t id;
    mica_event e;
    mica_request q = request->q;
    if (!q.max_tokens || q.max_tokens > 64) q.max_tokens = 8;
    q.model = NULL;
    rt__generate_reply_init(&reply, &request->wants);
    if (mica_submit(m, &q, &id, NULL) == RC_OK)
        while (mica_poll(m, 0, &e)) {
            RC_ASSERT(rt__generate_reply_add(&reply, &e, NULL) == RC_OK);
            if (e.tokens_count % 2 || e.finish != MICA_RUNNING) check_answer(&reply);
        }
    rt__generate_reply_deinit(&reply);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    rt_generate_request r;
    rc_msg msg;
    mica *m;
    mica_options options = MICA_OPTIONS_INIT;
    options.model = "base";
    fake.is_silent = true;
    if (size > 1 << 16 || mica_open(&options, &m, NULL) != RC_OK) return 0;
    if (rt__generate_request_decode(&r, data, size, FAKE_VOCAB, &msg) == RC_OK) {
        answer(m, &r);
        rt__generate_request_deinit(&r);
    } else {
        RC_ASSERT(rt_utf8_valid(msg.text, strlen(msg.text)) == strlen(msg.text));
    }
    mica_close(m);
    return 0;
}
