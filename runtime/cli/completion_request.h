/* runtime/cli/completion_request.h - the JSON body of an OpenAI completion, as vLLM extends it, decoded.
 *
 * Every field is a row of one table: name, kind, range, place. What is not in the table, has another JSON
 * type or is out of range is refused by name (rc_msg.param); null is as if absent.
 * Checked here is what a field can tell by itself. What needs the engine (does the model exist, how long is
 * the tokenized prompt) mica_submit() checks.
 *
 * Memory   the request owns its arrays and keeps a reference to the body, whose strings it points into.
 * Errors   INVALID_ARGUMENT; RESOURCE_EXHAUSTED: memory.
 * Source   vllm/entrypoints/openai/protocol.py (CompletionRequest).
 */
#ifndef RUNTIME_CLI_COMPLETION_REQUEST_H
#define RUNTIME_CLI_COMPLETION_REQUEST_H

#include <jansson.h>

#include "runtime/mica.h"

enum { RT_COMPLETION_CHOICES_MAX = 16384 }; /* prompts * n: each is a sequence of the engine */

typedef struct rt_completion_prompt {
    const char *text; /* or NULL: ids */
    size_t text_bytes;
    const int32_t *ids;
    size_t ids_count;
} rt_completion_prompt;

typedef struct rt_completion_request {
    json_t *body;
    mica_request common; /* all but user, key, prompt and first_choice */
    rt_completion_prompt *prompts;
    size_t prompts_count; /* >= 1 */
    int32_t *ids;         /* of all prompts, one after the other */
    mica_text *stop;
    int32_t *stop_token_ids;
    mica_bias *logit_bias;
    bool echo;
    bool return_token_ids;
    bool return_tokens_as_token_ids;
    int32_t prompt_logprobs; /* as asked for; common.prompt_logprobs is what echo needs of them too */
    uint32_t best_of;        /* 0: absent */
} rt_completion_request;

/* vocab: token ids are below it. *out is destroyed by rt_completion_request_destroy(). */
RC_MUST_CHECK rc_code rt_completion_request_decode(json_t *body, uint32_t vocab, rt_completion_request **out,
                                                   rc_msg *msg);
void rt_completion_request_destroy(rt_completion_request *r); /* NULL is allowed */

/* The request of one prompt; key and user are still to be set. Valid as long as `r`. */
mica_request rt_completion_request_of(const rt_completion_request *r, size_t prompt);

/* How a field is written where there is no JSON, as on a command line. */
typedef enum rt_completion_shape {
    RT_SHAPE_NUMBER = 1,
    RT_SHAPE_TRUTH,
    RT_SHAPE_STRING,
    RT_SHAPE_STRINGS, /* a string or a list of them */
    RT_SHAPE_IDS,
    RT_SHAPE_OBJECT
} rt_completion_shape;

/* Field `index` that shapes an answer (not model, prompt or an inert one); NULL: no more. */
const char *rt_completion_field(size_t index, rt_completion_shape *shape);

#endif
