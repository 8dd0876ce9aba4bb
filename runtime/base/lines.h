/* runtime/base/lines.h - the lines of a file of any size, in bounded memory.
 *
 * Reading and taking lines apart are separate, so that a caller who waits for other things too never
 * blocks: rt_lines_next() looks only at what has been read, rt_lines_fill() is one read(2).
 */
#ifndef RUNTIME_BASE_LINES_H
#define RUNTIME_BASE_LINES_H

#include <stdint.h>

#include "runtime/base/bytes.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum rt_line_state {
    RT_LINE = 1,      /* a line */
    RT_LINE_TORN,     /* the last one, which no line feed ends */
    RT_LINE_TOO_LONG, /* longer than bytes_max; its bytes are skipped */
    RT_LINE_NEEDS,    /* nothing complete: fill, then ask again */
    RT_LINE_END
} rt_line_state;

typedef struct rt_lines {
    int fd;
    size_t bytes_max;
    rt_bytes read;
    size_t at;       /* in `read`: where the next line begins */
    size_t searched; /* in `read`: no line feed before it */
    uint64_t number; /* of the line given last, from 1 */
    uint64_t offset; /* in the file: where the next line begins */
    bool is_skipping;
    bool is_ended;
} rt_lines;

void rt_lines_init(rt_lines *l, int fd, size_t bytes_max);
void rt_lines_deinit(rt_lines *l); /* does not close fd */

/* *line, without its line feed, is valid until rt_lines_fill(). */
rt_line_state rt_lines_next(rt_lines *l, const char **line, size_t *bytes);
/* Errors INTERNAL: read(2) failed, with errno's text. UNAVAILABLE: interrupted by a signal, or nothing there.
 */
RC_MUST_CHECK rc_code rt_lines_fill(rt_lines *l, rc_msg *msg);

#ifdef __cplusplus
}
#endif
#endif
