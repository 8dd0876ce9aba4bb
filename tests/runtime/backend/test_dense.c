/* The dense product of every kernel family against sums in double precision, and its bits against itself
 * at other numbers of rows and threads. Outputs are NaN before each call. */
#include "backend_support.h"

enum { ROWS = 70, GAP = 3 };

typedef struct shape {
    uint32_t n, k;
} shape;

static const shape shapes[] = {{1, 1},   {1, 7},    {3, 2},     {31, 33},  {32, 64},   {33, 511},
                               {48, 65}, {65, 512}, {100, 513}, {64, 777}, {161, 1029}};

static void check_close(const float *y, const float *x, const float *w, const float *bias, shape s,
                        rc_dtype stored, const char *kernels)
{
    for (uint32_t t = 0; t < ROWS; t++)
        for (uint32_t n = 0; n < s.n; n++) {
            double sum = 0, size = 0;
            for (uint32_t k = 0; k < s.k; k++) {
                double a = as_operand(x[t * s.k + k], stored, kernels);
                double product = a * as_stored(w[(size_t)n * s.k + k], stored);
                sum += product;
                size += fabs(product);
            }
            if (bias) sum += bias[n];
            double error = fabs(y[t * (s.n + GAP) + n] - sum);
            if (!(error <= 1e-6 * size * sqrt(s.k) + 1e-7))
                fail_msg("%s %s N=%u K=%u row %u column %u: off by %g", kernels, rc_dtype_name(stored), s.n,
                         s.k, t, n, error);
        }
}

static void product(rt_device *d, const rt_matrix *m, const float *bias, const float *x, uint32_t rows,
                    float *y)
{
    rt_linear l = {.weight = m, .bias = bias, .x = x, .x_stride = m->k, .y = y, .y_stride = m->n + GAP,
                   .rows = rows};
    rt_backend_cpu()->linear(d, &l);
}

static void check_same_rows(rt_device *d, const rt_matrix *m, const float *bias, const float *x,
                            const float *whole, uint32_t rows, uint32_t first)
{
    uint32_t stride = m->n + GAP;
    float *y = nan_floats((size_t)rows * stride);
    product(d, m, bias, x + (size_t)first * m->k, rows, y);
    for (uint32_t t = 0; t < rows; t++)
        assert_memory_equal(y + t * stride, whole + (first + t) * stride, m->n * sizeof *y);
    free(y);
}

static void check_shape(const char *kernels, shape s, rc_dtype stored)
{
    float *x = random_floats((size_t)ROWS * s.k, s.k), *w = random_floats((size_t)s.n * s.k, 100 + s.n);
    float *bias = random_floats(s.n, 7), *whole = nan_floats((size_t)ROWS * (s.n + GAP));
    const uint32_t threads[] = {2, 1, 3, 5};
    for (int i = 0; i < 4; i++) {
        rt_device *d = open_device(kernels, threads[i], ROWS, 1100);
        rt_matrix *m = make_matrix(d, s.n, s.k, stored, w);
        const float *b = s.n % 2 ? bias : NULL;
        if (i == 0) {
            product(d, m, b, x, ROWS, whole);
            check_close(whole, x, w, b, s, stored, kernels);
            for (uint32_t t = 0; t < ROWS; t++)
                for (uint32_t g = 0; g < GAP; g++) assert_true(isnan(whole[t * (s.n + GAP) + s.n + g]));
            for (uint32_t rows = 1; rows <= ROWS; rows += rows < 27 ? 1 : 7)
                check_same_rows(d, m, b, x, whole, rows, (rows * 5) % (ROWS - rows + 1));
        }
        check_same_rows(d, m, b, x, whole, ROWS, 0);
        check_same_rows(d, m, b, x, whole, 1, 33);
        check_same_rows(d, m, b, x, whole, 13, 20);
        rt_backend_cpu()->matrix_destroy(d, m);
        rt_backend_cpu()->close(d);
    }
    free(x);
    free(w);
    free(bias);
    free(whole);
}

static void a_product_is_right_and_its_rows_never_change(void **state)
{
    (void)state;
    EACH_USABLE_FAMILY(kernels)
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        check_shape(kernels, shapes[i], RC_F32);
        check_shape(kernels, shapes[i], RC_BF16);
    }
}

/* More rows than one pass takes: rows past the first pass too have the bits that they have alone. */
static void a_long_prefill_has_the_bits_of_single_rows(void **state)
{
    (void)state;
    enum { LONG = 1300, N = 70, K = 1030 };
    float *x = random_floats((size_t)LONG * K, 1), *w = random_floats((size_t)N * K, 2);
    EACH_USABLE_FAMILY(kernels)
    for (int stored = RC_F32; stored <= RC_BF16; stored += RC_BF16 - RC_F32) {
        rt_device *d = open_device(kernels, 2, LONG, K);
        rt_matrix *m = make_matrix(d, N, K, (rc_dtype)stored, w);
        float *whole = nan_floats((size_t)LONG * (N + GAP));
        product(d, m, NULL, x, LONG, whole);
        for (uint32_t t = 0; t < LONG; t += 37) check_same_rows(d, m, NULL, x, whole, 1, t);
        check_same_rows(d, m, NULL, x, whole, 40, 700);
        free(whole);
        rt_backend_cpu()->matrix_destroy(d, m);
        rt_backend_cpu()->close(d);
    }
    free(x);
    free(w);
}

static uint16_t to_f16(uint64_t *seed)
{
    uint16_t h = (uint16_t)(next_random(seed) * 32767.0f);
    return (h & 0x7c00) == 0x7c00 ? 0x3c00 : h; /* no infinities here */
}

static void make_source(void *src, rc_dtype type, size_t count, uint64_t seed)
{
    char *at = src;
    for (size_t i = 0; i < count; i++, at += rc_dtype_bytes(type)) {
        float f = next_random(&seed);
        uint16_t h = type == RC_F16 ? to_f16(&seed) : rc_f32_to_bf16(f);
        if (type == RC_F32) memcpy(at, &f, sizeof f);
        else memcpy(at, &h, sizeof h);
    }
}

/* Every source type, unaligned and strided, in ranges that start anywhere; `embed` reads the rows back. */
static void check_fill(const char *kernels, rc_dtype type, rc_dtype stored, shape s, uint32_t cut)
{
    const rt_backend *b = rt_backend_cpu();
    size_t stride = s.k + 5;
    char *memory = malloc(s.n * stride * 4 + 1), *src = memory + 1;
    make_source(src, type, s.n * stride, s.n * 31 + s.k);
    rt_device *d = open_device(kernels, 2, s.n, 1100);
    rt_matrix *m = NULL;
    assert_int_equal(b->matrix_create(d, s.n, s.k, stored, &m, NULL), RC_OK);
    b->matrix_fill(m, cut, s.n - cut, src + cut * stride * rc_dtype_bytes(type), type, stride);
    b->matrix_fill(m, 0, cut, src, type, stride);
    int32_t *tokens = malloc(s.n * sizeof *tokens);
    for (uint32_t i = 0; i < s.n; i++) tokens[i] = (int32_t)(s.n - 1 - i);
    float *h = nan_floats(s.n * stride);
    b->embed(d, m, 0, tokens, s.n, 2.0f, h, stride);
    for (uint32_t i = 0; i < s.n; i++)
        for (uint32_t k = 0; k < s.k; k++) {
            float f = rc_load_f32(src + (s.n - 1 - i) * stride * rc_dtype_bytes(type), type, k);
            assert_true(h[i * stride + k] == as_stored(f, stored) * 2.0f);
        }
    for (size_t i = 0; i < (rt_matrix_panels(s.n) * RT_PANEL - s.n) * rc_dtype_bytes(stored); i++)
        assert_int_equal(((char *)m->data)[m->bytes - 1 - i % (rc_dtype_bytes(stored))], 0);
    free(h);
    free(tokens);
    free(memory);
    b->matrix_destroy(d, m);
    b->close(d);
}

static void every_source_type_is_packed_exactly_from_any_range(void **state)
{
    (void)state;
    const rc_dtype types[] = {RC_F32, RC_F16, RC_BF16};
    EACH_USABLE_FAMILY(kernels)
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int t = 0; t < 3; t++) {
            uint32_t cuts[] = {0, shapes[i].n / 32 * 32, shapes[i].n / 2};
            for (int c = 0; c < 3; c++) {
                check_fill(kernels, types[t], RC_F32, shapes[i], cuts[c]);
                check_fill(kernels, types[t], RC_BF16, shapes[i], cuts[c]);
            }
        }
}

static void special_values_keep_their_class(void **state)
{
    (void)state;
    const float values[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 0x1p-140f, 0x1.fffffep127f, 1.00390625f};
    enum { COUNT = 8, K = 40 };
    float src[32 * K];
    for (int i = 0; i < 32 * K; i++) src[i] = values[i % COUNT];
    EACH_USABLE_FAMILY(kernels)
    {
        rt_device *d = open_device(kernels, 1, 32, K);
        rt_matrix *m = make_matrix(d, 32, K, RC_BF16, src);
        for (int32_t row = 0; row < 32; row++) {
            float h[K];
            rt_backend_cpu()->embed(d, m, 0, &row, 1, 1.0f, h, K);
            for (int k = 0; k < K; k++) {
                float want = as_stored(src[row * K + k], RC_BF16);
                assert_true(isnan(want) ? isnan(h[k]) : memcmp(&want, &h[k], sizeof want) == 0);
            }
        }
        rt_backend_cpu()->matrix_destroy(d, m);
        rt_backend_cpu()->close(d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_product_is_right_and_its_rows_never_change),
        cmocka_unit_test(a_long_prefill_has_the_bits_of_single_rows),
        cmocka_unit_test(every_source_type_is_packed_exactly_from_any_range),
        cmocka_unit_test(special_values_keep_their_class),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
