/* runtime/api/ranks.h - the ranks of this process: a device and a part of the model each. */
#ifndef RUNTIME_API_RANKS_H
#define RUNTIME_API_RANKS_H

#include "runtime/backend/group_local.h"
#include "runtime/engine/exec_model.h"
#include "runtime/engine/exec_ranks.h"

/* What one rank comes to. */
typedef struct mica__rank_plan {
    rt_model_info info;
    rt_device_options device;
    rt_model_limits limits;
    uint64_t kv_bytes, device_bytes, activation_bytes;
} mica__rank_plan;

typedef struct mica__ranks {
    const rt_backend *backend;
    uint32_t count;
    rt_group_local *group; /* NULL: there is one rank */
    rt_exec_model *models; /* [count] */
    rt_exec *execs;        /* [count] */
    rt_exec_ranks *team;   /* NULL: there is one rank */
} mica__ranks;

typedef struct mica__ranks_options {
    const rt_backend *backend;
    rt_mesh *mesh;          /* NULL: no other processes */
    size_t floats_max;      /* rt_group_local_options.floats_max */
    rt_model_options model; /* what all ranks have in common */
    mica__rank_plan *plans; /* [count] */
    uint32_t count;
} mica__ranks_options;

/* Opens devices and parts of the model, one after the other, each on all threads. exec: what runs them
 * together. On failure close what there is. */
RC_MUST_CHECK rc_code mica__ranks_open(mica__ranks *r, const mica__ranks_options *o, rt_exec *exec,
                                       rc_msg *msg);
void mica__ranks_close(mica__ranks *r); /* zeroed is allowed */

#endif
