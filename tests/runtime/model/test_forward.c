/* The forward pass against the reference's recorded log probabilities (tests/golden/README.md). */
#include "model_support.h"

#include <jansson.h>
#include <stdio.h>

#include "adapters/weights.h"

#define MODELS MICA_SOURCE_DIR "/tests/golden/models/"

static const char *const models[] = {"granite",    "granite-odd",  "hybrid",       "hybrid-nope",
                                     "llama-bias", "llama-linear", "llama-llama3", "llama-odd"};
enum { MODELS_COUNT = sizeof models / sizeof *models };

static json_t *load_cases(const char *model)
{
    char path[512];
    json_error_t error;
    snprintf(path, sizeof path, MODELS "%s/cases.json", model);
    json_t *root = json_load_file(path, 0, &error);
    assert_non_null(root);
    return root;
}

/* Largest difference between a row of logits and [logprob, [id, logprob] ...]; a case's token comes first. */
static double row_off(const float *logits, uint32_t vocab, int32_t token, const json_t *row)
{
    double off = fabs(log_probability(logits, vocab, token) - json_number_value(json_array_get(row, 0)));
    for (size_t i = 1; i < json_array_size(row); i++) {
        const json_t *best = json_array_get(row, i);
        int32_t id = (int32_t)json_integer_value(json_array_get(best, 0));
        off =
            fmax(off, fabs(log_probability(logits, vocab, id) - json_number_value(json_array_get(best, 1))));
    }
    return off;
}

static double case_off(run *r, const json_t *c, uint32_t rows, uint32_t activation)
{
    int32_t tokens[RUN_POSITIONS];
    uint32_t prompt = 0, count, vocab = r->info.config.vocab;
    const json_t *ids = json_object_get(c, "prompt_ids"), *generated = json_object_get(c, "tokens");
    for (; prompt < json_array_size(ids); prompt++)
        tokens[prompt] = (int32_t)json_integer_value(json_array_get(ids, prompt));
    count = prompt;
    for (size_t i = 0; i < json_array_size(generated); i++)
        tokens[count++] = (int32_t)json_integer_value(json_array_get(generated, i));

    float *logits = malloc((size_t)count * vocab * sizeof *logits);
    assert_non_null(logits);
    run_tokens(r, tokens, count, rows, activation, logits);
    double off = 0;
    for (uint32_t i = 1; i < count; i++) {
        const json_t *row = i < prompt ? json_array_get(json_object_get(c, "prompt_logprobs"), i - 1)
                                       : json_array_get(json_object_get(c, "logprobs"), i - prompt);
        assert_true(json_is_array(row));
        off = fmax(off, row_off(logits + (size_t)(i - 1) * vocab, vocab, tokens[i], row));
    }
    free(logits);
    return off;
}

/* `share` of each case's own bfloat16_off is allowed, or 1e-4 for float32. */
static void check_base_cases(const char *model, rc_dtype dtype, uint32_t rows)
{
    char path[512];
    double worst = 0;
    snprintf(path, sizeof path, MODELS "%s", model);
    rt_model_options o = options_of(path, dtype);
    run r = open_run(&o);
    json_t *root = load_cases(model), *c;
    size_t i;
    json_array_foreach(json_object_get(root, "cases"), i, c)
    {
        if (!json_is_null(json_object_get(c, "adapter"))) continue;
        double off = case_off(&r, c, rows, UINT32_MAX);
        double allowed =
            dtype == RC_F32 ? 1e-4 : 2 * json_number_value(json_object_get(c, "bfloat16_off")) + 0.02;
        if (off > allowed)
            fail_msg("%s %s: off by %g, allowed %g", model, json_string_value(json_object_get(c, "name")),
                     off, allowed);
        worst = fmax(worst, off);
    }
    printf("%-13s %s, %u rows a step: off by %.3g\n", model, dtype == RC_F32 ? "float32 " : "bfloat16", rows,
           worst);
    json_decref(root);
    close_run(&r);
}

static void float32_is_within_1e_4_of_the_reference(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODELS_COUNT; i++) check_base_cases(models[i], RC_F32, 64);
}

static void float32_holds_token_by_token_too(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODELS_COUNT; i++) check_base_cases(models[i], RC_F32, 1);
}

static void bfloat16_is_as_near_as_the_references_bfloat16(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODELS_COUNT; i++) check_base_cases(models[i], RC_BF16, 17);
}

/* The modules that adapters are matched against lie at their columns of the fused products: with an adapter
 * on every linear, each must land where the reference adds it. */
static void adapters_on_every_linear_are_within_1e_4(void **state)
{
    (void)state;
    for (size_t m = 0; m < MODELS_COUNT; m++) {
        char path[512];
        snprintf(path, sizeof path, MODELS "%s", models[m]);
        rt_model_options o = options_of(path, RC_F32);
        run r = open_run(&o);
        json_t *root = load_cases(models[m]), *c;
        adapter_shape shape = {.rank_max = 64};
        rt_model_adapter_shape(&r.info.config, &shape);
        size_t i;
        json_array_foreach(json_object_get(root, "cases"), i, c)
        {
            const char *name = json_string_value(json_object_get(c, "adapter"));
            const json_t *activation = json_object_get(c, "activation");
            adapter_weights *w = NULL;
            rc_msg msg = {0};
            if (!name || strstr(name, "legacy")) continue;
            snprintf(path, sizeof path, MODELS "%s/adapters/%s", models[m], name);
            if (adapter_weights_load(path, &shape, NULL, NULL, &w, &msg) != RC_OK)
                fail_msg("%s: %s", path, msg.text);
            assert_int_equal(rt_backend_cpu()->adapter_attach(r.device, 0, w, RC_F32, &msg), RC_OK);
            double off = case_off(
                &r, c, 29, json_is_null(activation) ? UINT32_MAX : (uint32_t)json_integer_value(activation));
            if (off > 1e-4)
                fail_msg("%s %s: off by %g", models[m], json_string_value(json_object_get(c, "name")), off);
            rt_backend_cpu()->adapter_detach(r.device, 0);
            adapter_weights_free(w);
        }
        json_decref(root);
        close_run(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float32_is_within_1e_4_of_the_reference),
        cmocka_unit_test(float32_holds_token_by_token_too),
        cmocka_unit_test(bfloat16_is_as_near_as_the_references_bfloat16),
        cmocka_unit_test(adapters_on_every_linear_are_within_1e_4),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
