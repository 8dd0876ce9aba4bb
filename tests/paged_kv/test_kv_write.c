/* Writing K/V: what lands where, and that nothing else changes. */
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

/* What the buffer must hold once the runs are written: NaN elsewhere. */
static unsigned char *expected(const scene *s, const scene_run *runs, uint32_t count)
{
    const kv_layout *l = &s->layout;
    unsigned char *want = malloc(s->kv_bytes);
    memset(want, 0xff, s->kv_bytes);
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t r = 0; r < runs[i].rows; r++)
            for (uint32_t e = 0; e < 2 * l->kv_heads * l->head_dim; e++) {
                uint32_t is_value = e / (l->kv_heads * l->head_dim), at = e % (l->kv_heads * l->head_dim);
                uint32_t position = runs[i].from + r;
                uint32_t block = s->tables[runs[i].seq * s->table_entries + position / l->block_tokens];
                size_t to = kv_row_at(l, block, s->layer, (int)is_value, at / l->head_dim,
                                      position % l->block_tokens) + at % l->head_dim;
                float x = scene_value(s, is_value ? 'v' : 'k', runs[i].seq, position, at);
                uint16_t h = rc_f32_to_bf16(x);
                memcpy(want + to * l->element_bytes, l->element_bytes == 4 ? (void *)&x : (void *)&h,
                       l->element_bytes);
            }
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
                for (uint32_t bytes = 2; bytes <= 4; bytes += 2) {
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_land_in_their_blocks_and_nothing_else_changes),
        cmocka_unit_test(more_parts_than_rows_and_heads_is_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
