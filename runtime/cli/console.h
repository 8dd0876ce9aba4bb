/* runtime/cli/console.h - what a command says to people: on stderr, each thing once, in one line. */
#ifndef RUNTIME_CLI_CONSOLE_H
#define RUNTIME_CLI_CONSOLE_H

#include "runtime/base/progress.h"
#include "runtime/mica.h"

typedef struct rt_console {
    const char *command; /* "mica run-batch" */
    bool is_quiet;       /* no 'I' lines of the engine */
    rt_progress progress;
} rt_console;

void rt__console_init(rt_console *c, const char *command);
void rt__console_deinit(rt_console *c);

/* "mica run-batch: <message>"; gives 1, the exit status of a command that could not do its work. */
int rt__console_fail(rt_console *c, const rc_msg *msg);
/* Lets the engine log to the console, and shows loading as a bar. */
void rt__console_attach(rt_console *c, mica_options *options);
/* A bar that says how far loading is has no place once the engine is open. */
void rt__console_loaded(rt_console *c);

#endif
