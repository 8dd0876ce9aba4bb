#include "runtime/model/config_json.h"

#include <inttypes.h>
#include <math.h>

#include <float.h>

enum { VALUE_BYTES_MAX = 80 };

/* Turns a bare NaN, Infinity or -Infinity at `at` into an empty object of the same length, which no
 * getter takes for a number. Gives its length, 0 where there is none. */
static size_t blank_nonfinite(char *at, size_t left)
{
    static const char *const words[] = {"NaN", "Infinity", "-Infinity"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t n = strlen(words[i]);
        if (left < n || memcmp(at, words[i], n) != 0) continue;
        memset(at, ' ', n);
        at[0] = '{';
        at[n - 1] = '}';
        return n;
    }
    return 0;
}

static void blank_all_nonfinite(char *text, size_t count)
{
    bool in_string = false;
    for (size_t i = 0; i < count; i++) {
        if (in_string && text[i] == '\\') {
            i++;
        } else if (text[i] == '"') {
            in_string = !in_string;
        } else if (!in_string) {
            size_t n = blank_nonfinite(text + i, count - i);
            if (n) i += n - 1;
        }
    }
}

rc_code rt__json_load(const char *bytes, size_t count, const char *label, json_t **out, rc_msg *msg)
{
    json_error_t error;
    char *text = malloc(count + 1);
    if (!text) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "%.255s: no memory to read it", label);
    if (count) memcpy(text, bytes, count);
    blank_all_nonfinite(text, count);
    json_t *root = json_loadb(text, count, JSON_REJECT_DUPLICATES, &error);
    free(text);
    if (!root && json_error_code(&error) == json_error_out_of_memory)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "%.255s: no memory to read it", label);
    if (!root)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%.255s: not JSON: line %d: %.160s", label, error.line,
                       error.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%.255s: expected a JSON object", label);
    }
    *out = root;
    return RC_OK;
}

const json_t *rt__field(const rt__fields *f, const char *key)
{
    const json_t *v = json_object_get(f->object, key);
    return json_is_null(v) ? NULL : v;
}

/* The value as JSON, cut to what fits a message. */
static void quote_value(const json_t *value, char out[VALUE_BYTES_MAX])
{
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_STRING:
        snprintf(out, VALUE_BYTES_MAX, "\"%.70s\"", json_string_value(value));
        break;
    case JSON_INTEGER:
        snprintf(out, VALUE_BYTES_MAX, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        snprintf(out, VALUE_BYTES_MAX, "%.17g", json_real_value(value));
        break;
    case JSON_TRUE:
        snprintf(out, VALUE_BYTES_MAX, "true");
        break;
    case JSON_FALSE:
        snprintf(out, VALUE_BYTES_MAX, "false");
        break;
    case JSON_ARRAY:
        snprintf(out, VALUE_BYTES_MAX, "a list of %zu", json_array_size(value));
        break;
    case JSON_OBJECT:
        snprintf(out, VALUE_BYTES_MAX, "an object or no finite number");
        break;
    default:
        snprintf(out, VALUE_BYTES_MAX, "absent");
    }
}

rc_code rt__field_fail(const rt__fields *f, const char *key, const json_t *value, const char *expected)
{
    char text[VALUE_BYTES_MAX];
    quote_value(value, text);
    return rc_fail(RC_INVALID_ARGUMENT, f->msg, "%.255s: %s is %s, expected %s", f->label, key, text,
                   expected);
}

rc_code rt__field_u32(const rt__fields *f, const char *key, uint32_t fallback, uint32_t min, uint32_t max,
                      uint32_t *out)
{
    const json_t *v = rt__field(f, key);
    json_int_t n = v ? json_integer_value(v) : fallback;
    if ((v && !json_is_integer(v)) || n < (json_int_t)min || n > (json_int_t)max) {
        char expected[64];
        snprintf(expected, sizeof expected, "an integer from %" PRIu32 " to %" PRIu32, min, max);
        return rt__field_fail(f, key, v, expected);
    }
    *out = (uint32_t)n;
    return RC_OK;
}

rc_code rt__field_f64(const rt__fields *f, const char *key, double fallback, double *out)
{
    const json_t *v = rt__field(f, key);
    if (v && !json_is_number(v)) return rt__field_fail(f, key, v, "a finite number");
    double n = v ? json_number_value(v) : fallback;
    if (!isfinite(n)) return rt__field_fail(f, key, v, "a finite number");
    *out = n;
    return RC_OK;
}

rc_code rt__field_f32(const rt__fields *f, const char *key, double fallback, float *out)
{
    double n = 0;
    RC_TRY(rt__field_f64(f, key, fallback, &n));
    if (fabs(n) > FLT_MAX) return rt__field_fail(f, key, rt__field(f, key), "a number that fits float32");
    *out = (float)n;
    return RC_OK;
}

rc_code rt__field_bool(const rt__fields *f, const char *key, bool fallback, bool *out)
{
    const json_t *v = rt__field(f, key);
    if (v && !json_is_boolean(v)) return rt__field_fail(f, key, v, "true or false");
    *out = v ? json_is_true(v) : fallback;
    return RC_OK;
}

rc_code rt__field_text(const rt__fields *f, const char *key, const char **out)
{
    const json_t *v = rt__field(f, key);
    if (v && !json_is_string(v)) return rt__field_fail(f, key, v, "a string");
    *out = v ? json_string_value(v) : NULL;
    return RC_OK;
}
