/* runtime/cli/follow.h - a command in a process that has not rank 0: it works for the one that has. */
#ifndef RUNTIME_CLI_FOLLOW_H
#define RUNTIME_CLI_FOLLOW_H

#include "runtime/cli/engine_flags.h"

/* Gives when the engine ended, with *follows set and nothing left to do; at once in rank 0's process.
 * SIGINT, which a terminal sends to all processes, is process 0's affair. */
RC_MUST_CHECK rc_code rt__follow(const rt_engine_flags *f, bool *follows, rc_msg *msg);

#endif
