#include "runtime/engine/request.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/activation.h"
#include "paged_kv/block_manager.h"

_Static_assert((int)MICA_SALT_BYTES_MAX == KV_SALT_BYTES_MAX, "the cache takes every salt");

static rc_code refuse(rc_msg *msg, const char *field, const char *what)
{
    return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg, "%s %s", field, what), msg, field);
}

static rc_code check_float(rc_msg *msg, const char *field, float x, bool ok, const char *expected)
{
    if (ok) return RC_OK;
    return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg, "%s must be %s, got %g", field, expected, (double)x),
                    msg, field);
}

static rc_code check_sampling(const mica_request *q, rc_msg *msg)
{
    RC_TRY(check_float(msg, "temperature", q->temperature, q->temperature >= 0 && isfinite(q->temperature),
                       "a finite number of at least 0"));
    RC_TRY(check_float(msg, "top_p", q->top_p, q->top_p > 0 && q->top_p <= 1, "in (0, 1]"));
    RC_TRY(check_float(msg, "min_p", q->min_p, q->min_p >= 0 && q->min_p <= 1, "in [0, 1]"));
    RC_TRY(check_float(msg, "frequency_penalty", q->frequency_penalty,
                       q->frequency_penalty >= -2 && q->frequency_penalty <= 2, "in [-2, 2]"));
    RC_TRY(check_float(msg, "presence_penalty", q->presence_penalty,
                       q->presence_penalty >= -2 && q->presence_penalty <= 2, "in [-2, 2]"));
    RC_TRY(check_float(msg, "repetition_penalty", q->repetition_penalty,
                       q->repetition_penalty > 0 && isfinite(q->repetition_penalty),
                       "a finite number above 0"));
    if (q->top_k < -1)
        return rc_about(
            rc_fail(RC_INVALID_ARGUMENT, msg, "top_k must be -1 or 0 (all) or at least 1, got %d", q->top_k),
            msg, "top_k");
    if (q->n < 1 || q->n > MICA_CHOICES_MAX)
        return rc_about(
            rc_fail(RC_INVALID_ARGUMENT, msg, "n must be in [1, %d], got %u", MICA_CHOICES_MAX, q->n), msg,
            "n");
    if (q->n > 1 && q->temperature == 0)
        return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg, "n must be 1 with temperature 0, got %u", q->n),
                        msg, "n");
    return RC_OK;
}

static rc_code check_logprobs(const char *field, int32_t k, rc_msg *msg)
{
    if (k >= -1 && k <= MICA_LOGPROBS_MAX) return RC_OK;
    return rc_about(
        rc_fail(RC_INVALID_ARGUMENT, msg, "%s must be in [0, %d], got %d", field, MICA_LOGPROBS_MAX, k), msg,
        field);
}

static rc_code check_id(const char *field, int32_t id, uint32_t vocab, rc_msg *msg)
{
    if (id >= 0 && (uint32_t)id < vocab) return RC_OK;
    return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg,
                            "%s holds token id %d, which is outside the vocabulary of %u", field, id, vocab),
                    msg, field);
}

static rc_code check_lists(const mica_request *q, const rt_request_limits *l, rc_msg *msg)
{
    if (q->stop_count > MICA_STOPS_MAX) return refuse(msg, "stop", "has over 64 strings");
    for (size_t i = 0; i < q->stop_count; i++) {
        if (!q->stop[i].count) return refuse(msg, "stop", "must not hold an empty string");
        if (q->stop[i].count > MICA_STOP_BYTES_MAX)
            return refuse(msg, "stop", "holds a string of over 1024 bytes");
    }
    if (q->stop_token_ids_count > MICA_STOP_IDS_MAX) return refuse(msg, "stop_token_ids", "has over 256 ids");
    for (size_t i = 0; i < q->stop_token_ids_count; i++)
        RC_TRY(check_id("stop_token_ids", q->stop_token_ids[i], l->vocab, msg));
    if (q->logit_bias_count > MICA_LOGIT_BIAS_MAX) return refuse(msg, "logit_bias", "has over 1024 entries");
    for (size_t i = 0; i < q->logit_bias_count; i++) {
        RC_TRY(check_id("logit_bias", q->logit_bias[i].token, l->vocab, msg));
        RC_TRY(check_float(msg, "logit_bias", q->logit_bias[i].bias, isfinite(q->logit_bias[i].bias),
                           "finite numbers"));
    }
    if (q->cache_salt && strlen(q->cache_salt) > MICA_SALT_BYTES_MAX)
        return refuse(msg, "cache_salt", "is longer than 256 bytes");
    return RC_OK;
}

rc_code rt_request_validate(const mica_request *q, const rt_request_limits *l, rc_msg *msg)
{
    RC_TRY(check_sampling(q, msg));
    RC_TRY(check_logprobs("logprobs", q->logprobs, msg));
    RC_TRY(check_logprobs("prompt_logprobs", q->prompt_logprobs, msg));
    return check_lists(q, l, msg);
}

static rc_code check_prompt(const mica_request *q, const int32_t *prompt, size_t count,
                            const rt_request_limits *l, uint32_t *max_tokens, rc_msg *msg)
{
    if (!count) return refuse(msg, "prompt", "must hold at least one token");
    for (size_t i = 0; i < count; i++) RC_TRY(check_id("prompt", prompt[i], l->vocab, msg));
    if (count >= l->max_model_len) {
        rc_fail(RC_INVALID_ARGUMENT, msg,
                "prompt has %zu tokens, which with at least one to generate is above the maximum model "
                "length of %u",
                count, l->max_model_len);
        return rc_about(RC_INVALID_ARGUMENT, msg, "prompt");
    }
    *max_tokens = q->max_tokens ? q->max_tokens : l->max_model_len - (uint32_t)count;
    if (count + *max_tokens > l->max_model_len) {
        rc_fail(RC_INVALID_ARGUMENT, msg,
                "max_tokens %u with a prompt of %zu tokens is above the maximum model length of %u",
                *max_tokens, count, l->max_model_len);
        return rc_about(RC_INVALID_ARGUMENT, msg, "max_tokens");
    }
    if (q->min_tokens > *max_tokens)
        return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg,
                                "min_tokens must be at most max_tokens (%u), got %u", *max_tokens,
                                q->min_tokens),
                        msg, "min_tokens");
    return RC_OK;
}

/* Hands out pieces of one allocation; with base NULL it only counts. */
typedef struct arena {
    char *base;
    size_t used;
} arena;

static void *take(arena *a, size_t count, size_t size)
{
    size_t at = (a->used + 15) & ~(size_t)15;
    a->used = at + count * size;
    return a->base ? a->base + at : NULL;
}

static void *copy(arena *a, const void *from, size_t count, size_t size)
{
    void *to = take(a, count, size);
    if (to && count) memcpy(to, from, count * size);
    return to;
}

static void lay_out_stops(rt_request *r, const mica_request *q, arena *a)
{
    mica_text *texts = take(a, q->stop_count, sizeof *texts);
    size_t longest = 0;
    for (size_t i = 0; i < q->stop_count; i++) {
        char *bytes = copy(a, q->stop[i].bytes, q->stop[i].count, 1);
        if (texts) texts[i] = (mica_text){ bytes, q->stop[i].count };
        if (q->stop[i].count > longest) longest = q->stop[i].count;
    }
    r->stops =
        (rt_stops){texts, (uint32_t)q->stop_count, longest, q->include_stop_str_in_output, q->min_tokens};
}

static void lay_out_choice(rt_request *r, const mica_request *q, uint32_t i, const rt_request_limits *l,
                           arena *a)
{
    size_t held_max = rt_output_held_max(&r->stops, l->piece_max),
           k = q->logprobs > 0 ? (size_t)q->logprobs : 0;
    int32_t *tokens = take(a, (size_t)r->prompt_count + r->max_tokens, sizeof *tokens);
    mica_token *generated = take(a, q->logprobs < 0 ? 1 : r->max_tokens, sizeof *generated);
    mica_top *tops = take(a, r->max_tokens * k, sizeof *tops);
    char *held = take(a, held_max, 1);
    if (!a->base) return;
    rt_choice *c = &r->choices[i];
    memcpy(tokens, r->prompt, r->prompt_count * sizeof *tokens);
    for (uint32_t t = 0; k && t < r->max_tokens; t++) generated[t].top = tops + t * k;
    c->request = r;
    c->index = q->first_choice + i;
    c->seq = UINT32_MAX;
    c->tokens = tokens;
    c->generated = generated;
    c->stop_token = -1;
    c->output.held = held;
    c->output.held_max = held_max;
    rt_detok_init(&c->output.detok, q->skip_special_tokens);
}

/* Everything that hangs on the request, in one pass; the first pass (base NULL) only counts. */
static void lay_out(rt_request *r, const mica_request *q, const int32_t *prompt, const rt_request_limits *l,
                    arena *a)
{
    size_t k = q->prompt_logprobs > 0 ? (size_t)q->prompt_logprobs : 0;
    uint32_t eos = q->ignore_eos ? 0 : l->eos_count;
    int32_t *banned;
    r->prompt = copy(a, prompt, r->prompt_count, sizeof *prompt);
    r->stop_ids = copy(a, q->stop_token_ids, q->stop_token_ids_count, sizeof *q->stop_token_ids);
    r->sampling.logit_bias = copy(a, q->logit_bias, q->logit_bias_count, sizeof *q->logit_bias);
    r->sampling.banned = banned = take(a, q->stop_token_ids_count + eos, sizeof *banned);
    if (banned) {
        if (q->stop_token_ids_count)
            memcpy(banned, q->stop_token_ids, q->stop_token_ids_count * sizeof *banned);
        if (eos) memcpy(banned + q->stop_token_ids_count, l->eos, eos * sizeof *banned);
    }
    r->salt = copy(a, q->cache_salt, r->salt_bytes, 1);
    if (q->prompt_logprobs >= 0) {
        mica_token *tokens = take(a, r->prompt_count, sizeof *tokens);
        mica_top *tops = take(a, r->prompt_count * k, sizeof *tops);
        for (uint32_t t = 0; tokens && t < r->prompt_count; t++) {
            tokens[t].id = prompt[t];
            if (k) tokens[t].top = tops + t * k;
        }
        r->prompt_logprob = tokens;
    }
    lay_out_stops(r, q, a);
    r->choices = take(a, q->n, sizeof *r->choices);
    for (uint32_t i = 0; i < q->n; i++) lay_out_choice(r, q, i, l, a);
}

static void fill_scalars(rt_request *r, const mica_request *q, const rt_request_limits *l)
{
    r->user = q->user;
    r->choices_count = r->choices_alive = r->choices_open = q->n;
    r->ignore_eos = q->ignore_eos;
    r->stop_ids_count = (uint32_t)q->stop_token_ids_count;
    r->logprobs = q->logprobs;
    r->prompt_logprobs = q->prompt_logprobs;
    r->priority = q->priority;
    r->salt_bytes = q->cache_salt ? strlen(q->cache_salt) : 0;
    r->activation = ADAPTER_NEVER;
    r->sampling = (rt_sampling){.temperature = q->temperature,
                                .top_p = q->top_p,
                                .min_p = q->min_p,
                                .top_k = q->top_k > 0 ? (uint32_t)q->top_k : 0,
                                .frequency_penalty = q->frequency_penalty,
                                .presence_penalty = q->presence_penalty,
                                .repetition_penalty = q->repetition_penalty,
                                .logit_bias_count = q->logit_bias_count,
                                .min_tokens = q->min_tokens,
                                .banned_count = q->stop_token_ids_count + (q->ignore_eos ? 0 : l->eos_count),
                                .seed = q->has_seed ? (uint64_t)q->seed
                                                    : rt_seed_from_key(l->engine_seed, q->key ? q->key : "")};
}

rc_code rt_request_create(const mica_request *q, const int32_t *prompt, size_t prompt_count,
                          const rt_request_limits *l, rt_request **out, rc_msg *msg)
{
    rt_request shape = { 0 };
    arena sizes = { 0 };
    rt_request *r;
    RC_TRY(check_prompt(q, prompt, prompt_count, l, &shape.max_tokens, msg));
    shape.prompt_count = (uint32_t)prompt_count;
    fill_scalars(&shape, q, l);
    take(&sizes, 1, sizeof *r);
    lay_out(&shape, q, prompt, l, &sizes);
    r = calloc(1, sizes.used);
    if (!r) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a request of %zu bytes", sizes.used);
    *r = shape;
    sizes = (arena){ .base = (char *)r };
    take(&sizes, 1, sizeof *r);
    lay_out(r, q, prompt, l, &sizes);
    r->prompt_view = (mica_prompt){ .ids = r->prompt, .count = r->prompt_count, .activation = MICA_NEVER,
                                    .logprobs = r->prompt_logprob };
    *out = r;
    return RC_OK;
}

rc_code rt_request_activation(const mica_request *q, const adapter_content *adapter, const int32_t *prompt,
                              uint32_t prompt_count, const rt_request_limits *l, uint32_t *activation,
                              rc_msg *msg)
{
    const adapter_weights *w = adapter ? adapter_content_weights(adapter) : NULL;
    bool is_alora = w && w->kind == ADAPTER_ALORA;
    *activation = ADAPTER_NEVER;
    if (q->has_activation) {
        if (!is_alora) return refuse(msg, "activation", "is for requests to an Activated LoRA adapter only");
        if (q->activation >= prompt_count)
            return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg, "activation must be in [0, %u), got %u",
                                    prompt_count, q->activation),
                            msg, "activation");
        *activation = q->activation;
    } else if (w) {
        *activation = adapter_find_activation(w, prompt, prompt_count);
    }
    if (is_alora && *activation == ADAPTER_NEVER && (q->require_activation || l->require_activation))
        return rc_about(
            rc_fail(RC_INVALID_ARGUMENT, msg,
                    "the invocation tokens of adapter '%.200s' are not in the prompt (require_activation)",
                    adapter_content_name(adapter)),
            msg, "require_activation");
    return RC_OK;
}

rc_code rt_request_set_adapter(rt_request *r, const mica_request *q, adapter_content *adapter,
                               const rt_request_limits *l, rc_msg *msg)
{
    uint32_t activation;
    RC_TRY(rt_request_activation(q, adapter, r->prompt, r->prompt_count, l, &activation, msg));
    r->adapter = adapter;
    if (adapter) snprintf(r->adapter_name, sizeof r->adapter_name, "%s", adapter_content_name(adapter));
    r->activation = activation;
    r->prompt_view.adapter = adapter ? r->adapter_name : NULL;
    r->prompt_view.activation = activation;
    return RC_OK;
}

void rt_request_free(rt_request *r) { free(r); }
