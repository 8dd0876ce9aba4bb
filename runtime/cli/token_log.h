/* runtime/cli/token_log.h - tokens with their log probabilities, kept beyond the event that brought them. */
#ifndef RUNTIME_CLI_TOKEN_LOG_H
#define RUNTIME_CLI_TOKEN_LOG_H

#include "runtime/base/bytes.h"
#include "runtime/mica.h"

typedef struct rt_token_log {
    rt_bytes tokens; /* mica_token, whose `top` means nothing */
    rt_bytes tops;   /* mica_top of all tokens, one after the other */
} rt_token_log;

void rt__token_log_add(rt_token_log *log, const mica_token *tokens, size_t count);
void rt__token_log_deinit(rt_token_log *log);
size_t rt__token_log_count(const rt_token_log *log);

/* How log probabilities are written. */
typedef struct rt_logprobs_style {
    const mica *m;
    bool as_token_ids; /* "token_id:17" instead of the token's text */
    uint32_t best;     /* how many of the best are shown beside the token's own */
} rt_logprobs_style;

/* Text whose places are given in bytes and shown in characters, as OpenAI's text_offset. */
typedef struct rt_offsets {
    const char *text;
    size_t bytes;
    size_t at, characters; /* `at` bytes are `characters` */
} rt_offsets;

size_t rt__offsets_characters(rt_offsets *o, size_t byte);

/* A part of the four columns of OpenAI's "logprobs", each a list without its brackets. */
typedef struct rt_logprobs_columns {
    rt_bytes tokens, token_logprobs, top_logprobs, text_offset;
} rt_logprobs_columns;

/* byte_offsets: NULL, or [count] instead of the tokens' own; base: characters before them.
 * is_first_unknown: the first token of a prompt has no log probability. */
void rt__logprobs_columns_add(rt_logprobs_columns *c, const rt_token_log *log, const rt_logprobs_style *style,
                              bool is_first_unknown, const size_t *byte_offsets, size_t base,
                              rt_offsets *offsets);
void rt__logprobs_columns_write(const rt_logprobs_columns *c, rt_bytes *out);
bool rt__logprobs_columns_failed(const rt_logprobs_columns *c);
void rt__logprobs_columns_deinit(rt_logprobs_columns *c);

/* vLLM's prompt_logprobs: [null, {"17": {"logprob", "rank", "decoded_token"}, ...}, ...]. */
void rt__prompt_logprobs_write(const rt_token_log *log, const rt_logprobs_style *style, rt_bytes *out);

#endif
