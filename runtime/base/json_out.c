#include "runtime/base/json_out.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/utf8.h"

/* A value or key follows something unless it opens a level, follows its key, or is the first of all. */
static void separate(rt_bytes *b)
{
    if (!b->count) return;
    char last = b->data[b->count - 1];
    if (last != '{' && last != '[' && last != ':') rt_bytes_add_byte(b, ',');
}

void rt_json_open(rt_bytes *b, char bracket)
{
    RC_ASSERT(bracket == '{' || bracket == '[');
    separate(b);
    rt_bytes_add_byte(b, bracket);
}

void rt_json_close(rt_bytes *b, char bracket)
{
    RC_ASSERT(bracket == '}' || bracket == ']');
    rt_bytes_add_byte(b, bracket);
}

static const char *escape_of(unsigned char c)
{
    switch (c) {
    case '"':
        return "\\\"";
    case '\\':
        return "\\\\";
    case '\n':
        return "\\n";
    case '\r':
        return "\\r";
    case '\t':
        return "\\t";
    case '\b':
        return "\\b";
    case '\f':
        return "\\f";
    default:
        return NULL;
    }
}

/* Escapes the character of n bytes at s where it needs it; n = 0: a byte that is no character. */
static bool add_escaped(rt_bytes *b, const unsigned char *s, size_t n)
{
    const char *escape = escape_of(s[0]);
    if (!n)
        rt_bytes_add_text(b, "\xef\xbf\xbd");
    else if (n == 1 && escape)
        rt_bytes_add_text(b, escape);
    else if (n == 1 && (s[0] < 0x20 || s[0] == 0x7f))
        rt_bytes_print(b, "\\u%04x", s[0]);
    else if (n == 2 && s[0] == 0xc2 && s[1] < 0xa0)
        rt_bytes_print(b, "\\u%04x", s[1]);
    else if (n == 3 && s[0] == 0xe2 && s[1] == 0x80 && (s[2] == 0xa8 || s[2] == 0xa9))
        rt_bytes_add_text(b, s[2] == 0xa8 ? "\\u2028" : "\\u2029");
    else
        return false;
    return true;
}

static void add_string(rt_bytes *b, const char *text, size_t bytes)
{
    size_t plain = 0; /* where the run that is copied as it is began */
    rt_bytes_add_byte(b, '"');
    for (size_t at = 0; at < bytes;) {
        size_t n = rt_utf8_character(text + at, bytes - at);
        unsigned char c = (unsigned char)text[at];
        bool is_plain =
            n == 1 ? c >= 0x20 && c != '"' && c != '\\' && c != 0x7f : n && c != 0xc2 && c != 0xe2;
        if (!is_plain) {
            rt_bytes_add(b, text + plain, at - plain);
            if (!add_escaped(b, (const unsigned char *)text + at, n)) rt_bytes_add(b, text + at, n);
            plain = at + (n ? n : 1);
        }
        at += n ? n : 1;
    }
    rt_bytes_add(b, text + plain, bytes - plain);
    rt_bytes_add_byte(b, '"');
}

void rt_json_string(rt_bytes *b, const char *text, size_t bytes)
{
    separate(b);
    add_string(b, text, bytes);
}

void rt_json_text(rt_bytes *b, const char *text)
{
    if (text)
        rt_json_string(b, text, strlen(text));
    else
        rt_json_null(b);
}

void rt_json_key_n(rt_bytes *b, const char *key, size_t bytes)
{
    rt_json_string(b, key, bytes);
    rt_bytes_add_byte(b, ':');
}

void rt_json_key(rt_bytes *b, const char *key)
{
    rt_json_key_n(b, key, strlen(key));
}

void rt_json_raw(rt_bytes *b, const char *json, size_t bytes)
{
    separate(b);
    rt_bytes_add(b, json, bytes);
}

void rt_json_u64(rt_bytes *b, uint64_t value)
{
    separate(b);
    rt_bytes_print(b, "%" PRIu64, value);
}

void rt_json_i64(rt_bytes *b, int64_t value)
{
    separate(b);
    rt_bytes_print(b, "%" PRId64, value);
}

static void add_number(rt_bytes *b, const char *digits)
{
    rt_json_raw(b, digits, strlen(digits));
    if (!strpbrk(digits, ".e")) rt_bytes_add_text(b, ".0");
}

void rt_json_f32(rt_bytes *b, float value)
{
    char digits[32];
    if (!isfinite(value)) value = value > 0 ? 9999.0f : -9999.0f;
    for (int precision = 6; precision <= 9; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, (double)value);
        if (strtof(digits, NULL) == value && (float)strtod(digits, NULL) == value) break;
    }
    add_number(b, digits);
}

void rt_json_f64(rt_bytes *b, double value)
{
    char digits[40];
    if (!isfinite(value)) value = value > 0 ? 9999.0 : -9999.0;
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value) break;
    }
    add_number(b, digits);
}

void rt_json_bool(rt_bytes *b, bool value)
{
    rt_json_raw(b, value ? "true" : "false", value ? 4 : 5);
}
void rt_json_null(rt_bytes *b)
{
    rt_json_raw(b, "null", 4);
}

void rt_json_add_text(rt_bytes *b, const char *key, const char *text)
{
    rt_json_key(b, key);
    rt_json_text(b, text);
}

void rt_json_add_u64(rt_bytes *b, const char *key, uint64_t value)
{
    rt_json_key(b, key);
    rt_json_u64(b, value);
}

void rt_json_add_f64(rt_bytes *b, const char *key, double value)
{
    rt_json_key(b, key);
    rt_json_f64(b, value);
}
