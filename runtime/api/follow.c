/* A process that has not rank 0: it opens its part of the model, and does as process 0 tells it. */
#include <string.h>

#include "runtime/api/mica_internal.h"
#include "runtime/engine/follow.h"

typedef struct follow_state {
    mica_options o;
    mica__processes processes;
    mica__plan plan;
    mica__ranks ranks;
    adapter_shape shape;
} follow_state;

static rc_code open_and_follow(follow_state *f, rc_msg *err)
{
    rt_follow_options follow = {.shape = &f->shape};
    mica__device device;
    RC_TRY(mica__processes_meet(&f->o, &f->processes, err));
    RC_TRY(mica__device_choose(&f->o, &device, err));
    RC_TRY(mica__plan_make(&f->o, &device, &f->processes, &f->plan, err));
    RC_TRY(mica__plan_open(&f->o, &device, &f->processes, &f->plan, &f->ranks, &follow.own, err));
    mica__plan_shape(&f->plan, &f->shape);
    follow.mesh = f->processes.mesh;
    follow.watch = f->processes.watch;
    follow.limits = mica__plan_wire(&f->plan);
    return rt_follow(&follow, err);
}

rc_code mica_follow(const mica_options *options, bool *follows, rc_msg *err)
{
    follow_state f = {0};
    *follows = false;
    RC_TRY(mica__options_copy(options, &f.o, err));
    RC_TRY(mica__processes_find(&f.o, &f.processes, err));
    if (f.processes.launch.process == 0) return RC_OK;
    *follows = true;
    rc_msg why;
    rc_code code = open_and_follow(&f, &why);
    mica__processes_end(&f.processes, code == RC_OK ? NULL : why.text);
    mica__ranks_close(&f.ranks);
    mica__processes_close(&f.processes);
    mica__plan_free(&f.plan);
    if (code != RC_OK && err) *err = why;
    return code;
}
