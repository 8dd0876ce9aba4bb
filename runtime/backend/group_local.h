/* runtime/backend/group_local.h - the ranks of this process, which are its threads, as members of a group.
 *
 * A collective posts each rank's array, meets, works in shares of the elements, and meets again. Waiting
 * spins for some tens of microseconds, unless there are more threads than cores, and then sleeps. Where there
 * are other processes, the first rank's thread speaks for all of this one over the mesh.
 *
 * Memory   taken by create; a collective allocates nothing.
 */
#ifndef RUNTIME_BACKEND_GROUP_LOCAL_H
#define RUNTIME_BACKEND_GROUP_LOCAL_H

#include "runtime/backend/group.h"
#include "runtime/link/mesh.h"

typedef struct rt_group_local rt_group_local;

typedef struct rt_group_local_options {
    uint32_t ranks;      /* of this process */
    uint32_t threads;    /* of all of them; more than there are cores do not spin */
    rt_mesh *mesh;       /* NULL: this process has all ranks; else process p has ranks p * ranks ... */
    size_t floats_max;   /* with a mesh: of a sum, and of the columns of one process that are gathered */
} rt_group_local_options;

/* Errors  INVALID_ARGUMENT: no ranks. RESOURCE_EXHAUSTED: no memory. */
RC_MUST_CHECK rc_code rt_group_local_create(const rt_group_local_options *o, rt_group_local **out,
                                            rc_msg *msg);
void rt_group_local_destroy(rt_group_local *l); /* NULL is allowed; no rank is in a collective */

/* What the device of this process's i-th rank is opened with. Borrowed. */
rt_group *rt_group_local_rank(rt_group_local *l, uint32_t i);
/* Fails it in the name of all ranks; any thread. */
void rt_group_local_fail(rt_group_local *l, const char *line);

#endif
