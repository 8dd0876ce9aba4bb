/* Checkpoints of every form give the same model, and what is wrong with one is said in a line. */
#include "model_support.h"

#include "checkpoint_files.h"

#define MODELS MICA_SOURCE_DIR "/tests/golden/models/"

static const int32_t prompt[] = {3, 17, 90, 201, 44, 5, 131, 8, 260, 9, 77, 100};
enum { PROMPT = sizeof prompt / sizeof *prompt, TENSORS_MAX = 128 };

static float *logits_of(const rt_model_options *o, uint32_t *vocab, rt_model_info *info)
{
    run r = open_run(o);
    float *logits = malloc((size_t)PROMPT * r.info.config.vocab * sizeof *logits);
    assert_non_null(logits);
    run_tokens(&r, prompt, PROMPT, 5, UINT32_MAX, logits);
    *vocab = r.info.config.vocab;
    if (info) *info = r.info;
    close_run(&r);
    return logits;
}

static void assert_same_logits(const rt_model_options *a, const rt_model_options *b)
{
    uint32_t a_vocab, b_vocab;
    float *a_logits = logits_of(a, &a_vocab, NULL), *b_logits = logits_of(b, &b_vocab, NULL);
    assert_int_equal(a_vocab, b_vocab);
    assert_memory_equal(a_logits, b_logits, (size_t)PROMPT * a_vocab * sizeof *a_logits);
    free(a_logits);
    free(b_logits);
}

static adapter_st *open_golden(const char *model)
{
    char path[512];
    adapter_st *st;
    rc_msg msg = {0};
    snprintf(path, sizeof path, MODELS "%s/model.safetensors", model);
    if (adapter_st_open(path, &st, &msg) != RC_OK) fail_msg("%s", msg.text);
    return st;
}

static uint32_t copy_tensors(const adapter_st *st, adapter_tensor tensors[TENSORS_MAX])
{
    uint32_t count = (uint32_t)adapter_st_count(st);
    assert_true(count <= TENSORS_MAX);
    for (uint32_t i = 0; i < count; i++) tensors[i] = *adapter_st_at(st, i);
    return count;
}

static uint32_t index_of(const adapter_tensor *tensors, uint32_t count, const char *name)
{
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(tensors[i].name, name) == 0) return i;
    fail_msg("no tensor %s", name);
    return 0;
}

static void check_gguf_of(const char *model, const char *arch, rc_dtype dtype)
{
    temp_dir d = make_temp_dir();
    adapter_st *st = open_golden(model);
    char directory[256], file[256];
    rt_model_info info;
    rc_msg msg = {0};
    snprintf(directory, sizeof directory, MODELS "%s", model);
    snprintf(file, sizeof file, "%s/m.gguf", d.path);
    rt_model_options o = options_of(directory, dtype), g = options_of(file, dtype);
    assert_int_equal(rt_model_probe(&o, rt_backend_cpu(), &info, &msg), RC_OK);
    write_gguf(d.path, "m.gguf", st, &info.config, arch);
    assert_same_logits(&o, &g);
    adapter_st_close(st);
    remove_temp_dir(&d);
}

static void a_gguf_gives_the_bits_of_the_directory_it_was_converted_from(void **state)
{
    (void)state;
    check_gguf_of("granite", "granite", RC_F32);
    check_gguf_of("granite", "granite", RC_BF16);
    check_gguf_of("granite-odd", "granite", RC_F32);
    check_gguf_of("llama-linear", "llama", RC_F32);
    check_gguf_of("llama-odd", "llama", RC_F32);
}

static void shards_are_found_with_an_index_and_without(void **state)
{
    (void)state;
    temp_dir d = make_temp_dir();
    adapter_st *st = open_golden("granite");
    adapter_tensor tensors[TENSORS_MAX];
    uint32_t count = copy_tensors(st, tensors), half = count / 2;
    rt_model_options o = options_of(MODELS "granite", RC_F32), s = options_of(d.path, RC_F32);
    copy_file(MODELS "granite", d.path, "config.json");
    write_safetensors(d.path, "b.safetensors", tensors, half);
    write_safetensors(d.path, "a.safetensors", tensors + half, count - half);
    assert_same_logits(&o, &s);

    FILE *f = create_file(d.path, "model.safetensors.index.json");
    fprintf(f, "{\"weight_map\": {");
    for (uint32_t i = 0; i < count; i++)
        fprintf(f, "%s\"%s\": \"%s.safetensors\"", i ? ", " : "", tensors[i].name, i < half ? "b" : "a");
    fprintf(f, "}}");
    fclose(f);
    assert_same_logits(&o, &s);
    adapter_st_close(st);
    remove_temp_dir(&d);
}

/* Opens `directory`, which must be refused with a line that holds `expected`. */
static void assert_refused(const char *directory, rc_code expected_code, const char *expected)
{
    rt_model_options o = options_of(directory, 0);
    rt_model_info info;
    rc_msg msg = {0};
    rc_code code = rt_model_probe(&o, rt_backend_cpu(), &info, &msg);
    if (code != expected_code || !strstr(msg.text, expected))
        fail_msg("%d, \"%s\", not \"%s\"", code, msg.text, expected);
}

static void an_index_cannot_leave_its_directory(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"{\"weight_map\": {\"a\": \"../x.safetensors\"}}", "\"../x.safetensors\""},
        {"{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "\"/etc/passwd\""},
        {"{\"weight_map\": {\"a\": \"..\"}}", "\"..\""},
        {"{\"weight_map\": {\"a\": 3}}", "no string"},
        {"{\"weight_map\": []}", "weight_map"},
        {"{", "not JSON"}};
    temp_dir d = make_temp_dir();
    copy_file(MODELS "granite", d.path, "config.json");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_text(d.path, "model.safetensors.index.json", bad[i][0]);
        assert_refused(d.path, RC_INVALID_ARGUMENT, bad[i][1]);
    }
    write_text(d.path, "model.safetensors.index.json", "{\"weight_map\": {\"a\": \"gone.safetensors\"}}");
    assert_refused(d.path, RC_NOT_FOUND, "gone.safetensors");
    write_text(d.path, "model.safetensors.index.json", "{\"weight_map\": {}}");
    assert_refused(d.path, RC_INVALID_ARGUMENT, "is missing");
    remove_temp_dir(&d);
}

static void a_bad_tensor_is_named_with_what_was_expected(void **state)
{
    (void)state;
    static const char *const name = "model.layers.1.self_attn.k_proj.weight";
    temp_dir d = make_temp_dir();
    adapter_st *st = open_golden("granite");
    adapter_tensor tensors[TENSORS_MAX];
    uint32_t count = copy_tensors(st, tensors), k = index_of(tensors, count, name);
    adapter_tensor good = tensors[k];
    copy_file(MODELS "granite", d.path, "config.json");

    tensors[k].name = "model.layers.1.self_attn.kk_proj.weight";
    write_safetensors(d.path, "model.safetensors", tensors, count);
    assert_refused(d.path, RC_INVALID_ARGUMENT, "tensor model.layers.1.self_attn.k_proj.weight is missing");
    tensors[k] = good;
    tensors[k].shape[0] = good.shape[1];
    tensors[k].shape[1] = good.shape[0];
    write_safetensors(d.path, "model.safetensors", tensors, count);
    assert_refused(d.path, RC_INVALID_ARGUMENT, "k_proj.weight has shape [48, 12], expected [12, 48]");
    tensors[k] = good;
    tensors[k].dtype_name = "I16";
    write_safetensors(d.path, "model.safetensors", tensors, count);
    assert_refused(d.path, RC_INVALID_ARGUMENT, "k_proj.weight is I16");
    tensors[k] = good;
    tensors[k].dims = 1;
    tensors[k].shape[0] = good.shape[0] * good.shape[1];
    write_safetensors(d.path, "model.safetensors", tensors, count);
    assert_refused(d.path, RC_INVALID_ARGUMENT, "k_proj.weight has shape [576], expected [12, 48]");
    adapter_st_close(st);
    remove_temp_dir(&d);
}

static void a_head_that_differs_is_not_tied_and_an_equal_one_is(void **state)
{
    (void)state;
    temp_dir d = make_temp_dir();
    adapter_st *st = open_golden("granite");
    adapter_tensor tensors[TENSORS_MAX];
    uint32_t count = copy_tensors(st, tensors), e = index_of(tensors, count, "model.embed_tokens.weight");
    rt_model_options o = options_of(MODELS "granite", RC_F32), s = options_of(d.path, RC_F32);
    rt_model_info info;
    rc_msg msg = {0};
    copy_file(MODELS "granite", d.path, "config.json");

    tensors[count] = tensors[e];
    tensors[count].name = "lm_head.weight";
    write_safetensors(d.path, "model.safetensors", tensors, count + 1);
    assert_int_equal(rt_model_probe(&s, rt_backend_cpu(), &info, &msg), RC_OK);
    assert_true(info.config.tied_head);
    assert_same_logits(&o, &s);

    uint16_t *changed = malloc(tensors[e].bytes);
    assert_non_null(changed);
    memcpy(changed, tensors[e].data, tensors[e].bytes);
    changed[5] ^= 1;
    tensors[count].data = changed;
    write_safetensors(d.path, "model.safetensors", tensors, count + 1);
    assert_int_equal(rt_model_probe(&s, rt_backend_cpu(), &info, &msg), RC_OK);
    assert_false(info.config.tied_head);

    tensors[e].name = "lm_head.weight"; /* and the head alone serves for both */
    write_safetensors(d.path, "model.safetensors", tensors, count);
    assert_same_logits(&o, &s);
    free(changed);
    adapter_st_close(st);
    remove_temp_dir(&d);
}

static void auto_is_float32_where_the_checkpoint_is(void **state)
{
    (void)state;
    rt_model_info info;
    rc_msg msg = {0};
    rt_model_options o = options_of(MODELS "granite", 0);
    assert_int_equal(rt_model_probe(&o, rt_backend_cpu(), &info, &msg), RC_OK);
    assert_int_equal(info.dtype, RC_BF16);
    o = options_of(MODELS "granite-odd", 0);
    assert_int_equal(rt_model_probe(&o, rt_backend_cpu(), &info, &msg), RC_OK);
    assert_int_equal(info.dtype, RC_F32);
    o = options_of(MODELS "granite", RC_F16);
    assert_int_equal(rt_model_probe(&o, rt_backend_cpu(), &info, &msg), RC_INVALID_ARGUMENT);
    assert_string_equal(msg.param, "dtype");
}

static void paths_that_hold_no_model_are_refused(void **state)
{
    (void)state;
    temp_dir d = make_temp_dir();
    char file[128];
    assert_refused("/nowhere/at/all", RC_NOT_FOUND, "/nowhere/at/all");
    assert_refused(d.path, RC_NOT_FOUND, "config.json");
    assert_refused("/dev/null", RC_INVALID_ARGUMENT, "neither a directory nor a GGUF file");
    copy_file(MODELS "granite", d.path, "config.json");
    assert_refused(d.path, RC_NOT_FOUND, "no .safetensors file");
    write_text(d.path, "generation_config.json", "{\"eos_token_id\": {}}");
    assert_refused(d.path, RC_INVALID_ARGUMENT, "generation_config.json");
    write_text(d.path, "x.gguf", "GGUF");
    snprintf(file, sizeof file, "%s/x.gguf", d.path);
    assert_refused(file, RC_INVALID_ARGUMENT, "x.gguf");
    remove_temp_dir(&d);
}

/* A dummy needs config.json alone; seeds differ, threads do not; its logits are lively. */
static void dummies_depend_on_the_seed_alone(void **state)
{
    (void)state;
    temp_dir d = make_temp_dir();
    copy_file(MODELS "granite-odd", d.path, "config.json");
    for (int seed = 1; seed <= 2; seed++) {
        rt_model_options a = options_of(d.path, RC_F32), b;
        a.dummy = true;
        a.seed = (uint64_t)seed;
        b = a;
        b.threads = 1;
        assert_same_logits(&a, &b);
    }
    rt_model_options a = options_of(d.path, 0);
    uint32_t vocab;
    a.dummy = true;
    float *one = logits_of(&a, &vocab, NULL), low = one[0], high = one[0];
    a.seed = 1;
    float *two = logits_of(&a, &vocab, NULL);
    assert_memory_not_equal(one, two, vocab * sizeof *one);
    for (uint32_t i = 0; i < vocab; i++) {
        low = one[i] < low ? one[i] : low;
        high = one[i] > high ? one[i] : high;
    }
    assert_true(high - low > 2 && high - low < 100);
    free(one);
    free(two);
    remove_temp_dir(&d);
}

static void count_progress(void *ctx, uint64_t done, uint64_t total)
{
    uint64_t *last = ctx;
    assert_true(done >= last[0] && done <= total);
    last[0] = done;
    last[1] = total;
}

static void progress_ends_at_the_total(void **state)
{
    (void)state;
    uint64_t last[2] = {0};
    rt_model_options o = options_of(MODELS "granite", RC_F32);
    o.progress = count_progress;
    o.progress_ctx = last;
    run r = open_run(&o);
    assert_true(last[1] > 0 && last[0] == last[1]);
    close_run(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_gguf_gives_the_bits_of_the_directory_it_was_converted_from),
        cmocka_unit_test(shards_are_found_with_an_index_and_without),
        cmocka_unit_test(an_index_cannot_leave_its_directory),
        cmocka_unit_test(a_bad_tensor_is_named_with_what_was_expected),
        cmocka_unit_test(a_head_that_differs_is_not_tied_and_an_equal_one_is),
        cmocka_unit_test(auto_is_float32_where_the_checkpoint_is),
        cmocka_unit_test(paths_that_hold_no_model_are_refused),
        cmocka_unit_test(dummies_depend_on_the_seed_alone),
        cmocka_unit_test(progress_ends_at_the_total),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
