/* config.json and generation_config.json as shapes: defaults, both spellings, and refusals by name. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/model/model_config.h"

#define GRANITE "{\"architectures\": [\"GraniteForCausalLM\"], \"model_type\": \"granite\", " SIZES
#define LLAMA "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", " SIZES
#define SIZES                                                                                                \
    "\"hidden_size\": 48, \"intermediate_size\": 80, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, " \
    "\"vocab_size\": 99"
#define HYBRID                                                                                               \
    "{\"architectures\": [\"GraniteMoeHybridForCausalLM\"], \"model_type\": \"granitemoehybrid\", " SIZES    \
    ", \"shared_intermediate_size\": 56"
#define DENSE ", \"num_local_experts\": 0, \"layer_types\": [\"attention\", \"full_attention\"]"

static rc_code parse(const char *config, const char *generation, rt_model_config *c, rc_msg *msg)
{
    memset(msg, 0, sizeof *msg);
    return rt_model_config_parse(config, strlen(config), generation, generation ? strlen(generation) : 0, "m",
                                 c, msg);
}

static rt_model_config accept(const char *config, const char *generation)
{
    rt_model_config c;
    rc_msg msg;
    if (parse(config, generation, &c, &msg) != RC_OK) fail_msg("%s: refused: %s", config, msg.text);
    return c;
}

static void absent_keys_have_the_classes_defaults(void **state)
{
    (void)state;
    rt_model_config c = accept("{\"architectures\": [\"LlamaForCausalLM\"]}", NULL);
    assert_int_equal(c.vocab, 32000);
    assert_int_equal(c.hidden, 4096);
    assert_int_equal(c.layers, 32);
    assert_int_equal(c.heads, 32);
    assert_int_equal(c.kv_heads, 32);
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(c.ffn, 11008);
    assert_int_equal(c.positions_max, 2048);
    assert_true(c.rms_epsilon == 1e-6f);
    assert_true(c.attention_multiplier == (float)(1 / sqrt(128)));
    assert_true(c.embedding_multiplier == 1 && c.residual_multiplier == 1 && c.logits_scaling == 1);
    assert_false(c.tied_head || c.attention_bias || c.mlp_bias || c.fused_mlp || c.dtype_said);
    assert_int_equal(c.checkpoint_dtype, RC_BF16);
    assert_int_equal(c.rope_kind, RT_ROPE_DEFAULT);
    assert_true(c.rope_theta == 10000.0);
    assert_int_equal(c.bos, 1);
    assert_int_equal(c.eos_count, 1);
    assert_int_equal(c.eos[0], 2);

    c = accept("{\"model_type\": \"granite\", \"num_key_value_heads\": null, \"head_dim\": null}", NULL);
    assert_string_equal(c.arch, "GraniteForCausalLM");
    assert_true(c.attention_multiplier == 1);
}

static void granite_has_four_multipliers_and_llama_none(void **state)
{
    (void)state;
    const char *four = ", \"embedding_multiplier\": 12, \"attention_multiplier\": 0.015625, "
                       "\"residual_multiplier\": 0.22, \"logits_scaling\": 8.0}";
    char text[1024];
    snprintf(text, sizeof text, GRANITE "%s", four);
    rt_model_config c = accept(text, NULL);
    assert_true(c.embedding_multiplier == 12 && c.attention_multiplier == 0.015625f);
    assert_true(c.residual_multiplier == 0.22f && c.logits_scaling == 8);
    snprintf(text, sizeof text, LLAMA "%s", four);
    c = accept(text, NULL);
    assert_true(c.embedding_multiplier == 1 && c.attention_multiplier == (float)(1 / sqrt(12)));
}

static void rope_is_read_in_both_spellings(void **state)
{
    (void)state;
    rt_model_config c = accept(LLAMA ", \"rope_theta\": 5e5, \"rope_scaling\": null}", NULL);
    assert_true(c.rope_kind == RT_ROPE_DEFAULT && c.rope_theta == 5e5);
    c = accept(LLAMA ", \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 7}}", NULL);
    assert_true(c.rope_kind == RT_ROPE_DEFAULT && c.rope_theta == 7);
    c = accept(LLAMA ", \"rope_theta\": 9, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.5}}", NULL);
    assert_true(c.rope_kind == RT_ROPE_LINEAR && c.rope_theta == 9 && c.rope_factor == 2.5);
    c = accept(
        LLAMA
        ", \"max_position_embeddings\": 300, \"rope_parameters\": {\"rope_type\": \"llama3\", \"factor\": "
        "8, \"low_freq_factor\": 1, \"high_freq_factor\": 4.0}}",
        NULL);
    assert_true(c.rope_kind == RT_ROPE_LLAMA3 && c.rope_factor == 8 && c.rope_high_freq_factor == 4);
    assert_int_equal(c.rope_original_positions, 300);
    /* As in the reference: rope_scaling goes before rope_parameters, a theta inside before one outside. */
    c = accept(LLAMA ", \"rope_theta\": 9, \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 3, "
                     "\"rope_theta\": 4}, "
                     "\"rope_parameters\": {\"rope_type\": \"default\"}}",
               NULL);
    assert_true(c.rope_kind == RT_ROPE_LINEAR && c.rope_factor == 3 && c.rope_theta == 4);
}

static void a_dense_hybrid_has_the_shared_mlp_and_may_have_no_rope(void **state)
{
    (void)state;
    rt_model_config c =
        accept(HYBRID DENSE ", \"position_embedding_type\": \"rope\", \"rope_theta\": 3}", NULL);
    assert_true(c.fused_mlp && c.rope_kind == RT_ROPE_DEFAULT && c.rope_theta == 3);
    assert_int_equal(c.ffn, 56);
    assert_int_equal(accept(HYBRID DENSE ", \"position_embedding_type\": \"nope\"}", NULL).rope_kind,
                     RT_ROPE_NONE);
    assert_int_equal(accept(HYBRID DENSE "}", NULL).rope_kind, RT_ROPE_NONE);
    accept(HYBRID ", \"num_local_experts\": 0, \"layers_block_type\": [\"attention\", \"attention\"]}", NULL);
}

static void the_dtype_is_read_in_both_spellings(void **state)
{
    (void)state;
    assert_int_equal(accept(LLAMA ", \"dtype\": \"float32\"}", NULL).checkpoint_dtype, RC_F32);
    assert_int_equal(accept(LLAMA ", \"torch_dtype\": \"float16\"}", NULL).checkpoint_dtype, RC_F16);
    assert_int_equal(accept(LLAMA ", \"torch_dtype\": \"torch.bfloat16\"}", NULL).checkpoint_dtype, RC_BF16);
    assert_int_equal(
        accept(LLAMA ", \"dtype\": \"float32\", \"torch_dtype\": \"bfloat16\"}", NULL).checkpoint_dtype,
        RC_F32);
}

static void the_generation_configs_eos_wins(void **state)
{
    (void)state;
    rt_model_config c = accept(LLAMA ", \"eos_token_id\": [5, 6], \"bos_token_id\": null}", NULL);
    assert_int_equal(c.eos_count, 2);
    assert_int_equal(c.eos[1], 6);
    assert_int_equal(c.bos, -1);
    c = accept(LLAMA ", \"eos_token_id\": 5}", "{\"eos_token_id\": [7, 8, 9]}");
    assert_int_equal(c.eos_count, 3);
    assert_int_equal(c.eos[0], 7);
    c = accept(LLAMA ", \"eos_token_id\": 5}", "{\"temperature\": 0.6}");
    assert_int_equal(c.eos[0], 5);
    assert_int_equal(accept(LLAMA ", \"eos_token_id\": null}", NULL).eos_count, 0);
    assert_int_equal(accept(LLAMA ", \"eos_token_id\": -1}", NULL).eos_count, 0);
}

static void numbers_that_are_none_are_ignored_where_nothing_reads_them(void **state)
{
    (void)state;
    accept(LLAMA ", \"time_step_limit\": [0.0, Infinity, -Infinity, NaN], \"text\": \"NaN \\\" Infinity\"}",
           NULL);
    accept(LLAMA ", \"time_step_limit\": [0.0, {\"__float__\": \"Infinity\"}]}", NULL);
    accept(LLAMA ", \"sliding_window\": 4096, \"use_sliding_window\": false, \"quantization_config\": {}}",
           NULL);
    accept(LLAMA ", \"sliding_window\": 4096, \"max_position_embeddings\": 4096, \"head_dim\": 22}", NULL);
}

static const struct {
    const char *config, *expected; /* what the line must say */
} refusals[] = {
    {"", "not JSON"},
    {"[1]", "JSON object"},
    {"{\"a\": 1, \"a\": 2}", "duplicate"},
    {"{}", "architecture \"\""},
    {"{\"architectures\": [\"MistralForCausalLM\"], \"model_type\": \"mistral\"}", "MistralForCausalLM"},
    {"{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"mistral\"}", "mistral"},
    {"{\"architectures\": \"LlamaForCausalLM\"}", "architectures"},
    {"{\"architectures\": [\"A\", \"B\"]}", "architectures"},
    {"{\"architectures\": [3]}", "architectures"},
    {LLAMA ", \"hidden_act\": \"gelu\"}", "hidden_act \"gelu\""},
    {LLAMA ", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4}}", "\"yarn\""},
    {LLAMA ", \"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 4}}", "\"dynamic\""},
    {LLAMA ", \"rope_parameters\": {\"rope_type\": \"longrope\"}}", "\"longrope\""},
    {LLAMA ", \"rope_parameters\": {\"full_attention\": {\"rope_theta\": 1}}}", "full_attention"},
    {LLAMA ", \"rope_parameters\": 3}", "rope_parameters is 3"},
    {LLAMA ", \"rope_scaling\": {\"type\": \"linear\"}}", "factor is absent"},
    {LLAMA ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": -1}}", "factor is -1"},
    {LLAMA ", \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, "
           "\"high_freq_factor\": 1}}",
     "high_freq_factor"},
    {LLAMA ", \"rope_theta\": 0}", "rope_theta is 0"},
    {LLAMA ", \"rope_theta\": NaN}", "rope_theta"},
    {LLAMA ", \"rope_theta\": \"10000\"}", "rope_theta is \"10000\""},
    {LLAMA ", \"partial_rotary_factor\": 0.5}", "partial_rotary_factor is 0.5"},
    {LLAMA ", \"rope_parameters\": {\"partial_rotary_factor\": 0.5}}", "partial_rotary_factor is 0.5"},
    {LLAMA ", \"num_key_value_heads\": 3}", "no multiple of 3"},
    {LLAMA ", \"num_key_value_heads\": 0}", "num_key_value_heads is 0"},
    {LLAMA ", \"head_dim\": 7}", "head_dim is 7"},
    {LLAMA ", \"head_dim\": 100000}", "head_dim is 100000"},
    {LLAMA ", \"max_position_embeddings\": -5}", "max_position_embeddings is -5"},
    {LLAMA ", \"max_position_embeddings\": 2.5}", "max_position_embeddings is 2.5"},
    {LLAMA ", \"max_position_embeddings\": 99999999999999999999999}", "not JSON"},
    {LLAMA ", \"max_position_embeddings\": 9999999999999}", "max_position_embeddings is 9999999999999"},
    {LLAMA ", \"rms_norm_eps\": -1}", "rms_norm_eps"},
    {LLAMA ", \"rms_norm_eps\": 1e300}", "rms_norm_eps"},
    {LLAMA ", \"rms_norm_eps\": 1e999}", "not JSON"},
    {LLAMA ", \"tie_word_embeddings\": 1}", "tie_word_embeddings is 1"},
    {LLAMA ", \"attention_bias\": \"yes\"}", "attention_bias is \"yes\""},
    {LLAMA ", \"dtype\": \"float8_e4m3fn\"}", "float8_e4m3fn"},
    {LLAMA ", \"dtype\": {\"a\": \"float32\"}}", "dtype"},
    {LLAMA ", \"eos_token_id\": \"</s>\"}", "eos_token_id is \"</s>\""},
    {LLAMA ", \"eos_token_id\": [1, null]}", "eos_token_id"},
    {LLAMA ", \"eos_token_id\": -7}", "eos_token_id is -7"},
    {LLAMA ", \"eos_token_id\": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", "at most 16"},
    {LLAMA ", \"bos_token_id\": [1]}", "bos_token_id"},
    {LLAMA ", \"quantization_config\": {\"quant_method\": \"gptq\"}}", "quantization_config"},
    {LLAMA ", \"final_logit_softcapping\": 30}", "final_logit_softcapping"},
    {LLAMA ", \"sliding_window\": 128}", "sliding_window is 128"},
    {LLAMA ", \"layer_types\": [\"full_attention\", \"sliding_attention\"]}",
     "layer_types[1] is \"sliding_attention\""},
    {LLAMA ", \"layer_types\": [\"full_attention\"]}", "layer_types"},
    {GRANITE ", \"num_local_experts\": 4}", "num_local_experts is 4"},
    {GRANITE ", \"logits_scaling\": 0}", "logits_scaling is 0"},
    {GRANITE ", \"attention_multiplier\": 1e39}", "attention_multiplier"},
    {GRANITE ", \"embedding_multiplier\": {\"__float__\": \"Infinity\"}}", "embedding_multiplier"},
    {HYBRID "}", "layer_types is absent"},
    {HYBRID ", \"layer_types\": [\"attention\", \"attention\"]}", "num_local_experts is 8 (absent)"},
    {HYBRID ", \"num_local_experts\": 0, \"layer_types\": [\"mamba\", \"attention\"]}",
     "layer_types[0] is \"mamba\""},
    {HYBRID DENSE ", \"position_embedding_type\": \"alibi\"}", "\"alibi\""},
};

static void what_it_cannot_do_is_refused_by_name_and_changes_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        rt_model_config c, before;
        rc_msg msg;
        memset(&c, 0xa5, sizeof c);
        before = c;
        assert_int_equal(parse(refusals[i].config, NULL, &c, &msg), RC_INVALID_ARGUMENT);
        if (!strstr(msg.text, refusals[i].expected)) fail_msg("%s: \"%s\"", refusals[i].config, msg.text);
        assert_memory_equal(&c, &before, sizeof c);
    }
}

static void a_bad_generation_config_is_refused_and_named(void **state)
{
    (void)state;
    rt_model_config c;
    rc_msg msg;
    assert_int_equal(parse(LLAMA "}", "{\"eos_token_id\": 1.5}", &c, &msg), RC_INVALID_ARGUMENT);
    assert_non_null(strstr(msg.text, "m/generation_config.json: eos_token_id is 1.5"));
    assert_int_equal(parse(LLAMA "}", "{", &c, &msg), RC_INVALID_ARGUMENT);
}

static void deep_nesting_is_refused(void **state)
{
    (void)state;
    enum { DEPTH = 100000 };
    char *text = malloc(DEPTH + 8);
    rt_model_config c;
    rc_msg msg;
    assert_non_null(text);
    memset(text, '[', DEPTH);
    memcpy(text, "{\"a\":", 5);
    assert_int_equal(rt_model_config_parse(text, DEPTH, NULL, 0, "m", &c, &msg), RC_INVALID_ARGUMENT);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absent_keys_have_the_classes_defaults),
        cmocka_unit_test(granite_has_four_multipliers_and_llama_none),
        cmocka_unit_test(rope_is_read_in_both_spellings),
        cmocka_unit_test(a_dense_hybrid_has_the_shared_mlp_and_may_have_no_rope),
        cmocka_unit_test(the_dtype_is_read_in_both_spellings),
        cmocka_unit_test(the_generation_configs_eos_wins),
        cmocka_unit_test(numbers_that_are_none_are_ignored_where_nothing_reads_them),
        cmocka_unit_test(what_it_cannot_do_is_refused_by_name_and_changes_nothing),
        cmocka_unit_test(a_bad_generation_config_is_refused_and_named),
        cmocka_unit_test(deep_nesting_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
