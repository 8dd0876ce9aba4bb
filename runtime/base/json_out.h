/* runtime/base/json_out.h - writes one line of JSON into bytes, without a tree in between.
 *
 *     rt_json_open(b, '{'); rt_json_key(b, "n"); rt_json_u64(b, 3); rt_json_close(b, '}');
 *
 * Commas come by themselves. The result is valid UTF-8 on one line whatever the strings hold: bytes that
 * are not UTF-8 become U+FFFD; control characters (U+0080 to U+009F too, which terminals obey) and what some
 * readers take for a line break (U+2028, U+2029) are escaped. Errors: memory only, told by rt_bytes.failed.
 */
#ifndef RUNTIME_BASE_JSON_OUT_H
#define RUNTIME_BASE_JSON_OUT_H

#include <stdint.h>

#include "runtime/base/bytes.h"

#ifdef __cplusplus
extern "C" {
#endif

void rt_json_open(rt_bytes *b, char bracket);  /* '{' or '[' */
void rt_json_close(rt_bytes *b, char bracket); /* '}' or ']' */
void rt_json_key(rt_bytes *b, const char *key);
void rt_json_key_n(rt_bytes *b, const char *key, size_t bytes);
void rt_json_string(rt_bytes *b, const char *text, size_t bytes);
void rt_json_text(rt_bytes *b, const char *text); /* terminated; NULL: null */
void rt_json_u64(rt_bytes *b, uint64_t value);
void rt_json_i64(rt_bytes *b, int64_t value);
/* The shortest digits that read back as the same number, by way of a double too; -inf and NaN, which JSON
 * cannot say, as -9999.0, +inf as 9999.0. */
void rt_json_f32(rt_bytes *b, float value);
void rt_json_f64(rt_bytes *b, double value);
void rt_json_bool(rt_bytes *b, bool value);
void rt_json_null(rt_bytes *b);
/* A member: key and value. */
void rt_json_add_text(rt_bytes *b, const char *key, const char *text);
void rt_json_add_u64(rt_bytes *b, const char *key, uint64_t value);
void rt_json_add_f64(rt_bytes *b, const char *key, double value);
void rt_json_raw(rt_bytes *b, const char *json, size_t bytes); /* a finished value */

#ifdef __cplusplus
}
#endif
#endif
