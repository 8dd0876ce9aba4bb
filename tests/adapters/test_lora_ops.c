/* Adapters' deltas on a linear, through the CPU backend: against double precision, for every family, mixed
 * ranks and slots; rows of base keep the bits of a step without adapters; an adapted row's bits do not depend
 * on the other rows, their order or the threads. Outputs are NaN before each call. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/backend/backend.h"
#include "runtime/backend/cpu_family.h"

enum { ROWS = 61, IN = 203, OUT = 177, SLOTS = 4, LAYERS = 2, LINEARS = 2, RANK_MAX = 70, DELTAS_MAX = 5 };

static const char *const families[] = {"portable", "avx2", "avx512", "avx512_bf16"};

static float next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*seed >> 32) * 0x1p-31f;
}

typedef struct fixture {
    adapter_weights weights[SLOTS];
    adapter_delta deltas[SLOTS][DELTAS_MAX];
    float *x, *w;
} fixture;

/* Slot 0: three narrow modules. 1: one wide one of odd rank. 2: another layer first. 3: more than a wave. */
static const struct {
    uint32_t slot, layer, linear, out_offset, out, rank;
} plan_of_deltas[] = {
    {0, 1, 1, 0, 64, 1},  {0, 1, 1, 64, 33, 8},  {0, 1, 1, 97, 80, 3},   {1, 1, 1, 0, OUT, 70},
    {2, 0, 1, 0, OUT, 4}, {2, 1, 0, 0, OUT, 5},  {2, 1, 1, 100, 77, 16}, {3, 1, 1, 0, 10, 2},
    {3, 1, 1, 10, 30, 5}, {3, 1, 1, 40, 32, 33}, {3, 1, 1, 100, 1, 64},  {3, 1, 1, 120, 57, 7},
};

static void *random_array(size_t count, rc_dtype type, uint64_t *seed)
{
    float *f = malloc(count * sizeof *f);
    for (size_t i = 0; i < count; i++) {
        f[i] = next_random(seed);
        if (type == RC_BF16) ((uint16_t *)(void *)f)[i] = rc_f32_to_bf16(f[i]);
        else if (type == RC_F16) ((uint16_t *)(void *)f)[i] = (uint16_t)(0x3000 + i * 37 % 0x700);
    }
    return f;
}

static void setup(fixture *f, rc_dtype type)
{
    uint64_t seed = 5;
    memset(f, 0, sizeof *f);
    for (size_t i = 0; i < sizeof plan_of_deltas / sizeof *plan_of_deltas; i++) {
        uint32_t slot = plan_of_deltas[i].slot, rank = plan_of_deltas[i].rank, out = plan_of_deltas[i].out;
        adapter_weights *w = &f->weights[slot];
        w->deltas = f->deltas[slot];
        w->rank_max = rank > w->rank_max ? rank : w->rank_max;
        f->deltas[slot][w->deltas_count++] = (adapter_delta){
            .layer = plan_of_deltas[i].layer,
            .linear = plan_of_deltas[i].linear,
            .in = IN,
            .out = out,
            .out_offset = plan_of_deltas[i].out_offset,
            .rank = rank,
            .scaling = 0.5f + (float)i,
            .dtype = type,
            .a = random_array((size_t)rank * IN, type, &seed),
            .b = random_array((size_t)out * rank, type, &seed),
        };
    }
    f->x = random_array((size_t)ROWS * IN, RC_F32, &seed);
    f->w = random_array((size_t)OUT * IN, RC_F32, &seed);
}

static void teardown(fixture *f)
{
    for (int s = 0; s < SLOTS; s++)
        for (uint32_t i = 0; i < f->weights[s].deltas_count; i++) {
            free((void *)(uintptr_t)f->deltas[s][i].a);
            free((void *)(uintptr_t)f->deltas[s][i].b);
        }
    free(f->x);
    free(f->w);
}

static rt_device *open_with(const fixture *f, const char *kernels, uint32_t threads, rc_dtype stored)
{
    rt_device_options o = {.threads = threads,
                           .kernels = kernels,
                           .rows_max = ROWS,
                           .width_max = IN,
                           .slots_max = SLOTS,
                           .layers = LAYERS,
                           .linears = LINEARS,
                           .lora_rank_max = RANK_MAX,
                           .kv = {1, 1, 8, 4, 4},
                           .kv_blocks = 1,
                           .heads = 1};
    rt_device *d = NULL;
    rc_msg msg;
    assert_int_equal(rt_backend_cpu()->open(&o, &d, &msg), RC_OK);
    for (uint32_t s = 0; s < SLOTS; s++)
        assert_int_equal(rt_backend_cpu()->adapter_attach(d, s, &f->weights[s], stored, &msg), RC_OK);
    return d;
}

/* Row t of a step has slot slot_of[t], or SLOTS for base. */
typedef struct step {
    adapter_segment segments[SLOTS];
    uint32_t row_index[ROWS];
    adapter_plan plan;
} step;

static void make_step(step *s, const uint32_t *slot_of, uint32_t rows)
{
    uint32_t filled = 0;
    s->plan = (adapter_plan){.segments = s->segments, .row_index = s->row_index};
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        uint32_t first = filled;
        for (uint32_t t = 0; t < rows; t++)
            if (slot_of[t] == slot) s->row_index[filled++] = t;
        if (filled > first)
            s->segments[s->plan.segments_count++] = (adapter_segment){slot, first, filled - first};
    }
}

static float *run(rt_device *d, const rt_matrix *m, const float *x, const uint32_t *slot_of, uint32_t rows)
{
    step s;
    make_step(&s, slot_of, rows);
    float *y = malloc((size_t)ROWS * OUT * sizeof *y);
    for (size_t i = 0; i < (size_t)ROWS * OUT; i++) y[i] = NAN;
    rt_linear l = {.weight = m, .x = x, .x_stride = IN, .y = y, .y_stride = OUT, .rows = rows,
                   .adapters = &s.plan, .layer = 1, .linear = 1};
    rt_backend_cpu()->linear(d, &l);
    return y;
}

static float stored_value(const void *p, rc_dtype type, rc_dtype stored, size_t i)
{
    float f = rc_load_f32(p, type, i);
    return stored == RC_F32 ? f : rc_bf16_to_f32(rc_f32_to_bf16(f));
}

static void check_row(const fixture *f, uint32_t slot, rc_dtype stored, const float *x, const float *base,
                      const float *y)
{
    double want[OUT], size[OUT];
    for (uint32_t n = 0; n < OUT; n++) {
        want[n] = base[n];
        size[n] = fabs(base[n]);
    }
    for (uint32_t i = 0; slot < SLOTS && i < f->weights[slot].deltas_count; i++) {
        const adapter_delta *d = &f->deltas[slot][i];
        if (d->layer != 1 || d->linear != 1) continue;
        for (uint32_t r = 0; r < d->rank; r++) {
            double s = 0;
            for (uint32_t k = 0; k < IN; k++)
                s += (double)stored_value(d->a, d->dtype, stored, r * IN + k) * x[k];
            for (uint32_t n = 0; n < d->out; n++) {
                double term = d->scaling * s * stored_value(d->b, d->dtype, stored, n * d->rank + r);
                want[d->out_offset + n] += term;
                size[d->out_offset + n] += fabs(term) + d->scaling;
            }
        }
    }
    for (uint32_t n = 0; n < OUT; n++)
        if (!(fabs(y[n] - want[n]) <= 3e-6 * size[n]))
            fail_msg("slot %u column %u: %g, expected %g", slot, n, y[n], want[n]);
}

/* Each row alone, and all rows backwards, must have the bits of the mixed step. */
static void check_same_bits(rt_device *d, const rt_matrix *m, const fixture *f, const uint32_t *slot_of,
                            const float *mixed)
{
    float *back = malloc((size_t)ROWS * IN * sizeof *back);
    uint32_t slot_back[ROWS];
    for (uint32_t t = 0; t < ROWS; t++) {
        slot_back[t] = slot_of[ROWS - 1 - t];
        memcpy(back + t * IN, f->x + (ROWS - 1 - t) * IN, IN * sizeof *back);
        float *alone = run(d, m, f->x + t * IN, slot_of + t, 1);
        assert_memory_equal(alone, mixed + t * OUT, OUT * sizeof *alone);
        free(alone);
    }
    float *y = run(d, m, back, slot_back, ROWS);
    for (uint32_t t = 0; t < ROWS; t++)
        assert_memory_equal(y + t * OUT, mixed + (ROWS - 1 - t) * OUT, OUT * sizeof *y);
    free(y);
    free(back);
}

static void check_family(const fixture *f, const char *kernels, rc_dtype stored)
{
    uint32_t slot_of[ROWS], none[ROWS];
    const uint32_t threads[] = {1, 2, 3, 5};
    float *first = NULL;
    for (uint32_t t = 0; t < ROWS; t++) {
        slot_of[t] = t < 25 ? 3 : t * 7 % (SLOTS + 1);
        none[t] = SLOTS;
    }
    for (int i = 0; i < 4; i++) {
        rt_device *d = open_with(f, kernels, threads[i], stored);
        rt_matrix *m = NULL;
        assert_int_equal(rt_backend_cpu()->matrix_create(d, OUT, IN, RC_F32, &m, NULL), RC_OK);
        rt_backend_cpu()->matrix_fill(m, 0, OUT, f->w, RC_F32, IN);
        float *base = run(d, m, f->x, none, ROWS), *y = run(d, m, f->x, slot_of, ROWS);
        for (uint32_t t = 0; t < ROWS; t++) {
            if (slot_of[t] == SLOTS) assert_memory_equal(y + t * OUT, base + t * OUT, OUT * sizeof *y);
            check_row(f, slot_of[t], stored, f->x + t * IN, base + t * OUT, y + t * OUT);
        }
        check_same_bits(d, m, f, slot_of, y);
        if (first) assert_memory_equal(y, first, (size_t)ROWS * OUT * sizeof *y);
        free(base);
        if (first) free(y);
        else first = y;
        rt_backend_cpu()->matrix_destroy(d, m);
        rt_backend_cpu()->close(d);
    }
    free(first);
}

static void deltas_are_right_and_rows_do_not_meet(void **state)
{
    (void)state;
    const rc_dtype types[] = {RC_F32, RC_F16, RC_BF16};
    for (int t = 0; t < 3; t++) {
        fixture f;
        setup(&f, types[t]);
        for (int k = 0; k < 4; k++) {
            if (!rt_cpu_family_usable(families[k])) continue;
            check_family(&f, families[k], RC_F32);
            check_family(&f, families[k], RC_BF16);
        }
        teardown(&f);
    }
}

static void a_slot_is_used_again_after_it_was_emptied(void **state)
{
    (void)state;
    fixture f;
    rc_msg msg;
    setup(&f, RC_F32);
    rt_device *d = open_with(&f, "portable", 1, RC_F32);
    rt_backend_cpu()->adapter_detach(d, 1);
    rt_backend_cpu()->adapter_detach(d, 1);
    assert_int_equal(rt_backend_cpu()->adapter_attach(d, 1, &f.weights[0], RC_BF16, &msg), RC_OK);
    rt_backend_cpu()->adapter_detach(d, 2);
    f.weights[2].rank_max = RANK_MAX + 1;
    assert_int_equal(rt_backend_cpu()->adapter_attach(d, 2, &f.weights[2], RC_F32, &msg),
                     RC_INVALID_ARGUMENT);
    assert_non_null(strstr(msg.text, "71"));
    rt_backend_cpu()->close(d);
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deltas_are_right_and_rows_do_not_meet),
        cmocka_unit_test(a_slot_is_used_again_after_it_was_emptied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
