/* Which process this is, by every launcher's variables, and what is wrong with them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/link/launch.h"

#define ENVIRONMENT(...) (char *const[]){__VA_ARGS__, NULL}

static rt_launch found(char *const *environment)
{
    rt_launch_flags none = {0};
    rt_launch l;
    rc_msg msg = {0};
    if (rt_launch_find(&none, environment, &l, &msg) != RC_OK) fail_msg("%s", msg.text);
    return l;
}

static void refused(const rt_launch_flags *flags, char *const *environment, const char *expected)
{
    rt_launch l;
    rc_msg msg = {0};
    assert_int_equal(rt_launch_find(flags, environment, &l, &msg), RC_INVALID_ARGUMENT);
    assert_string_equal(msg.text, expected);
}

static void assert_launch(rt_launch l, const char *by, uint32_t process, uint32_t processes,
                          const char *address, uint16_t port)
{
    assert_string_equal(l.by, by);
    assert_int_equal(l.process, process);
    assert_int_equal(l.processes, processes);
    assert_string_equal(l.address, address);
    assert_int_equal(l.port, port);
}

static void alone_where_nothing_says_otherwise(void **state)
{
    (void)state;
    assert_launch(found(ENVIRONMENT("PATH=/bin", "RANKS=3", "SLURM_NTASKS=4")), "", 0, 1, "", 0);
}

static void every_launcher_is_understood(void **state)
{
    (void)state;
    rt_launch l = found(ENVIRONMENT("RANK=2", "WORLD_SIZE=4", "MASTER_ADDR=10.0.0.1", "MASTER_PORT=1234"));
    assert_launch(l, "torchrun", 2, 4, "10.0.0.1", 1234);
    l = found(ENVIRONMENT("RANK=1", "WORLD_SIZE=2", "MASTER_ADDR=h", "MASTER_PORT=1234",
                          "TORCHELASTIC_USE_AGENT_STORE=True"));
    assert_launch(l, "torchrun", 1, 2, "h", 1235);
    l = found(ENVIRONMENT("OMPI_COMM_WORLD_RANK=3", "OMPI_COMM_WORLD_SIZE=4", "OMPI_COMM_WORLD_LOCAL_RANK=1",
                          "OMPI_COMM_WORLD_LOCAL_SIZE=2", "SLURM_PROCID=0", "SLURM_NTASKS=1"));
    assert_launch(l, "mpirun", 3, 4, "", RT_PORT_DEFAULT);
    assert_int_equal(l.local, 1);
    assert_int_equal(l.locals, 2);
    l = found(ENVIRONMENT("PMI_RANK=1", "PMI_SIZE=2", "MPI_LOCALRANKID=1", "MPI_LOCALNRANKS=2"));
    assert_launch(l, "PMI", 1, 2, "127.0.0.1", RT_PORT_DEFAULT);
}

static void srun_s_first_node_is_where_they_meet(void **state)
{
    static const char *const lists[][2] = {{"gpu7", "gpu7"},
                                           {"gpu7,gpu8", "gpu7"},
                                           {"gpu[007-012,20],login", "gpu007"},
                                           {"a-[3,5]", "a-3"}};
    (void)state;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        char list[64];
        snprintf(list, sizeof list, "SLURM_STEP_NODELIST=%s", lists[i][0]);
        rt_launch l = found(ENVIRONMENT("SLURM_PROCID=1", "SLURM_STEP_NUM_TASKS=2", "SLURM_NTASKS=8",
                                        "SLURM_JOB_ID=77", "SLURM_STEP_ID=3", list));
        assert_launch(l, "srun", 1, 2, lists[i][1], 20000 + (77 * 31 + 3) % 10000);
    }
}

static void flags_go_before_the_environment(void **state)
{
    (void)state;
    rt_launch_flags flags = {.nnodes = 2, .node_rank = 1, .master_addr = "here", .master_port = 99};
    rt_launch l;
    char *const *environment = ENVIRONMENT("RANK=2", "WORLD_SIZE=4", "MASTER_ADDR=there", "MASTER_PORT=1234");
    assert_int_equal(rt_launch_find(&flags, environment, &l, NULL), RC_OK);
    assert_launch(l, "--nnodes", 1, 2, "here", 99);
    flags = (rt_launch_flags){.nnodes = 2};
    assert_int_equal(rt_launch_find(&flags, environment, &l, NULL), RC_OK);
    assert_launch(l, "--nnodes", 0, 2, "there", 1234);
}

static void what_makes_no_sense_is_refused_by_name(void **state)
{
    (void)state;
    rt_launch_flags none = {0}, high = {.nnodes = 2, .node_rank = 2}, lost = {.nnodes = 2};
    rt_launch_flags many = {.nnodes = 4096}, alone = {.node_rank = 1}, far = {.master_port = 70000};
    char *const *empty = ENVIRONMENT("A=1");
    refused(&none, ENVIRONMENT("RANK=x", "WORLD_SIZE=4"), "RANK is 'x', expected 0 to 3");
    refused(&none, ENVIRONMENT("RANK=4", "WORLD_SIZE=4"), "RANK is '4', expected 0 to 3");
    refused(&none, ENVIRONMENT("RANK=0", "WORLD_SIZE=99999999999"),
            "WORLD_SIZE is '99999999999', expected 1 to 1024");
    refused(&none, ENVIRONMENT("RANK=0", "WORLD_SIZE=2", "MASTER_ADDR=h", "MASTER_PORT=70000"),
            "MASTER_PORT is '70000', expected 1 to 65534");
    refused(&none, ENVIRONMENT("PMI_RANK=0", "PMI_SIZE=2"),
            "PMI says that there are 2 processes, but not where process 0 is: expected --master-addr or "
            "MASTER_ADDR");
    refused(&high, empty, "--node-rank is 2, expected below --nnodes 2");
    refused(&many, empty, "--nnodes is 4096, expected at most 1024");
    refused(&alone, empty, "--node-rank is 1, expected --nnodes beside it");
    refused(&far, empty, "--master-port is 70000, expected at most 65535");
    refused(&lost, empty, "--nnodes says that there are 2 processes, but not where process 0 is: expected "
                          "--master-addr or MASTER_ADDR");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone_where_nothing_says_otherwise),
        cmocka_unit_test(every_launcher_is_understood),
        cmocka_unit_test(srun_s_first_node_is_where_they_meet),
        cmocka_unit_test(flags_go_before_the_environment),
        cmocka_unit_test(what_makes_no_sense_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
