/* runtime/base/json_in.h - reads one JSON text that somebody else wrote.
 *
 * Strict: one value, UTF-8, no lone surrogate, no key twice, at most 2048 levels. NUL in strings is allowed
 * (take lengths). Numbers that no integer or double holds are legal JSON: they become plus or minus
 * RT_JSON_HUGE, so that whoever looks at the field can say that it is out of range.
 */
#ifndef RUNTIME_BASE_JSON_IN_H
#define RUNTIME_BASE_JSON_IN_H

#include <jansson.h>

#include "proto/rc.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RT_JSON_HUGE 1e300

/* *out: the caller's reference. Errors INVALID_ARGUMENT: not such a text; the message says where. */
RC_MUST_CHECK rc_code rt_json_read(const char *text, size_t bytes, json_t **out, rc_msg *msg);
/* As rt_json_read, but of two equal keys the last counts: to find out what a refused text is about. */
RC_MUST_CHECK rc_code rt_json_read_lenient(const char *text, size_t bytes, json_t **out, rc_msg *msg);

/* The value as one short line for a message: cut off with "..." where it is longer than `max` - 1 bytes. */
const char *rt_json_quote(const json_t *value, char *out, size_t max);

#ifdef __cplusplus
}
#endif
#endif
