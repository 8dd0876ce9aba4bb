#include "runtime/api/processes.h"

#include <string.h>
#include <unistd.h>

#include "runtime/backend/pool.h"

rc_code mica__processes_find(const mica_options *o, mica__processes *p, rc_msg *msg)
{
    rt_launch_flags flags = {o->nnodes, o->node_rank, o->master_addr, o->master_port};
    uint32_t ranks = o->tensor_parallel_size ? o->tensor_parallel_size : 1;
    *p = (mica__processes){.launch = {.processes = 1}, .ranks_each = ranks};
    if (ranks == 1 && o->nnodes < 2) return RC_OK; /* whoever started it: nothing is split */
    RC_TRY(rt_launch_find(&flags, environ, &p->launch, msg));
    if (ranks % p->launch.processes)
        return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg,
                                "--tensor-parallel-size is %u: %s says that there are %u processes, expected "
                                "a multiple of that",
                                ranks, p->launch.by, p->launch.processes),
                        msg, "--tensor-parallel-size");
    p->ranks_each = ranks / p->launch.processes;
    return RC_OK;
}

/* Those on this host; all, where they meet on its loopback. */
static uint32_t local_processes(const rt_launch *l)
{
    bool is_loopback = !strncmp(l->address, "127.", 4) || !strcmp(l->address, "localhost");
    return l->locals ? l->locals : l->processes > 1 && is_loopback ? l->processes : 1;
}

/* A launcher that binds its processes has dealt out the cores already. */
uint32_t mica__processes_threads(const mica_options *o, const mica__processes *p)
{
    uint32_t cores = rt_pool_cores(), locals = local_processes(&p->launch);
    if (o->threads) return o->threads;
    if (cores == (uint32_t)sysconf(_SC_NPROCESSORS_ONLN)) cores /= locals;
    return cores > p->ranks_each ? cores : p->ranks_each;
}

rc_code mica__processes_meet(const mica_options *o, mica__processes *p, rc_msg *msg)
{
    uint32_t threads = mica__processes_threads(o, p) * local_processes(&p->launch);
    if (p->launch.processes == 1) return RC_OK;
    RC_TRY(rt_mesh_open(&p->launch, p->ranks_each, threads <= rt_pool_cores(), &p->mesh, msg));
    return rt_watch_start(p->mesh, &p->watch, msg);
}

void mica__processes_end(mica__processes *p, const char *line)
{
    rt_watch_end(p->watch, line);
    p->watch = NULL;
}

void mica__processes_close(mica__processes *p)
{
    rt_mesh_close(p->mesh);
    p->mesh = NULL;
}
