/* runtime/model/read_file.h - a small file as bytes. */
#ifndef RUNTIME_MODEL_READ_FILE_H
#define RUNTIME_MODEL_READ_FILE_H

#include <stddef.h>

#include "proto/rc.h"

/* The whole file, *bytes is the caller's (free). Errors NOT_FOUND: no such file. INVALID_ARGUMENT: longer
 * than bytes_max, or no regular file. INTERNAL: it can't be read. RESOURCE_EXHAUSTED: no memory. */
RC_MUST_CHECK rc_code rt__read_file(const char *path, size_t bytes_max, char **bytes, size_t *count,
                                    rc_msg *msg);

#endif
