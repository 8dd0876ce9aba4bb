/* Products with few rows of x, against sums in float64: ragged ends, biases, and nothing read or written that
 * is not a product's. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/dtype.h"
#include "runtime/backend/cuda_few.h"
#include "tests/support/prng.h"

enum { GAP = 3, ROWS = RT_CUDA_FEW_ROWS, ALIGN = 8 };

typedef struct subject {
    uint32_t n, k;
    bool is_bf16;
    size_t stride; /* of W; x has a vector more */
    float *w, *x;  /* [n][k], [ROWS][k], as they were rounded */
    rt_cuda_few product;
} subject;

static float random_float(prng *random)
{
    return (float)((double)(prng_next(random) >> 11) * 0x1p-53) * 2 - 1;
}

/* Random rows, and the same on the device, with what `behind` is behind each row. */
static void *rows_of(prng *random, uint32_t rows, const subject *s, size_t stride, float behind, float *out)
{
    size_t each = s->is_bf16 ? 2 : 4;
    char *p = NULL;
    assert_int_equal(cudaMalloc((void **)&p, rows * stride * each), cudaSuccess);
    for (uint32_t row = 0; row < rows; row++)
        for (size_t i = 0; i < stride; i++) {
            float value = i < s->k ? random_float(random) : behind;
            uint16_t half = rc_f32_to_bf16(value);
            if (s->is_bf16 && i < s->k) value = rc_bf16_to_f32(half);
            if (i < s->k) out[row * s->k + i] = value;
            memcpy(p + (row * stride + i) * each, s->is_bf16 ? (void *)&half : (void *)&value, each);
        }
    return p;
}

static subject open_subject(uint32_t n, uint32_t k, bool is_bf16)
{
    prng random = {n * 7 + k + is_bf16};
    subject s = {.n = n, .k = k, .is_bf16 = is_bf16, .stride = (k + ALIGN - 1) / ALIGN * ALIGN};
    s.w = malloc(sizeof *s.w * n * k);
    s.x = malloc(sizeof *s.x * ROWS * k);
    float *bias = NULL;
    assert_int_equal(cudaMalloc((void **)&bias, n * sizeof *bias), cudaSuccess);
    for (uint32_t i = 0; i < n; i++) bias[i] = random_float(&random);
    s.product = (rt_cuda_few){.w = rows_of(&random, n, &s, s.stride, 0, s.w),
                              .w_stride = s.stride,
                              .x = rows_of(&random, ROWS, &s, s.stride + ALIGN, NAN, s.x),
                              .x_stride = s.stride + ALIGN,
                              .bias = bias,
                              .y_stride = n + GAP,
                              .n = n,
                              .k = k};
    return s;
}

static void close_subject(subject *s)
{
    cudaFree((void *)(uintptr_t)s->product.w);
    cudaFree((void *)(uintptr_t)s->product.x);
    cudaFree((void *)(uintptr_t)s->product.bias);
    free(s->w);
    free(s->x);
}

static void check_row(const subject *s, uint32_t row, const rt_cuda_few *p)
{
    const float *y = p->y + row * p->y_stride;
    for (uint32_t n = 0; n < s->n; n++) {
        double sum = p->bias ? (double)p->bias[n] : 0, size = 1;
        for (uint32_t k = 0; k < s->k; k++) {
            double each = (double)s->w[n * s->k + k] * (double)s->x[row * s->k + k];
            sum += each;
            size += fabs(each);
        }
        if (!(fabs((double)y[n] - sum) <= 1e-6 * size))
            fail_msg("%u x %u, row %u column %u: %g, expected %g", s->n, s->k, row, n, (double)y[n], sum);
    }
    for (uint32_t i = 0; i < GAP; i++) assert_true(isnan(y[s->n + i]));
}

static void check_product(const subject *s, uint32_t rows, bool has_bias)
{
    rt_cuda_few p = s->product;
    if (!has_bias) p.bias = NULL;
    assert_int_equal(cudaMalloc((void **)&p.y, rows * p.y_stride * sizeof *p.y), cudaSuccess);
    assert_int_equal(rt_cuda_few_multiply(&p, rows, s->is_bf16, NULL), cudaSuccess);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    for (uint32_t row = 0; row < rows; row++) check_row(s, row, &p);
    cudaFree(p.y);
}

static void products_are_sums(void **state)
{
    (void)state;
    /* Less than a turn of the threads, several that do not come out even, k of no whole vector. */
    static const uint32_t shapes[][2] = {{5, 33}, {8, 2048}, {3, 2501}, {17, 4100}, {1, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int is_bf16 = 0; is_bf16 < 2; is_bf16++) {
            subject s = open_subject(shapes[i][0], shapes[i][1], is_bf16);
            for (uint32_t rows = 1; rows <= ROWS; rows *= 2) check_product(&s, rows, rows % 3 == 1);
            close_subject(&s);
        }
}

static void other_numbers_of_rows_are_refused(void **state)
{
    (void)state;
    subject s = open_subject(4, 8, false);
    for (uint32_t rows = 0; rows < 20; rows++)
        if (!rt_cuda_few_takes(rows))
            assert_int_equal(rt_cuda_few_multiply(&s.product, rows, false, NULL), cudaErrorInvalidValue);
    close_subject(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_sums),
        cmocka_unit_test(other_numbers_of_rows_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
