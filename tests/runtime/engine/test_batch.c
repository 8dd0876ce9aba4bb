/* A schedule as the arrays of a step: rows, segments by slot, groups of sequences that share blocks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "adapters/activation.h"
#include "adapters/registry.h"
#include "runtime/engine/batch.h"

enum { BLOCK = 16 };

static rt_batch *make(void)
{
    rt_batch_options o = {
        .rows_max = 64, .seqs_max = 16, .blocks_max = 256, .block_tokens = BLOCK, .slots_max = 4};
    rt_batch *b;
    assert_int_equal(rt_batch_create(&o, &b, NULL), RC_OK);
    return b;
}

static int32_t TOKENS[512];

static rt_batch_entry entry(const uint32_t *blocks, uint32_t blocks_count, uint32_t position, uint32_t rows)
{
    return (rt_batch_entry){.tokens = TOKENS,
                            .position = position,
                            .rows = rows,
                            .activation = ADAPTER_NEVER,
                            .slot = ADAPTER_NO_SLOT,
                            .blocks = blocks,
                            .blocks_count = blocks_count,
                            .first_logit = position + rows - 1};
}

static void rows_of_base_are_in_no_segment_and_adapted_rows_are_sorted_by_slot(void **state)
{
    uint32_t tables[] = { 1, 2, 3 };
    rt_batch *b = make();
    rt_batch_entry base = entry(tables, 1, 0, 3), alora = entry(tables + 1, 1, 2, 4),
                   lora = entry(tables + 2, 1, 0, 2);
    alora.slot = 2, alora.activation = 4;
    lora.slot = 1, lora.activation = 0;
    rt_batch_begin(b, tables);
    rt_batch_add(b, &base);
    rt_batch_add(b, &alora);
    rt_batch_add(b, &lora);
    const rt_step *s = rt_batch_end(b);
    static const uint32_t rows[] = { 7, 8, 5, 6 }; /* slot 1: lora's two; slot 2: alora's positions 4 and 5 */
    assert_int_equal(s->rows, 9);
    assert_int_equal(s->adapters.segments_count, 2);
    assert_int_equal(s->adapters.segments[0].slot, 1);
    assert_int_equal(s->adapters.segments[1].slot, 2);
    assert_memory_equal(s->adapters.row_index, rows, sizeof rows);
    assert_int_equal(s->logit_rows_count, 3);
    assert_int_equal(s->logit_rows[1], 6);
    rt_batch_destroy(b);
    (void)state;
}

/* Eight blocks of a system prompt under two conversations of twelve; two forks each, and a stranger. */
static void sequences_are_grouped_where_most_blocks_are_read_once(void **state)
{
    uint32_t tables[5][16], order[] = { 0, 2, 4, 1, 3 }; /* conversation 0, 1, stranger, 0, 1 */
    rt_batch *b = make();
    for (uint32_t f = 0; f < 5; f++)
        for (uint32_t i = 0; i < 16; i++)
            tables[f][i] = f == 4   ? 200 + i
                           : i < 8  ? i
                           : i < 12 ? 20 + 10 * (f / 2) + i - 8
                                    : 100 + 10 * f + i - 12;
    rt_batch_begin(b, tables[0]);
    for (uint32_t i = 0; i < 5; i++) {
        rt_batch_entry e = entry(tables[order[i]], 14, 13 * BLOCK + i, 1);
        rt_batch_add(b, &e);
    }
    const rt_step *s = rt_batch_end(b);
    uint32_t shared = 0, spans = 0;
    for (uint32_t g = 0; g < s->kv.groups_count; g++) {
        const kv_group *group = &s->kv.groups[g];
        assert_int_equal(group->span, spans);
        spans += group->spans;
        if (group->spans == 2) {
            const kv_span *x = &s->kv.spans[group->span], *y = x + 1;
            assert_int_equal(group->shared_tokens, 12 * BLOCK);
            assert_int_equal(s->kv.tables[x->table + 11], s->kv.tables[y->table + 11]);
            shared++;
        }
    }
    assert_int_equal(spans, 5);
    assert_int_equal(shared, 2);
    rt_batch_destroy(b);
    (void)state;
}

static void a_group_shares_whole_tiles_before_all_of_its_rows(void **state)
{
    uint32_t tables[2][8] = { { 1, 2, 3, 4, 5, 6 }, { 1, 2, 3, 4, 5, 7 } };
    rt_batch *b = make();
    rt_batch_entry x = entry(tables[0], 6, 5 * BLOCK + 3, 1), y = entry(tables[1], 6, 5 * BLOCK, 2);
    rt_batch_begin(b, tables[0]);
    rt_batch_add(b, &x);
    rt_batch_add(b, &y);
    const rt_step *s = rt_batch_end(b);
    assert_int_equal(s->kv.groups_count, 1);
    assert_int_equal(s->kv.groups[0].shared_tokens,
                     KV_TILE); /* five blocks are 80 positions: one tile of 64 */
    rt_batch_destroy(b);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_base_are_in_no_segment_and_adapted_rows_are_sorted_by_slot),
        cmocka_unit_test(sequences_are_grouped_where_most_blocks_are_read_once),
        cmocka_unit_test(a_group_shares_whole_tiles_before_all_of_its_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
