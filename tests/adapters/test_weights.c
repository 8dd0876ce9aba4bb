#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "adapters/weights.h"

#define Q0 "base_model.model.model.layers.0.self_attn.q_proj"
#define V0 "base_model.model.model.layers.0.self_attn.v_proj"
#define Q1 "base_model.model.model.layers.1.self_attn.q_proj"
#define V1 "base_model.model.model.layers.1.self_attn.v_proj"

/* Two layers; v stands before q here, but after it in the linear. */
static const adapter_shape shape = {
    .layer_prefix = "model.layers.",
    .layers = 2,
    .vocab = 100,
    .modules_count = 3,
    .modules = {{"self_attn.o_proj", 1, 4, 4, 0},
                {"self_attn.v_proj", 0, 4, 2, 4},
                {"self_attn.q_proj", 0, 4, 4, 0}},
    .rank_max = 8,
};

typedef struct tensor {
    const char *name;
    const char *dtype;
    unsigned rows, columns;
} tensor;

static char directory[64];

static void path_of(const char *file, char path[128])
{
    snprintf(path, 128, "%s/%s", directory, file);
}

static void write_file(const char *file, const void *bytes, size_t count)
{
    char path[128];
    path_of(file, path);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, count, f), count);
    fclose(f);
}

/* Element i of a tensor is i + 1 in its dtype; a tensor of another dtype is zeros. */
static size_t fill(const tensor *t, unsigned char *out)
{
    size_t count = (size_t)t->rows * t->columns, bytes = strcmp(t->dtype, "BF16") ? 4 : 2;
    memset(out, 0, count * bytes);
    for (size_t i = 0; i < count; i++) {
        float value = (float)(i + 1);
        uint16_t half = rc_f32_to_bf16(value);
        if (bytes == 2) memcpy(out + 2 * i, &half, 2);
        if (strcmp(t->dtype, "F32") == 0) memcpy(out + 4 * i, &value, 4);
    }
    return count * bytes;
}

static void write_adapter(const char *config, const tensor *tensors, size_t count)
{
    char header[8192] = "{";
    unsigned char data[8192], file[16400];
    size_t end = 0;
    for (size_t i = 0; i < count; i++) {
        size_t from = end;
        end += fill(&tensors[i], data + end);
        snprintf(header + strlen(header), sizeof header - strlen(header),
                 "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%u,%u],\"data_offsets\":[%zu,%zu]}", i ? "," : "",
                 tensors[i].name, tensors[i].dtype, tensors[i].rows, tensors[i].columns, from, end);
    }
    uint64_t length = strlen(header) + 1;
    header[length - 1] = '}';
    memcpy(file, &length, 8);
    memcpy(file + 8, header, length);
    memcpy(file + 8 + length, data, end);
    write_file("adapter_config.json", config, strlen(config));
    write_file("adapter_model.safetensors", file, 8 + length + end);
}

static rc_code seven_tokens(void *ctx, const char *text, int32_t *ids, uint32_t max, uint32_t *count,
                            rc_msg *msg)
{
    (void)ctx;
    (void)max;
    (void)msg;
    *count = text[0] == ' ' ? 0 : 2;
    ids[0] = 7;
    ids[1] = text[0];
    return RC_OK;
}

static adapter_weights *loaded(const char *path, const adapter_shape *s)
{
    adapter_weights *w;
    rc_msg msg;
    if (adapter_weights_load(path, s, seven_tokens, NULL, &w, &msg) != RC_OK)
        fail_msg("%s: %s", path, msg.text);
    return w;
}

static void refused(rc_code want, const char *why)
{
    adapter_weights *w = (adapter_weights *)1;
    rc_msg msg = {{0}, {0}};
    rc_code code = adapter_weights_load(directory, &shape, seven_tokens, NULL, &w, &msg);
    assert_ptr_equal(w, (adapter_weights *)1);
    if (code != want || !strstr(msg.text, why))
        fail_msg("code %d, '%s' does not say '%s'", code, msg.text, why);
}

#define QV "\"target_modules\":[\"q_proj\",\"v_proj\"]"
static const tensor qv[] = {
    {Q0 ".lora_A.weight", "F32", 2, 4},  {Q0 ".lora_B.weight", "F32", 4, 2},
    {V0 ".lora_A.weight", "BF16", 3, 4}, {V0 ".lora_B.weight", "BF16", 2, 3},
    {Q1 ".lora_A.weight", "BF16", 2, 4}, {Q1 ".lora_B.weight", "F32", 4, 2},
    {V1 ".lora_A.weight", "BF16", 3, 4}, {V1 ".lora_B.weight", "BF16", 2, 3},
};
#define QV_CONFIG "{" QV ",\"r\":2,\"lora_alpha\":3,\"rank_pattern\":{\"v_proj\":3}}"

static void deltas_are_ordered_by_layer_linear_and_column(void **state)
{
    (void)state;
    write_adapter(QV_CONFIG, qv, 8);
    adapter_weights *w = loaded(directory, &shape);
    assert_int_equal(w->kind, ADAPTER_LORA);
    assert_int_equal(w->deltas_count, 4);
    assert_int_equal(w->rank_max, 3);
    const adapter_delta *q = &w->deltas[0], *v = &w->deltas[3];
    assert_true(q->layer == 0 && q->linear == 0 && q->out_offset == 0 && q->in == 4 && q->out == 4);
    assert_true(q->rank == 2 && q->scaling == 1.5f && q->dtype == RC_F32);
    assert_true(v->layer == 1 && v->out_offset == 4 && v->out == 2 && v->rank == 3 && v->scaling == 1.0f);
    assert_int_equal(v->dtype, RC_BF16);
    for (size_t i = 0; i < 12; i++) assert_true(rc_load_f32(v->a, v->dtype, i) == (float)(i + 1));
    for (size_t i = 0; i < 6; i++) assert_true(rc_load_f32(v->b, v->dtype, i) == (float)(i + 1));
    assert_int_equal((uintptr_t)v->b % 64, 0);
    adapter_weights_free(w);
}

static void matrices_of_two_formats_become_float32(void **state)
{
    (void)state;
    write_adapter(QV_CONFIG, qv, 8);
    adapter_weights *w = loaded(directory, &shape);
    const adapter_delta *q = &w->deltas[2];
    assert_true(q->layer == 1 && q->dtype == RC_F32);
    for (size_t i = 0; i < 8; i++) assert_true(((const float *)q->a)[i] == (float)(i + 1));
    for (size_t i = 0; i < 8; i++) assert_true(((const float *)q->b)[i] == (float)(i + 1));
    assert_int_equal(w->bytes, 2 * (8 + 8) * 4 + 2 * (12 + 6) * 2);
    adapter_weights_free(w);
}

static void tensors_that_do_not_fit_the_config_are_named(void **state)
{
    (void)state;
    tensor t[9];
    memcpy(t, qv, sizeof qv);
    for (size_t i = 0; i < 8; i++) {
        t[i] = (tensor){"spare", "F32", 1, 1};
        write_adapter(QV_CONFIG, t, 8);
        refused(RC_INVALID_ARGUMENT, qv[i].name);
        t[i] = qv[i];
        t[i].rows++;
        write_adapter(QV_CONFIG, t, 8);
        refused(RC_INVALID_ARGUMENT, qv[i].name);
        t[i] = qv[i];
        t[i].dtype = "I32";
        write_adapter(QV_CONFIG, t, 8);
        refused(RC_INVALID_ARGUMENT, "I32");
        t[i] = qv[i];
    }
    t[8] = (tensor){"base_model.model.lm_head.lora_A.weight", "F32", 1, 1};
    write_adapter(QV_CONFIG, t, 9);
    refused(RC_INVALID_ARGUMENT, "'base_model.model.lm_head.lora_A.weight' belongs to no module");
    t[8].name = "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight";
    write_adapter(QV_CONFIG, t, 9);
    refused(RC_INVALID_ARGUMENT, "is of layer 2, the model has 2");
    t[8].name = Q0 ".lora_B.bias";
    write_adapter(QV_CONFIG, t, 9);
    refused(RC_INVALID_ARGUMENT, "q_proj.lora_B.bias' belongs to no module");
}

static void configs_that_do_not_fit_the_model_are_refused(void **state)
{
    (void)state;
    write_adapter("{" QV ",\"r\":9}", qv, 8);
    refused(RC_INVALID_ARGUMENT, "rank 9");
    write_adapter("{" QV ",\"r\":3}", qv, 8);
    refused(RC_INVALID_ARGUMENT, "expected [3, 4]");
    write_adapter(
        "{\"target_modules\":[\"q_proj\",\"v_proj\",\"lm_head\"],\"r\":2,\"rank_pattern\":{\"v_proj\":3}}",
        qv, 8);
    refused(RC_INVALID_ARGUMENT, "'lm_head'");
    write_adapter("{" QV ",\"layers_to_transform\":[0,2]}", qv, 8);
    refused(RC_INVALID_ARGUMENT, "layer 2");
    write_adapter("{\"target_modules\":\"nothing\"}", qv, 0);
    refused(RC_INVALID_ARGUMENT, "targets no module");
    write_adapter("{" QV ",\"alora_invocation_tokens\":[99,100]}", qv, 8);
    refused(RC_INVALID_ARGUMENT, "token 100");
    write_adapter("{" QV ",\"use_dora\":true}", qv, 8);
    refused(RC_INVALID_ARGUMENT, "use_dora");
}

static void names_that_the_model_does_not_have_are_idle_in_a_target_list(void **state)
{
    (void)state;
    write_adapter(
        "{\"target_modules\":[\"q_proj\",\"v_proj\",\"c_attn\"],\"r\":2,\"rank_pattern\":{\"v_proj\":3}}",
        qv, 8);
    adapter_weights_free(loaded(directory, &shape));
}

static void a_layer_list_needs_the_tensors_of_those_layers_only(void **state)
{
    (void)state;
    const char *config =
        "{" QV
        ",\"r\":2,\"rank_pattern\":{\"v_proj\":3},\"layers_to_transform\":1,\"layers_pattern\":\"layers\"}";
    write_adapter(config, qv + 4, 4);
    adapter_weights *w = loaded(directory, &shape);
    assert_true(w->deltas_count == 2 && w->deltas[0].layer == 1);
    adapter_weights_free(w);
    write_adapter(config, qv, 8);
    refused(RC_INVALID_ARGUMENT, "layers.0.self_attn.q_proj.lora_A.weight' belongs to no module");
}

static void legacy_invocations_are_tokenized(void **state)
{
    (void)state;
    adapter_weights *w;
    rc_msg msg;
    write_adapter("{" QV ",\"r\":2,\"rank_pattern\":{\"v_proj\":3},\"invocation_string\":\"A\"}", qv, 8);
    w = loaded(directory, &shape);
    assert_int_equal(w->kind, ADAPTER_ALORA);
    assert_true(w->invocation_count == 2 && w->invocation[0] == 7 && w->invocation[1] == 'A');
    adapter_weights_free(w);
    assert_int_equal(adapter_weights_load(directory, &shape, NULL, NULL, &w, &msg), RC_INVALID_ARGUMENT);
    write_adapter("{" QV ",\"invocation_string\":\"z\"}", qv, 8);
    refused(RC_INVALID_ARGUMENT, "token 122");
    write_adapter("{" QV ",\"invocation_string\":\" \"}", qv, 8);
    refused(RC_INVALID_ARGUMENT, "has no tokens");
}

static void missing_files_are_named(void **state)
{
    (void)state;
    char path[128];
    adapter_weights *w;
    rc_msg msg;
    assert_int_equal(adapter_weights_load("/nowhere", &shape, NULL, NULL, &w, &msg), RC_NOT_FOUND);
    assert_non_null(strstr(msg.text, "'/nowhere/adapter_config.json'"));
    write_adapter(QV_CONFIG, qv, 8);
    path_of("adapter_model.safetensors", path);
    unlink(path);
    refused(RC_NOT_FOUND, "adapter_model.safetensors'");
    path_of("adapter_config.json", path);
    unlink(path);
    refused(RC_NOT_FOUND, "adapter_config.json'");
    write_adapter("{", qv, 8);
    refused(RC_INVALID_ARGUMENT, "adapter_config.json'");
}

/* What PEFT saved for the tiny Granite: hidden 48, 8 heads of 6, 2 KV heads, ffn 80. */
static void checkpoints_of_peft_load(void **state)
{
    (void)state;
    static const adapter_shape granite = {
        .layer_prefix = "model.layers.",
        .layers = 2,
        .vocab = 349,
        .modules_count = 7,
        .modules = {{"self_attn.q_proj", 0, 48, 48, 0},
                    {"self_attn.k_proj", 0, 48, 12, 48},
                    {"self_attn.v_proj", 0, 48, 12, 60},
                    {"self_attn.o_proj", 1, 48, 48, 0},
                    {"mlp.gate_proj", 2, 48, 80, 0},
                    {"mlp.up_proj", 2, 48, 80, 80},
                    {"mlp.down_proj", 3, 80, 48, 0}},
        .rank_max = 64,
    };
    static const struct {
        const char *name;
        unsigned deltas;
        adapter_kind kind;
    } cases[] = {
        {"lora-all", 14, ADAPTER_LORA},     {"lora-qkv", 6, ADAPTER_LORA},
        {"lora-o", 2, ADAPTER_LORA},        {"lora-patterns", 8, ADAPTER_LORA},
        {"alora-qkv", 6, ADAPTER_ALORA},    {"alora-empty", 6, ADAPTER_ALORA},
        {"alora-legacy", 6, ADAPTER_ALORA},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[512];
        snprintf(path, sizeof path, MICA_SOURCE_DIR "/tests/golden/models/granite/adapters/%s",
                 cases[i].name);
        adapter_weights *w = loaded(path, &granite);
        if (w->deltas_count != cases[i].deltas || w->kind != cases[i].kind)
            fail_msg("%s: %u deltas, kind %d", path, w->deltas_count, w->kind);
        adapter_weights_free(w);
    }
}

static int make_directory(void **state)
{
    (void)state;
    snprintf(directory, sizeof directory, "/tmp/test_weights_XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
    (void)state;
    char path[128];
    path_of("adapter_config.json", path);
    unlink(path);
    path_of("adapter_model.safetensors", path);
    unlink(path);
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deltas_are_ordered_by_layer_linear_and_column),
        cmocka_unit_test(matrices_of_two_formats_become_float32),
        cmocka_unit_test(tensors_that_do_not_fit_the_config_are_named),
        cmocka_unit_test(names_that_the_model_does_not_have_are_idle_in_a_target_list),
        cmocka_unit_test(configs_that_do_not_fit_the_model_are_refused),
        cmocka_unit_test(a_layer_list_needs_the_tensors_of_those_layers_only),
        cmocka_unit_test(legacy_invocations_are_tokenized),
        cmocka_unit_test(missing_files_are_named),
        cmocka_unit_test(checkpoints_of_peft_load),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
