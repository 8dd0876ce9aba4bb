/* runtime/cli/batch_output.h - the answers' file of a batch.
 *
 * Without resume an existing file is emptied. With it, what an uninterrupted run would have left of it stays:
 * the lines of status 200. Lines of failed requests go, as those are done again, and so does a torn last
 * line. The file is replaced in one rename(2), or cut off at its end, so that a second interruption loses
 * nothing.
 *
 *     check   before the model is loaded: can it be written, and what is in it; changes nothing
 *     open    empties or tidies it
 */
#ifndef RUNTIME_CLI_BATCH_OUTPUT_H
#define RUNTIME_CLI_BATCH_OUTPUT_H

#include <stdbool.h>

#include "runtime/cli/id_set.h"

typedef struct rt_batch_output {
    const char *path; /* "-": stdout */
    int fd;           /* -1 until open */
    bool resume;
    bool needs_rewrite;
    uint64_t kept_bytes; /* that stay as they are, from the file's start */
    uint64_t kept_lines;
} rt_batch_output;

/* ids: those with an answer are marked RT_ID_DONE. input_fd: refused where it is the same file. */
RC_MUST_CHECK rc_code rt__batch_output_check(rt_batch_output *o, const char *path, bool resume, int input_fd,
                                             rt_id_set *ids, rc_msg *msg);
RC_MUST_CHECK rc_code rt__batch_output_open(rt_batch_output *o, rc_msg *msg);
/* One write(2) of a line with its line feed; if the disk is full, the part that got there is taken back. */
RC_MUST_CHECK rc_code rt__batch_output_write(rt_batch_output *o, const char *line, size_t bytes, rc_msg *msg);
void rt__batch_output_close(rt_batch_output *o);

#endif
