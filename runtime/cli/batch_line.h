/* runtime/cli/batch_line.h - one line of an OpenAI batch file. */
#ifndef RUNTIME_CLI_BATCH_LINE_H
#define RUNTIME_CLI_BATCH_LINE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/rc.h"

typedef struct rt_batch_line {
    json_t *root;
    const char *custom_id; /* part of root; NULL: the line has none that can be read */
    size_t custom_id_bytes;
    json_t *body; /* part of root; may be NULL */
} rt_batch_line;

bool rt__batch_line_is_blank(const char *text, size_t bytes);
/* Fills `line` as far as it can be read, also where it fails: whoever gets the answer should find it.
 * Errors INVALID_ARGUMENT, with the line's number: no JSON, no object, no custom_id. */
RC_MUST_CHECK rc_code rt__batch_line_decode(rt_batch_line *line, const char *text, size_t bytes,
                                            uint64_t number, rc_msg *msg);
/* Errors INVALID_ARGUMENT: the method; NOT_FOUND: the url. */
RC_MUST_CHECK rc_code rt__batch_line_check(const rt_batch_line *line, rc_msg *msg);
void rt__batch_line_deinit(rt_batch_line *line);

#endif
