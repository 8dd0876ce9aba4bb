/* Steps and adapters as bytes: what goes in comes out; what is bent or cut is refused, or is harmless. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/engine/wire.h"
#include "tests/support/prng.h"

enum { ROUNDS = 20000, BENT_WORDS = 3 };

static const rt_wire_limits limits = {.rows_max = 32,
                                      .seqs_max = 4,
                                      .slots_max = 3,
                                      .blocks_max = 50,
                                      .block_tokens = 16,
                                      .positions_max = 300,
                                      .vocab = 100,
                                      .logits_max = 8};

/* Two sequences that share 128 positions, one with an adapter. */
static const int32_t tokens[] = {5, 99, 0, ~31}; /* the last is still to come */
static const uint32_t positions[] = {130, 131, 128, 129};
static const kv_span spans[] = {{0, 2, 130, 20}, {2, 2, 128, 0}};
static const kv_group groups[] = {{0, 2, 128}};
static const adapter_segment segments[] = {{2, 0, 2}};
static const uint32_t row_index[] = {2, 3}, logit_rows[] = {1, 3};
static uint32_t tables[32];

static rt_step a_step(void)
{
    for (uint32_t i = 0; i < 32; i++) tables[i] = i < 20 ? i : i - 20;
    return (rt_step){.rows = 4,
                     .tokens = tokens,
                     .positions = positions,
                     .kv = {spans, 2, groups, 1, tables},
                     .adapters = {segments, 1, row_index},
                     .logit_rows = logit_rows,
                     .logit_rows_count = 2,
                     .is_picked = true};
}

static void a_step_comes_out_as_it_went_in(void **state)
{
    (void)state;
    uint32_t *words = malloc(rt_wire_command_max(&limits));
    rt_step step = a_step();
    size_t bytes = rt_wire_forward(&step, limits.block_tokens, words);
    rt_command c;
    assert_true(bytes <= rt_wire_command_max(&limits));
    assert_int_equal(rt_wire_read_command(words, bytes, &limits, &c, NULL), RC_OK);
    assert_int_equal(c.kind, RT_COMMAND_FORWARD);
    assert_int_equal(c.step.rows, 4);
    assert_memory_equal(c.step.tokens, tokens, sizeof tokens);
    assert_memory_equal(c.step.positions, positions, sizeof positions);
    assert_memory_equal(c.step.kv.groups, groups, sizeof groups);
    assert_memory_equal(c.step.adapters.segments, segments, sizeof segments);
    assert_memory_equal(c.step.logit_rows, logit_rows, sizeof logit_rows);
    assert_true(c.step.is_picked);
    for (uint32_t s = 0; s < 2; s++) {
        const kv_span *was = &spans[s], *is = &c.step.kv.spans[s];
        assert_int_equal(is->position, was->position);
        assert_memory_equal(c.step.kv.tables + is->table, tables + was->table, 9 * sizeof *tables);
    }
    free(words);
}

/* Everything that a kernel would follow. */
static void check_harmless(const rt_step *s)
{
    for (uint32_t i = 0; i < s->rows; i++) {
        assert_true(s->tokens[i] >= ~31 && s->tokens[i] < (int32_t)limits.vocab);
        assert_true(s->positions[i] < limits.positions_max);
    }
    for (uint32_t i = 0; i < s->kv.spans_count; i++) {
        const kv_span *span = &s->kv.spans[i];
        assert_true(span->row + span->rows <= s->rows);
        for (uint32_t p = 0; p < span->position + span->rows; p += limits.block_tokens)
            assert_true(s->kv.tables[span->table + p / limits.block_tokens] < limits.blocks_max);
    }
    for (uint32_t i = 0; i < s->adapters.segments_count; i++) {
        const adapter_segment *g = &s->adapters.segments[i];
        assert_true(g->slot < limits.slots_max);
        for (uint32_t r = 0; r < g->rows; r++) assert_true(s->adapters.row_index[g->first + r] < s->rows);
    }
    for (uint32_t i = 0; i < s->logit_rows_count; i++) assert_true(s->logit_rows[i] < s->rows);
}

static uint32_t bent(prng *random, uint32_t word)
{
    switch (prng_next(random) % 4) {
    case 0:
        return word ^ 1u << prng_next(random) % 32;
    case 1:
        return (uint32_t)prng_next(random);
    case 2:
        return word + 1;
    default:
        return (uint32_t)(prng_next(random) % 64);
    }
}

static void bent_steps_are_refused_or_harmless(void **state)
{
    (void)state;
    uint32_t *good = malloc(rt_wire_command_max(&limits));
    rt_step step = a_step();
    size_t bytes = rt_wire_forward(&step, limits.block_tokens, good), refused = 0;
    prng random = {7};
    for (int round = 0; round < ROUNDS; round++) {
        size_t length = prng_next(&random) % 8 ? bytes : prng_next(&random) % bytes;
        uint32_t *words = malloc(length + 1); /* of that size, so that a sanitizer sees what reads past it */
        rt_command c;
        rc_msg msg;
        memcpy(words, good, length);
        for (uint64_t n = prng_next(&random) % BENT_WORDS + 1; n && length >= sizeof *words; n--) {
            size_t at = prng_next(&random) % (length / sizeof *words);
            words[at] = bent(&random, words[at]);
        }
        rc_code code = rt_wire_read_command(words, length, &limits, &c, &msg);
        refused += code != RC_OK;
        if (code == RC_OK && c.kind == RT_COMMAND_FORWARD) check_harmless(&c.step);
        free(words);
    }
    assert_in_range(refused, ROUNDS / 4, ROUNDS - 1);
    free(good);
}

/* ---- adapters ---- */

static const adapter_shape shape = {.layers = 2,
                                    .vocab = 100,
                                    .modules_count = 2,
                                    .modules = {{"q_proj", 0, 8, 8, 0}, {"o_proj", 1, 8, 4, 0}},
                                    .rank_max = 4};
static float matrix[32];

static adapter_weights an_adapter(adapter_delta deltas[2])
{
    for (int i = 0; i < 32; i++) matrix[i] = (float)i;
    deltas[0] = (adapter_delta){0, 0, 8, 8, 0, 3, 0.5f, RC_F32, matrix, matrix + 1};
    deltas[1] = (adapter_delta){1, 1, 8, 4, 0, 2, 2.0f, RC_F32, matrix, matrix + 2};
    return (adapter_weights){.rank_max = 3, .deltas_count = 2, .deltas = deltas};
}

static void an_adapter_comes_out_as_it_went_in(void **state)
{
    (void)state;
    adapter_delta deltas[2];
    adapter_weights w = an_adapter(deltas), *out;
    void *data;
    size_t bytes;
    uint32_t slot, after;
    assert_int_equal(rt_wire_adapter(2, 77, &w, &data, &bytes, NULL), RC_OK);
    assert_true(bytes <= rt_wire_adapter_max(&shape));
    assert_int_equal(rt_wire_read_adapter(data, bytes, &shape, 3, &slot, &after, &out, NULL), RC_OK);
    assert_int_equal(slot, 2);
    assert_int_equal(after, 77);
    assert_int_equal(out->deltas_count, 2);
    for (uint32_t i = 0; i < 2; i++) {
        const adapter_delta *was = &deltas[i], *is = &out->deltas[i];
        assert_true(is->scaling == was->scaling && is->rank == was->rank && is->layer == was->layer);
        assert_memory_equal(is->a, was->a, was->rank * was->in * sizeof(float));
        assert_memory_equal(is->b, was->b, was->rank * was->out * sizeof(float));
    }
    adapter_weights_free(out);
    free(data);
}

static void bent_adapters_are_refused_or_fit(void **state)
{
    (void)state;
    adapter_delta deltas[2];
    adapter_weights w = an_adapter(deltas);
    void *good;
    size_t bytes, refused = 0;
    prng random = {8};
    assert_int_equal(rt_wire_adapter(2, 77, &w, &good, &bytes, NULL), RC_OK);
    for (int round = 0; round < ROUNDS; round++) {
        size_t length = prng_next(&random) % 8 ? bytes : prng_next(&random) % bytes;
        uint32_t *words = malloc(length + 1), slot, after;
        adapter_weights *out;
        memcpy(words, good, length);
        for (uint64_t n = prng_next(&random) % BENT_WORDS + 1; n && length >= sizeof *words; n--) {
            size_t at = prng_next(&random) % 20 % (length / sizeof *words); /* the heads */
            words[at] = bent(&random, words[at]);
        }
        rc_code code = rt_wire_read_adapter(words, length, &shape, 3, &slot, &after, &out, NULL);
        refused += code != RC_OK;
        if (code == RC_OK) {
            assert_true(slot < 3 && out->rank_max <= shape.rank_max);
            for (uint32_t i = 0; i < out->deltas_count; i++)
                assert_true(out->deltas[i].rank <= out->rank_max && out->deltas[i].layer < shape.layers);
            adapter_weights_free(out);
        }
        free(words);
    }
    assert_in_range(refused, ROUNDS / 4, ROUNDS - 1);
    free(good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_comes_out_as_it_went_in),
        cmocka_unit_test(bent_steps_are_refused_or_harmless),
        cmocka_unit_test(an_adapter_comes_out_as_it_went_in),
        cmocka_unit_test(bent_adapters_are_refused_or_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
