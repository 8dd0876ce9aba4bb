/* runtime/api/processes.h - the other processes of this engine, where there are any. */
#ifndef RUNTIME_API_PROCESSES_H
#define RUNTIME_API_PROCESSES_H

#include "runtime/link/launch.h"
#include "runtime/link/watch.h"
#include "runtime/mica.h"

typedef struct mica__processes {
    rt_launch launch;    /* one process where the model is not split */
    uint32_t ranks_each;
    rt_mesh *mesh;       /* NULL: there are no others, or not yet */
    rt_watch *watch;
} mica__processes;

/* Which process this is. Errors INVALID_ARGUMENT: what the launcher or the flags say does not fit. */
RC_MUST_CHECK rc_code mica__processes_find(const mica_options *o, mica__processes *p, rc_msg *msg);
/* Threads of this process's ranks together: the flag's, or its share of the cores. */
uint32_t mica__processes_threads(const mica_options *o, const mica__processes *p);
/* Meets the others and begins to watch them. */
RC_MUST_CHECK rc_code mica__processes_meet(const mica_options *o, mica__processes *p, rc_msg *msg);
/* Both allow zeroed. end: the others are told that this process ends, or why it can't go on: line.
 * close: when no rank is left that may be in a call of theirs. */
void mica__processes_end(mica__processes *p, const char *line);
void mica__processes_close(mica__processes *p);

#endif
