/* runtime/base/progress.h - lines for people on stderr, with a progress bar below them on a terminal.
 *
 * Threads  any: a lock keeps lines whole and the bar below them.
 */
#ifndef RUNTIME_BASE_PROGRESS_H
#define RUNTIME_BASE_PROGRESS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/rc.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rt_progress {
    pthread_mutex_t lock;
    int fd;
    bool is_terminal; /* where false, no bar is ever drawn */
    bool is_drawn;
    int64_t drawn_ns;
} rt_progress;

void rt_progress_init(rt_progress *p, int fd);
void rt_progress_deinit(rt_progress *p); /* takes the bar away */

/* Draws "label [#####     ] 45% text", at most ten times a second; total 0: no bar, text only. */
void rt_progress_draw(rt_progress *p, int64_t now_ns, const char *label, uint64_t done, uint64_t total,
                      const char *text);
void rt_progress_clear(rt_progress *p);
/* Writes one line above the bar. */
RC_PRINTF(2, 3) void rt_progress_line(rt_progress *p, const char *format, ...);

#ifdef __cplusplus
}
#endif
#endif
