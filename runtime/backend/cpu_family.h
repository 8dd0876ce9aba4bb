/* runtime/backend/cpu_family.h - which set of kernels this CPU runs.
 *
 * Sums of different families round differently, so the choice follows from the CPU's identity and never
 * from a timing: the next start on the same machine gives the same bits.
 */
#ifndef RUNTIME_BACKEND_CPU_FAMILY_H
#define RUNTIME_BACKEND_CPU_FAMILY_H

#include <stdbool.h>

#include "runtime/backend/kernels.h"

/* True where `name` is a family, this build has it and this CPU can run it. */
bool rt_cpu_family_usable(const char *name);

/* "auto" (or NULL) is the fastest family for this CPU.
 * Errors INVALID_ARGUMENT: no such family, or not here. */
RC_MUST_CHECK rc_code rt_cpu_family_choose(const char *name, const rt_kernels **out, rc_msg *msg);

#endif
