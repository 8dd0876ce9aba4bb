/* The ops on rows against double precision, for every family: tails, strides, in place, and the same bits
 * whatever the other rows and the threads. */
#include "backend_support.h"

enum { ROWS = 23, PAD = 5 };

static const uint32_t widths[] = {1, 2, 15, 16, 17, 63, 64, 65, 130, 576, 1037};

typedef void (*row_op)(rt_device *d, const float *x, size_t x_stride, uint32_t rows, uint32_t width, float *y,
                       size_t y_stride);

static float weights[1037];

static void do_norm(rt_device *d, const float *x, size_t x_stride, uint32_t rows, uint32_t width, float *y,
                    size_t y_stride)
{
    rt_backend_cpu()->rms_norm(d, x, x_stride, weights, 1e-5f, rows, width, y, y_stride);
}

static void do_swiglu(rt_device *d, const float *x, size_t x_stride, uint32_t rows, uint32_t width, float *y,
                      size_t y_stride)
{
    rt_backend_cpu()->swiglu(d, x, x_stride, rows, width, y, y_stride);
}

static void do_add(rt_device *d, const float *x, size_t x_stride, uint32_t rows, uint32_t width, float *y,
                   size_t y_stride)
{
    for (uint32_t t = 0; t < rows; t++) memcpy(y + t * y_stride, x + t * x_stride + width, width * sizeof *y);
    rt_residual r = {.h = y, .h_stride = y_stride, .x = (float *)x, .x_stride = x_stride, .scale = 0.22f,
                     .rows = rows, .width = width};
    rt_backend_cpu()->add_residual(d, &r);
}

/* h is x's second half. */
static void do_add_and_norm(rt_device *d, const float *x, size_t x_stride, uint32_t rows, uint32_t width,
                            float *y, size_t y_stride)
{
    float *h = malloc(rows * x_stride * sizeof *h);
    assert_non_null(h);
    memcpy(h, x, rows * x_stride * sizeof *h);
    rt_residual r = {.h = h + width, .h_stride = x_stride, .x = h, .x_stride = x_stride, .scale = 0.22f,
                     .rows = rows, .width = width, .weight = weights, .epsilon = 1e-5f, .y = y,
                     .y_stride = y_stride};
    rt_backend_cpu()->add_residual(d, &r);
    free(h);
}

static void do_divide(rt_device *d, const float *x, size_t x_stride, uint32_t rows, uint32_t width, float *y,
                      size_t y_stride)
{
    for (uint32_t t = 0; t < rows; t++) memcpy(y + t * y_stride, x + t * x_stride, width * sizeof *y);
    rt_backend_cpu()->divide(d, y, y_stride, rows, width, 8.0f / 3);
}

static double want_norm(const float *x, uint32_t width, uint32_t i)
{
    double squares = 0;
    for (uint32_t k = 0; k < width; k++) squares += (double)x[k] * x[k];
    return weights[i] * x[i] / sqrt(squares / width + 1e-5);
}

static double want_swiglu(const float *x, uint32_t width, uint32_t i)
{
    return (double)x[i] / (1 + exp(-(double)x[i])) * x[width + i];
}

static double want_add(const float *x, uint32_t width, uint32_t i)
{
    return x[width + i] + 0.22f * (double)x[i];
}

static double want_add_and_norm(const float *x, uint32_t width, uint32_t i)
{
    double squares = 0;
    for (uint32_t k = 0; k < width; k++) squares += want_add(x, width, k) * want_add(x, width, k);
    return weights[i] * want_add(x, width, i) / sqrt(squares / width + 1e-5);
}

static double want_divide(const float *x, uint32_t width, uint32_t i)
{
    (void)width;
    return x[i] / (double)(8.0f / 3);
}

/* x rows hold 2 * width values; big ones are among them. */
static void check_op(const char *kernels, row_op op,
                     double (*want)(const float *x, uint32_t width, uint32_t i), double slack)
{
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        uint32_t width = widths[w];
        size_t x_stride = 2 * width + PAD, y_stride = width + PAD;
        float *x = random_floats(ROWS * x_stride, width), *whole = nan_floats(ROWS * y_stride);
        for (size_t i = 0; i < ROWS * x_stride; i += 3) x[i] *= 30;
        const uint32_t threads[] = {1, 2, 5};
        for (int i = 0; i < 3; i++) {
            rt_device *d = open_device(kernels, threads[i], ROWS, 64);
            float *y = nan_floats(ROWS * y_stride);
            op(d, x, x_stride, ROWS, width, y, y_stride);
            for (uint32_t t = 0; t < ROWS; t++) {
                for (uint32_t k = 0; k < width; k++) {
                    double expected = want(x + t * x_stride, width, k);
                    if (!(fabs(y[t * y_stride + k] - expected) <= 3e-6 * fabs(expected) + slack))
                        fail_msg("%s width %u row %u at %u: %.9g, expected %.9g", kernels, width, t, k,
                                 y[t * y_stride + k], expected);
                }
                for (uint32_t k = width; k < y_stride; k++) assert_true(isnan(y[t * y_stride + k]));
            }
            if (i == 0) memcpy(whole, y, ROWS * y_stride * sizeof *y);
            for (uint32_t t = 0; t < ROWS; t++) {
                assert_memory_equal(y + t * y_stride, whole + t * y_stride, width * sizeof *y);
                op(d, x + t * x_stride, x_stride, 1, width, y + t * y_stride, y_stride);
                assert_memory_equal(y + t * y_stride, whole + t * y_stride, width * sizeof *y);
            }
            free(y);
            rt_backend_cpu()->close(d);
        }
        free(x);
        free(whole);
    }
}

static void rms_norm_is_right_for_every_width(void **state)
{
    (void)state;
    EACH_USABLE_FAMILY(kernels) check_op(kernels, do_norm, want_norm, 1e-30);
}

static void swiglu_is_right_for_every_width(void **state)
{
    (void)state;
    EACH_USABLE_FAMILY(kernels) check_op(kernels, do_swiglu, want_swiglu, 1e-30);
}

static void residuals_are_right_for_every_width(void **state)
{
    (void)state;
    EACH_USABLE_FAMILY(kernels)
    {
        check_op(kernels, do_add, want_add, 3e-6);
        check_op(kernels, do_add_and_norm, want_add_and_norm, 3e-6);
    }
}

static void divide_is_a_true_division(void **state)
{
    (void)state;
    EACH_USABLE_FAMILY(kernels) check_op(kernels, do_divide, want_divide, 1e-30);
}

/* Wide rows are cut by columns too: the cut must not show. */
static void one_wide_row_is_shared_among_threads(void **state)
{
    (void)state;
    enum { WIDE = 20011 };
    float *x = random_floats(2 * WIDE, 3), *one = nan_floats(WIDE), *five = nan_floats(WIDE);
    EACH_USABLE_FAMILY(kernels)
    {
        rt_device *a = open_device(kernels, 1, 1, 64), *b = open_device(kernels, 5, 1, 64);
        do_swiglu(a, x, 2 * WIDE, 1, WIDE, one, WIDE);
        do_swiglu(b, x, 2 * WIDE, 1, WIDE, five, WIDE);
        assert_memory_equal(one, five, WIDE * sizeof *one);
        do_add(a, x, 2 * WIDE, 1, WIDE, one, WIDE);
        do_add(b, x, 2 * WIDE, 1, WIDE, five, WIDE);
        assert_memory_equal(one, five, WIDE * sizeof *one);
        rt_backend_cpu()->close(a);
        rt_backend_cpu()->close(b);
    }
    free(x);
    free(one);
    free(five);
}

static void check_rope(const char *kernels, uint32_t dim, uint32_t heads, uint32_t kv_heads)
{
    enum { POSITIONS = 50 };
    size_t stride = (heads + kv_heads) * dim + PAD;
    float *x = random_floats(ROWS * stride, dim), *y = random_floats(ROWS * stride, dim);
    float *cosines = random_floats(POSITIONS * dim / 2, 8), *sines = random_floats(POSITIONS * dim / 2, 9);
    uint32_t positions[ROWS];
    for (uint32_t t = 0; t < ROWS; t++) positions[t] = (t * 7) % POSITIONS;
    rt_device *d = open_device(kernels, 3, ROWS, 64);
    kv_layout layout = {1, kv_heads, dim, 16, 4};
    kv_plan nobody = {0};
    rt_rope r = {y, y + heads * dim, stride, ROWS, heads, kv_heads, dim, positions, cosines, sines};
    rt_backend_cpu()->kv_write(d, &r, &(kv_write){.layout = &layout, .plan = &nobody});
    for (uint32_t t = 0; t < ROWS; t++)
        for (uint32_t i = 0; i < stride; i++) {
            float want = x[t * stride + i];
            if (i < (heads + kv_heads) * dim) {
                uint32_t h = i / dim * dim, half = dim / 2, j = i % dim, at = positions[t] * half + j % half;
                float a = x[t * stride + h + j % half], b = x[t * stride + h + half + j % half];
                float first = j < half ? a * cosines[at] : b * cosines[at];
                float second = j < half ? b * sines[at] : a * sines[at];
                want = j < half ? first - second : first + second;
            }
            assert_true(y[t * stride + i] == want);
        }
    rt_backend_cpu()->close(d);
    free(x);
    free(y);
    free(cosines);
    free(sines);
}

static void rope_rotates_halves_and_nothing_else(void **state)
{
    (void)state;
    EACH_USABLE_FAMILY(kernels)
    {
        check_rope(kernels, 2, 1, 1);
        check_rope(kernels, 24, 3, 1);
        check_rope(kernels, 64, 4, 2);
        check_rope(kernels, 80, 2, 2);
    }
}

static void copied_rows_are_those_of_every_layer_and_head(void **state)
{
    (void)state;
    rt_device *d = open_device("portable", 2, 1, 64);
    kv_layout l = {.layers = 3, .kv_heads = 2, .head_dim = 8, .block_tokens = 4, .element_bytes = 4};
    float *kv = rt_backend_cpu()->kv_buffer(d);
    size_t block = kv_block_bytes(&l) / sizeof *kv, head = kv_head_bytes(&l) / sizeof *kv, all = 5 * block;
    for (size_t i = 0; i < all; i++) kv[i] = (float)i;
    rt_backend_cpu()->kv_copy_rows(d, 3, 1, 3);
    for (size_t i = 0; i < all; i++) {
        bool is_value = i / head % 2;
        size_t row = is_value ? i % head / l.head_dim : i % head % l.block_tokens;
        if (i / block != 1) assert_true(kv[i] == (float)i);
        else if (row < 3) assert_true(kv[i] == (float)(i + 2 * block));
    }
    rt_backend_cpu()->close(d);
}

static void copied_int8_rows_bring_their_scales(void **state)
{
    (void)state;
    kv_layout l = {.layers = 2, .kv_heads = 3, .head_dim = 6, .block_tokens = 8, .element_bytes = 1};
    rt_device_options o = {.threads = 2, .kernels = "portable", .rows_max = 1, .width_max = 8, .layers = 2,
                           .linears = 1, .kv = l, .kv_blocks = 4, .heads = 3};
    rt_device *d = NULL;
    rc_msg msg;
    assert_int_equal(rt_backend_cpu()->open(&o, &d, &msg), RC_OK);
    unsigned char *kv = rt_backend_cpu()->kv_buffer(d);
    size_t block = kv_block_bytes(&l), head = kv_head_bytes(&l), rows = 8 * 6;
    for (size_t i = 0; i < 4 * block; i++) kv[i] = (unsigned char)(i / block);
    rt_backend_cpu()->kv_copy_rows(d, 3, 1, 5);
    for (size_t i = 0; i < 4 * block; i++) {
        size_t at = i % head, row = i / head % 2 ? at / 6 : at % 8;
        if (at >= rows) row = (at - rows) / sizeof(float);
        if (i / block != 1) assert_int_equal(kv[i], i / block);
        else if (row < 5) assert_int_equal(kv[i], 3);
    }
    rt_backend_cpu()->close(d);
}

static void a_device_says_what_it_is_and_what_it_takes(void **state)
{
    (void)state;
    rt_device_options o = {.threads = 2,
                           .kernels = "portable",
                           .rows_max = 10,
                           .width_max = 1000,
                           .slots_max = 2,
                           .layers = 1,
                           .linears = 1,
                           .lora_rank_max = 8,
                           .kv = {2, 1, 64, 16, 4},
                           .kv_blocks = 100,
                           .heads = 1};
    rt_device *d = NULL;
    rc_msg msg;
    assert_int_equal(rt_backend_cpu()->open(&o, &d, &msg), RC_OK);
    assert_string_equal(rt_backend_cpu()->describe(d), "portable, 2 threads");
    assert_int_equal(rt_backend_cpu()->threads(d), 2);
    assert_true(rt_backend_cpu()->bytes(&o) > 100 * kv_block_bytes(&o.kv));
    rt_backend_cpu()->close(d);
    d = NULL;
    o.kernels = "avx9000";
    assert_int_equal(rt_backend_cpu()->open(&o, &d, &msg), RC_INVALID_ARGUMENT);
    assert_non_null(strstr(msg.text, "avx9000"));
    o.kernels = "portable";
    o.kv_blocks = UINT32_MAX;
    o.kv.layers = UINT32_MAX / 64;
    assert_int_equal(rt_backend_cpu()->open(&o, &d, &msg), RC_RESOURCE_EXHAUSTED);
    assert_null(d);
}

int main(void)
{
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) weights[i] = 0.5f + (float)(i % 9) * 0.25f;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rms_norm_is_right_for_every_width),
        cmocka_unit_test(swiglu_is_right_for_every_width),
        cmocka_unit_test(residuals_are_right_for_every_width),
        cmocka_unit_test(divide_is_a_true_division),
        cmocka_unit_test(one_wide_row_is_shared_among_threads),
        cmocka_unit_test(rope_rotates_halves_and_nothing_else),
        cmocka_unit_test(copied_rows_are_those_of_every_layer_and_head),
        cmocka_unit_test(copied_int8_rows_bring_their_scales),
        cmocka_unit_test(a_device_says_what_it_is_and_what_it_takes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
