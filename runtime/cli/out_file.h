/* runtime/cli/out_file.h - files of figures: checked before the work, written after it. */
#ifndef RUNTIME_CLI_OUT_FILE_H
#define RUNTIME_CLI_OUT_FILE_H

#include "runtime/base/bytes.h"

/* Before minutes are spent on figures that nobody would see. Leaves no file behind and changes none.
 * Errors INTERNAL: it cannot be written. NULL is allowed. */
RC_MUST_CHECK rc_code rt__out_file_check(const char *path, rc_msg *msg);
/* Errors INTERNAL. */
RC_MUST_CHECK rc_code rt__out_file_write(const char *path, const rt_bytes *bytes, rc_msg *msg);

#endif
