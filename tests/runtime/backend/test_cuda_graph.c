/* Graphs of steps: whether a step runs as it comes, is captured, is met again, or had made room for others in
 * between, what it launches is what its numbers say. A step here writes its own number. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/backend/cuda_device.h"
#include "tests/support/prng.h"

enum { KINDS = 200 };

typedef struct scene {
    rt_device device;
    uint32_t *numbers, *out; /* on the device: [KINDS], one */
    uint32_t captured, replayed, eager;
} scene;

void rt_cuda__check(rt_device *d, cudaError_t error, const char *what)
{
    (void)d;
    if (error) fail_msg("%s: %s", what, cudaGetErrorString(error));
}

static void *on_device(size_t bytes)
{
    void *p = NULL;
    assert_int_equal(cudaMalloc(&p, bytes), cudaSuccess);
    return p;
}

static scene *a_scene(void)
{
    scene *s = calloc(1, sizeof *s);
    uint32_t numbers[KINDS];
    assert_non_null(s);
    for (uint32_t i = 0; i < KINDS; i++) numbers[i] = i;
    s->numbers = on_device(sizeof numbers);
    s->out = on_device(sizeof *s->out);
    cudaMemcpy(s->numbers, numbers, sizeof numbers, cudaMemcpyHostToDevice);
    assert_int_equal(cudaStreamCreateWithFlags(&s->device.stream, cudaStreamNonBlocking), cudaSuccess);
    pthread_mutex_init(&s->device.capture, NULL);
    return s;
}

static void end_scene(scene *s)
{
    rt_cuda__graphs_destroy(&s->device);
    cudaStreamDestroy(s->device.stream);
    pthread_mutex_destroy(&s->device.capture);
    cudaFree(s->numbers);
    cudaFree(s->out);
    free(s);
}

/* Any of the four numbers may be what tells kinds apart. */
static rt_cuda_step step_of(uint32_t kind)
{
    rt_cuda_step step = {.rows = 1 + kind % 3};
    step.plans[0].kv_parts.items = 1 + kind / 3 % 5;
    step.plans[0].kv_parts.merges = kind / 15 % 4;
    step.plans[0].adapter_parts.items = kind / 60;
    return step;
}

static void run(scene *s, uint32_t kind)
{
    rt_device *d = &s->device;
    uint32_t got = KINDS;
    d->turn++;
    d->step = step_of(kind);
    rt_cuda__graph_begin(d);
    s->captured += d->captures;
    s->replayed += d->replays;
    s->eager += !d->graph;
    if (rt_cuda__launches(d))
        cudaMemcpyAsync(s->out, s->numbers + kind, sizeof got, cudaMemcpyDeviceToDevice, d->stream);
    rt_cuda__graph_end(d);
    cudaMemcpyAsync(&got, s->out, sizeof got, cudaMemcpyDeviceToHost, d->stream);
    assert_int_equal(cudaStreamSynchronize(d->stream), cudaSuccess);
    assert_int_equal(got, kind);
}

static void what_is_kept_is_met_again(void **state)
{
    (void)state;
    scene *s = a_scene();
    for (int round = 0; round < 5; round++)
        for (uint32_t kind = 0; kind < RT_CUDA_GRAPHS; kind++) run(s, kind);
    assert_int_equal(s->eager, RT_CUDA_GRAPHS);
    assert_int_equal(s->captured, RT_CUDA_GRAPHS);
    assert_int_equal(s->replayed, 3 * RT_CUDA_GRAPHS);
    end_scene(s);
}

/* One more than are kept, in turn: each has just made room when it comes back. */
static void too_many_in_turn_run_as_they_come(void **state)
{
    (void)state;
    scene *s = a_scene();
    for (int round = 0; round < 5; round++)
        for (uint32_t kind = 0; kind <= RT_CUDA_GRAPHS; kind++) run(s, kind);
    assert_int_equal(s->eager, 5 * (RT_CUDA_GRAPHS + 1));
    end_scene(s);
}

/* Half of all steps are of a few kinds, which stay. */
static void what_is_used_often_stays(void **state)
{
    (void)state;
    scene *s = a_scene();
    prng random = {3};
    for (uint32_t kind = 0; kind < 8; kind++) run(s, kind), run(s, kind);
    uint32_t captured = s->captured;
    for (int i = 0; i < 4000; i++) {
        uint32_t replayed = s->replayed, kind = (uint32_t)(prng_next(&random) % 8);
        run(s, kind);
        assert_int_equal(s->replayed, replayed + 1);
        run(s, 8 + (uint32_t)(prng_next(&random) % (KINDS - 8)));
    }
    assert_true(s->captured > captured + RT_CUDA_GRAPHS); /* others came, went and came again */
    end_scene(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_kept_is_met_again),
        cmocka_unit_test(too_many_in_turn_run_as_they_come),
        cmocka_unit_test(what_is_used_often_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
