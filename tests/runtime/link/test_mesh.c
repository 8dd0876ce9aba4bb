/* Processes as threads: they find each other, add in one order whatever the size, and end together. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "runtime/link/mesh_internal.h"
#include "runtime/link/socket.h"
#include "runtime/link/watch.h"
#include "tests/support/prng.h"

enum { PROCESSES_MAX = 5, FLOATS_MAX = 70001 };

typedef struct process {
    rt_launch launch;
    rt_mesh *mesh;
    rt_watch *watch;
    rc_code code;
    rc_msg msg;
    float *x;
    size_t floats;
    bool ok;
    pthread_t thread;
} process;

static uint16_t free_port(void)
{
    uint16_t port = 0;
    int fd;
    assert_int_equal(rt_socket_listen("127.0.0.1", &port, &fd, NULL), RC_OK);
    close(fd);
    return port;
}

static void each(process *p, uint32_t count, void *(*task)(void *))
{
    for (uint32_t i = 0; i < count; i++) assert_int_equal(pthread_create(&p[i].thread, NULL, task, &p[i]), 0);
    for (uint32_t i = 0; i < count; i++) pthread_join(p[i].thread, NULL);
}

static void *open_one(void *arg)
{
    process *p = arg;
    p->code = rt_mesh_open(&p->launch, 2, false, &p->mesh, &p->msg);
    if (p->code == RC_OK) p->code = rt_mesh_reserve(p->mesh, FLOATS_MAX, &p->msg);
    return NULL;
}

static void open_all(process *p, uint32_t count)
{
    uint16_t port = free_port();
    for (uint32_t i = 0; i < count; i++) {
        p[i] = (process){.launch = {.process = i, .processes = count, .port = port, .by = "test"}};
        snprintf(p[i].launch.address, sizeof p[i].launch.address, "127.0.0.1");
    }
    each(p, count, open_one);
    for (uint32_t i = 0; i < count; i++)
        if (p[i].code != RC_OK) fail_msg("process %u: %s", i, p[i].msg.text);
}

static void close_all(process *p, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) rt_mesh_close(p[i].mesh);
}

static void *add_one(void *arg)
{
    process *p = arg;
    p->ok = rt_mesh_all_reduce(p->mesh, p->x, p->floats);
    return NULL;
}

static void a_sum_is_in_the_order_of_the_processes_at_any_size(void **state)
{
    static const size_t sizes[] = {1, 7, 256, 4097, 16384, 16385, FLOATS_MAX};
    process p[PROCESSES_MAX];
    (void)state;
    float *expected = malloc(FLOATS_MAX * sizeof *expected);
    for (uint32_t count = 2; count <= PROCESSES_MAX; count++) {
        open_all(p, count);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            prng random = {count * 100 + s};
            for (uint32_t i = 0; i < count; i++) {
                p[i].floats = sizes[s];
                p[i].x = malloc(sizes[s] * sizeof *p[i].x);
                for (size_t f = 0; f < sizes[s]; f++) {
                    p[i].x[f] = (float)(prng_next(&random) >> 40) * 0x1p-20f - 8;
                    expected[f] = i ? expected[f] + p[i].x[f] : p[i].x[f];
                }
            }
            each(p, count, add_one);
            for (uint32_t i = 0; i < count; i++) {
                assert_true(p[i].ok);
                assert_memory_equal(p[i].x, expected, sizes[s] * sizeof *expected);
                free(p[i].x);
            }
        }
        close_all(p, count);
    }
    free(expected);
}

static void frames_arrive_as_expected_or_end_the_mesh(void **state)
{
    process p[2];
    char text[16] = {0};
    size_t count;
    rc_msg msg;
    (void)state;
    open_all(p, 2);
    assert_true(rt_mesh_send(p[0].mesh, 1, RT_FRAME_COMMAND, "hello", 5));
    assert_true(rt_mesh_await(p[1].mesh, 0, RT_FRAME_COMMAND, text, sizeof text, &count));
    assert_int_equal(count, 5);
    assert_string_equal(text, "hello");
    assert_true(rt_mesh_send(p[0].mesh, 1, RT_FRAME_COMMAND, text, sizeof text));
    assert_false(rt_mesh_await(p[1].mesh, 0, RT_FRAME_COMMAND, text, sizeof text - 1, &count));
    assert_int_equal(rt_mesh_status(p[1].mesh, &msg), RC_UNAVAILABLE);
    assert_string_equal(msg.text, "ranks 0-1 (process 0 at 127.0.0.1): sent more than was expected");
    close_all(p, 2);

    open_all(p, 2);
    assert_true(rt_mesh_send(p[0].mesh, 1, RT_FRAME_BYTES, "hello", 5));
    assert_false(rt_mesh_receive(p[1].mesh, 0, RT_FRAME_SUM, text, 5));
    assert_int_equal(rt_mesh_status(p[1].mesh, &msg), RC_UNAVAILABLE);
    assert_string_equal(msg.text,
                        "ranks 0-1 (process 0 at 127.0.0.1): sent something else than was expected");
    close_all(p, 2);
}

static void strangers_are_turned_away(void **state)
{
    process p[2];
    uint16_t port = free_port();
    pthread_t threads[2];
    char junk[28];
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        p[i] = (process){.launch = {.process = i, .processes = 2, .port = port, .by = "test"}};
        snprintf(p[i].launch.address, sizeof p[i].launch.address, "127.0.0.1");
    }
    assert_int_equal(pthread_create(&threads[0], NULL, open_one, &p[0]), 0);
    memset(junk, 0x5a, sizeof junk);
    for (int i = 0; i < 3; i++) {
        int fd;
        while ((fd = rt_socket_connect("127.0.0.1", port, 1000)) < 0) usleep(1000);
        assert_true(rt_socket_send(fd, junk, i == 2 ? 5 : sizeof junk));
        close(fd);
    }
    assert_int_equal(pthread_create(&threads[1], NULL, open_one, &p[1]), 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    assert_int_equal(p[0].code, RC_OK);
    assert_int_equal(p[1].code, RC_OK);
    close_all(p, 2);
}

static void other_numbers_of_ranks_are_refused(void **state)
{
    process p[2];
    (void)state;
    uint16_t port = free_port();
    for (uint32_t i = 0; i < 2; i++) {
        p[i] = (process){.launch = {.process = i, .processes = 2 + i, .port = port, .by = "test"}};
        snprintf(p[i].launch.address, sizeof p[i].launch.address, "127.0.0.1");
    }
    each(p, 2, open_one);
    assert_int_equal(p[0].code, RC_INVALID_ARGUMENT);
    assert_non_null(strstr(p[0].msg.text, "process 1 was started as one of 3 with 2 ranks each"));
    assert_int_equal(p[1].code, RC_UNAVAILABLE);
}

static void *wait_one(void *arg)
{
    process *p = arg;
    char byte;
    p->ok = rt_mesh_receive(p->mesh, p->launch.process == 0 ? 1 : 0, RT_FRAME_BYTES, &byte, 1);
    return NULL;
}

static void start_watches(process *p, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(rt_watch_start(p[i].mesh, &p[i].watch, NULL), RC_OK);
}

static void a_failure_reaches_everyone_with_its_line(void **state)
{
    process p[3];
    rc_msg msg;
    (void)state;
    open_all(p, 3);
    start_watches(p, 3);
    rt_mesh_fail(p[2].mesh, "rank 5: the device is gone");
    each(p, 3, wait_one);
    for (uint32_t i = 0; i < 3; i++) {
        assert_false(p[i].ok);
        assert_int_equal(rt_mesh_status(p[i].mesh, &msg), RC_UNAVAILABLE);
        assert_string_equal(msg.text, "rank 5: the device is gone");
        rt_watch_end(p[i].watch, NULL);
    }
    close_all(p, 3);
}

static void a_death_is_noticed_and_named(void **state)
{
    process p[3];
    rc_msg msg;
    (void)state;
    open_all(p, 3);
    start_watches(p, 2);
    for (uint32_t i = 0; i < 3; i++) /* as the system does to who is killed */
        if (p[2].mesh->peers[i].data >= 0) shutdown(p[2].mesh->peers[i].data, SHUT_RDWR);
    shutdown(p[2].mesh->peers[0].control, SHUT_RDWR);
    each(p, 2, wait_one);
    for (uint32_t i = 0; i < 2; i++) {
        assert_false(p[i].ok);
        assert_int_equal(rt_mesh_status(p[i].mesh, &msg), RC_UNAVAILABLE);
        assert_string_equal(msg.text, "ranks 4-5 (process 2 at 127.0.0.1): died: its connection is closed");
        rt_watch_end(p[i].watch, NULL);
    }
    close_all(p, 3);
}

static void *end_one(void *arg)
{
    process *p = arg;
    rt_watch_end(p->watch, NULL);
    return NULL;
}

static void a_good_end_is_no_failure(void **state)
{
    process p[3];
    (void)state;
    open_all(p, 3);
    start_watches(p, 3);
    each(p, 3, end_one);
    for (uint32_t i = 0; i < 3; i++) assert_int_equal(rt_mesh_status(p[i].mesh, NULL), RC_OK);
    close_all(p, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sum_is_in_the_order_of_the_processes_at_any_size),
        cmocka_unit_test(frames_arrive_as_expected_or_end_the_mesh),
        cmocka_unit_test(strangers_are_turned_away),
        cmocka_unit_test(other_numbers_of_ranks_are_refused),
        cmocka_unit_test(a_failure_reaches_everyone_with_its_line),
        cmocka_unit_test(a_death_is_noticed_and_named),
        cmocka_unit_test(a_good_end_is_no_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
