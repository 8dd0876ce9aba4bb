/* runtime/server/line_log.h - lines to a file that may be slow, without waiting for it.
 *
 * A thread of its own writes; lines that come while 1 MiB waits are dropped, and a line says how many.
 *
 * Threads  any.
 */
#ifndef RUNTIME_SERVER_LINE_LOG_H
#define RUNTIME_SERVER_LINE_LOG_H

#include <stddef.h>

#include "proto/rc.h"

typedef struct rt_line_log rt_line_log;

/* fd: the caller's, open until rt__line_log_close(). */
RC_MUST_CHECK rc_code rt__line_log_open(int fd, rt_line_log **out, rc_msg *msg);
/* line: without its end; at most 4095 bytes, so that other writers' lines do not cut it in two. */
void rt__line_log_add(rt_line_log *l, const char *line, size_t bytes);
/* Writes what waits, unless nothing can be written for a second. NULL is allowed. */
void rt__line_log_close(rt_line_log *l);

#endif
