/* runtime/server/generate_request.h - a vllm.GenerateRequest, checked and as mica.h takes it.
 *
 * Each field does what it says or is refused by its path in the message ("stopping.stop_strings"). Checked
 * here is what a field can tell by itself; lengths in tokens, names and room are mica_submit()'s.
 *
 * Memory   the request keeps the decoded message, into which it points, and owns its arrays.
 * Errors   INVALID_ARGUMENT, with the field in rc_msg.param; RESOURCE_EXHAUSTED: memory.
 */
#ifndef RUNTIME_SERVER_GENERATE_REQUEST_H
#define RUNTIME_SERVER_GENERATE_REQUEST_H

#include "runtime/mica.h"

enum {
    RT_GENERATE_ID_MAX = 256,    /* bytes of request_id and session_id */
    RT_GENERATE_NAME_MAX = 1024 /* bytes of model and lora_name */
};

/* What an answer shows. */
typedef struct rt_generate_wants {
    bool prompt_ids, prompt_logprobs, prompt_candidates;
    bool text, ids, logprobs, candidates;
} rt_generate_wants;

typedef struct rt_generate_request {
    void *message;  /* Vllm__GenerateRequest */
    mica_request q; /* all but user; key NULL where request_id is empty */
    rt_generate_wants wants;
    const char *served_name; /* `model`, or NULL */
    mica_text *stop;
    int32_t *stop_token_ids, *prompt_ids;
    mica_bias *logit_bias;
    char *key, *model, *lora, *salt; /* terminated copies; NULL where empty */
} rt_generate_request;

/* vocab: token ids are below it. On failure there is nothing to destroy. */
RC_MUST_CHECK rc_code rt__generate_request_decode(rt_generate_request *r, const uint8_t *message,
                                                  size_t bytes, uint32_t vocab, rc_msg *msg);
void rt__generate_request_deinit(rt_generate_request *r);

/* mica_submit() speaks of its own fields: puts the path of the message's in front, unless it is there. */
void rt__generate_request_explain(rc_msg *msg);

#endif
