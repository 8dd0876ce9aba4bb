/* runtime/model/config_json.h - fields of a JSON object with their type, range and default.
 *
 * A key that is absent or null has its default, as in transformers' configuration classes. Every
 * failure is one line that names the file, the key, the value and what was expected.
 */
#ifndef RUNTIME_MODEL_CONFIG_JSON_H
#define RUNTIME_MODEL_CONFIG_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/rc.h"

typedef struct rt__fields {
    const json_t *object;
    const char *label; /* of the file */
    rc_msg *msg;
} rt__fields;

/* Parses one JSON object; duplicate keys are refused. The bare words NaN and Infinity that Python's
 * writer produces are let through where nobody reads them: they are no number to the getters.
 * `*out` is the caller's (json_decref). */
RC_MUST_CHECK rc_code rt__json_load(const char *bytes, size_t count, const char *label, json_t **out,
                                    rc_msg *msg);

/* NULL where the key is absent or null. */
const json_t *rt__field(const rt__fields *f, const char *key);

RC_MUST_CHECK rc_code rt__field_u32(const rt__fields *f, const char *key, uint32_t fallback, uint32_t min,
                                    uint32_t max, uint32_t *out);
/* A finite number, as float or double. */
RC_MUST_CHECK rc_code rt__field_f64(const rt__fields *f, const char *key, double fallback, double *out);
RC_MUST_CHECK rc_code rt__field_f32(const rt__fields *f, const char *key, double fallback, float *out);
RC_MUST_CHECK rc_code rt__field_bool(const rt__fields *f, const char *key, bool fallback, bool *out);
/* NULL where absent; borrowed from the object. */
RC_MUST_CHECK rc_code rt__field_text(const rt__fields *f, const char *key, const char **out);

/* One line: "<label>: <key> is <value>, expected <expected>". */
rc_code rt__field_fail(const rt__fields *f, const char *key, const json_t *value, const char *expected);

#endif
