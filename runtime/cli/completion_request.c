#include "runtime/cli/completion_request.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/flags.h"
#include "runtime/base/json_in.h"
#include "runtime/cli/completion_fields.h"

rc_code rt__fail_field(const rt_field *f, const json_t *v, rc_msg *msg)
{
    char quoted[120];
    rc_code code = rc_fail(RC_INVALID_ARGUMENT, msg, "%s is %s; expected %s", f->name,
                           rt_json_quote(v, quoted, sizeof quoted), f->expected);
    return rc_about(code, msg, f->name);
}

/* A whole number, written as 16 or as 16.0: to JSON they are the same. */
static bool whole_of(const json_t *v, int64_t *out)
{
    if (json_is_integer(v)) {
        *out = json_integer_value(v);
        return true;
    }
    double value = json_real_value(v);
    if (!json_is_real(v) || value != floor(value) || fabs(value) > 9007199254740992.0) return false;
    *out = (int64_t)value;
    return true;
}

static rc_code decode_whole(const rt_field *f, const json_t *v, void *to, rc_msg *msg)
{
    int64_t value;
    if (!whole_of(v, &value)) return rt__fail_field(f, v, msg);
    if (f->kind != RT_FIELD_I64 && ((double)value < f->min || (double)value > f->max))
        return rt__fail_field(f, v, msg);
    switch (f->kind) {
    case RT_FIELD_U32:
        *(uint32_t *)to = (uint32_t)value;
        break;
    case RT_FIELD_I32:
        *(int32_t *)to = (int32_t)value;
        break;
    default:
        *(int64_t *)to = value;
    }
    return RC_OK;
}

/* The range is that of the float32 which the engine gets: 1e-60 is no top_p. */
static rc_code decode_real(const rt_field *f, const json_t *v, float *to, rc_msg *msg)
{
    if (!json_is_number(v) || fabs(json_number_value(v)) > 1e30) return rt__fail_field(f, v, msg);
    float value = (float)json_number_value(v);
    if (value < f->min || value > f->max || (f->is_min_excluded && value == f->min))
        return rt__fail_field(f, v, msg);
    *to = value;
    return RC_OK;
}

static rc_code decode_string(const rt_field *f, const json_t *v, const char **to, rc_msg *msg)
{
    size_t bytes = json_string_length(v);
    if (!json_is_string(v) || bytes < f->min || bytes > f->max) return rt__fail_field(f, v, msg);
    if (memchr(json_string_value(v), 0, bytes)) return rt__fail_field(f, v, msg);
    *to = json_string_value(v);
    return RC_OK;
}

static bool is_same_value(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b)) return json_number_value(a) == json_number_value(b);
    return json_equal(a, b);
}

static rc_code decode_inert(const rt_field *f, const json_t *v, rc_msg *msg)
{
    char quoted[120];
    if (!f->inert && json_typeof(v) == f->inert_type) return RC_OK;
    json_t *inert = f->inert ? json_loads(f->inert, JSON_DECODE_ANY, NULL) : NULL;
    if (f->inert && !inert) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the request");
    bool is_inert = inert && is_same_value(v, inert);
    json_decref(inert);
    if (is_inert) return RC_OK;
    static const char *const types[] = {"an object", "a list", "a string"};
    rc_code code =
        rc_fail(RC_INVALID_ARGUMENT, msg, "%s is %s; expected %s", f->name,
                rt_json_quote(v, quoted, sizeof quoted), f->inert ? f->inert : types[f->inert_type]);
    return rc_about(code, msg, f->name);
}

static rc_code decode_field(const rt_field *f, const json_t *v, uint32_t vocab, rt_completion_request *r,
                            rc_msg *msg)
{
    void *to = (char *)r + f->at;
    if (f->has_at) *(bool *)((char *)r + f->has_at) = true;
    switch (f->kind) {
    case RT_FIELD_U32:
    case RT_FIELD_I32:
    case RT_FIELD_I64:
        return decode_whole(f, v, to, msg);
    case RT_FIELD_F32:
        return decode_real(f, v, to, msg);
    case RT_FIELD_BOOL:
        if (!json_is_boolean(v)) return rt__fail_field(f, v, msg);
        *(bool *)to = json_is_true(v);
        return RC_OK;
    case RT_FIELD_STRING:
        return decode_string(f, v, to, msg);
    case RT_FIELD_PROMPT:
        return rt__decode_prompt(f, v, vocab, r, msg);
    case RT_FIELD_STOP:
        return rt__decode_stop(f, v, r, msg);
    case RT_FIELD_IDS:
        return rt__decode_ids(f, v, vocab, r, msg);
    case RT_FIELD_BIAS:
        return rt__decode_bias(f, v, vocab, r, msg);
    case RT_FIELD_INERT:
        return decode_inert(f, v, msg);
    }
    return RC_OK;
}

static rc_code fail_unknown(const char *key, size_t bytes, rc_msg *msg)
{
    enum { NAMES_MAX = 96 };
    const char *names[NAMES_MAX];
    char short_key[RC_PARAM_BYTES];
    RC_ASSERT(rt__fields_count <= NAMES_MAX);
    for (size_t i = 0; i < rt__fields_count; i++) names[i] = rt__fields[i].name;
    snprintf(short_key, sizeof short_key, "%.*s", (int)(bytes < 47 ? bytes : 47), key);
    rc_code code = rc_fail(RC_INVALID_ARGUMENT, msg, "unknown field \"%s\"; the nearest is \"%s\"", short_key,
                           rt_nearest(short_key, names, rt__fields_count));
    return rc_about(code, msg, short_key);
}

static rc_code decode_body(json_t *body, uint32_t vocab, rt_completion_request *r, rc_msg *msg)
{
    const char *key;
    size_t bytes;
    json_t *value;
    json_object_keylen_foreach(body, key, bytes, value)
    {
        size_t i = 0;
        if (json_is_null(value)) continue;
        while (i < rt__fields_count &&
               (strlen(rt__fields[i].name) != bytes || memcmp(rt__fields[i].name, key, bytes)))
            i++;
        if (i == rt__fields_count) return fail_unknown(key, bytes, msg);
        RC_TRY(decode_field(&rt__fields[i], value, vocab, r, msg));
    }
    return RC_OK;
}

/* What one field says about another. */
static rc_code check_together(const rt_completion_request *r, rc_msg *msg)
{
    const mica_request *c = &r->common;
    const char *about = "prompt";
    rc_code code = RC_OK;
    if (!r->prompts_count) {
        code = rc_fail(RC_INVALID_ARGUMENT, msg,
                       "prompt is missing; expected a string, token ids, or a list of either");
    } else if (c->n > 1 && c->temperature == 0) {
        about = "n";
        code = rc_fail(RC_INVALID_ARGUMENT, msg,
                       "n is %u with temperature 0; expected 1, as all choices would be equal", c->n);
    } else if (r->best_of && r->best_of != 1 && r->best_of != c->n) {
        about = "best_of";
        code = rc_fail(RC_INVALID_ARGUMENT, msg, "best_of is %u; expected 1 or n, which is %u", r->best_of,
                       c->n);
    } else if (c->min_tokens > c->max_tokens) {
        about = "min_tokens";
        code = rc_fail(RC_INVALID_ARGUMENT, msg, "min_tokens is %u; expected at most max_tokens, which is %u",
                       c->min_tokens, c->max_tokens);
    } else if (r->prompts_count * c->n > RT_COMPLETION_CHOICES_MAX) {
        about = "n";
        code =
            rc_fail(RC_INVALID_ARGUMENT, msg, "n is %u for %zu prompts; expected at most %d choices in all",
                    c->n, r->prompts_count, RT_COMPLETION_CHOICES_MAX);
    }
    return code == RC_OK ? code : rc_about(code, msg, about);
}

rc_code rt_completion_request_decode(json_t *body, uint32_t vocab, rt_completion_request **out, rc_msg *msg)
{
    if (!json_is_object(body)) {
        rc_code refused =
            rc_fail(RC_INVALID_ARGUMENT, msg, "body is missing or no object; expected a completion request");
        return rc_about(refused, msg, "body");
    }
    rt_completion_request *r = calloc(1, sizeof *r);
    if (!r) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the request");
    r->body = json_incref(body);
    r->common = (mica_request)MICA_REQUEST_INIT;
    r->prompt_logprobs = -1;
    rc_code code = decode_body(body, vocab, r, msg);
    if (code == RC_OK) code = check_together(r, msg);
    if (code != RC_OK) {
        rt_completion_request_destroy(r);
        return code;
    }
    r->common.prompt_logprobs = r->prompt_logprobs;
    if (r->echo && r->common.logprobs > r->prompt_logprobs) r->common.prompt_logprobs = r->common.logprobs;
    *out = r;
    return RC_OK;
}

void rt_completion_request_destroy(rt_completion_request *r)
{
    if (!r) return;
    free(r->prompts);
    free(r->ids);
    free(r->stop);
    free(r->stop_token_ids);
    free(r->logit_bias);
    json_decref(r->body);
    free(r);
}

mica_request rt_completion_request_of(const rt_completion_request *r, size_t prompt)
{
    mica_request q = r->common;
    const rt_completion_prompt *p = &r->prompts[prompt];
    q.prompt_text = p->text;
    q.prompt_text_bytes = p->text_bytes;
    q.prompt_ids = p->ids;
    q.prompt_ids_count = p->ids_count;
    q.first_choice = (uint32_t)prompt * q.n;
    return q;
}

static bool shape_of(const rt_field *f, rt_completion_shape *shape)
{
    switch (f->kind) {
    case RT_FIELD_BOOL:
        *shape = RT_SHAPE_TRUTH;
        return true;
    case RT_FIELD_STRING:
        *shape = RT_SHAPE_STRING;
        return strcmp(f->name, "model") != 0;
    case RT_FIELD_STOP:
        *shape = RT_SHAPE_STRINGS;
        return true;
    case RT_FIELD_IDS:
        *shape = RT_SHAPE_IDS;
        return true;
    case RT_FIELD_BIAS:
        *shape = RT_SHAPE_OBJECT;
        return true;
    case RT_FIELD_PROMPT:
    case RT_FIELD_INERT:
        return false;
    default:
        *shape = RT_SHAPE_NUMBER;
        return strcmp(f->name, "best_of") != 0;
    }
}

const char *rt_completion_field(size_t index, rt_completion_shape *shape)
{
    for (size_t i = 0; i < rt__fields_count; i++)
        if (shape_of(&rt__fields[i], shape) && index-- == 0) return rt__fields[i].name;
    return NULL;
}
