/* runtime/engine/follow.h - what a process other than 0 does: as it is told, until it is told to end. */
#ifndef RUNTIME_ENGINE_FOLLOW_H
#define RUNTIME_ENGINE_FOLLOW_H

#include "runtime/engine/wire.h"
#include "runtime/link/watch.h"

typedef struct rt_follow_options {
    rt_exec own; /* this process's ranks */
    rt_mesh *mesh;
    rt_watch *watch;
    rt_wire_limits limits;
    const adapter_shape *shape;
} rt_follow_options;

/* Errors  UNAVAILABLE: the mesh failed, or what process 0 said was wrong. RESOURCE_EXHAUSTED, INTERNAL: it
 * could not begin. */
RC_MUST_CHECK rc_code rt_follow(const rt_follow_options *o, rc_msg *msg);

#endif
