#include "runtime/cli/completion_fields.h"

#include <float.h>

#define AT(member) offsetof(rt_completion_request, member)
#define ENGINE(member) offsetof(rt_completion_request, common.member)
#define INERT(name, json, type)                                                                              \
    {                                                                                                        \
        name, RT_FIELD_INERT, 0, 0, 0, 0, false, "an inert value", json, type                                \
    }

/* The largest temperature and penalty: far beyond any use, and products with logits stay finite. */
#define REAL_MAX 1e6

/* What is expected names the limits of mica.h in figures. */
const rt_field rt__fields[] = {
    {"model", RT_FIELD_STRING, ENGINE(model), 0, 0, 65536, false,
     "a string: the base model's name or an adapter's", NULL, 0},
    {"prompt", RT_FIELD_PROMPT, 0, 0, 0, 0, false, "a string, a list of token ids, or a list of either", NULL,
     0},
    {"max_tokens", RT_FIELD_U32, ENGINE(max_tokens), 0, 1, INT32_MAX, false,
     "a whole number from 1 to 2147483647", NULL, 0},
    {"min_tokens", RT_FIELD_U32, ENGINE(min_tokens), 0, 0, INT32_MAX, false,
     "a whole number from 0 to 2147483647", NULL, 0},
    {"stop", RT_FIELD_STOP, 0, 0, 0, 0, false,
     "a string or a list of at most 64, of 1 to 1024 bytes each", NULL, 0},
    {"stop_token_ids", RT_FIELD_IDS, 0, 0, 0, 0, false, "a list of at most 256 token ids", NULL, 0},
    {"ignore_eos", RT_FIELD_BOOL, ENGINE(ignore_eos), 0, 0, 0, false, "true or false", NULL, 0},
    {"include_stop_str_in_output", RT_FIELD_BOOL, ENGINE(include_stop_str_in_output), 0, 0, 0, false,
     "true or false", NULL, 0},
    {"temperature", RT_FIELD_F32, ENGINE(temperature), 0, 0, REAL_MAX, false, "a number from 0 to 1000000",
     NULL, 0},
    {"top_p", RT_FIELD_F32, ENGINE(top_p), 0, 0, 1, true, "a number above 0 and at most 1", NULL, 0},
    {"top_k", RT_FIELD_I32, ENGINE(top_k), 0, -1, INT32_MAX, false,
     "a whole number from -1 to 2147483647 (0 or -1: all)", NULL, 0},
    {"min_p", RT_FIELD_F32, ENGINE(min_p), 0, 0, 1, false, "a number from 0 to 1", NULL, 0},
    {"seed", RT_FIELD_I64, ENGINE(seed), ENGINE(has_seed), 0, 0, false, "a whole number of 64 bits", NULL, 0},
    {"n", RT_FIELD_U32, ENGINE(n), 0, 1, MICA_CHOICES_MAX, false, "a whole number from 1 to 128", NULL, 0},
    {"frequency_penalty", RT_FIELD_F32, ENGINE(frequency_penalty), 0, -2, 2, false, "a number from -2 to 2",
     NULL, 0},
    {"presence_penalty", RT_FIELD_F32, ENGINE(presence_penalty), 0, -2, 2, false, "a number from -2 to 2",
     NULL, 0},
    {"repetition_penalty", RT_FIELD_F32, ENGINE(repetition_penalty), 0, 0, REAL_MAX, true,
     "a number above 0 and at most 1000000", NULL, 0},
    {"logit_bias", RT_FIELD_BIAS, 0, 0, -100, 100, false,
     "an object of at most 1024 token ids and numbers from -100 to 100", NULL, 0},
    {"logprobs", RT_FIELD_I32, ENGINE(logprobs), 0, 0, MICA_LOGPROBS_MAX, false,
     "a whole number from 0 to 20", NULL, 0},
    {"prompt_logprobs", RT_FIELD_I32, AT(prompt_logprobs), 0, 0, MICA_LOGPROBS_MAX, false,
     "a whole number from 0 to 20", NULL, 0},
    {"echo", RT_FIELD_BOOL, AT(echo), 0, 0, 0, false, "true or false", NULL, 0},
    {"add_special_tokens", RT_FIELD_BOOL, ENGINE(add_special_tokens), 0, 0, 0, false, "true or false", NULL,
     0},
    {"skip_special_tokens", RT_FIELD_BOOL, ENGINE(skip_special_tokens), 0, 0, 0, false, "true or false", NULL,
     0},
    {"return_token_ids", RT_FIELD_BOOL, AT(return_token_ids), 0, 0, 0, false, "true or false", NULL, 0},
    {"return_tokens_as_token_ids", RT_FIELD_BOOL, AT(return_tokens_as_token_ids), 0, 0, 0, false,
     "true or false", NULL, 0},
    {"cache_salt", RT_FIELD_STRING, ENGINE(cache_salt), 0, 1, MICA_SALT_BYTES_MAX, false,
     "a string of 1 to 256 bytes, none of them NUL", NULL, 0},
    {"priority", RT_FIELD_I32, ENGINE(priority), 0, INT32_MIN, INT32_MAX, false, "a whole number of 32 bits",
     NULL, 0},
    {"activation", RT_FIELD_U32, ENGINE(activation), ENGINE(has_activation), 0, INT32_MAX, false,
     "a position in the prompt", NULL, 0},
    {"require_activation", RT_FIELD_BOOL, ENGINE(require_activation), 0, 0, 0, false, "true or false", NULL,
     0},
    {"best_of", RT_FIELD_U32, AT(best_of), 0, 1, INT32_MAX, false, "1, or n", NULL, 0},
    INERT("user", NULL, JSON_STRING),
    INERT("stream", "false", JSON_FALSE),
    INERT("suffix", "\"\"", JSON_STRING),
    INERT("metadata", NULL, JSON_OBJECT),
    INERT("store", "false", JSON_FALSE),
    INERT("service_tier", NULL, JSON_STRING),
    INERT("safety_identifier", NULL, JSON_STRING),
    INERT("prompt_cache_key", NULL, JSON_STRING),
    INERT("request_id", NULL, JSON_STRING),
    INERT("use_beam_search", "false", JSON_FALSE),
    INERT("length_penalty", "1.0", JSON_REAL),
    INERT("early_stopping", "false", JSON_FALSE),
    INERT("spaces_between_special_tokens", "true", JSON_TRUE),
    INERT("bad_words", "[]", JSON_ARRAY),
    INERT("vllm_xargs", "{}", JSON_OBJECT),
    INERT("response_format", "{\"type\":\"text\"}", JSON_OBJECT),
    /* Refused unless null, and known so that the message does not guess at a misspelling. */
    INERT("stream_options", "null", JSON_NULL),
    INERT("allowed_token_ids", "null", JSON_NULL),
    INERT("truncate_prompt_tokens", "null", JSON_NULL),
    INERT("structured_outputs", "null", JSON_NULL),
    INERT("prompt_embeds", "null", JSON_NULL),
};
const size_t rt__fields_count = sizeof rt__fields / sizeof *rt__fields;
