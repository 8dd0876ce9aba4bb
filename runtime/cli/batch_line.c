#include "runtime/cli/batch_line.h"

#include <string.h>

#include "runtime/base/json_in.h"

bool rt__batch_line_is_blank(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (!strchr(" \t\r", text[i]) || !text[i]) return false;
    return true;
}

/* A NUL would cut the id short wherever it is handled as text. */
static bool is_id(const json_t *v)
{
    return json_is_string(v) && strlen(json_string_value(v)) == json_string_length(v);
}

rc_code rt__batch_line_decode(rt_batch_line *line, const char *text, size_t bytes, uint64_t number,
                              rc_msg *msg)
{
    rc_msg why, ignored;
    *line = (rt_batch_line){0};
    rc_code code = rt_json_read(text, bytes, &line->root, &why);
    if (code == RC_INVALID_ARGUMENT && rt_json_read_lenient(text, bytes, &line->root, &ignored) != RC_OK)
        line->root = NULL;
    const json_t *id = json_object_get(line->root, "custom_id");
    if (is_id(id)) {
        line->custom_id = json_string_value(id);
        line->custom_id_bytes = json_string_length(id);
    }
    line->body = json_object_get(line->root, "body");
    unsigned long long n = number;
    if (code != RC_OK) return rc_fail(code, msg, "line %llu is %s", n, why.text);
    if (!json_is_object(line->root))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "line %llu is no JSON object; expected a request", n);
    if (line->custom_id) return RC_OK;
    char quoted[80];
    code =
        rc_fail(RC_INVALID_ARGUMENT, msg, "line %llu has %s%s; expected a string without NUL", n,
                id ? "the custom_id " : "no custom_id", id ? rt_json_quote(id, quoted, sizeof quoted) : "");
    return rc_about(code, msg, "custom_id");
}

rc_code rt__batch_line_check(const rt_batch_line *line, rc_msg *msg)
{
    char quoted[120];
    const json_t *method = json_object_get(line->root, "method"), *url = json_object_get(line->root, "url");
    if (!json_is_string(method) || strcmp(json_string_value(method), "POST")) {
        rc_code code = rc_fail(RC_INVALID_ARGUMENT, msg, "method is %s; expected \"POST\"",
                               method ? rt_json_quote(method, quoted, sizeof quoted) : "missing");
        return rc_about(code, msg, "method");
    }
    if (!json_is_string(url) || strcmp(json_string_value(url), "/v1/completions")) {
        rc_code code = rc_fail(json_is_string(url) ? RC_NOT_FOUND : RC_INVALID_ARGUMENT, msg,
                               "url is %s; expected \"/v1/completions\"",
                               url ? rt_json_quote(url, quoted, sizeof quoted) : "missing");
        return rc_about(code, msg, "url");
    }
    return RC_OK;
}

void rt__batch_line_deinit(rt_batch_line *line)
{
    json_decref(line->root);
    *line = (rt_batch_line){0};
}
