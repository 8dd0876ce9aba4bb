#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "adapters/adapter_config.h"

static adapter_config *parsed(const char *json)
{
    adapter_config *c;
    rc_msg msg;
    if (adapter_config_parse(json, strlen(json), "a.json", &c, &msg) != RC_OK)
        fail_msg("%s: %s", json, msg.text);
    return c;
}

static void refused(const char *json, const char *why)
{
    adapter_config *c = (adapter_config *)1;
    rc_msg msg = {{0}, {0}};
    rc_code code = adapter_config_parse(json, strlen(json), "a.json", &c, &msg);
    assert_ptr_equal(c, (adapter_config *)1);
    if (code != RC_INVALID_ARGUMENT) fail_msg("%s: code %d", json, code);
    if (!strstr(msg.text, why)) fail_msg("'%s' does not say '%s'", msg.text, why);
}

/* What PEFT made of one path: [rank, scaling], or 0. */
static void check_path(const adapter_config *c, const char *path, const json_t *want, const char *config)
{
    adapter_match m;
    rc_msg msg;
    if (adapter_config_match(c, path, &m, &msg) != RC_OK) fail_msg("%s: %s: %s", config, path, msg.text);
    if (m.targeted != json_is_array(want)) fail_msg("%s: %s: targeted %d", config, path, m.targeted);
    if (!m.targeted) return;
    float scaling = (float)json_number_value(json_array_get(want, 1));
    if (m.rank != json_integer_value(json_array_get(want, 0)) || m.scaling != scaling)
        fail_msg("%s: %s: rank %u, scaling %g", config, path, m.rank, (double)m.scaling);
}

static bool targets_something(const adapter_config *c, const json_t *paths)
{
    adapter_match m;
    for (size_t i = 0; i < json_array_size(paths); i++)
        if (adapter_config_match(c, json_string_value(json_array_get(paths, i)), &m, NULL) == RC_OK &&
            m.targeted)
            return true;
    return false;
}

static void modules_ranks_and_scalings_are_those_that_peft_gives(void **state)
{
    (void)state;
    json_t *golden = json_load_file(MICA_SOURCE_DIR "/tests/golden/adapters/matches.json", 0, NULL), *one;
    json_t *paths = json_object_get(golden, "paths"), *cases = json_object_get(golden, "cases");
    size_t i;
    assert_true(json_array_size(cases) > 100);
    json_array_foreach(cases, i, one)
    {
        char *text = json_dumps(json_object_get(one, "config"), JSON_COMPACT);
        const json_t *modules = json_object_get(one, "modules");
        adapter_config *c = NULL;
        rc_msg msg;
        rc_code code = adapter_config_parse(text, strlen(text), "a.json", &c, &msg);
        if (json_is_null(modules)) {
            if (code == RC_OK && targets_something(c, paths)) fail_msg("%s is accepted", text);
        } else {
            if (code != RC_OK) fail_msg("%s: %s", text, msg.text);
            for (size_t p = 0; p < json_array_size(paths); p++)
                check_path(c, json_string_value(json_array_get(paths, p)), json_array_get(modules, p), text);
        }
        adapter_config_free(c);
        free(text);
    }
    json_decref(golden);
}

#define Q "\"target_modules\":[\"q_proj\"]"

static void defaults_and_unknown_keys_are_as_in_peft(void **state)
{
    (void)state;
    adapter_config *c =
        parsed("{" Q ",\"peft_type\":\"LORA\",\"whatever\":{\"a\":[1]},\"qalora_group_size\":16,"
               "\"megatron_core\":\"megatron.core\",\"loftq_config\":{\"x\":1},\"bias\":\"none\","
               "\"use_dora\":false,\"modules_to_save\":[],\"rank_pattern\":{},\"lora_bias\":null}");
    adapter_match m;
    uint32_t count = 9;
    assert_int_equal(adapter_config_match(c, "model.layers.0.self_attn.q_proj", &m, NULL), RC_OK);
    assert_true(m.targeted && m.rank == 8 && m.scaling == 1.0f);
    assert_int_equal(adapter_config_match(c, "model.layers.0.self_attn.xq_proj", &m, NULL), RC_OK);
    assert_false(m.targeted);
    assert_int_equal(adapter_config_kind(c), ADAPTER_LORA);
    assert_null(adapter_config_invocation_text(c));
    adapter_config_layers(c, &count);
    assert_int_equal(count, 0);
    adapter_config_free(c);
}

static void invocations_are_ids_or_legacy_texts(void **state)
{
    (void)state;
    uint32_t count;
    adapter_config *c = parsed("{" Q ",\"alora_invocation_tokens\":[7,0,2147483647]}");
    const int32_t *ids = adapter_config_invocation(c, &count);
    assert_int_equal(adapter_config_kind(c), ADAPTER_ALORA);
    assert_true(count == 3 && ids[0] == 7 && ids[2] == INT32_MAX);
    adapter_config_free(c);
    c = parsed("{" Q ",\"alora_invocation_tokens\":[],\"invocation_string\":\"x\"}");
    adapter_config_invocation(c, &count);
    assert_true(adapter_config_kind(c) == ADAPTER_ALORA && count == 0);
    assert_null(adapter_config_invocation_text(c));
    adapter_config_free(c);
    c = parsed("{" Q ",\"alora_invocation_tokens\":null,\"invocation_string\":\"<|x|>\"}");
    assert_int_equal(adapter_config_kind(c), ADAPTER_ALORA);
    assert_string_equal(adapter_config_invocation_text(c), "<|x|>");
    adapter_config_free(c);
    c = parsed("{" Q ",\"invocation_string\":\"b\",\"alora_invocation_string\":\"a\"}");
    assert_string_equal(adapter_config_invocation_text(c), "a");
    adapter_config_free(c);
    refused("{" Q ",\"alora_invocation_tokens\":[-1]}", "-1");
    refused("{" Q ",\"alora_invocation_tokens\":[1.0]}", "1.0");
    refused("{" Q ",\"alora_invocation_tokens\":[true]}", "true");
    refused("{" Q ",\"alora_invocation_tokens\":[2147483648]}", "2147483648");
    refused("{" Q ",\"alora_invocation_tokens\":\"x\"}", "alora_invocation_tokens");
    refused("{" Q ",\"alora_invocation_tokens\":false}", "alora_invocation_tokens");
    refused("{" Q ",\"invocation_string\":\"\"}", "not empty");
    refused("{" Q ",\"alora_invocation_string\":[1]}", "alora_invocation_string");
    char many[2048] = "{" Q ",\"alora_invocation_tokens\":[1";
    size_t end = strlen(many);
    for (int i = 0; i < ADAPTER_INVOCATION_MAX; i++, end += 2) memcpy(many + end, ",1", 2);
    memcpy(many + end, "]}", 3);
    refused(many, "257 ids");
}

static void features_that_would_change_the_result_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const on[] = {
        "\"use_dora\":true",
        "\"use_qalora\":true",
        "\"use_bdlora\":{\"a\":1}",
        "\"arrow_config\":{\"top_k\":3}",
        "\"kasa_config\":{\"beta\":0.1}",
        "\"monteclora_config\":{\"x\":1}",
        "\"megatron_config\":{\"x\":1}",
        "\"modules_to_save\":[\"lm_head\"]",
        "\"trainable_token_indices\":[1]",
        "\"target_parameters\":[\"a\"]",
        "\"layer_replication\":[[0,4],[2,5]]",
        "\"bias\":\"all\"",
        "\"bias\":\"lora_only\"",
        "\"lora_bias\":true",
        "\"fan_in_fan_out\":true",
        "\"use_dora\":0",
        "\"use_dora\":\"\"",
        "\"bias\":\"None\"",
    };
    for (size_t i = 0; i < sizeof on / sizeof *on; i++) {
        char json[256], key[64];
        snprintf(json, sizeof json, "{" Q ",%s}", on[i]);
        snprintf(key, sizeof key, "%.*s", (int)(strchr(on[i] + 1, '"') - on[i] - 1), on[i] + 1);
        refused(json, key);
    }
    refused("{" Q ",\"peft_type\":\"LOHA\"}", "LOHA");
    refused("{" Q ",\"peft_type\":1}", "peft_type");
}

static void values_of_another_type_or_out_of_range_are_refused(void **state)
{
    (void)state;
    refused("{}", "target_modules");
    refused("{\"target_modules\":null}", "target_modules");
    refused("{\"target_modules\":[]}", "at least one");
    refused("{\"target_modules\":7}", "target_modules");
    refused("{\"target_modules\":[\"q_proj\",7]}", "strings");
    refused("{" Q ",\"r\":0}", "r is 0");
    refused("{" Q ",\"r\":-3}", "-3");
    refused("{" Q ",\"r\":8.0}", "8.0");
    refused("{" Q ",\"r\":true}", "true");
    refused("{" Q ",\"r\":99999999999}", "99999999999");
    refused("{" Q ",\"r\":99999999999999999999}", "JSON");
    refused("{" Q ",\"lora_alpha\":\"16\"}", "lora_alpha");
    refused("{" Q ",\"lora_alpha\":true}", "lora_alpha");
    refused("{" Q ",\"lora_alpha\":NaN}", "JSON");
    refused("{" Q ",\"lora_alpha\":1e999}", "JSON");
    refused("{" Q ",\"use_rslora\":1}", "use_rslora");
    refused("{" Q ",\"rank_pattern\":[]}", "rank_pattern");
    refused("{" Q ",\"rank_pattern\":{\"q\":0}}", "rank_pattern");
    refused("{" Q ",\"rank_pattern\":{\"q\":1.5}}", "rank_pattern");
    refused("{" Q ",\"alpha_pattern\":{\"q\":\"x\"}}", "alpha_pattern");
    refused("{" Q ",\"exclude_modules\":7}", "exclude_modules");
    refused("{" Q ",\"layers_to_transform\":\"1\"}", "layers_to_transform");
    refused("{" Q ",\"layers_to_transform\":[-1]}", "-1");
    refused("{" Q ",\"layers_to_transform\":[true]}", "true");
    refused("{" Q ",\"layers_to_transform\":[1],\"layers_pattern\":3}", "layers_pattern");
    refused("[]", "object");
    refused("", "JSON");
    refused("{\"r\":1,\"r\":2}", "uplicate");
}

static void a_scaling_that_is_no_float_is_refused(void **state)
{
    (void)state;
    adapter_config *c = parsed("{" Q ",\"lora_alpha\":1e300}");
    adapter_match m;
    rc_msg msg;
    assert_int_equal(adapter_config_match(c, "a.q_proj", &m, &msg), RC_INVALID_ARGUMENT);
    assert_non_null(strstr(msg.text, "1e+300"));
    adapter_config_free(c);
}

static void patterns_are_bounded(void **state)
{
    (void)state;
    adapter_match m;
    rc_msg msg;
    adapter_config *c = parsed("{\"target_modules\":\"(((\\\\w|\\\\.)+)+)+[!?]\"}");
    assert_int_equal(adapter_config_match(c, "model.layers.0.self_attn.q_proj", &m, &msg),
                     RC_INVALID_ARGUMENT);
    assert_non_null(strstr(msg.text, "too many steps"));
    adapter_config_free(c);
    refused("{\"target_modules\":\"(\"}", "no regular expression");
    refused("{\"target_modules\":\"(*UTF)q\"}", "no regular expression");
    refused("{" Q ",\"rank_pattern\":{\"[\":1}}", "rank_pattern");
    refused(
        "{\"target_modules\":[\"q\"],\"layers_to_transform\":1,\"layers_pattern\":\"()()()()()()()()()\"}",
        "groups");
    char *big = malloc(20000 + 64);
    memcpy(big, "{\"target_modules\":\"", 20);
    memset(big + strlen(big), 'a', 20000);
    memcpy(big + 19 + 20000, "\"}", 3);
    refused(big, "20000 bytes");
    free(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(modules_ranks_and_scalings_are_those_that_peft_gives),
        cmocka_unit_test(defaults_and_unknown_keys_are_as_in_peft),
        cmocka_unit_test(invocations_are_ids_or_legacy_texts),
        cmocka_unit_test(features_that_would_change_the_result_are_refused_by_name),
        cmocka_unit_test(values_of_another_type_or_out_of_range_are_refused),
        cmocka_unit_test(a_scaling_that_is_no_float_is_refused),
        cmocka_unit_test(patterns_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
