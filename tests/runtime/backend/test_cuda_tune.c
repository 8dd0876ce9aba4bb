/* Which algorithm a product is done by after the start: the quickest of those that can be used, for every
 * number of rows that decode steps have; what was not timed is found when it is met. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/backend/cuda_device.h"
#include "tests/emulator/fake_cublaslt.h"

enum { N = 24, K = 16, LAYERS = 3, ROWS = 600, DRAWS = 70, ALGOS = 5, NONE = ALGOS, OUR_OWN };

typedef struct scene {
    rt_device device;
    rt_matrix matrices[LAYERS];
    rt_linear products[LAYERS];
} scene;

void rt_cuda__check(rt_device *d, cudaError_t error, const char *what)
{
    (void)d;
    if (error) fail_msg("%s: %s", what, cudaGetErrorString(error));
}
void rt_cuda__enter(rt_device *d)
{
    (void)d;
}
void rt_cuda__wait(rt_device *d, cudaEvent_t event)
{
    rt_cuda__check(d, cudaEventSynchronize(event), "wait");
}
/* Tells in x for how many rows it was called. */
void rt_cuda__linear(rt_device *d, const rt_linear *l)
{
    (void)d;
    ((float *)l->x)[0] += (float)l->rows;
}
rt_linear rt_cuda__codes_piece(rt_device *d, const rt_linear *l, uint32_t n, rt_matrix *some)
{
    (void)d, (void)n, (void)some;
    fail_msg("there are no codes");
    return *l;
}

static void *on_device(size_t bytes)
{
    void *p = NULL;
    assert_int_equal(cudaMalloc(&p, bytes), cudaSuccess);
    return p;
}

static void set_algos(uint32_t count)
{
    char text[16];
    snprintf(text, sizeof text, "%u", count);
    setenv("EMU_ALGOS", text, 1);
}

/* Products of one shape, with weights that are whole numbers. */
static scene *a_scene(uint32_t algos, bool is_invariant)
{
    scene *s = calloc(1, sizeof *s);
    float w[N * K];
    assert_non_null(s);
    set_algos(algos);
    rt_device *d = &s->device;
    d->options = (rt_device_options){
        .rows_max = ROWS, .width_max = N, .draws_max = DRAWS, .batch_invariant = is_invariant};
    d->scratch = on_device(ROWS * (N + RT_CUDA_ALIGN) * sizeof(float));
    d->expanded = on_device(RT_CUDA_EXPANDED);
    d->workspace = on_device(RT_CUDA_WORKSPACE);
    assert_int_equal(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cublasLtCreate(&d->blas), CUBLAS_STATUS_SUCCESS);
    float *x = on_device(ROWS * K * sizeof *x), *y = on_device(ROWS * N * sizeof *y);
    memset(x, 0, ROWS * K * sizeof *x);
    for (uint32_t i = 0; i < LAYERS; i++) {
        for (uint32_t j = 0; j < N * K; j++) w[j] = (float)((i + j) % 7);
        rt_matrix *m = &s->matrices[i];
        *m = (rt_matrix){
            .device = d, .n = N, .k = K, .stride = K, .stored = RC_F32, .data = on_device(sizeof w)};
        memcpy(m->data, w, sizeof w);
        for (int has_bias = 0; has_bias < 2; has_bias++)
            m->shapes[has_bias] = rt_cuda__shape(d, N, K, RC_F32, has_bias);
        s->products[i] = (rt_linear){.weight = m, .x = x, .x_stride = K, .y = y, .y_stride = N, .rows = ROWS};
    }
    return s;
}

static void end_scene(scene *s)
{
    rt_device *d = &s->device;
    for (uint32_t i = 0; i < LAYERS; i++) cudaFree(s->matrices[i].data);
    cudaFree((void *)s->products[0].x);
    cudaFree(s->products[0].y);
    cudaFree(d->scratch);
    cudaFree(d->expanded);
    cudaFree(d->workspace);
    rt_cuda__shapes_destroy(d);
    cublasLtDestroy(d->blas);
    cudaStreamDestroy(d->stream);
    free(s);
}

static uint32_t kept(const scene *s, uint32_t rows)
{
    const rt_cuda_shape *shape = s->matrices[0].shapes[0];
    if (rows <= RT_CUDA_FEW_ROWS && shape->takes_few[rows]) return OUR_OWN;
    return shape->alignments[rows] ? ((const emu_algo *)&shape->algos[rows])->number : NONE;
}

/* A kernel takes a microsecond here. */
static uint32_t quickest(uint32_t rows)
{
    uint32_t best = 0;
    if (rt_cuda_few_takes(rows)) return OUR_OWN;
    for (uint32_t i = 0; i < ALGOS; i++)
        if (i != EMU_ALGO_FAILS &&
            emu_algo_microseconds(i, ALGOS, rows) < emu_algo_microseconds(best, ALGOS, rows))
            best = i;
    return emu_algo_microseconds(best, ALGOS, rows) < 0.98 * emu_algo_microseconds(0, ALGOS, rows) ? best : 0;
}

static bool is_timed(uint32_t rows)
{
    return rows == 1 || rows == 2 || rows == 4 || (rows % 8 == 0 && rows <= 72) || rows == ROWS;
}

static void the_quickest_is_kept(void **state)
{
    (void)state;
    scene *s = a_scene(ALGOS, false);
    uint32_t found[OUR_OWN + 1] = {0};
    rt_cuda__tune(&s->device, s->products, LAYERS);
    for (uint32_t rows = 1; rows <= ROWS; rows++) {
        assert_int_equal(kept(s, rows), is_timed(rows) ? quickest(rows) : NONE);
        if (is_timed(rows)) found[kept(s, rows)]++;
    }
    for (uint32_t i = 0; i < ALGOS; i++) assert_true(i == EMU_ALGO_FAILS ? !found[i] : found[i]);
    assert_int_equal(kept(s, ROWS), 0); /* all take about the same */
    assert_non_null(strstr(s->device.name, "13 products timed"));
    assert_true(s->products[0].x[0] == 0);
    end_scene(s);
}

static void check_product(scene *s, uint32_t rows)
{
    rt_linear l = s->products[1];
    const float *w = l.weight->data;
    float *x = (float *)l.x;
    l.rows = rows;
    for (uint32_t i = 0; i < rows * K; i++) x[i] = (float)(i % 5);
    assert_int_equal(rt_cuda__multiply(&s->device, &l, x, K), CUBLAS_STATUS_SUCCESS);
    assert_int_equal(cudaStreamSynchronize(s->device.stream), cudaSuccess);
    for (uint32_t row = 0; row < rows; row++)
        for (uint32_t n = 0; n < N; n++) {
            float sum = 0;
            for (uint32_t k = 0; k < K; k++) sum += x[row * K + k] * w[n * K + k];
            assert_true(l.y[row * N + n] == sum);
        }
}

static void others_are_found_when_they_are_met(void **state)
{
    (void)state;
    scene *s = a_scene(ALGOS, false);
    rt_cuda__tune(&s->device, s->products, LAYERS);
    for (uint32_t rows = 1; rows <= 80; rows++) {
        uint32_t before = kept(s, rows);
        check_product(s, rows);
        assert_int_equal(kept(s, rows), before == NONE ? 0 : before);
    }
    end_scene(s);
}

static void nothing_is_timed_where_there_is_no_choice(void **state)
{
    (void)state;
    scene *s = a_scene(1, false);
    rt_cuda__tune(&s->device, s->products, LAYERS);
    assert_string_equal(s->device.name, "");
    assert_true(s->products[0].x[0] == LAYERS); /* each was done once */
    assert_int_equal(kept(s, 1), 0);
    check_product(s, 4);
    end_scene(s);
}

static void nothing_is_timed_where_bits_are_promised(void **state)
{
    (void)state;
    scene *s = a_scene(ALGOS, true);
    rt_cuda__tune(&s->device, s->products, LAYERS);
    assert_string_equal(s->device.name, "");
    assert_true(s->products[0].x[0] == LAYERS);
    for (uint32_t rows = 1; rows <= ROWS; rows++) assert_int_equal(kept(s, rows), NONE);
    end_scene(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_quickest_is_kept),
        cmocka_unit_test(others_are_found_when_they_are_met),
        cmocka_unit_test(nothing_is_timed_where_there_is_no_choice),
        cmocka_unit_test(nothing_is_timed_where_bits_are_promised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
