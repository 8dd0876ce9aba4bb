/* An MLP in one op: the same bits as linear, swiglu, linear, whether or not the CPU fuses them. */
#include "tests/runtime/backend/backend_support.h"

#include "runtime/backend/quant.h"

enum { ROWS = 520, GAP = 3 }; /* more rows than a pass has */

typedef struct shape {
    uint32_t hidden, ffn;
} shape;
/* One depth block and several of every family; a panel of gate that ends in up's. */
static const shape shapes[] = {{96, 64}, {2080, 2112}, {64, 80}};

typedef struct subject {
    const char *format; /* of both matrices: "f32", "bf16" or a quantised one */
    shape s;
    rt_device *d;
    rt_matrix *gate_up, *down;
    float *x, *bias;
} subject;

static rt_matrix *any_matrix(rt_device *d, const char *format, uint32_t n, uint32_t k, uint64_t seed)
{
    float *w = random_floats((size_t)n * k, seed);
    rt_matrix *m = NULL;
    const rt_quant *q = rt_quant_named(format);
    if (!q) {
        m = make_matrix(d, n, k, strcmp(format, "f32") == 0 ? RC_F32 : RC_BF16, w);
        free(w);
        return m;
    }
    uint8_t blocks[2 * 2112];
    assert_int_equal(rt_backend_cpu()->quant_create(d, n, k, q, true, &m, NULL), RC_OK);
    for (uint32_t row = 0; row < n; row++) {
        rt_quant_row(q, w + (size_t)row * k, k, blocks);
        rt_backend_cpu()->quant_fill(m, row, blocks);
    }
    free(w);
    return m;
}

static subject open_subject(const char *kernels, uint32_t threads, const char *format, shape s)
{
    subject t = {.format = format, .s = s, .d = open_device(kernels, threads, ROWS, 2 * s.ffn + s.hidden)};
    t.gate_up = any_matrix(t.d, format, 2 * s.ffn, s.hidden, 1);
    t.down = any_matrix(t.d, format, s.hidden, s.ffn, 2);
    t.x = random_floats((size_t)ROWS * s.hidden, 3);
    t.bias = random_floats(2 * (size_t)s.ffn, 4);
    return t;
}

static void close_subject(subject *t)
{
    rt_backend_cpu()->matrix_destroy(t->d, t->gate_up);
    rt_backend_cpu()->matrix_destroy(t->d, t->down);
    rt_backend_cpu()->close(t->d);
    free(t->x);
    free(t->bias);
}

/* Fused or in three ops. Says whether gate and up were left in memory. */
static bool run(const subject *t, uint32_t rows, bool fused, float *y)
{
    const rt_backend *cpu = rt_backend_cpu();
    uint32_t ffn = t->s.ffn, hidden = t->s.hidden;
    float *middle = nan_floats((size_t)rows * 2 * ffn), *x = nan_floats((size_t)rows * (ffn + GAP));
    rt_linear gate_up = {.weight = t->gate_up, .bias = t->bias, .x = t->x, .x_stride = hidden, .y = middle,
                         .y_stride = 2 * (size_t)ffn, .rows = rows};
    rt_linear down = {.weight = t->down, .bias = t->bias, .x = x, .x_stride = ffn + GAP, .y = y,
                      .y_stride = hidden + GAP, .rows = rows};
    if (!fused || !cpu->feed_forward(t->d, &gate_up, &down)) {
        cpu->linear(t->d, &gate_up);
        cpu->swiglu(t->d, middle, 2 * (size_t)ffn, rows, ffn, x, ffn + GAP);
        cpu->linear(t->d, &down);
    }
    bool left = !isnan(middle[0]);
    free(middle);
    free(x);
    return left;
}

static void check(const char *kernels, uint32_t threads, const char *format, shape s)
{
    static const uint32_t row_counts[] = {1, 13, 29, ROWS};
    subject t = open_subject(kernels, threads, format, s);
    for (size_t i = 0; i < sizeof row_counts / sizeof *row_counts; i++) {
        uint32_t rows = row_counts[i];
        if (rows == ROWS && s.hidden > 1000) continue; /* slow, and nothing new */
        size_t count = (size_t)rows * (s.hidden + GAP);
        float *fused = nan_floats(count), *plain = nan_floats(count);
        assert_int_equal(run(&t, rows, true, fused), rows == 1 || s.ffn % 32);
        assert_true(run(&t, rows, false, plain));
        assert_memory_equal(fused, plain, count * sizeof *plain);
        free(fused);
        free(plain);
    }
    close_subject(&t);
}

static void fused_products_have_the_bits_of_three_ops(void **state)
{
    (void)state;
    EACH_USABLE_FAMILY(kernels)
    {
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            check(kernels, 1, "bf16", shapes[i]);
            check(kernels, 3, "f32", shapes[i]);
        }
        check(kernels, 3, "q8_0", shapes[1]);
        check(kernels, 2, "q4_0", shapes[0]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(fused_products_have_the_bits_of_three_ops)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
