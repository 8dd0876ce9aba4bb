#include "runtime/base/json_in.h"
#include "runtime/tokenizer/tokenizer_internal.h"

enum { NESTED_MAX = 8 };

static rc_code expected(const json_t *o, const char *where, const char *key, const char *what, rc_msg *msg)
{
    char quoted[80];
    const json_t *value = json_object_get(o, key);
    if (!value) return rc_fail(RC_INVALID_ARGUMENT, msg, "%s: %s is missing, expected %s", where, key, what);
    return rc_fail(RC_INVALID_ARGUMENT, msg, "%s: %s is %s, expected %s", where, key,
                   rt_json_quote(value, quoted, sizeof quoted), what);
}

rc_code rt__tok_field_string(const json_t *o, const char *where, const char *key, const char **text,
                             size_t *bytes, rc_msg *msg)
{
    const json_t *value = json_object_get(o, key);
    if (!json_is_string(value)) return expected(o, where, key, "a string", msg);
    *text = json_string_value(value);
    *bytes = json_string_length(value);
    return RC_OK;
}

rc_code rt__tok_field_bool(const json_t *o, const char *where, const char *key, bool *out, rc_msg *msg)
{
    const json_t *value = json_object_get(o, key);
    if (!json_is_boolean(value)) return expected(o, where, key, "true or false", msg);
    *out = json_is_true(value);
    return RC_OK;
}

rc_code rt__tok_field_bool_or(const json_t *o, const char *where, const char *key, bool *out, rc_msg *msg)
{
    const json_t *value = json_object_get(o, key);
    return !value || json_is_null(value) ? RC_OK : rt__tok_field_bool(o, where, key, out, msg);
}

rc_code rt__tok_field_pattern(const json_t *o, const char *where, rt__tok_pattern **out, rc_msg *msg)
{
    const json_t *pattern = json_object_get(o, "pattern");
    bool is_regex = json_is_string(json_object_get(pattern, "Regex"));
    const char *text = NULL;
    size_t bytes = 0;
    if (json_object_size(pattern) != 1)
        return expected(o, where, "pattern", "{\"String\": ..} or {\"Regex\": ..}", msg);
    RC_TRY(rt__tok_field_string(pattern, where, is_regex ? "Regex" : "String", &text, &bytes, msg));
    return rt__tok_pattern_new(text, bytes, is_regex, out, msg);
}

rc_code rt__tok_each(rt_tokenizer *t, const json_t *o, const char *where, const char *list, unsigned depth,
                     rc_code (*one)(rt_tokenizer *, const json_t *, const char *, rc_msg *), rc_msg *msg)
{
    const char *type = NULL;
    size_t bytes, i;
    const json_t *member;
    if (!json_is_object(o)) {
        char quoted[80];
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%s is %s, expected an object or null", where,
                       rt_json_quote(o, quoted, sizeof quoted));
    }
    RC_TRY(rt__tok_field_string(o, where, "type", &type, &bytes, msg));
    if (strcmp(type, "Sequence")) return one(t, o, type, msg);
    const json_t *members = json_object_get(o, list);
    if (!json_is_array(members)) return expected(o, where, list, "a list", msg);
    if (depth == NESTED_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%s: sequences are nested deeper than %d", where,
                       NESTED_MAX);
    json_array_foreach(members, i, member) RC_TRY(rt__tok_each(t, member, where, list, depth + 1, one, msg));
    return RC_OK;
}
