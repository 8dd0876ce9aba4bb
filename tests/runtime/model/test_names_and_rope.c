/* RoPE tables against the reference's (GraniteRotaryEmbedding, LlamaRotaryEmbedding of transformers 5.19,
 * torch 2.13 on a CPU), the modules that adapters are matched against, and GGUF's row order. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "runtime/model/model.h"
#include "runtime/model/names.h"
#include "runtime/model/rope_table.h"

enum { POSITIONS = 4, COLUMNS = 4 };
static const uint32_t positions[POSITIONS] = {1, 77, 4097, 131071};

static const struct {
    rt_rope_kind kind;
    double theta;
    uint32_t head_dim;
    uint32_t columns[COLUMNS]; /* which of a row's head_dim / 2 were recorded */
    float inv_freq[COLUMNS];
    float cos[POSITIONS][COLUMNS], sin[POSITIONS][COLUMNS];
} recorded[] = {{RT_ROPE_DEFAULT,
                 1e7,
                 64,
                 {0, 1, 15, 31},
                 {0x1.000000p+0f, 0x1.356656p-1f, 0x1.125c04p-11f, 0x1.635e88p-23f},
                 {{0.540302336f, 0.822902083f, 0.999999881f, 1.0f},
                  {-0.0309750326f, -0.829230368f, 0.999188304f, 1.0f},
                  {0.934771955f, 0.974292994f, -0.542289853f, 0.999999762f},
                  {-0.817983508f, 0.995043278f, 0.864969969f, 0.9997648f}},
                 {{0.841470957f, 0.568183243f, 0.000523299095f, 1.65481708e-07f},
                  {0.999520183f, 0.558906913f, 0.0402831249f, 1.27420917e-05f},
                  {0.355248332f, 0.225284532f, 0.840191483f, 0.000677978504f},
                  {-0.575241685f, -0.0994426757f, -0.501823604f, 0.0216881521f}}},
                {RT_ROPE_DEFAULT,
                 10000,
                 22,
                 {0, 1, 5, 10},
                 {0x1.000000p+0f, 0x1.bb43e2p-2f, 0x1.f20b60p-7f, 0x1.e4781ep-13f},
                 {{0.540302336f, 0.907763004f, 0.999884486f, 1.0f},
                  {-0.0309750326f, -0.337951988f, 0.389846444f, 0.999841809f},
                  {0.934771955f, -0.0644326583f, 0.846669674f, 0.584558964f},
                  {-0.817983508f, 0.941248238f, 0.923866451f, 0.420471102f}},
                 {{0.841470957f, 0.419483393f, 0.015198525f, 0.00023101292f},
                  {0.999520183f, 0.941163361f, 0.9208799f, 0.017787056f},
                  {0.355248332f, 0.997922063f, -0.532118797f, 0.81135124f},
                  {-0.575241685f, 0.337715417f, 0.382714957f, -0.907305956f}}},
                {RT_ROPE_LINEAR,
                 10000,
                 64,
                 {0, 1, 15, 31},
                 {0x1.99999ap-2f, 0x1.33281cp-2f, 0x1.5d931cp-8f, 0x1.bf74a0p-15f},
                 {{0.921060979f, 0.955348969f, 0.999985754f, 1.0f},
                  {0.816239178f, -0.4486036f, 0.916831732f, 0.999991596f},
                  {0.443482071f, -0.845172644f, -0.990575671f, 0.976215541f},
                  {0.0666063353f, -0.288483769f, -0.13916336f, 0.759498477f}},
                 {{0.389418364f, 0.295479804f, 0.00533406064f, 5.33408602e-05f},
                  {-0.577714086f, -0.893730819f, 0.399273783f, 0.00410723453f},
                  {-0.896283209f, -0.534493387f, 0.136966452f, 0.21680215f},
                  {0.99777931f, 0.957484782f, 0.990269423f, 0.650509059f}}},
                {RT_ROPE_LLAMA3,
                 5e5,
                 128,
                 {0, 28, 31, 63},
                 {0x1.000000p+0f, 0x1.a4ee40p-9f, 0x1.c12f3cp-11f, 0x1.4985fep-22f},
                 {{0.540302336f, 0.999994874f, 0.999999642f, 1.0f},
                  {-0.0309750326f, 0.969581425f, 0.997824788f, 1.0f},
                  {0.934771955f, 0.830426455f, -0.932862282f, 0.999999225f},
                  {-0.817983508f, 0.998944223f, 0.695225537f, 0.999191105f}},
                 {{0.841470957f, 0.00321144052f, 0.000856751343f, 3.06892588e-07f},
                  {0.999520183f, 0.244768903f, 0.0659220219f, 2.36307296e-05f},
                  {0.355248332f, 0.55712831f, -0.360233307f, 0.00125733856f},
                  {-0.575241685f, -0.0459396914f, -0.718791664f, 0.0402138717f}}}};

/* Frequencies are the same bits; a cosine may differ in its last. */
static void rope_tables_are_the_references(void **state)
{
    (void)state;
    for (size_t n = 0; n < sizeof recorded / sizeof *recorded; n++) {
        rt_model_config c = {.rope_kind = recorded[n].kind,
                             .rope_theta = recorded[n].theta,
                             .head_dim = recorded[n].head_dim,
                             .rope_low_freq_factor = 1,
                             .rope_high_freq_factor = 4,
                             .rope_original_positions = 8192};
        c.rope_factor = c.rope_kind == RT_ROPE_LINEAR ? 2.5 : 8;
        float inv_freq[64], cos_row[64], sin_row[64];
        rt__rope_frequencies(&c, NULL, inv_freq);
        for (uint32_t i = 0; i < COLUMNS; i++)
            assert_true(inv_freq[recorded[n].columns[i]] == recorded[n].inv_freq[i]);
        for (uint32_t p = 0; p < POSITIONS; p++) {
            rt__rope_rows(inv_freq, c.head_dim / 2, positions[p], 1, cos_row, sin_row);
            for (uint32_t i = 0; i < COLUMNS; i++) {
                uint32_t column = recorded[n].columns[i];
                assert_true(fabsf(cos_row[column] - recorded[n].cos[p][i]) <= 6e-8f);
                assert_true(fabsf(sin_row[column] - recorded[n].sin[p][i]) <= 6e-8f);
            }
        }
    }
}

static void factors_divide_the_default_frequencies(void **state)
{
    (void)state;
    rt_model_config c = {.rope_kind = RT_ROPE_DEFAULT, .rope_theta = 100, .head_dim = 4};
    const float factors[2] = {1, 8};
    float plain[2], divided[2];
    rt__rope_frequencies(&c, NULL, plain);
    c.rope_kind = RT_ROPE_FACTORS;
    rt__rope_frequencies(&c, factors, divided);
    assert_true(divided[0] == plain[0] && divided[1] == plain[1] / 8);
}

static void paired_rows_are_put_back_in_halves(void **state)
{
    (void)state;
    rt_part p = {.paired_head_dim = 6};
    const uint32_t stored[12] = {0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11};
    for (uint32_t row = 0; row < 12; row++) assert_int_equal(rt__stored_row(&p, row), stored[row]);
    p.paired_head_dim = 0;
    assert_int_equal(rt__stored_row(&p, 7), 7);
}

static rt_model_config config_of(bool fused)
{
    return (rt_model_config){.vocab = 99,
                             .hidden = 48,
                             .layers = 3,
                             .heads = 4,
                             .kv_heads = 2,
                             .head_dim = 10,
                             .ffn = 70,
                             .fused_mlp = fused};
}

static void adapter_modules_lie_at_their_columns_of_the_fused_products(void **state)
{
    (void)state;
    rt_model_config c = config_of(false);
    adapter_shape s = {.rank_max = 32};
    rt_model_adapter_shape(&c, &s);
    assert_int_equal(s.modules_count, 7);
    assert_int_equal(s.rank_max, 32);
    assert_int_equal(s.layers, 3);
    assert_string_equal(s.modules[2].name, "self_attn.v_proj");
    assert_int_equal(s.modules[2].linear, RT_LINEAR_QKV);
    assert_int_equal(s.modules[2].out_offset, 60);
    assert_string_equal(s.modules[5].name, "mlp.up_proj");
    assert_int_equal(s.modules[5].out_offset, 70);

    c = config_of(true);
    rt_model_adapter_shape(&c, &s);
    assert_int_equal(s.modules_count, 6);
    assert_string_equal(s.modules[4].name, "shared_mlp.input_linear");
    assert_int_equal(s.modules[4].out, 140);
}

static void tensors_have_their_names_in_both_schemes(void **state)
{
    (void)state;
    rt_model_config c = config_of(true);
    rt_matrix_plan p;
    char name[RT_NAME_BYTES_MAX];
    rt_shard all;
    assert_int_equal(rt_shard_make(&c, 0, 1, &all, NULL), RC_OK);
    rt__plan_linear(&c, &all, false, 2, RT_LINEAR_GATE_UP, &p);
    assert_string_equal(p.parts[0].name, "model.layers.2.shared_mlp.input_linear");
    assert_int_equal(p.n, 140);
    c.fused_mlp = false;
    rt__plan_linear(&c, &all, true, 2, RT_LINEAR_QKV, &p);
    assert_string_equal(p.parts[1].name, "blk.2.attn_k");
    assert_int_equal(p.parts[1].paired_head_dim, 10);
    assert_int_equal(p.parts[2].paired_head_dim, 0);
    assert_int_equal(p.n, 80);
    rt__name_layer_norm(true, 1, true, name);
    assert_string_equal(name, "blk.1.ffn_norm.weight");
    rt__name_layer_norm(false, 0, true, name);
    assert_string_equal(name, "model.layers.0.post_attention_layernorm.weight");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rope_tables_are_the_references),
        cmocka_unit_test(factors_divide_the_default_frequencies),
        cmocka_unit_test(paired_rows_are_put_back_in_halves),
        cmocka_unit_test(adapter_modules_lie_at_their_columns_of_the_fused_products),
        cmocka_unit_test(tensors_have_their_names_in_both_schemes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
