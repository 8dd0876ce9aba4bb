/* The fields of a completion that hold lists: prompt, stop, stop_token_ids, logit_bias. */
#include <stdlib.h>
#include <string.h>

#include "runtime/cli/completion_fields.h"

static rc_code fail_memory(rc_msg *msg)
{
    return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the request");
}

static rc_code fail_id(const rt_field *f, const json_t *v, uint32_t vocab, rc_msg *msg)
{
    if (!json_is_integer(v)) return rt__fail_field(f, v, msg);
    rc_code code =
        rc_fail(RC_INVALID_ARGUMENT, msg, "%s has token id %" JSON_INTEGER_FORMAT "; expected 0 to %u",
                f->name, json_integer_value(v), vocab - 1);
    return rc_about(code, msg, f->name);
}

static bool is_id(const json_t *v, uint32_t vocab)
{
    return json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) < (json_int_t)vocab;
}

/* Copies an array of ids to `to`. */
static rc_code copy_ids(const rt_field *f, const json_t *array, uint32_t vocab, int32_t *to, rc_msg *msg)
{
    size_t i;
    json_t *v;
    json_array_foreach(array, i, v)
    {
        if (!is_id(v, vocab)) return fail_id(f, v, vocab, msg);
        to[i] = (int32_t)json_integer_value(v);
    }
    return RC_OK;
}

static rc_code fail_empty(const rt_field *f, rc_msg *msg)
{
    rc_code code =
        rc_fail(RC_INVALID_ARGUMENT, msg, "%s is an empty list; expected %s", f->name, f->expected);
    return rc_about(code, msg, f->name);
}

/* How many prompts `v` holds and how many ids in all. */
static rc_code measure_prompt(const rt_field *f, const json_t *v, size_t *prompts, size_t *ids, rc_msg *msg)
{
    size_t i, lists = 0;
    json_t *item;
    *prompts = 1;
    *ids = 0;
    if (json_is_string(v)) return RC_OK;
    if (!json_is_array(v)) return rt__fail_field(f, v, msg);
    if (!json_array_size(v)) return fail_empty(f, msg);
    json_array_foreach(v, i, item)
    {
        if (json_is_array(item) && !json_array_size(item)) return fail_empty(f, msg);
        if (json_is_array(item)) *ids += json_array_size(item);
        lists += json_is_array(item) || json_is_string(item);
    }
    if (!lists)
        *ids = json_array_size(v);
    else if (lists == json_array_size(v))
        *prompts = lists;
    else
        return rt__fail_field(f, v, msg);
    if (*prompts <= RT_COMPLETION_CHOICES_MAX) return RC_OK;
    rc_code code = rc_fail(RC_INVALID_ARGUMENT, msg, "prompt has %zu prompts; expected at most %d", *prompts,
                           RT_COMPLETION_CHOICES_MAX);
    return rc_about(code, msg, f->name);
}

static rc_code fill_prompt(const rt_field *f, const json_t *v, uint32_t vocab, int32_t *ids,
                           rt_completion_prompt *p, rc_msg *msg)
{
    if (json_is_string(v)) {
        p->text = json_string_value(v);
        p->text_bytes = json_string_length(v);
        return RC_OK;
    }
    p->ids = ids;
    p->ids_count = json_array_size(v);
    return copy_ids(f, v, vocab, ids, msg);
}

rc_code rt__decode_prompt(const rt_field *f, const json_t *v, uint32_t vocab, rt_completion_request *r,
                          rc_msg *msg)
{
    size_t prompts, ids, at = 0;
    RC_TRY(measure_prompt(f, v, &prompts, &ids, msg));
    r->prompts = calloc(prompts, sizeof *r->prompts);
    r->ids = malloc((ids ? ids : 1) * sizeof *r->ids);
    if (!r->prompts || !r->ids) return fail_memory(msg);
    r->prompts_count = prompts;
    bool is_one =
        json_is_string(v) || (!json_is_string(json_array_get(v, 0)) && !json_is_array(json_array_get(v, 0)));
    for (size_t i = 0; i < prompts; i++) {
        const json_t *item = is_one ? v : json_array_get(v, i);
        RC_TRY(fill_prompt(f, item, vocab, r->ids + at, &r->prompts[i], msg));
        at += r->prompts[i].ids_count;
    }
    return RC_OK;
}

rc_code rt__decode_stop(const rt_field *f, const json_t *v, rt_completion_request *r, rc_msg *msg)
{
    size_t count = json_is_string(v) ? 1 : json_array_size(v);
    if ((!json_is_string(v) && !json_is_array(v)) || count > MICA_STOPS_MAX)
        return rt__fail_field(f, v, msg);
    r->stop = calloc(count ? count : 1, sizeof *r->stop);
    if (!r->stop) return fail_memory(msg);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_is_string(v) ? v : json_array_get(v, i);
        size_t bytes = json_string_length(item);
        if (!bytes || bytes > MICA_STOP_BYTES_MAX) return rt__fail_field(f, v, msg);
        r->stop[i] = (mica_text){json_string_value(item), bytes};
    }
    r->common.stop = r->stop;
    r->common.stop_count = count;
    return RC_OK;
}

rc_code rt__decode_ids(const rt_field *f, const json_t *v, uint32_t vocab, rt_completion_request *r,
                       rc_msg *msg)
{
    size_t count = json_array_size(v);
    if (!json_is_array(v) || count > MICA_STOP_IDS_MAX) return rt__fail_field(f, v, msg);
    r->stop_token_ids = malloc((count ? count : 1) * sizeof *r->stop_token_ids);
    if (!r->stop_token_ids) return fail_memory(msg);
    RC_TRY(copy_ids(f, v, vocab, r->stop_token_ids, msg));
    r->common.stop_token_ids = r->stop_token_ids;
    r->common.stop_token_ids_count = count;
    return RC_OK;
}

/* A key of logit_bias: digits without leading zeros, so that no id comes twice. */
static bool parse_id(const char *key, size_t bytes, uint32_t vocab, int32_t *id)
{
    uint64_t value = 0;
    if (!bytes || bytes > 10 || (bytes > 1 && key[0] == '0')) return false;
    for (size_t i = 0; i < bytes; i++) {
        if (key[i] < '0' || key[i] > '9') return false;
        value = value * 10 + (uint64_t)(key[i] - '0');
    }
    *id = (int32_t)value;
    return value < vocab;
}

rc_code rt__decode_bias(const rt_field *f, const json_t *v, uint32_t vocab, rt_completion_request *r,
                        rc_msg *msg)
{
    if (!json_is_object(v) || json_object_size(v) > MICA_LOGIT_BIAS_MAX) return rt__fail_field(f, v, msg);
    size_t count = json_object_size(v), at = 0, key_bytes;
    r->logit_bias = malloc((count ? count : 1) * sizeof *r->logit_bias);
    if (!r->logit_bias) return fail_memory(msg);
    const char *key;
    json_t *bias;
    json_object_keylen_foreach((json_t *)v, key, key_bytes, bias)
    {
        mica_bias *b = &r->logit_bias[at++];
        if (!parse_id(key, key_bytes, vocab, &b->token)) {
            rc_code code =
                rc_fail(RC_INVALID_ARGUMENT, msg,
                        "logit_bias has the key \"%.40s\"; expected a token id, 0 to %u", key, vocab - 1);
            return rc_about(code, msg, f->name);
        }
        double value = json_number_value(bias);
        if (!json_is_number(bias) || value < f->min || value > f->max) return rt__fail_field(f, v, msg);
        b->bias = (float)value;
    }
    r->common.logit_bias = r->logit_bias;
    r->common.logit_bias_count = count;
    return RC_OK;
}
