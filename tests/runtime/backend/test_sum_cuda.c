/* Sums over ranks in one launch with the residual and the norm, against loops: the same bits on all ranks, as
 * rows come and go, launch by launch and in graphs; and an end where a rank does not come. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/dtype.h"
#include "runtime/backend/cuda_sum.h"
#include "tests/support/prng.h"

enum { WORLD_MAX = 4, ROWS = 9, LAUNCHES = 7, STATE_WORDS = RT_CUDA_SUM_ROWS * (RT_CUDA_SUM_FLAGS + 1) };

static const float scale = 0.22f, epsilon = 1e-5f;

typedef struct scene {
    uint32_t world, width, x_stride, pairs_stride;
    cudaStream_t streams[WORLD_MAX];
    char *windows[WORLD_MAX];
    uint32_t *given_up;
    /* of each rank, on its device */
    float *x[WORLD_MAX], *h[WORLD_MAX], *y[WORLD_MAX], *weight;
    uint16_t *pairs[WORLD_MAX];
    /* what should be there: [WORLD_MAX][ROWS][x_stride], [ROWS][width], [width] */
    float *all_x, *want_h, *weights;
    prng random;
} scene;

static float random_float(prng *random)
{
    return (float)((double)(prng_next(random) >> 11) * 0x1p-53) * 2 - 1;
}

static void *on_device(size_t bytes)
{
    void *p = NULL;
    assert_int_equal(cudaMalloc(&p, bytes), cudaSuccess);
    return p;
}

static void send(const scene *s, uint32_t rank, void *to, const void *from, size_t bytes)
{
    cudaSetDevice((int)rank);
    assert_int_equal(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, s->streams[rank]), cudaSuccess);
}

static scene *a_scene(uint32_t world, uint32_t width, uint32_t x_stride, uint32_t first_turn)
{
    scene *s = calloc(1, sizeof *s);
    uint32_t *state = calloc(STATE_WORDS, sizeof *state);
    assert_true(s && state);
    *s = (scene){.world = world, .width = width, .x_stride = x_stride, .pairs_stride = (width + 7) / 8 * 8};
    s->random.state = world * 1000 + width;
    s->all_x = calloc((size_t)WORLD_MAX * ROWS * x_stride, sizeof *s->all_x);
    s->want_h = calloc(ROWS * width, sizeof *s->want_h);
    s->weights = calloc(width, sizeof *s->weights);
    assert_int_equal(cudaMallocHost((void **)&s->given_up, sizeof *s->given_up), cudaSuccess);
    *s->given_up = 0;
    for (uint32_t i = 0; i < width; i++) s->weights[i] = random_float(&s->random);
    for (uint32_t i = 0; i < ROWS * width; i++) s->want_h[i] = random_float(&s->random);
    for (uint32_t i = 0; i < STATE_WORDS; i++) state[i] = first_turn;
    s->weight = on_device(width * sizeof(float));
    for (uint32_t r = 0; r < world; r++) {
        cudaSetDevice((int)r);
        assert_int_equal(cudaStreamCreateWithFlags(&s->streams[r], cudaStreamNonBlocking), cudaSuccess);
        s->windows[r] = on_device(rt_cuda_sum_bytes(ROWS, width, world));
        s->x[r] = on_device(ROWS * x_stride * sizeof(float));
        s->h[r] = on_device(ROWS * width * sizeof(float));
        s->y[r] = on_device(ROWS * width * sizeof(float));
        s->pairs[r] = on_device(ROWS * s->pairs_stride * sizeof(uint16_t));
        send(s, r, s->windows[r], state, STATE_WORDS * sizeof *state);
        send(s, r, s->h[r], s->want_h, ROWS * width * sizeof(float));
        send(s, r, s->weight, s->weights, width * sizeof(float));
        assert_int_equal(cudaStreamSynchronize(s->streams[r]), cudaSuccess);
    }
    free(state);
    return s;
}

static void end_scene(scene *s)
{
    for (uint32_t r = 0; r < s->world; r++) {
        void *all[] = {s->windows[r], s->x[r], s->h[r], s->y[r], s->pairs[r]};
        cudaStreamDestroy(s->streams[r]);
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) cudaFree(all[i]);
    }
    cudaFree(s->weight);
    cudaFreeHost(s->given_up);
    free(s->all_x);
    free(s->want_h);
    free(s->weights);
    free(s);
}

/* Of the rows [first, first + rows). */
static void launch(const scene *s, uint32_t rank, uint32_t first, uint32_t rows, bool has_norm)
{
    rt_cuda_peers p = {.given_up = s->given_up,
                       .rank = rank,
                       .world = s->world,
                       .rows_most = rt_cuda_sum_rows_most(ROWS, s->width),
                       .stride = rt_cuda_sum_stride(s->width)};
    rt_cuda_residual r = {.rows = {s->x[rank] + first * s->x_stride, s->x_stride,
                                   s->y[rank] + first * s->width, s->width, rows, s->width,
                                   s->pairs[rank] + first * s->pairs_stride, s->pairs_stride},
                          .h = s->h[rank] + first * s->width,
                          .h_stride = s->width,
                          .scale = scale,
                          .epsilon = epsilon,
                          .weight = has_norm ? s->weight : NULL};
    memcpy(p.windows, s->windows, sizeof s->windows);
    cudaSetDevice((int)rank);
    assert_int_equal(rt_cuda_sum_residual(&p, &r, s->streams[rank]), cudaSuccess);
}

static void new_x(scene *s)
{
    size_t floats = (size_t)ROWS * s->x_stride;
    for (size_t i = 0; i < s->world * floats; i++) s->all_x[i] = random_float(&s->random);
    for (uint32_t r = 0; r < s->world; r++)
        send(s, r, s->x[r], s->all_x + r * floats, floats * sizeof(float));
}

static void add_to_want(scene *s, uint32_t first, uint32_t rows)
{
    for (uint32_t t = first; t < first + rows; t++)
        for (uint32_t i = 0; i < s->width; i++) {
            float sum = 0;
            for (uint32_t r = 0; r < s->world; r++) sum += s->all_x[(r * ROWS + t) * s->x_stride + i];
            s->want_h[t * s->width + i] += scale * sum;
        }
}

static void check_norm(const scene *s, const float *y, const uint16_t *pairs, uint32_t rows)
{
    for (uint32_t t = 0; t < rows; t++) {
        const float *h = s->want_h + t * s->width;
        double squares = 0;
        for (uint32_t i = 0; i < s->width; i++) squares += (double)h[i] * h[i];
        for (uint32_t i = 0; i < s->pairs_stride; i++) {
            float got = i < s->width ? y[t * s->width + i] : 0;
            double want = i < s->width ? h[i] / sqrt(squares / s->width + epsilon) * s->weights[i] : 0;
            assert_true(fabs(got - want) <= 1e-5);
            assert_int_equal(pairs[t * s->pairs_stride + i], rc_f32_to_bf16(got));
        }
    }
}

static void check(const scene *s, uint32_t rows, bool has_norm)
{
    size_t floats = ROWS * s->width;
    float *h = malloc(2 * floats * sizeof *h), *y = h + floats;
    uint16_t *pairs = malloc(ROWS * s->pairs_stride * sizeof *pairs);
    assert_true(h && pairs);
    for (uint32_t r = 0; r < s->world; r++) {
        cudaSetDevice((int)r);
        assert_int_equal(cudaStreamSynchronize(s->streams[r]), cudaSuccess);
        cudaMemcpy(h, s->h[r], floats * sizeof *h, cudaMemcpyDeviceToHost);
        cudaMemcpy(y, s->y[r], floats * sizeof *y, cudaMemcpyDeviceToHost);
        cudaMemcpy(pairs, s->pairs[r], ROWS * s->pairs_stride * sizeof *pairs, cudaMemcpyDeviceToHost);
        assert_memory_equal(h, s->want_h, floats * sizeof *h);
        if (has_norm) check_norm(s, y, pairs, rows);
    }
    free(h);
    free(pairs);
}

/* Strides that do and do not let rows be moved in fours; turns that wrap. */
static void sums_are_those_of_loops(void **state)
{
    const uint32_t widths[][2] = {{1, 1}, {5, 8}, {64, 64}, {301, 304}, {1030, 1031}};
    (void)state;
    for (uint32_t world = 2; world <= WORLD_MAX; world++)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
            scene *s = a_scene(world, widths[w][0], widths[w][1], w ? 0 : UINT32_MAX - 2);
            for (int i = 0; i < LAUNCHES; i++) {
                uint32_t rows = prng_range(&s->random, 1, ROWS);
                bool has_norm = i % 3 != 2;
                new_x(s);
                add_to_want(s, 0, rows);
                for (uint32_t r = 0; r < world; r++) launch(s, r, 0, rows, has_norm);
                check(s, rows, has_norm);
            }
            end_scene(s);
        }
}

/* Nobody is waited for in between, so that ranks get ahead of each other as far as they can. */
static void launches_follow_each_other_in_graphs(void **state)
{
    enum { TIMES = 30 };
    const uint32_t runs[][2] = {{0, 2}, {2, 1}, {3, 1}, {0, ROWS}, {4, 4}, {8, 1}};
    (void)state;
    scene *s = a_scene(3, 70, 72, 0);
    new_x(s);
    for (uint32_t r = 0; r < s->world; r++) {
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        cudaSetDevice((int)r);
        assert_int_equal(cudaStreamBeginCapture(s->streams[r], cudaStreamCaptureModeThreadLocal),
                         cudaSuccess);
        for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) launch(s, r, runs[i][0], runs[i][1], true);
        assert_int_equal(cudaStreamEndCapture(s->streams[r], &graph), cudaSuccess);
        assert_int_equal(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
        for (int i = 0; i < TIMES; i++) assert_int_equal(cudaGraphLaunch(exec, s->streams[r]), cudaSuccess);
        cudaGraphExecDestroy(exec);
        cudaGraphDestroy(graph);
    }
    for (int n = 0; n < TIMES; n++)
        for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) add_to_want(s, runs[i][0], runs[i][1]);
    check(s, ROWS, true);
    end_scene(s);
}

static void who_is_given_up_is_not_waited_for(void **state)
{
    cudaEvent_t event;
    (void)state;
    scene *s = a_scene(2, 16, 16, 0);
    new_x(s);
    launch(s, 0, 0, 3, true);
    assert_int_equal(cudaEventCreate(&event), cudaSuccess);
    assert_int_equal(cudaEventRecord(event, s->streams[0]), cudaSuccess);
    for (int i = 0; i < 50; i++) assert_int_equal(cudaEventQuery(event), cudaErrorNotReady);
    *(volatile uint32_t *)s->given_up = 1;
    assert_int_equal(cudaEventSynchronize(event), cudaSuccess);
    cudaEventDestroy(event);
    end_scene(s);
}

static void too_many_rows_are_refused(void **state)
{
    (void)state;
    assert_int_equal(rt_cuda_sum_rows_most(1000, 64), RT_CUDA_SUM_ROWS);
    assert_int_equal(rt_cuda_sum_rows_most(7, 64), 7);
    assert_int_equal(rt_cuda_sum_rows_most(1000, 8192), RT_CUDA_SUM_BYTES / (8192 * 4));
    rt_cuda_peers p = {.rows_most = 7};
    rt_cuda_residual r = {.rows = {.rows = 8}};
    assert_int_equal(rt_cuda_sum_residual(&p, &r, NULL), cudaErrorInvalidValue);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_those_of_loops),
        cmocka_unit_test(launches_follow_each_other_in_graphs),
        cmocka_unit_test(who_is_given_up_is_not_waited_for),
        cmocka_unit_test(too_many_rows_are_refused),
    };
    setenv("EMU_DEVICES", "4", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
