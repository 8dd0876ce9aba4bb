/* The CUDA adapter kernels on the emulated device: against double precision for mixed ranks, types and slots;
 * rows of base are not touched; a row's bits do not depend on the other rows. Device memory is the host's. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "adapters/lora_cuda.h"
#include "proto/dtype.h"

enum {
    ROWS = 37,
    IN = 203,
    IN_FOURS = 200, /* rows that are read four elements at once */
    X_STRIDE = 204,
    OUT = 177,
    SLOTS = 3,
    LAYERS = 2,
    LINEARS = 2,
    RANK_MAX = 33,
    LAYER = 1,
    LINEAR = 1
};

static float next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*seed >> 32) * 0x1p-31f;
}

typedef struct fixture {
    adapter_cuda_linear table[SLOTS][LAYERS][LINEARS];
    _Alignas(16) float x[ROWS][X_STRIDE];
    uint32_t in;
    float s[ROWS * ADAPTER_CUDA_DELTAS * RANK_MAX];
} fixture;

/* Slot 2 has nothing here. */
static const struct {
    uint32_t slot, out_offset, out, rank, is_bf16;
} deltas[] = {{0, 0, 64, 1, 1}, {0, 64, 33, 8, 0}, {0, 97, 80, 33, 1}, {1, 5, 170, 16, 1}};

static void *matrix(size_t count, uint32_t is_bf16, uint64_t *seed)
{
    float *f = malloc(count * sizeof *f);
    for (size_t i = 0; i < count; i++) {
        f[i] = next_random(seed);
        if (is_bf16) ((uint16_t *)(void *)f)[i] = rc_f32_to_bf16(f[i]);
    }
    return f;
}

static void setup(fixture *f, uint32_t in)
{
    uint64_t seed = 3;
    memset(f, 0, sizeof *f);
    f->in = in;
    for (size_t i = 0; i < sizeof deltas / sizeof *deltas; i++) {
        adapter_cuda_linear *l = &f->table[deltas[i].slot][LAYER][LINEAR];
        l->deltas[l->count++] = (adapter_cuda_delta){
            .a = matrix((size_t)deltas[i].rank * in, deltas[i].is_bf16, &seed),
            .b = matrix((size_t)deltas[i].out * deltas[i].rank, deltas[i].is_bf16, &seed),
            .in = in,
            .out = deltas[i].out,
            .out_offset = deltas[i].out_offset,
            .rank = deltas[i].rank,
            .scaling = 0.5f + (float)i,
            .is_bf16 = deltas[i].is_bf16};
    }
    for (int t = 0; t < ROWS; t++)
        for (uint32_t k = 0; k < X_STRIDE; k++) f->x[t][k] = k < in ? next_random(&seed) : NAN;
}

static void teardown(fixture *f)
{
    for (int s = 0; s < SLOTS; s++)
        for (uint32_t i = 0; i < f->table[s][LAYER][LINEAR].count; i++) {
            free((void *)(uintptr_t)f->table[s][LAYER][LINEAR].deltas[i].a);
            free((void *)(uintptr_t)f->table[s][LAYER][LINEAR].deltas[i].b);
        }
}

/* Row t has slot slot_of[t], or SLOTS for base. y begins as 1 + t everywhere. */
static void apply_x(fixture *f, const float *x, size_t x_stride, const uint32_t *slot_of, uint32_t rows,
                    float y[ROWS][OUT])
{
    adapter_segment segments[SLOTS];
    uint32_t row_index[ROWS], words[ROWS * 7], filled = 0;
    adapter_plan plan = {segments, 0, row_index};
    adapter_cuda_plan packed;
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        uint32_t first = filled;
        for (uint32_t t = 0; t < rows; t++)
            if (slot_of[t] == slot) row_index[filled++] = t;
        if (filled > first) segments[plan.segments_count++] = (adapter_segment){slot, first, filled - first};
    }
    for (uint32_t t = 0; t < rows; t++)
        for (int n = 0; n < OUT; n++) y[t][n] = 1 + (float)t;
    assert_true(adapter_cuda_plan_words(ROWS) <= sizeof words / sizeof *words);
    adapter_cuda_pack(&plan, rows, words, &packed);
    for (size_t i = 0; i < sizeof f->s / sizeof *f->s; i++) f->s[i] = NAN;
    adapter_cuda_run run = {&f->table[0][0][0], LAYERS,   LINEARS, LAYER, LINEAR, RANK_MAX, OUT, x,
                            x_stride,           &y[0][0], OUT,     f->s};
    assert_int_equal(adapter_cuda_apply(&run, &packed, words, NULL), cudaSuccess);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
}

static void apply(fixture *f, const uint32_t *slot_of, uint32_t rows, float y[ROWS][OUT])
{
    apply_x(f, &f->x[0][0], X_STRIDE, slot_of, rows, y);
}

static double element(const void *m, size_t i, uint32_t is_bf16)
{
    return is_bf16 ? rc_bf16_to_f32(((const uint16_t *)m)[i]) : ((const float *)m)[i];
}

static double want(const fixture *f, uint32_t slot, uint32_t t, uint32_t n)
{
    double y = 1 + t;
    for (uint32_t i = 0; slot < SLOTS && i < f->table[slot][LAYER][LINEAR].count; i++) {
        const adapter_cuda_delta *d = &f->table[slot][LAYER][LINEAR].deltas[i];
        if (n < d->out_offset || n >= d->out_offset + d->out) continue;
        for (uint32_t r = 0; r < d->rank; r++) {
            double s = 0;
            for (uint32_t k = 0; k < f->in; k++)
                s += element(d->a, (size_t)r * f->in + k, d->is_bf16) * f->x[t][k];
            y += d->scaling * s * element(d->b, (size_t)(n - d->out_offset) * d->rank + r, d->is_bf16);
        }
    }
    return y;
}

static void check_against_double(uint32_t in)
{
    static fixture f;
    static float y[ROWS][OUT];
    uint32_t slot_of[ROWS];
    setup(&f, in);
    for (uint32_t t = 0; t < ROWS; t++) slot_of[t] = t * 7 % 11 % (SLOTS + 1);
    apply(&f, slot_of, ROWS, y);
    for (uint32_t t = 0; t < ROWS; t++)
        for (uint32_t n = 0; n < OUT; n++) {
            double w = want(&f, slot_of[t], t, n);
            if (!(fabs(y[t][n] - w) <= 1e-4)) fail_msg("row %u column %u: %g, expected %g", t, n, y[t][n], w);
        }
    teardown(&f);
}

static void agrees_with_double_precision(void **state)
{
    (void)state;
    check_against_double(IN);
    check_against_double(IN_FOURS);
}

static void no_bit_depends_on_alignment(void **state)
{
    (void)state;
    static fixture f;
    static float aligned[ROWS][OUT], y[ROWS][OUT], x[ROWS * (X_STRIDE + 1) + 1];
    uint32_t slot_of[ROWS];
    setup(&f, IN_FOURS);
    for (uint32_t t = 0; t < ROWS; t++) {
        slot_of[t] = t % 2;
        memcpy(x + 1 + t * (X_STRIDE + 1), f.x[t], sizeof f.x[t]);
    }
    apply(&f, slot_of, ROWS, aligned);
    apply_x(&f, x + 1, X_STRIDE + 1, slot_of, ROWS, y);
    assert_memory_equal(y, aligned, sizeof y);
    teardown(&f);
}

static void a_rows_bits_do_not_depend_on_the_others(void **state)
{
    (void)state;
    static fixture f;
    static float all[ROWS][OUT], y[ROWS][OUT];
    uint32_t slot_of[ROWS];
    setup(&f, IN_FOURS);
    for (uint32_t t = 0; t < ROWS; t++) slot_of[t] = t % 2;
    apply(&f, slot_of, ROWS, all);
    for (uint32_t t = 0; t < ROWS; t += 5) {
        for (uint32_t i = 0; i < ROWS; i++) slot_of[i] = i == t ? t % 2 : SLOTS;
        apply(&f, slot_of, ROWS, y);
        assert_memory_equal(y[t], all[t], sizeof y[t]);
        for (uint32_t n = 0; n < OUT; n++) assert_true(y[(t + 1) % ROWS][n] == 1 + (float)((t + 1) % ROWS));
    }
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_double_precision),
        cmocka_unit_test(a_rows_bits_do_not_depend_on_the_others),
        cmocka_unit_test(no_bit_depends_on_alignment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
