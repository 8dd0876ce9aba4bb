#include "runtime/server/kv_config.h"

#include "runtime/base/json_in.h"

enum { QUOTE_BYTES = 80, COUNT_MAX = 1000000 };

/* "--kv-events-config: hwm must be ..., got ..." */
static rc_code refuse(const char *key, const char *expected, const json_t *got, rc_msg *msg)
{
    char quoted[QUOTE_BYTES];
    return rc_fail(RC_INVALID_ARGUMENT, msg, "%s must be %s, got %s", key, expected,
                   rt_json_quote(got, quoted, sizeof quoted));
}

/* NULL: the key is left out, or null. */
static const json_t *value_of(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    return v && !json_is_null(v) ? v : NULL;
}

static rc_code take_truth(const json_t *object, const char *key, bool *out, rc_msg *msg)
{
    const json_t *v = value_of(object, key);
    if (v && !json_is_boolean(v)) return refuse(key, "true or false", v, msg);
    if (v) *out = json_is_true(v);
    return RC_OK;
}

static rc_code take_count(const json_t *object, const char *key, uint32_t least, uint32_t *out, rc_msg *msg)
{
    const json_t *v = value_of(object, key);
    if (!v) return RC_OK;
    json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;
    if (n < least || n > COUNT_MAX)
        return refuse(key, least ? "a whole number from 1 to 1000000" : "a whole number from 0 to 1000000", v,
                      msg);
    *out = (uint32_t)n;
    return RC_OK;
}

static bool begins(const char *text, const char *with)
{
    return !strncmp(text, with, strlen(with));
}

/* Terminated, with nothing that would not show. */
static bool is_plain(const json_t *v)
{
    if (!json_is_string(v) || json_string_length(v) >= RT_KV_TEXT_BYTES) return false;
    const unsigned char *at = (const unsigned char *)json_string_value(v);
    for (size_t i = 0; i < json_string_length(v); i++)
        if (at[i] < 0x20 || at[i] == 0x7f) return false;
    return true;
}

static rc_code take_text(const json_t *object, const char *key, char out[RT_KV_TEXT_BYTES], rc_msg *msg)
{
    const json_t *v = value_of(object, key);
    if (v && !is_plain(v)) return refuse(key, "a string of at most 255 plain bytes", v, msg);
    if (v) snprintf(out, RT_KV_TEXT_BYTES, "%s", json_string_value(v));
    return RC_OK;
}

static rc_code take_endpoint(const json_t *object, const char *key, char out[RT_KV_TEXT_BYTES], rc_msg *msg)
{
    const json_t *v = value_of(object, key);
    if (!v) return RC_OK;
    const char *text = is_plain(v) ? json_string_value(v) : "";
    bool is_tcp = begins(text, "tcp://") && strrchr(text, ':') > text + strlen("tcp://");
    if (!is_tcp && !(begins(text, "ipc://") && text[strlen("ipc://")]))
        return refuse(key, "tcp://HOST:PORT or ipc://PATH", v, msg);
    return take_text(object, key, out, msg);
}

/* One of two words; *second: it is the other one. */
static rc_code take_choice(const json_t *object, const char *key, const char *const words[2], bool *second,
                           rc_msg *msg)
{
    const json_t *v = value_of(object, key);
    const char *word = json_is_string(v) ? json_string_value(v) : "";
    char expected[64];
    if (!v) return RC_OK;
    snprintf(expected, sizeof expected, "\"%s\" or \"%s\"", words[0], words[1]);
    if (strcmp(word, words[0]) && strcmp(word, words[1])) return refuse(key, expected, v, msg);
    *second = !strcmp(word, words[1]);
    return RC_OK;
}

static rc_code check_keys(const json_t *object, rc_msg *msg)
{
    static const char *const known[] = {
        "enable_kv_cache_events", "publisher", "endpoint",       "replay_endpoint",
        "buffer_steps",           "hwm",       "max_queue_size", "topic",
        "event_format",           NULL};
    json_t *all = (json_t *)object;
    for (void *at = json_object_iter(all); at; at = json_object_iter_next(all, at)) {
        const char *const *k = known;
        while (*k && strcmp(*k, json_object_iter_key(at))) k++;
        if (!*k)
            return rc_fail(RC_INVALID_ARGUMENT, msg, "'%.64s' is no known key", json_object_iter_key(at));
    }
    return RC_OK;
}

static rc_code take(const json_t *root, rt_kv_config *c, rc_msg *msg)
{
    static const char *const publishers[] = {"zmq", "null"}, *const formats[] = {"map", "array"};
    bool is_enabled = false, has_none = false;
    if (!json_is_object(root)) return refuse("the value", "a JSON object", root, msg);
    RC_TRY(check_keys(root, msg));
    RC_TRY(take_truth(root, "enable_kv_cache_events", &is_enabled, msg));
    RC_TRY(take_choice(root, "publisher", publishers, &has_none, msg));
    RC_TRY(take_endpoint(root, "endpoint", c->endpoint, msg));
    RC_TRY(take_endpoint(root, "replay_endpoint", c->replay_endpoint, msg));
    RC_TRY(take_count(root, "buffer_steps", 0, &c->buffer_steps, msg));
    RC_TRY(take_count(root, "hwm", 1, &c->hwm, msg));
    RC_TRY(take_count(root, "max_queue_size", 1, &c->max_queue_size, msg));
    RC_TRY(take_text(root, "topic", c->topic, msg));
    RC_TRY(take_choice(root, "event_format", formats, &c->as_arrays, msg));
    c->is_on = is_enabled && !has_none;
    return RC_OK;
}

rc_code rt__kv_config_parse(const char *text, rt_kv_config *out, rc_msg *msg)
{
    rt_kv_config c = {
        .endpoint = "tcp://127.0.0.1:5557", .buffer_steps = 10000, .hwm = 100000, .max_queue_size = 100000};
    json_t *root;
    rc_msg why;
    rc_code code = rt_json_read(text, strlen(text), &root, &why);
    if (code == RC_OK) {
        code = take(root, &c, &why);
        json_decref(root);
    }
    if (code != RC_OK)
        return rc_about(rc_fail(code, msg, "--kv-events-config: %.500s", why.text), msg, "kv-events-config");
    *out = c;
    return RC_OK;
}

bool rt__kv_is_bound(const char *endpoint)
{
    return strchr(endpoint, '*') || strstr(endpoint, "::") || begins(endpoint, "ipc://") ||
           begins(endpoint, "tcp://127.") || begins(endpoint, "tcp://localhost:");
}
