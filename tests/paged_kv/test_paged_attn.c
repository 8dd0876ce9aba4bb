/* Attention against its definition, and the same bits however a step is cut. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/paged_kv/attn_scene.h"

typedef struct shape {
    uint32_t kv_heads, heads, dim;
} shape;

static const shape shapes[] = {{1, 1, 16},  {2, 8, 64}, {3, 9, 22},  {1, 4, 80},
                               {2, 2, 128}, {1, 7, 36}, {1, 100, 8}};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static scene make(shape h, uint32_t block_tokens, uint32_t element_bytes, uint32_t shared)
{
    scene s = {.layout = {2, h.kv_heads, h.dim, block_tokens, element_bytes}, .heads = h.heads, .layer = 1,
               .seqs = 4, .lengths = {shared + 1, shared + 70, shared + 131, shared + 64}, .shared = shared,
               .seed = h.dim};
    scene_create(&s);
    return s;
}

/* Every row of every sequence in one step. */
static void run_whole(scene *s, const kv_cpu_kernels *k, uint32_t parts)
{
    scene_run runs[16];
    for (uint32_t i = 0; i < s->seqs; i++) runs[i] = (scene_run){i, 0, s->lengths[i]};
    scene_write(s, k, runs, s->seqs, parts);
    scene_attend(s, k, runs, s->seqs, 0, parts);
}

/* Steps that take up to `most` rows of each sequence; grouped once all are past what they share. */
static void run_chunks(scene *s, const kv_cpu_kernels *k, uint32_t most, int grouped, uint32_t parts)
{
    uint32_t at[16] = {0}, count = 1;
    while (count) {
        scene_run runs[16];
        count = 0;
        for (uint32_t i = 0; i < s->seqs; i++) {
            uint32_t end = at[i] < s->shared ? s->shared : s->lengths[i];
            uint32_t rows = end - at[i] < most ? end - at[i] : most;
            if (rows) runs[count++] = (scene_run){i, at[i], rows};
            at[i] += rows;
        }
        if (!count) break;
        scene_write(s, k, runs, count, parts);
        scene_attend(s, k, runs, count, grouped, parts);
    }
}

static size_t out_bytes(const scene *s)
{
    return (size_t)s->seqs * s->longest * s->heads * s->layout.head_dim * sizeof *s->out;
}

static float *take_out(const scene *s)
{
    float *copy = malloc(out_bytes(s));
    memcpy(copy, s->out, out_bytes(s));
    memset(s->out, 0, out_bytes(s));
    return copy;
}

static void agrees_with_the_definition_in_double_precision(void **state)
{
    (void)state;
    const kv_cpu_kernels *families[4];
    uint32_t count = scene_families(families);
    for (uint32_t f = 0; f < count; f++)
        for (uint32_t i = 0; i < SHAPES; i++)
            for (uint32_t bytes = 1; bytes <= 4; bytes *= 2) {
                scene s = make(shapes[i], 16, bytes, 0);
                run_whole(&s, families[f], 1);
                scene_check_naive(&s);
                scene_destroy(&s);
            }
}

static void no_bit_depends_on_chunks_parts_or_groups(void **state)
{
    (void)state;
    const kv_cpu_kernels *families[4];
    uint32_t count = scene_families(families);
    static const uint32_t parts[] = {1, 2, 3, 5}, chunks[] = {1, 5, 67, 1000};
    for (uint32_t f = 0; f < count; f++)
        for (uint32_t i = 0; i < SHAPES; i++) {
            scene s = make(shapes[i], 32, 1u << i % 3, 128);
            run_whole(&s, families[f], 1);
            float *want = take_out(&s);
            for (uint32_t c = 0; c < 4; c++)
                for (int grouped = 0; grouped <= 1; grouped++) {
                    run_chunks(&s, families[f], chunks[c], grouped, parts[(c + i) % 4]);
                    assert_memory_equal(s.out, want, out_bytes(&s));
                    memset(s.out, 0, out_bytes(&s));
                }
            free(want);
            scene_destroy(&s);
        }
}

static void no_bit_depends_on_the_block_size(void **state)
{
    (void)state;
    const kv_cpu_kernels *families[4];
    uint32_t count = scene_families(families);
    for (uint32_t f = 0; f < count; f++)
        for (uint32_t bytes = 1; bytes <= 4; bytes *= 2) {
            float *want = NULL;
            for (uint32_t block = 8; block <= 256; block *= 2) {
                scene s = make(shapes[2], block, bytes, 256);
                run_chunks(&s, families[f], 33, 1, 2);
                float *got = take_out(&s);
                if (want) assert_memory_equal(got, want, out_bytes(&s));
                free(want);
                want = got;
                scene_destroy(&s);
            }
            free(want);
        }
}

static void wide_families_agree_bit_for_bit_where_they_use_the_same_products(void **state)
{
    (void)state;
    const kv_cpu_kernels *families[4];
    uint32_t count = scene_families(families);
    for (uint32_t i = 0; i < SHAPES; i++) {
        float *want = NULL;
        for (uint32_t f = 1; f < count; f++) {
            scene s = make(shapes[i], 16, 1u << (i + 1) % 3, 64);
            if (scene_in_pairs(&s, families[f])) {
                scene_destroy(&s);
                continue;
            }
            run_whole(&s, families[f], 2);
            float *got = take_out(&s);
            if (want) assert_memory_equal(got, want, out_bytes(&s));
            free(want);
            want = got;
            scene_destroy(&s);
        }
        free(want);
    }
}

/* One sequence of one head in one step: q, k, v in float, K/V stored with element_bytes each. */
enum { ROWS = 130, DIM = 4 };
typedef struct small {
    float q[ROWS * DIM], k[ROWS * DIM], v[ROWS * DIM], out[ROWS * DIM];
} small;

static void attend_small(small *s, const kv_cpu_kernels *kernels, uint32_t element_bytes)
{
    kv_layout layout = {1, 1, DIM, 16, element_bytes};
    uint32_t table[9] = {8, 7, 6, 5, 4, 3, 2, 1, 0};
    kv_span span = {0, ROWS, 0, 0};
    kv_group group = {0, 1, 0};
    kv_plan plan = {&span, 1, &group, 1, table};
    static float kv[9 * 16 * 2 * DIM];
    kv_write w = {&layout, &plan, 0, s->k, s->v, DIM, kv};
    kv_attn a = {&layout, &plan, 0, 1, 1, s->q, DIM, s->out, DIM, kv};
    void *scratch = malloc(kv_attn_cpu_scratch_bytes(&layout));
    kernels->write(&w, 0, 1);
    kernels->attn(&a, 0, 1, scratch);
    free(scratch);
}

/* Scores far apart: everything but the winner underflows, also across tiles. */
static void one_position_may_take_all_the_weight(void **state)
{
    (void)state;
    const kv_cpu_kernels *families[4];
    uint32_t count = scene_families(families);
    static small s;
    for (uint32_t f = 0; f < count; f++)
        for (uint32_t winner = 0; winner < 2 * ROWS; winner += 43) {
            uint32_t bytes = winner < ROWS ? 4 : 2, row = winner % ROWS;
            for (uint32_t i = 0; i < ROWS * DIM; i++) {
                s.q[i] = 1000;
                s.k[i] = i / DIM == row ? 1000 : -1000;
                s.v[i] = (float)(i % 251);
            }
            attend_small(&s, families[f], bytes);
            for (uint32_t i = row * DIM; i < ROWS * DIM; i++)
                assert_true(s.out[i] == s.v[row * DIM + i % DIM]);
        }
}

/* Each tile's scores are larger by four than the one's before. */
static void scores_that_keep_growing_are_weighed_right(void **state)
{
    (void)state;
    const kv_cpu_kernels *families[4];
    uint32_t count = scene_families(families);
    static small s;
    for (uint32_t i = 0; i < ROWS * DIM; i++) {
        s.q[i] = i % DIM == 0 ? 1 : 0;
        s.k[i] = (float)(i / DIM) / 16;
        s.v[i] = (float)(i * i % 17) / 16;
    }
    for (uint32_t f = 0; f < count; f++)
        for (uint32_t bytes = 2; bytes <= 4; bytes += 2) {
            attend_small(&s, families[f], bytes);
            for (uint32_t i = 0; i < ROWS * DIM; i++) {
                double sum = 0, want = 0;
                for (uint32_t t = 0; t <= i / DIM; t++) {
                    sum += exp(t / 16.0);
                    want += exp(t / 16.0) * s.v[t * DIM + i % DIM];
                }
                assert_true(fabs(s.out[i] - want / sum) <= (bytes == 2 ? 0x1p-8 : 1e-6));
            }
        }
}

/* Rows of one step lie in one tile, and some products take two positions at once. */
static void a_row_gets_nothing_of_later_rows_not_even_infinities(void **state)
{
    (void)state;
    const kv_cpu_kernels *families[4];
    uint32_t count = scene_families(families);
    static small s;
    for (uint32_t f = 0; f < count; f++)
        for (uint32_t good = 1; good <= 67; good += 33) {
            for (uint32_t i = 0; i < ROWS * DIM; i++) {
                s.q[i] = 1;
                s.k[i] = i / DIM < good ? 0.5f : INFINITY;
                s.v[i] = i / DIM < good ? 2 : INFINITY;
            }
            attend_small(&s, families[f], good == 34 ? 4 : 2);
            for (uint32_t i = 0; i < good * DIM; i++) assert_true(fabsf(s.out[i] - 2) < 1e-5f);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_definition_in_double_precision),
        cmocka_unit_test(no_bit_depends_on_chunks_parts_or_groups),
        cmocka_unit_test(no_bit_depends_on_the_block_size),
        cmocka_unit_test(wide_families_agree_bit_for_bit_where_they_use_the_same_products),
        cmocka_unit_test(one_position_may_take_all_the_weight),
        cmocka_unit_test(scores_that_keep_growing_are_weighed_right),
        cmocka_unit_test(a_row_gets_nothing_of_later_rows_not_even_infinities),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
