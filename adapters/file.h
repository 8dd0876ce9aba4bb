/* adapters/file.h - a regular file's bytes, mapped read-only or read whole.
 *
 * Errors   NOT_FOUND: there is no such file; INVALID_ARGUMENT: not a regular file, empty, or over the
 *          limit; INTERNAL: a system call failed; RESOURCE_EXHAUSTED: no memory. All name the path.
 */
#ifndef ADAPTERS_FILE_H
#define ADAPTERS_FILE_H

#include <stddef.h>

#include "proto/rc.h"

typedef struct adapter_map {
    const void *bytes;
    size_t count; /* >= 1 */
} adapter_map;

RC_MUST_CHECK rc_code adapter_file_map(const char *path, adapter_map *out, rc_msg *msg);
void adapter_file_unmap(adapter_map *m); /* a zeroed one is allowed */

/* *text is malloc'ed, the caller's, and has a 0 after its *count bytes. */
RC_MUST_CHECK rc_code adapter_file_read(const char *path, size_t max, char **text, size_t *count,
                                        rc_msg *msg);

#endif
