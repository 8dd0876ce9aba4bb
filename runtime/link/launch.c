#include "runtime/link/launch.h"

#include <string.h>

typedef struct convention {
    const char *by;
    const char *process, *processes, *processes_else; /* names of variables; _else NULL: none */
    const char *local, *locals;
} convention;

static const convention conventions[] = {
    {"torchrun", "RANK", "WORLD_SIZE", NULL, "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", NULL, "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"PMI", "PMI_RANK", "PMI_SIZE", NULL, "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_LOCALID", NULL},
};

static const char *value_of(char *const *environment, const char *name)
{
    size_t bytes = name ? strlen(name) : 0;
    for (; name && *environment; environment++)
        if (!strncmp(*environment, name, bytes) && (*environment)[bytes] == '=')
            return *environment + bytes + 1;
    return NULL;
}

static bool parse(const char *text, uint32_t *out)
{
    uint64_t value = 0;
    if (!*text) return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || value > UINT32_MAX / 10) return false;
        value = value * 10 + (uint64_t)(*text - '0');
    }
    *out = (uint32_t)value;
    return value <= UINT32_MAX;
}

/* A number below or up to `max`; absent: left as it is. */
static rc_code read_number(char *const *environment, const char *name, uint32_t min, uint32_t max,
                           uint32_t *out, rc_msg *msg)
{
    const char *text = value_of(environment, name);
    uint32_t value;
    if (!text) return RC_OK;
    if (!parse(text, &value) || value < min || value > max)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%s is '%.64s', expected %u to %u", name, text, min, max);
    *out = value;
    return RC_OK;
}

static rc_code read_convention(const convention *c, char *const *environment, rt_launch *l, rc_msg *msg)
{
    const char *size = value_of(environment, c->processes) ? c->processes : c->processes_else;
    l->by = c->by;
    RC_TRY(read_number(environment, size, 1, RT_PROCESSES_MAX, &l->processes, msg));
    RC_TRY(read_number(environment, c->process, 0, l->processes - 1, &l->process, msg));
    RC_TRY(read_number(environment, c->locals, 1, l->processes, &l->locals, msg));
    return read_number(environment, c->local, 0, l->processes - 1, &l->local, msg);
}

static rc_code read_flags(const rt_launch_flags *f, rt_launch *l, rc_msg *msg)
{
    if (f->nnodes > RT_PROCESSES_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "--nnodes is %u, expected at most %d", f->nnodes,
                       RT_PROCESSES_MAX);
    if (f->node_rank >= f->nnodes)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "--node-rank is %u, expected below --nnodes %u",
                       f->node_rank, f->nnodes);
    l->by = "--nnodes";
    l->processes = f->nnodes;
    l->process = f->node_rank;
    return RC_OK;
}

/* What flags say by themselves, whether or not they are needed. */
static rc_code check_flags(const rt_launch_flags *f, rc_msg *msg)
{
    if (f->master_port > UINT16_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "--master-port is %u, expected at most %u", f->master_port,
                       UINT16_MAX);
    if (f->node_rank && !f->nnodes)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "--node-rank is %u, expected --nnodes beside it",
                       f->node_rank);
    return RC_OK;
}

static rc_code find_process(const rt_launch_flags *f, char *const *environment, rt_launch *l, rc_msg *msg)
{
    if (f->nnodes) return read_flags(f, l, msg);
    for (size_t i = 0; i < sizeof conventions / sizeof *conventions; i++) {
        const convention *c = &conventions[i];
        bool has_size = value_of(environment, c->processes) || value_of(environment, c->processes_else);
        if (has_size && value_of(environment, c->process))
            return read_convention(c, environment, l, msg);
    }
    return RC_OK;
}

/* "gpu[007-012,20],login": gpu007 */
static void first_node(const char *list, char *out, size_t max)
{
    size_t name = strcspn(list, "[,"), from = name, digits = 0;
    if (list[name] == '[') {
        from = name + 1;
        digits = strspn(list + from, "0123456789");
    }
    snprintf(out, max, "%.*s%.*s", (int)name, list, (int)digits, list + from);
}

static void find_slurm_node(char *const *environment, rt_launch *l)
{
    static const char *const names[] = {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"};
    for (size_t i = 0; i < sizeof names / sizeof *names && !l->address[0]; i++) {
        const char *list = value_of(environment, names[i]);
        if (list) first_node(list, l->address, sizeof l->address);
    }
}

/* One that two jobs on a node are unlikely to share. */
static uint32_t slurm_port(char *const *environment)
{
    uint32_t job = 0, step = 0;
    const char *job_text = value_of(environment, "SLURM_JOB_ID");
    const char *step_text = value_of(environment, "SLURM_STEP_ID");
    if (!job_text || !parse(job_text, &job)) return RT_PORT_DEFAULT;
    if (step_text && !parse(step_text, &step)) step = 0;
    return 20000 + (job * 31 + step) % 10000;
}

static rc_code find_address(const rt_launch_flags *f, char *const *environment, rt_launch *l, rc_msg *msg)
{
    const char *address = f->master_addr ? f->master_addr : value_of(environment, "MASTER_ADDR");
    bool is_srun = !strcmp(l->by, "srun"), is_mpirun = !strcmp(l->by, "mpirun");
    uint32_t port = is_srun ? slurm_port(environment) : RT_PORT_DEFAULT;
    RC_TRY(read_number(environment, "MASTER_PORT", 1, 65534, &port, msg));
    if (value_of(environment, "TORCHELASTIC_USE_AGENT_STORE") && !f->master_port) port++;
    if (f->master_port) port = f->master_port;
    if (address && strlen(address) >= RT_ADDRESS_BYTES)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "the address of process 0 is longer than %d bytes",
                       RT_ADDRESS_BYTES - 1);
    snprintf(l->address, sizeof l->address, "%s", address ? address : "");
    l->port = (uint16_t)port;
    if (l->address[0]) return RC_OK;
    if (is_srun) find_slurm_node(environment, l);
    if (l->locals == l->processes && !is_mpirun) snprintf(l->address, sizeof l->address, "127.0.0.1");
    if (l->address[0] || is_mpirun) return RC_OK;
    return rc_fail(RC_INVALID_ARGUMENT, msg,
                   "%s says that there are %u processes, but not where process 0 is: expected --master-addr "
                   "or MASTER_ADDR",
                   l->by, l->processes);
}

rc_code rt_launch_find(const rt_launch_flags *flags, char *const *environment, rt_launch *out, rc_msg *msg)
{
    rt_launch l = {.processes = 1, .by = ""};
    RC_TRY(check_flags(flags, msg));
    RC_TRY(find_process(flags, environment, &l, msg));
    if (l.processes > 1) RC_TRY(find_address(flags, environment, &l, msg));
    *out = l;
    return RC_OK;
}
