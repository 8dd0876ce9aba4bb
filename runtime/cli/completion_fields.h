/* runtime/cli/completion_fields.h - the table of fields behind completion_request.h. */
#ifndef RUNTIME_CLI_COMPLETION_FIELDS_H
#define RUNTIME_CLI_COMPLETION_FIELDS_H

#include "runtime/cli/completion_request.h"

typedef enum rt_field_kind {
    RT_FIELD_U32 = 1,
    RT_FIELD_I32,
    RT_FIELD_I64,
    RT_FIELD_F32,
    RT_FIELD_BOOL,
    RT_FIELD_STRING,
    RT_FIELD_PROMPT,
    RT_FIELD_STOP,
    RT_FIELD_IDS,
    RT_FIELD_BIAS,
    RT_FIELD_INERT, /* changes nothing: only the JSON value `inert` is accepted, or any of its type */
} rt_field_kind;

typedef struct rt_field {
    const char *name;
    rt_field_kind kind;
    size_t at;     /* in rt_completion_request */
    size_t has_at; /* of a bool that says whether it was given; 0: none */
    double min, max;
    bool is_min_excluded;
    const char *expected; /* in words, for messages */
    const char *inert;    /* of RT_FIELD_INERT: the JSON value; NULL: any */
    json_type inert_type;
} rt_field;

extern const rt_field rt__fields[];
extern const size_t rt__fields_count;

/* Fields that hold more than a number; each refuses by name and fills its arrays in `r`. */
RC_MUST_CHECK rc_code rt__decode_prompt(const rt_field *f, const json_t *v, uint32_t vocab,
                                        rt_completion_request *r, rc_msg *msg);
RC_MUST_CHECK rc_code rt__decode_stop(const rt_field *f, const json_t *v, rt_completion_request *r,
                                      rc_msg *msg);
RC_MUST_CHECK rc_code rt__decode_ids(const rt_field *f, const json_t *v, uint32_t vocab,
                                     rt_completion_request *r, rc_msg *msg);
RC_MUST_CHECK rc_code rt__decode_bias(const rt_field *f, const json_t *v, uint32_t vocab,
                                      rt_completion_request *r, rc_msg *msg);

/* "max_tokens is -1; expected ...", about that field. */
rc_code rt__fail_field(const rt_field *f, const json_t *v, rc_msg *msg);

#endif
