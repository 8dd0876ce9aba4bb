/* Products with codes on a device, and codes made numbers there, against the values that the host finds in
 * the same blocks (test_quant holds those to the GGUF reader's). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/dtype.h"
#include "runtime/backend/cuda_quant.h"
#include "tests/support/prng.h"

static const uint32_t types[] = {2, 3, 6, 7, 8, 12, 13, 14};
enum { TYPES = sizeof types / sizeof *types, Q6_K = 14, GAP = 3 };

typedef struct shape {
    uint32_t n, k;
} shape;
/* Ragged panels; groups that do and do not come out even among the warps. */
static const shape shapes[] = {{35, 512}, {16, 2560}, {5, 256}};

typedef struct subject {
    shape s;
    rt_cuda_codes codes;
    float *w;    /* [n][k] */
    uint16_t *x; /* [RT_CUDA_CODES_ROWS][k], on the device too */
    float *bias;
    uint16_t *device_x;
    float *device_bias;
} subject;

static float random_float(prng *random)
{
    return (float)((double)(prng_next(random) >> 11) * 0x1p-53) * 2 - 1;
}

static void *on_device(const void *from, size_t bytes)
{
    void *p = NULL;
    assert_int_equal(cudaMalloc(&p, bytes), cudaSuccess);
    if (from) assert_int_equal(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice), cudaSuccess);
    return p;
}

/* A file's block of random codes and factors, with scales of about 2^-6 of either sign. */
static void random_block(const rt_quant *q, prng *random, uint8_t *block)
{
    for (uint32_t i = 0; i < q->block_bytes; i++) block[i] = (uint8_t)prng_next(random);
    uint16_t d = (uint16_t)(0x2400 | (prng_next(random) & 0x80ff)), min = (uint16_t)(d ^ 0x8011);
    memcpy(q->ggml_type == Q6_K ? block + 208 : block, &d, sizeof d);
    if (q->has_min) memcpy(block + 2, &min, sizeof min);
}

static void random_row(subject *t, const rt_quant *q, uint32_t row, prng *random, uint8_t *panels)
{
    uint8_t *blocks = malloc((size_t)t->s.k / q->group * q->block_bytes), *block = blocks;
    float *w = t->w + (size_t)row * t->s.k;
    for (uint32_t k = 0; k < t->s.k; k += q->group, block += q->block_bytes) {
        rt_quant_group g;
        random_block(q, random, block);
        rt_quant_unpack(q, block, &g);
        rt_quant_values(q, &g, w + k);
    }
    rt_cuda_codes_put(&t->codes, q, row, blocks, panels);
    free(blocks);
}

static subject open_subject(const rt_quant *q, shape s)
{
    prng random = {s.k + q->ggml_type};
    subject t = {.s = s, .codes = rt_cuda_codes_of(q, s.n, s.k)};
    uint8_t *panels = calloc(1, rt_cuda_codes_bytes(&t.codes));
    size_t xs = (size_t)RT_CUDA_CODES_ROWS * s.k;
    t.w = malloc((size_t)s.n * s.k * sizeof *t.w);
    t.x = malloc(xs * sizeof *t.x);
    t.bias = malloc(s.n * sizeof *t.bias);
    for (uint32_t n = 0; n < s.n; n++) {
        random_row(&t, q, n, &random, panels);
        t.bias[n] = random_float(&random);
    }
    for (size_t i = 0; i < xs; i++) t.x[i] = rc_f32_to_bf16(random_float(&random));
    t.codes.panels = on_device(panels, rt_cuda_codes_bytes(&t.codes));
    t.device_x = on_device(t.x, xs * sizeof *t.x);
    t.device_bias = on_device(t.bias, s.n * sizeof *t.bias);
    free(panels);
    return t;
}

static void close_subject(subject *t)
{
    cudaFree((void *)(uintptr_t)t->codes.panels);
    cudaFree(t->device_x);
    cudaFree(t->device_bias);
    free(t->w);
    free(t->x);
    free(t->bias);
}

/* y [rows][n + GAP] of x's rows from first on. */
static void product(const subject *t, uint32_t first, uint32_t rows, bool has_bias, float *y)
{
    size_t bytes = (size_t)rows * (t->s.n + GAP) * sizeof *y;
    float *device_y = on_device(NULL, bytes);
    rt_cuda_codes_product p = {.x = t->device_x + (size_t)first * t->s.k,
                               .x_stride = t->s.k,
                               .bias = has_bias ? t->device_bias : NULL,
                               .y = device_y,
                               .y_stride = t->s.n + GAP,
                               .rows = rows};
    assert_int_equal(rt_cuda_codes_multiply(&t->codes, &p, NULL), cudaSuccess);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    cudaMemcpy(y, device_y, bytes, cudaMemcpyDeviceToHost);
    cudaFree(device_y);
}

static void check_product(const subject *t, uint32_t first, uint32_t rows, bool has_bias, const float *y)
{
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t n = 0; n < t->s.n; n++) {
            double sum = has_bias ? (double)t->bias[n] : 0, size = 1;
            for (uint32_t k = 0; k < t->s.k; k++) {
                double x = (double)rc_bf16_to_f32(t->x[(size_t)(first + r) * t->s.k + k]);
                double each = x * (double)t->w[(size_t)n * t->s.k + k];
                sum += each;
                size += fabs(each);
            }
            double got = (double)y[r * (t->s.n + GAP) + n];
            if (!(fabs(got - sum) <= 1e-6 * size))
                fail_msg("%u bits, k %u, row %u column %u: %g, expected %g", t->codes.bits, t->s.k, r, n, got,
                         sum);
        }
}

static void products_are_those_with_the_values(void **state)
{
    (void)state;
    static const uint32_t rows[] = {1, 8, 13, 32};
    float *y = malloc(sizeof *y * RT_CUDA_CODES_ROWS * 64);
    for (int i = 0; i < TYPES; i++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            subject t = open_subject(rt_quant_find(types[i]), shapes[s]);
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
                product(&t, 32 - rows[r], rows[r], r % 2, y);
                check_product(&t, 32 - rows[r], rows[r], r % 2, y);
            }
            close_subject(&t);
        }
    free(y);
}

static void a_row_does_not_depend_on_the_others(void **state)
{
    (void)state;
    float *all = malloc(sizeof *all * RT_CUDA_CODES_ROWS * 64), *alone = malloc(sizeof *alone * 64);
    for (int i = 0; i < TYPES; i++) {
        subject t = open_subject(rt_quant_find(types[i]), shapes[0]);
        product(&t, 0, RT_CUDA_CODES_ROWS, true, all);
        for (uint32_t r = 0; r < RT_CUDA_CODES_ROWS; r += 5) {
            product(&t, r, 1, true, alone);
            assert_memory_equal(alone, all + r * (t.s.n + GAP), t.s.n * sizeof *alone);
        }
        close_subject(&t);
    }
    free(all);
    free(alone);
}

static void numbers_are_rounded_values(void **state)
{
    (void)state;
    for (int i = 0; i < TYPES; i++) {
        subject t = open_subject(rt_quant_find(types[i]), shapes[0]);
        uint32_t first = RT_CUDA_PANEL, rows = t.s.n - first;
        size_t bytes = (size_t)rows * t.s.k * sizeof *t.x;
        uint16_t *device = on_device(NULL, bytes), *out = malloc(bytes);
        assert_int_equal(rt_cuda_codes_expand(&t.codes, first, rows, device, NULL), cudaSuccess);
        assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
        cudaMemcpy(out, device, bytes, cudaMemcpyDeviceToHost);
        for (size_t at = 0; at < bytes / sizeof *out; at++)
            assert_int_equal(out[at], rc_f32_to_bf16(t.w[first * t.s.k + at]));
        cudaFree(device);
        free(out);
        close_subject(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_those_with_the_values),
        cmocka_unit_test(a_row_does_not_depend_on_the_others),
        cmocka_unit_test(numbers_are_rounded_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
