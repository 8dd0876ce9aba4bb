#include "runtime/base/json_in.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/utf8.h"

enum { DIGITS_MAX = 18 }; /* as many always fit in a json_int_t */

static bool is_number_byte(char c)
{
    return (c >= '0' && c <= '9') || strchr("+-.eE", c);
}

/* Overwrites the number of `bytes` at `at` where nothing can hold it. Too short for that it never is: it
 * has more than 18 digits, or an exponent of three and then some. */
static void clamp_number(char *at, size_t bytes)
{
    char copy[48];
    bool is_real = memchr(at, '.', bytes) || memchr(at, 'e', bytes) || memchr(at, 'E', bytes);
    bool is_huge;
    if (is_real) {
        char *end;
        char after = at[bytes];
        at[bytes] = 0;
        is_huge = isinf(strtod(at, &end)) && end == at + bytes;
        at[bytes] = after;
    } else if (bytes <= DIGITS_MAX) {
        is_huge = false;
    } else if (bytes < sizeof copy) {
        memcpy(copy, at, bytes);
        copy[bytes] = 0;
        errno = 0;
        (void)strtoll(copy, NULL, 10);
        is_huge = errno == ERANGE;
    } else {
        is_huge = true;
    }
    if (!is_huge) return;
    const char *huge = at[0] == '-' ? "-1e300" : "1e300";
    size_t n = strlen(huge);
    if (bytes < n) return;
    memcpy(at, huge, n);
    memset(at + n, ' ', bytes - n);
}

/* text[bytes] must be writable. */
static void clamp_numbers(char *text, size_t bytes)
{
    bool in_string = false;
    for (size_t at = 0; at < bytes;) {
        char c = text[at];
        if (in_string && c == '\\') {
            at += 2;
        } else if (c == '"') {
            in_string = !in_string;
            at++;
        } else if (!in_string && (c == '-' || (c >= '0' && c <= '9'))) {
            size_t end = at + 1;
            while (end < bytes && text[end] && is_number_byte(text[end])) end++;
            clamp_number(text + at, end - at);
            at = end;
        } else {
            at++;
        }
    }
}

static json_t *read_clamped(const char *text, size_t bytes, size_t flags, json_error_t *error)
{
    char *copy = malloc(bytes + 1);
    if (!copy) return NULL;
    memcpy(copy, text, bytes);
    copy[bytes] = 0;
    clamp_numbers(copy, bytes);
    json_t *value = json_loadb(copy, bytes, flags, error);
    free(copy);
    return value;
}

static rc_code read_with(const char *text, size_t bytes, size_t flags, json_t **out, rc_msg *msg)
{
    json_error_t error = {0};
    flags |= JSON_ALLOW_NUL | JSON_DECODE_ANY;
    json_t *value = json_loadb(text, bytes, flags, &error);
    if (!value && json_error_code(&error) == json_error_numeric_overflow)
        value = read_clamped(text, bytes, flags, &error);
    /* Where jansson itself finds no memory it mostly says nothing. */
    if (!value && (json_error_code(&error) == json_error_out_of_memory || !error.text[0]))
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for %zu bytes of JSON", bytes);
    if (!value)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "not JSON: %s (at byte %d)", error.text, error.position);
    *out = value;
    return RC_OK;
}

rc_code rt_json_read(const char *text, size_t bytes, json_t **out, rc_msg *msg)
{
    return read_with(text, bytes, JSON_REJECT_DUPLICATES, out, msg);
}

rc_code rt_json_read_lenient(const char *text, size_t bytes, json_t **out, rc_msg *msg)
{
    return read_with(text, bytes, 0, out, msg);
}

typedef struct quote {
    char *out;
    size_t count, max;
} quote;

static int add_quoted(const char *text, size_t bytes, void *ctx)
{
    quote *q = ctx;
    size_t room = q->max - q->count;
    size_t n = bytes < room ? bytes : room;
    memcpy(q->out + q->count, text, n);
    q->count += n;
    return bytes > room ? -1 : 0;
}

const char *rt_json_quote(const json_t *value, char *out, size_t max)
{
    RC_ASSERT(max > 8);
    quote q = {out, 0, max - 4};
    if (json_is_real(value) && fabs(json_real_value(value)) >= RT_JSON_HUGE) {
        snprintf(out, max, "%s", json_real_value(value) < 0 ? "-huge" : "huge");
        return out;
    }
    bool is_cut = json_dump_callback(value, add_quoted, &q,
                                     JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9)) != 0;
    q.count = rt_utf8_valid(out, q.count); /* a cut may fall into a character */
    memcpy(out + q.count, is_cut ? "..." : "", is_cut ? 4 : 1);
    return out;
}
