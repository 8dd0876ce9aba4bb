/* Writing K/V: what lands where, and that nothing else changes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/dtype.h"
#include "tests/paged_kv/attn_scene.h"

static scene make(uint32_t dim, uint32_t block_tokens, uint32_t element_bytes)
{
    scene s = {.layout = {3, 3, dim, block_tokens, element_bytes}, .heads = 3, .layer = 1, .seqs = 3,
               .lengths = {5, 40, 17}, .seed = dim + block_tokens};
    scene_create(&s);
    return s;
}

static void put_row(const kv_layout *l, unsigned char *head, uint32_t row, const float *from)
{
    unsigned char *to = head + kv_row_offset(l, row);
    if (l->element_bytes == 4) memcpy(to, from, l->head_dim * sizeof *from);
    for (uint32_t d = 0; l->element_bytes == 2 && d < l->head_dim; d++) {
        uint16_t h = rc_f32_to_bf16(from[d]);
        memcpy(to + 2 * d, &h, sizeof h);
    }
    if (l->element_bytes > 1) return;
    float scale;
    scene_int8(from, l->head_dim, (int8_t *)to, &scale);
    memcpy(head + kv_scale_offset(l, row), &scale, sizeof scale);
}

/* What the buffer must hold once the runs are written: NaN elsewhere. */
static unsigned char *expected(const scene *s, const scene_run *runs, uint32_t count)
{
    const kv_layout *l = &s->layout;
    unsigned char *want = malloc(s->kv_bytes);
    memset(want, 0xff, s->kv_bytes);
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t r = 0; r < runs[i].rows; r++)
            for (uint32_t h = 0; h < 2 * l->kv_heads; h++) {
                uint32_t head = h % l->kv_heads, position = runs[i].from + r;
                uint32_t block = s->tables[runs[i].seq * s->table_entries + position / l->block_tokens];
                float row[256];
                char which = h == head ? 'k' : 'v';
                for (uint32_t d = 0; d < l->head_dim; d++)
                    row[d] = scene_value(s, which, runs[i].seq, position, head * l->head_dim + d);
                size_t at = kv_head_offset(l, block, s->layer, h != head, head);
                put_row(l, want + at, position % l->block_tokens, row);
            }
    scene_to_strips(l, want, s->kv_bytes);
    return want;
}

static void rows_land_in_their_blocks_and_nothing_else_changes(void **state)
{
    (void)state;
    const kv_cpu_kernels *families[4];
    uint32_t count = scene_families(families);
    static const uint32_t dims[] = {8, 22, 64, 80};
    static const scene_run runs[] = {{2, 3, 9}, {0, 4, 1}, {1, 0, 40}};
    for (uint32_t f = 0; f < count; f++)
        for (uint32_t i = 0; i < 4; i++)
            for (uint32_t parts = 1; parts <= 7; parts += 2)
                for (uint32_t bytes = 1; bytes <= 4; bytes *= 2) {
                    scene s = make(dims[i], i % 2 ? 8 : 32, bytes);
                    unsigned char *want = expected(&s, runs, 3);
                    scene_write(&s, families[f], runs, 3, parts);
                    assert_memory_equal(s.kv, want, s.kv_bytes);
                    free(want);
                    scene_destroy(&s);
                }
}

static void more_parts_than_rows_and_heads_is_fine(void **state)
{
    (void)state;
    const kv_cpu_kernels *families[4];
    static const scene_run runs[] = {{0, 2, 1}};
    scene_families(families);
    scene s = make(16, 16, 2);
    unsigned char *want = expected(&s, runs, 1);
    scene_write(&s, families[0], runs, 1, 64);
    assert_memory_equal(s.kv, want, s.kv_bytes);
    free(want);
    scene_destroy(&s);
}

/* A row of one head of int8, written alone as its K and its V. Gives its scale. */
static float write_int8(const kv_cpu_kernels *kernels, const float *row, uint32_t dim, int8_t *out)
{
    kv_layout layout = {1, 1, dim, 8, 1};
    uint32_t table = 0;
    kv_span span = {0, 1, 0, 0};
    kv_plan plan = {&span, 1, NULL, 0, &table};
    char kv[2 * 8 * (256 + sizeof(float))];
    kv_write w = {&layout, &plan, 0, row, row, dim, kv};
    float scale;
    kernels->write(&w, 0, 1);
    memcpy(out, kv + kv_head_offset(&layout, 0, 0, 1, 0), dim);
    memcpy(&scale, kv + kv_scale_offset(&layout, 0), sizeof scale);
    for (uint32_t d = 0; d < dim; d++) assert_int_equal(kv[8 * d], out[d]);
    return scale;
}

static void an_int8_row_is_off_by_at_most_half_its_scale(void **state)
{
    (void)state;
    const kv_cpu_kernels *families[4];
    uint32_t count = scene_families(families);
    for (uint32_t f = 0; f < count; f++)
        for (int exponent = -118; exponent <= 127; exponent += 7) {
            float row[22];
            int8_t got[22];
            for (uint32_t d = 0; d < 22; d++) row[d] = ldexpf(sinf((float)(d + 3 * exponent)), exponent);
            float scale = write_int8(families[f], row, 22, got);
            for (uint32_t d = 0; d < 22; d++) assert_true(fabsf(row[d] - scale * got[d]) <= scale * 0.50001f);
        }
}

static void int8_rows_of_next_to_nothing_are_zeros(void **state)
{
    (void)state;
    const kv_cpu_kernels *families[4];
    uint32_t count = scene_families(families);
    static const float tiny[] = {0, -0.0f, 0x1p-149f, -0x1p-126f, 0x1p-120f};
    for (uint32_t f = 0; f < count; f++)
        for (uint32_t i = 0; i < sizeof tiny / sizeof *tiny; i++) {
            float row[20] = {0, tiny[i], 0, -tiny[i]};
            int8_t got[20], zeros[20] = {0};
            assert_true(write_int8(families[f], row, 20, got) == 0);
            assert_memory_equal(got, zeros, 20);
        }
}

static void an_int8_row_that_is_not_finite_reads_as_nan(void **state)
{
    (void)state;
    const kv_cpu_kernels *families[4];
    uint32_t count = scene_families(families);
    for (uint32_t f = 0; f < count; f++)
        for (uint32_t at = 0; at < 40; at += 13)
            for (int i = 0; i < 3; i++) {
                float row[40] = {0, 1, 2, [39] = 3};
                int8_t got[40];
                row[at] = (const float[]){INFINITY, -INFINITY, NAN}[i];
                assert_true(isnan(write_int8(families[f], row, 40, got)));
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_land_in_their_blocks_and_nothing_else_changes),
        cmocka_unit_test(more_parts_than_rows_and_heads_is_fine),
        cmocka_unit_test(an_int8_row_is_off_by_at_most_half_its_scale),
        cmocka_unit_test(int8_rows_of_next_to_nothing_are_zeros),
        cmocka_unit_test(an_int8_row_that_is_not_finite_reads_as_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
