#include "runtime/server/generate_request.h"

#include <math.h>
#include <stdlib.h>
#include <sys/random.h>

#include "inference.pb-c.h"
#include "runtime/server/wire_text.h"

typedef Vllm__GenerateRequest request_message;

/* The largest temperature and repetition penalty: far beyond any use, and products with logits stay finite.
 */
#define REAL_MAX 1e6f

static rc_code refuse(rc_msg *msg, const char *field, const char *what)
{
    return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg, "%s %s", field, what), msg, field);
}

static rc_code fail_memory(rc_msg *msg)
{
    return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the request");
}

/* ---- kinds of values ---- */

static rc_code take_real(float value, float low, float high, const char *field, float *out, rc_msg *msg)
{
    if (!(value >= low && value <= high)) {
        rc_fail(RC_INVALID_ARGUMENT, msg, "%s must be a number from %g to %g, got %g", field, (double)low,
                (double)high, (double)value);
        return rc_about(RC_INVALID_ARGUMENT, msg, field);
    }
    *out = value;
    return RC_OK;
}

static rc_code take_count(uint32_t value, const char *field, uint32_t *out, rc_msg *msg)
{
    if (value > INT32_MAX) {
        rc_fail(RC_INVALID_ARGUMENT, msg, "%s must be at most %d, got %u", field, INT32_MAX, value);
        return rc_about(RC_INVALID_ARGUMENT, msg, field);
    }
    *out = value;
    return RC_OK;
}

static rc_code check_id(uint32_t id, uint32_t vocab, const char *field, rc_msg *msg)
{
    if (id < vocab) return RC_OK;
    rc_fail(RC_INVALID_ARGUMENT, msg, "%s holds token id %u, which is outside the vocabulary of %u", field,
            id, vocab);
    return rc_about(RC_INVALID_ARGUMENT, msg, field);
}

static rc_code take_ids(const uint32_t *ids, size_t count, uint32_t vocab, const char *field, int32_t **out,
                        rc_msg *msg)
{
    if (!count) return RC_OK;
    *out = calloc(count, sizeof **out);
    if (!*out) return fail_memory(msg);
    for (size_t i = 0; i < count; i++) {
        RC_TRY(check_id(ids[i], vocab, field, msg));
        (*out)[i] = (int32_t)ids[i];
    }
    return RC_OK;
}

/* Several candidates a token; *asked: the field was there. */
static rc_code take_candidates(const Vllm__CandidateTokens *c, const char *field, int32_t *count, bool *asked,
                               rc_msg *msg)
{
    if (!c || c->select_case == VLLM__CANDIDATE_TOKENS__SELECT__NOT_SET) return RC_OK;
    if (c->select_case != VLLM__CANDIDATE_TOKENS__SELECT_TOP_N)
        return refuse(msg, field, "must be top_n: this server gives no other candidates");
    if (c->top_n > MICA_LOGPROBS_MAX) {
        rc_fail(RC_INVALID_ARGUMENT, msg, "%s.top_n must be at most %d, got %u", field, MICA_LOGPROBS_MAX,
                c->top_n);
        return rc_about(RC_INVALID_ARGUMENT, msg, field);
    }
    if (!c->top_n) return RC_OK;
    *count = (int32_t)c->top_n;
    *asked = true;
    return RC_OK;
}

/* ---- the message's parts ---- */

static rc_code take_sampling(rt_generate_request *r, const request_message *m, rc_msg *msg)
{
    const Vllm__RandomSampling *s = m->sampling;
    mica_request *q = &r->q;
    uint32_t top_k;
    q->temperature = 0;
    if (m->has_temperature_case)
        RC_TRY(take_real(m->temperature, 0, REAL_MAX, "temperature", &q->temperature, msg));
    if (!s) return RC_OK;
    if (s->num_sequences > 1)
        return refuse(msg, "sampling.num_sequences", "must be 0 or 1: send one request a sequence");
    RC_TRY(take_count(s->top_k, "sampling.top_k", &top_k, msg));
    q->top_k = (int32_t)top_k;
    RC_TRY(take_real(s->top_p, 0, 1, "sampling.top_p", &q->top_p, msg));
    if (q->top_p == 0) q->top_p = 1;
    RC_TRY(take_real(s->min_p, 0, 1, "sampling.min_p", &q->min_p, msg));
    q->has_seed = s->has_seed_case != 0;
    q->seed = q->has_seed ? s->seed : 0;
    return RC_OK;
}

/* A map on the wire is a list of pairs in which the last of a key counts. */
static rc_code take_bias(rt_generate_request *r, const Vllm__DecodingParameters *d, uint32_t vocab,
                         rc_msg *msg)
{
    const char *field = "decoding.logit_bias";
    if (d->n_logit_bias > MICA_LOGIT_BIAS_MAX) return refuse(msg, field, "must have at most 1024 entries");
    if (!d->n_logit_bias) return RC_OK;
    r->logit_bias = calloc(d->n_logit_bias, sizeof *r->logit_bias);
    if (!r->logit_bias) return fail_memory(msg);
    for (size_t i = 0; i < d->n_logit_bias; i++) {
        const Vllm__DecodingParameters__LogitBiasEntry *e = d->logit_bias[i];
        mica_bias bias = {.token = (int32_t)e->key};
        size_t at = 0;
        RC_TRY(check_id(e->key, vocab, field, msg));
        RC_TRY(take_real(e->value, -100, 100, field, &bias.bias, msg));
        while (at < r->q.logit_bias_count && r->logit_bias[at].token != bias.token) at++;
        r->logit_bias[at] = bias;
        if (at == r->q.logit_bias_count) r->q.logit_bias_count++;
    }
    r->q.logit_bias = r->logit_bias;
    return RC_OK;
}

static rc_code take_decoding(rt_generate_request *r, const request_message *m, uint32_t vocab, rc_msg *msg)
{
    const Vllm__DecodingParameters *d = m->decoding;
    mica_request *q = &r->q;
    if (!d) return RC_OK;
    if (d->n_allowed_token_ids)
        return refuse(msg, "decoding.allowed_token_ids", "is not supported: leave it empty");
    if (d->structured_output_case != VLLM__DECODING_PARAMETERS__STRUCTURED_OUTPUT__NOT_SET)
        return refuse(msg, "decoding.structured_output", "is not supported: leave it unset");
    RC_TRY(take_real(d->presence_penalty, -2, 2, "decoding.presence_penalty", &q->presence_penalty, msg));
    RC_TRY(take_real(d->frequency_penalty, -2, 2, "decoding.frequency_penalty", &q->frequency_penalty, msg));
    RC_TRY(take_real(d->repetition_penalty, 0, REAL_MAX, "decoding.repetition_penalty",
                     &q->repetition_penalty, msg));
    if (q->repetition_penalty == 0) q->repetition_penalty = 1;
    return take_bias(r, d, vocab, msg);
}

static rc_code take_stop_strings(rt_generate_request *r, const Vllm__StoppingCriteria *s, rc_msg *msg)
{
    const char *field = "stopping.stop_strings";
    if (s->n_stop_strings > MICA_STOPS_MAX) return refuse(msg, field, "must hold at most 64 strings");
    if (!s->n_stop_strings) return RC_OK;
    r->stop = calloc(s->n_stop_strings, sizeof *r->stop);
    if (!r->stop) return fail_memory(msg);
    for (size_t i = 0; i < s->n_stop_strings; i++) {
        const ProtobufCBinaryData *text = &s->stop_strings[i];
        if (!text->len || text->len > MICA_STOP_BYTES_MAX)
            return refuse(msg, field, "must have 1 to 1024 bytes each");
        RC_TRY(rt__wire_text_check(text, MICA_STOP_BYTES_MAX, field, msg));
        r->stop[i] = (mica_text){(const char *)text->data, text->len};
    }
    r->q.stop = r->stop;
    r->q.stop_count = s->n_stop_strings;
    return RC_OK;
}

static rc_code take_stopping(rt_generate_request *r, const request_message *m, uint32_t vocab, rc_msg *msg)
{
    const Vllm__StoppingCriteria *s = m->stopping;
    mica_request *q = &r->q;
    q->max_tokens = 0;
    if (!s) return RC_OK;
    RC_TRY(take_count(s->max_new_tokens, "stopping.max_new_tokens", &q->max_tokens, msg));
    RC_TRY(take_count(s->min_new_tokens, "stopping.min_new_tokens", &q->min_tokens, msg));
    if (s->n_stop_token_ids > MICA_STOP_IDS_MAX)
        return refuse(msg, "stopping.stop_token_ids", "must hold at most 256 ids");
    RC_TRY(take_ids(s->stop_token_ids, s->n_stop_token_ids, vocab, "stopping.stop_token_ids",
                    &r->stop_token_ids, msg));
    q->stop_token_ids = r->stop_token_ids;
    q->stop_token_ids_count = s->n_stop_token_ids;
    RC_TRY(take_stop_strings(r, s, msg));
    q->include_stop_str_in_output = s->include_stop_strings;
    q->ignore_eos = s->ignore_eos;
    return RC_OK;
}

static rc_code take_response(rt_generate_request *r, const request_message *m, rc_msg *msg)
{
    const Vllm__ResponseOptions *o = m->response;
    rt_generate_wants *w = &r->wants;
    w->text = true;
    if (!o) return RC_OK;
    w->prompt_ids = o->prompt_token_ids;
    w->prompt_logprobs = o->prompt_logprobs;
    if (o->has_output_text_case) w->text = o->output_text;
    w->ids = o->output_token_ids;
    w->logprobs = o->output_logprobs;
    if (w->logprobs) r->q.logprobs = 0;
    if (w->prompt_logprobs) r->q.prompt_logprobs = 0;
    if (o->has_skip_special_tokens_case) r->q.skip_special_tokens = o->skip_special_tokens;
    if (o->has_output_candidates_case)
        RC_TRY(take_candidates(o->output_candidates, "response.output_candidates", &r->q.logprobs,
                               &w->candidates, msg));
    if (o->has_prompt_candidates_case)
        RC_TRY(take_candidates(o->prompt_candidates, "response.prompt_candidates", &r->q.prompt_logprobs,
                               &w->prompt_candidates, msg));
    return RC_OK;
}

/* A salt that nobody knows: such a request finds nothing, and nobody finds what it leaves. */
static rc_code take_bypass(rt_generate_request *r, rc_msg *msg)
{
    unsigned char secret[16];
    enum { TEXT_BYTES = 7 + 2 * sizeof secret + 1 };
    free(r->salt);
    r->salt = malloc(TEXT_BYTES);
    if (!r->salt || getrandom(secret, sizeof secret, 0) != (ssize_t)sizeof secret) return fail_memory(msg);
    int used = snprintf(r->salt, TEXT_BYTES, "bypass/");
    for (size_t i = 0; i < sizeof secret; i++)
        used += snprintf(r->salt + used, TEXT_BYTES - (size_t)used, "%02x", secret[i]);
    return RC_OK;
}

static rc_code take_kv(rt_generate_request *r, const request_message *m, rc_msg *msg)
{
    const Vllm__KVCacheParameters *kv = m->kv;
    if (!kv) return RC_OK;
    if (kv->has_kv_transfer_params_case)
        return refuse(msg, "kv.kv_transfer_params", "is not supported: leave it unset");
    if (kv->has_ec_transfer_params_case)
        return refuse(msg, "kv.ec_transfer_params", "is not supported: leave it unset");
    RC_TRY(rt__wire_text_copy(&kv->cache_salt, MICA_SALT_BYTES_MAX, "kv.cache_salt", &r->salt, msg));
    if (kv->bypass_prefix_cache) RC_TRY(take_bypass(r, msg));
    r->q.cache_salt = r->salt;
    return RC_OK;
}

static rc_code take_prompt(rt_generate_request *r, const request_message *m, uint32_t vocab, rc_msg *msg)
{
    mica_request *q = &r->q;
    RC_TRY(take_count(m->truncate_prompt_tokens, "truncate_prompt_tokens", &q->truncate_prompt_tokens, msg));
    if (m->prompt_case == VLLM__GENERATE_REQUEST__PROMPT_TEXT) {
        if (!m->text.len) return refuse(msg, "text", "must not be empty");
        RC_TRY(rt__wire_text_check(&m->text, SIZE_MAX, "text", msg));
        q->prompt_text = (const char *)m->text.data;
        q->prompt_text_bytes = m->text.len;
        return RC_OK;
    }
    if (m->prompt_case != VLLM__GENERATE_REQUEST__PROMPT_TOKEN_IDS || !m->token_ids->n_ids)
        return refuse(msg, "prompt", "is missing: expected text or token_ids");
    RC_TRY(take_ids(m->token_ids->ids, m->token_ids->n_ids, vocab, "token_ids", &r->prompt_ids, msg));
    q->prompt_ids = r->prompt_ids;
    q->prompt_ids_count = m->token_ids->n_ids;
    return RC_OK;
}

static rc_code take_names(rt_generate_request *r, const request_message *m, rc_msg *msg)
{
    char *session = NULL;
    RC_TRY(rt__wire_text_copy(&m->request_id, RT_GENERATE_ID_MAX, "request_id", &r->key, msg));
    RC_TRY(rt__wire_text_copy(&m->model, RT_GENERATE_NAME_MAX, "model", &r->model, msg));
    RC_TRY(rt__wire_text_copy(&m->lora_name, RT_GENERATE_NAME_MAX, "lora_name", &r->lora, msg));
    if (m->has_session_id_case)
        RC_TRY(rt__wire_text_copy(&m->session_id, RT_GENERATE_ID_MAX, "session_id", &session, msg));
    free(session);
    if (m->n_media) return refuse(msg, "media", "is not supported: this server takes text only");
    r->served_name = r->model;
    r->q.key = r->key;
    r->q.model = r->lora;
    r->q.priority = m->priority;
    return RC_OK;
}

static rc_code take(rt_generate_request *r, const request_message *m, uint32_t vocab, rc_msg *msg)
{
    RC_TRY(take_names(r, m, msg));
    RC_TRY(take_prompt(r, m, vocab, msg));
    RC_TRY(take_sampling(r, m, msg));
    RC_TRY(take_decoding(r, m, vocab, msg));
    RC_TRY(take_stopping(r, m, vocab, msg));
    RC_TRY(take_response(r, m, msg));
    return take_kv(r, m, msg);
}

rc_code rt__generate_request_decode(rt_generate_request *r, const uint8_t *message, size_t bytes,
                                    uint32_t vocab, rc_msg *msg)
{
    *r = (rt_generate_request){.q = MICA_REQUEST_INIT};
    request_message *m = vllm__generate_request__unpack(NULL, bytes, message);
    r->message = m;
    if (!m) return rc_fail(RC_INVALID_ARGUMENT, msg, "the message is no vllm.GenerateRequest");
    rc_code code = take(r, m, vocab, msg);
    if (code != RC_OK) rt__generate_request_deinit(r);
    return code;
}

void rt__generate_request_deinit(rt_generate_request *r)
{
    if (r->message) vllm__generate_request__free_unpacked(r->message, NULL);
    free(r->stop);
    free(r->stop_token_ids);
    free(r->prompt_ids);
    free(r->logit_bias);
    free(r->key);
    free(r->model);
    free(r->lora);
    free(r->salt);
    *r = (rt_generate_request){0};
}

void rt__generate_request_explain(rc_msg *msg)
{
    static const char *const names[][2] = {
        {"prompt", "prompt"},
        {"max_tokens", "stopping.max_new_tokens"},
        {"model", "lora_name"},
        {"min_tokens", "stopping.min_new_tokens"},
        {"stop", "stopping.stop_strings"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(msg->param, names[i][0])) continue;
        rc_msg told = *msg;
        if (!strncmp(told.text, names[i][1], strlen(names[i][1]))) return;
        rc_fail(RC_INVALID_ARGUMENT, msg, "%s: %.500s", names[i][1], told.text);
        rc_about(RC_INVALID_ARGUMENT, msg, names[i][1]);
        return;
    }
}
