/* runtime/cli/interrupt.h - SIGINT and SIGTERM end a command in good order.
 *
 * The first signal is noted and wakes poll(2); a second one of the same kind ends the process at once.
 */
#ifndef RUNTIME_CLI_INTERRUPT_H
#define RUNTIME_CLI_INTERRUPT_H

#include <stdbool.h>

void rt__interrupt_watch(void);
void rt__interrupt_unwatch(void); /* back to the system's ways; forgets what was noted */
int rt__interrupt_signal(void);   /* 0: none came; else the signal, and 128 + it is the exit status */

/* From here on SIGHUP is noted too; before it ends the process. */
void rt__interrupt_watch_hangup(void);
bool rt__interrupt_hangup(void); /* whether one came since it was asked last */

#endif
