/* Quantised matrices: every format and family against the values that the GGUF reader finds in the same
 * blocks: it knows nothing of panels, and test_gguf holds it to recorded bits. */
#include "tests/runtime/backend/backend_support.h"

#include "runtime/backend/matrix.h"
#include "runtime/backend/quant.h"
#include "runtime/model/gguf.h"

static const uint32_t types[] = {2, 3, 6, 7, 8, 12, 13, 14};
enum { TYPES = sizeof types / sizeof *types, Q8_0 = 8, Q4_0 = 2, Q6_K = 14, ROWS = 41, GAP = 3 };

typedef struct shape {
    uint32_t n, k;
} shape;
/* Ragged columns; a K inside one stretch, and one past every family's depth block. */
static const shape shapes[] = {{70, 512}, {33, 2560}, {5, 96}};

static void store_f16(uint8_t *p, uint16_t h) { memcpy(p, &h, sizeof h); }

/* Random codes, and scales of about 2^-6 of either sign. */
static uint8_t *random_blocks(const rt_quant *q, shape s, uint64_t seed)
{
    size_t blocks = (size_t)s.n * s.k / q->group, bytes = blocks * q->block_bytes;
    uint8_t *out = malloc(bytes);
    assert_non_null(out);
    for (size_t i = 0; i < bytes; i++) out[i] = (uint8_t)(int)(next_random(&seed) * 1000);
    for (size_t b = 0; b < blocks; b++) {
        uint8_t *block = out + b * q->block_bytes;
        uint16_t d = (uint16_t)(0x2400 | (block[3] & 0xff) | (block[1] & 1) << 15);
        store_f16(q->ggml_type == Q6_K ? block + 208 : block, d);
        if (q->has_min) store_f16(block + 2, (uint16_t)(d ^ 0x8011));
    }
    return out;
}

typedef struct subject {
    const rt_quant *q;
    shape s;
    rt_device *d;
    rt_matrix *m;
    float *w; /* [n][k] */
    float *x; /* [ROWS][k] */
    float *bias;
} subject;

static subject open_subject(const rt_quant *q, shape s, const char *kernels, uint32_t threads, bool rounds_x)
{
    uint8_t *blocks = random_blocks(q, s, s.k + q->ggml_type);
    size_t row_bytes = rt_gguf_row_bytes(q->ggml_type, s.k);
    subject t = {.q = q, .s = s, .d = open_device(kernels, threads, ROWS, s.k)};
    t.w = malloc((size_t)s.n * s.k * sizeof *t.w);
    t.x = random_floats((size_t)ROWS * s.k, 7);
    t.bias = random_floats(s.n, 8);
    assert_int_equal(rt_backend_cpu()->quant_create(t.d, s.n, s.k, q, rounds_x, &t.m, NULL), RC_OK);
    for (uint32_t n = s.n; n-- > 0;) {
        rt_gguf_row(q->ggml_type, blocks + n * row_bytes, s.k, t.w + (size_t)n * s.k);
        rt_backend_cpu()->quant_fill(t.m, n, blocks + n * row_bytes);
    }
    free(blocks);
    return t;
}

static void close_subject(subject *t)
{
    rt_backend_cpu()->matrix_destroy(t->d, t->m);
    rt_backend_cpu()->close(t->d);
    free(t->bias);
    free(t->x);
    free(t->w);
}

/* y of rows [first, first + rows). */
static void product(const subject *t, uint32_t first, uint32_t rows, float *y)
{
    rt_backend_cpu()->linear(t->d, &(rt_linear){.weight = t->m, .bias = t->bias, .rows = rows,
                                                .x = t->x + (size_t)first * t->s.k, .x_stride = t->s.k,
                                                .y = y, .y_stride = t->s.n + GAP});
}

static void check_values(const subject *t, const float *y, bool rounds)
{
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t n = 0; n < t->s.n; n++) {
            double sum = t->bias[n], size = 1;
            for (uint32_t k = 0; k < t->s.k; k++) {
                float x = t->x[(size_t)r * t->s.k + k];
                double term = (double)(rounds ? as_stored(x, RC_BF16) : x) * t->w[(size_t)n * t->s.k + k];
                sum += term;
                size += fabs(term);
            }
            double off = fabs(sum - y[r * (t->s.n + GAP) + n]);
            assert_true(off <= 2e-6 * size);
        }
}

static void check_same_bits(const subject *t, const float *whole, uint32_t first, uint32_t rows)
{
    float *y = nan_floats((size_t)rows * (t->s.n + GAP));
    product(t, first, rows, y);
    for (uint32_t r = 0; r < rows; r++) {
        const float *want = whole + (first + r) * (t->s.n + GAP);
        assert_memory_equal(y + r * (t->s.n + GAP), want, t->s.n * sizeof *y);
        assert_true(isnan(y[r * (t->s.n + GAP) + t->s.n])); /* nothing is written past a row */
    }
    free(y);
}

static void check_products(const rt_quant *q, shape s, const char *kernels, bool rounds_x)
{
    subject t = open_subject(q, s, kernels, 2, rounds_x);
    float *y = nan_floats((size_t)ROWS * (s.n + GAP));
    product(&t, 0, ROWS, y);
    check_values(&t, y, rounds_x && !strcmp(kernels, "avx512_bf16"));
    for (uint32_t rows = 1; rows <= 13; rows++) check_same_bits(&t, y, ROWS - rows - 3, rows);
    close_subject(&t);
    t = open_subject(q, s, kernels, 3, rounds_x);
    check_same_bits(&t, y, 0, 1);
    check_same_bits(&t, y, 2, 30);
    close_subject(&t);
    free(y);
}

static void a_product_is_right_and_its_rows_never_change(void **state)
{
    (void)state;
    EACH_USABLE_FAMILY(kernels)
    for (int i = 0; i < TYPES; i++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            const rt_quant *q = rt_quant_find(types[i]);
            if (shapes[s].k % q->group) continue;
            check_products(q, shapes[s], kernels, false);
            check_products(q, shapes[s], kernels, true);
        }
}

/* Three formats, of which the first or only another has minima: the columns of each have the bits of its own
 * matrix, whatever the rows and threads. */
static void check_joined(const uint32_t types_of[3], const char *kernels, bool rounds_x)
{
    enum { K = 512, N = 64 + 32 + 5 };
    static const uint32_t n[] = {64, 32, 5};
    const rt_backend *cpu = rt_backend_cpu();
    rt_device *d = open_device(kernels, 2, ROWS, K);
    rt_matrix *alone[3], *parts[3], *joined;
    uint8_t *blocks[3];
    for (int i = 0; i < 3; i++) {
        const rt_quant *q = rt_quant_find(types_of[i]);
        blocks[i] = random_blocks(q, (shape){n[i], K}, 50 + (uint64_t)i);
        assert_int_equal(cpu->quant_create(d, n[i], K, q, rounds_x, &alone[i], NULL), RC_OK);
        assert_int_equal(cpu->quant_create(d, n[i], K, q, rounds_x, &parts[i], NULL), RC_OK);
    }
    assert_int_equal(cpu->quant_join(d, parts, 3, &joined, NULL), RC_OK);
    for (uint32_t i = 0, at = 0; i < 3; at += n[i++])
        for (uint32_t row = 0; row < n[i]; row++) {
            const uint8_t *of_row = blocks[i] + row * rt_gguf_row_bytes(types_of[i], K);
            cpu->quant_fill(alone[i], row, of_row);
            cpu->quant_fill(joined, at + row, of_row);
        }
    float *x = random_floats((size_t)ROWS * K, 3), *bias = random_floats(N, 4);
    float *y = nan_floats((size_t)ROWS * N), *want = nan_floats((size_t)ROWS * N);
    static const uint32_t rows[] = {1, 4, 5, ROWS};
    for (int r = 0; r < 4; r++) {
        rt_linear l = {.weight = joined, .bias = bias, .rows = rows[r], .x = x, .x_stride = K, .y = y,
                       .y_stride = N};
        cpu->linear(d, &l);
        for (uint32_t i = 0, at = 0; i < 3; at += n[i++]) {
            l.weight = alone[i];
            l.bias = bias + at;
            l.y = want + at;
            cpu->linear(d, &l);
        }
        assert_memory_equal(y, want, (size_t)rows[r] * N * sizeof *y);
    }
    cpu->matrix_destroy(d, joined);
    for (int i = 0; i < 3; i++) {
        cpu->matrix_destroy(d, alone[i]);
        free(blocks[i]);
    }
    cpu->close(d);
    free(want);
    free(y);
    free(bias);
    free(x);
}

static void parts_of_a_joined_matrix_keep_their_formats(void **state)
{
    (void)state;
    static const uint32_t mixes[][3] = {{12, 12, 14}, {8, 2, 3}, {14, 13, 8}, {7, 6, 2}};
    EACH_USABLE_FAMILY(kernels)
    for (size_t i = 0; i < sizeof mixes / sizeof *mixes; i++) {
        check_joined(mixes[i], kernels, false);
        check_joined(mixes[i], kernels, true);
    }
}

static void embedding_rows_are_dequantised_exactly(void **state)
{
    (void)state;
    EACH_USABLE_FAMILY(kernels)
    for (int i = 0; i < TYPES; i++) {
        subject t = open_subject(rt_quant_find(types[i]), shapes[0], kernels, 1, true);
        float *h = nan_floats(t.s.k);
        for (int32_t n = 0; n < (int32_t)t.s.n; n++) {
            rt_backend_cpu()->embed(t.d, t.m, 0, &n, 1, 1.0f, h, t.s.k);
            assert_memory_equal(h, t.w + (size_t)n * t.s.k, t.s.k * sizeof *h);
        }
        free(h);
        close_subject(&t);
    }
}

static void a_panel_takes_about_the_bytes_of_its_file(void **state)
{
    (void)state;
    for (int i = 0; i < TYPES; i++) {
        const rt_quant *q = rt_quant_find(types[i]);
        size_t file = 32 * (size_t)q->block_bytes, panel = rt_quant_group_bytes(q);
        assert_true(panel >= file && panel <= file + file / 20);
    }
}

/* Half a step away at most, and what rounding the step to float16 moves: 127 * 2^-11 of it. The largest code
 * of four bits is 7, so values beyond it are clipped by up to a step. */
static void rounding_is_to_the_nearest_step(void **state)
{
    (void)state;
    enum { K = 320 };
    float *x = random_floats(K, 99), back[K];
    memset(x + 32, 0, 32 * sizeof *x);
    const uint32_t to[] = {Q8_0, Q4_0};
    for (int i = 0; i < 2; i++) {
        const rt_quant *q = rt_quant_find(to[i]);
        uint8_t blocks[K / 32 * 34];
        rt_quant_row(q, x, K, blocks);
        rt_gguf_row(to[i], blocks, K, back);
        for (int b = 0; b < K / 32; b++) {
            uint16_t h;
            memcpy(&h, blocks + b * q->block_bytes, sizeof h);
            float step = fabsf(rc_f16_to_f32(h));
            for (int k = 32 * b; k < 32 * b + 32; k++) {
                bool clipped = to[i] == Q4_0 && fabsf(x[k]) > 7 * step;
                assert_true(fabsf(back[k] - x[k]) <= step * (clipped ? 1.07f : 0.57f));
            }
        }
    }
    free(x);
}

static void formats_are_found_by_name(void **state)
{
    (void)state;
    assert_ptr_equal(rt_quant_named("q8_0"), rt_quant_find(Q8_0));
    assert_ptr_equal(rt_quant_named("Q4_0"), rt_quant_find(Q4_0));
    assert_null(rt_quant_named("q3_k"));
    assert_null(rt_quant_find(0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_product_is_right_and_its_rows_never_change),
        cmocka_unit_test(parts_of_a_joined_matrix_keep_their_formats),
        cmocka_unit_test(embedding_rows_are_dequantised_exactly),
        cmocka_unit_test(a_panel_takes_about_the_bytes_of_its_file),
        cmocka_unit_test(rounding_is_to_the_nearest_step),
        cmocka_unit_test(formats_are_found_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
