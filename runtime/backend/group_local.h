/* runtime/backend/group_local.h - ranks that are threads of one process, as a group.
 *
 * A collective posts each rank's array, meets, works in shares of the elements, and meets again. Waiting
 * spins for some tens of microseconds, unless there are more threads than cores, and then sleeps.
 *
 * Memory   taken by create; a collective allocates nothing.
 */
#ifndef RUNTIME_BACKEND_GROUP_LOCAL_H
#define RUNTIME_BACKEND_GROUP_LOCAL_H

#include "runtime/backend/group.h"

typedef struct rt_group_local rt_group_local;

/* threads: of all ranks together; more than there are cores do not spin.
 * Errors  INVALID_ARGUMENT: no ranks. RESOURCE_EXHAUSTED: no memory. */
RC_MUST_CHECK rc_code rt_group_local_create(uint32_t ranks, uint32_t threads, rt_group_local **out,
                                            rc_msg *msg);
void rt_group_local_destroy(rt_group_local *l); /* NULL is allowed; no rank is in a collective */

/* What rank `rank`'s device is opened with. Borrowed. */
rt_group *rt_group_local_rank(rt_group_local *l, uint32_t rank);

#endif
