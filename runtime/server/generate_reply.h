/* runtime/server/generate_reply.h - engine events, gathered and packed as vllm.GenerateResponse.
 *
 *     event event event -> rt__generate_reply_add()       what nobody has sent yet
 *                          rt__generate_reply_pack()  ->  one message, and it is forgotten
 *
 * So a reader who is slower than the engine gets fewer, longer messages, and what waits for it is never more
 * than its own answer.
 */
#ifndef RUNTIME_SERVER_GENERATE_REPLY_H
#define RUNTIME_SERVER_GENERATE_REPLY_H

#include "runtime/base/bytes.h"
#include "runtime/mica.h"
#include "runtime/server/generate_request.h"

/* What is shown of tokens, a column a kind. */
typedef struct rt_token_columns {
    rt_bytes ids, ranks; /* uint32_t */
    rt_bytes logprobs;   /* float */
    rt_bytes top;        /* Vllm__TokenInfo of all tokens, one after the other */
    rt_bytes top_counts; /* uint32_t a token */
    uint32_t count;
} rt_token_columns;

typedef struct rt_generate_reply {
    rt_generate_wants wants;
    rt_token_columns prompt, output;
    rt_bytes text;
    bool knows_prompt, has_packed_prompt;
    uint32_t prompt_tokens, cached_tokens, activation; /* once knows_prompt; activation may be MICA_NEVER */
    uint32_t output_tokens;                            /* since the beginning */
    mica_finish finish;
    int32_t stop_token, last_token;
    rt_bytes stop_text;
    bool has_stop_text;
} rt_generate_reply;

void rt__generate_reply_init(rt_generate_reply *r, const rt_generate_wants *wants);
void rt__generate_reply_deinit(rt_generate_reply *r);

/* Errors RESOURCE_EXHAUSTED: memory. */
RC_MUST_CHECK rc_code rt__generate_reply_add(rt_generate_reply *r, const mica_event *e, rc_msg *msg);

/* The prompt's facts are known and not packed yet. */
bool rt__generate_reply_has_prompt(const rt_generate_reply *r);
/* There are tokens, text or an end to tell. */
bool rt__generate_reply_has_output(const rt_generate_reply *r);
/* Appends a message with what was asked for and is there; `out` is then that message.
 * Errors RESOURCE_EXHAUSTED: memory. */
RC_MUST_CHECK rc_code rt__generate_reply_pack(rt_generate_reply *r, bool prompt, bool output, rt_bytes *out,
                                              rc_msg *msg);

#endif
