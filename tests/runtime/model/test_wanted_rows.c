/* The last layer runs for the rows whose logits are wanted alone, and gives them the bits that they have when
 * all rows are wanted. */
#include "model_support.h"

#include "runtime/model/wanted_rows.h"

#define MODEL MICA_SOURCE_DIR "/tests/golden/models/granite"

enum { TOKENS = 45, ROWS_MAX = 64 };

/* Three sequences, in groups out of the order of their rows; slot 2 on rows 1 to 5, slot 4 on row 0. */
static const kv_span spans[] = {{4, 3, 64, 7}, {3, 1, 70, 9}, {0, 3, 10, 0}};
static const kv_group groups[] = {{0, 2, 64}, {2, 1, 0}};
static const adapter_segment segments[] = {{2, 0, 5}, {4, 5, 1}};
static const uint32_t row_index[] = {1, 2, 3, 4, 5, 0};

static const rt_step *plan(rt_wanted_rows *w, const uint32_t *rows, uint32_t count)
{
    static const uint32_t tables[16];
    rt_step step = {.rows = 7,
                    .kv = {spans, 3, groups, 2, tables},
                    .adapters = {segments, 2, row_index},
                    .logit_rows = rows,
                    .logit_rows_count = count};
    const rt_step *wanted = rt__wanted_rows_plan(w, &step);
    assert_ptr_equal(wanted->kv.tables, tables);
    assert_int_equal(wanted->rows, count);
    return wanted;
}

static void plans_keep_what_concerns_the_wanted_rows(void **state)
{
    (void)state;
    rt_wanted_rows w = {0};
    rc_msg msg;
    assert_int_equal(rt__wanted_rows_create(ROWS_MAX, &w, &msg), RC_OK);
    const rt_step *s = plan(&w, (const uint32_t[]){2, 4, 6}, 3);
    const kv_span want_spans[] = {{1, 1, 64, 7}, {2, 1, 66, 7}, {0, 1, 12, 0}};
    const kv_group want_groups[] = {{0, 2, 64}, {2, 1, 0}};
    assert_int_equal(s->kv.spans_count, 3);
    assert_memory_equal(s->kv.spans, want_spans, sizeof want_spans);
    assert_int_equal(s->kv.groups_count, 2);
    assert_memory_equal(s->kv.groups, want_groups, sizeof want_groups);
    assert_int_equal(s->adapters.segments_count, 1);
    assert_memory_equal(s->adapters.segments, &((adapter_segment){2, 0, 2}), sizeof(adapter_segment));
    assert_memory_equal(s->adapters.row_index, ((uint32_t[]){0, 1}), 2 * sizeof(uint32_t));

    s = plan(&w, (const uint32_t[]){0}, 1); /* one group and one segment are left */
    assert_int_equal(s->kv.groups_count, 1);
    assert_memory_equal(s->kv.groups, &((kv_group){0, 1, 0}), sizeof(kv_group));
    assert_memory_equal(s->kv.spans, &((kv_span){0, 1, 10, 0}), sizeof(kv_span));
    assert_int_equal(s->adapters.segments_count, 1);
    assert_memory_equal(s->adapters.segments, &((adapter_segment){4, 0, 1}), sizeof(adapter_segment));

    s = plan(&w, NULL, 0);
    assert_int_equal(s->kv.groups_count + s->kv.spans_count + s->adapters.segments_count, 0);
    rt__wanted_rows_destroy(&w);
}

/* An adapter on o and down of the last layer, at rows from 7 on. */
static void attach_adapter(const run *r, float *weights, uint32_t count)
{
    const rt_model_config *c = &r->info.config;
    uint32_t q = c->heads * c->head_dim;
    rc_msg msg;
    for (uint32_t i = 0; i < count; i++) weights[i] = (float)(i * 37 % 101) / 400 - 0.1f;
    adapter_delta deltas[] = {{.layer = c->layers - 1, .linear = RT_LINEAR_O, .in = q, .out = c->hidden,
                               .rank = 4, .scaling = 1, .dtype = RC_F32, .a = weights, .b = weights},
                              {.layer = c->layers - 1, .linear = RT_LINEAR_DOWN, .in = c->ffn,
                               .out = c->hidden, .rank = 3, .scaling = 2, .dtype = RC_F32, .a = weights,
                               .b = weights}};
    adapter_weights w = {.deltas = deltas, .deltas_count = 2, .rank_max = 4};
    assert_int_equal(rt_backend_cpu()->adapter_attach(r->device, 0, &w, RC_F32, &msg), RC_OK);
}

/* Logits of `wanted`, packed, of a step of all tokens. */
static void run_wanted(run *r, const uint32_t *wanted, uint32_t count, float *logits)
{
    uint32_t tables[RUN_BLOCKS], positions[TOKENS], adapted[TOKENS], vocab = r->info.config.vocab;
    int32_t tokens[TOKENS];
    for (uint32_t i = 0; i < RUN_BLOCKS; i++) tables[i] = RUN_BLOCKS - 1 - i;
    for (uint32_t i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)(i * i % 97);
        positions[i] = i;
        adapted[i] = i + 7;
    }
    kv_span span = {0, TOKENS, 0, 0};
    kv_group group = {0, 1, 0};
    adapter_segment segment = {0, 0, TOKENS - 7};
    rt_step step = {.rows = TOKENS, .tokens = tokens, .positions = positions,
                    .kv = {&span, 1, &group, 1, tables}, .adapters = {&segment, 1, adapted},
                    .logit_rows = wanted, .logit_rows_count = count};
    rt_model_forward(r->model, &step);
    for (uint32_t i = 0; i < count; i++)
        memcpy(logits + (size_t)i * vocab, rt_model_logits(r->model, &step, i, 1), vocab * sizeof *logits);
}

static void wanted_rows_have_the_bits_of_all_rows(void **state)
{
    (void)state;
    enum { CASES = 5 };
    const struct {
        uint32_t count, rows[TOKENS];
    } cases[CASES] = {{1, {44}}, {1, {0}}, {3, {0, 6, 7}}, {5, {3, 4, 5, 20, 44}}, {0, {0}}};
    rt_model_options o = options_of(MODEL, RC_BF16);
    run r = open_run(&o);
    const rt_model_config *c = &r.info.config;
    uint32_t all[TOKENS], vocab = c->vocab, widest = c->ffn > c->hidden ? c->ffn : c->hidden;
    if (c->heads * c->head_dim > widest) widest = c->heads * c->head_dim;
    float *weights = malloc(4 * (size_t)widest * sizeof *weights);
    float *whole = malloc((size_t)TOKENS * vocab * sizeof *whole);
    float *some = malloc((size_t)TOKENS * vocab * sizeof *some);
    attach_adapter(&r, weights, 4 * widest);
    for (uint32_t i = 0; i < TOKENS; i++) all[i] = i;
    run_wanted(&r, all, TOKENS, whole);
    for (int i = 0; i < CASES; i++) {
        run_wanted(&r, cases[i].rows, cases[i].count, some);
        for (uint32_t j = 0; j < cases[i].count; j++)
            assert_memory_equal(some + (size_t)j * vocab, whole + (size_t)cases[i].rows[j] * vocab,
                                vocab * sizeof *some);
    }
    free(weights);
    free(whole);
    free(some);
    close_run(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_keep_what_concerns_the_wanted_rows),
        cmocka_unit_test(wanted_rows_have_the_bits_of_all_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
