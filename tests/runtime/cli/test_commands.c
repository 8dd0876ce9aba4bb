/* The commands' flags and outputs on a scripted engine: what reaches mica_options, what is refused, generate,
 * bench. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include <jansson.h>

#include "runtime/cli/commands.h"
#include "tests/support/fake_mica.h"

static char out_text[1 << 16], err_text[1 << 14];

static void read_back(FILE *f, char *text, size_t max)
{
    rewind(f);
    text[fread(text, 1, max - 1, f)] = 0;
    fclose(f);
}

/* Runs `mica` with stdout and stderr caught. */
static int run(char **argv)
{
    int argc = 0, saved_out, saved_err;
    FILE *out = tmpfile(), *err = tmpfile();
    while (argv[argc]) argc++;
    fflush(stdout);
    saved_out = dup(STDOUT_FILENO);
    saved_err = dup(STDERR_FILENO);
    dup2(fileno(out), STDOUT_FILENO);
    dup2(fileno(err), STDERR_FILENO);
    int status = rt_command(argc, argv);
    fflush(stdout);
    dup2(saved_out, STDOUT_FILENO);
    dup2(saved_err, STDERR_FILENO);
    close(saved_out);
    close(saved_err);
    read_back(out, out_text, sizeof out_text);
    read_back(err, err_text, sizeof err_text);
    return status;
}
#define MICA(...) run((char *[]){"mica", __VA_ARGS__, NULL})
#define GENERATE(...) MICA("generate", "--model", "base", __VA_ARGS__)

static void refused(int status, const char *text)
{
    assert_int_equal(status, 1);
    assert_string_equal(err_text, text);
    assert_string_equal(out_text, "");
}

static void every_help_fits_a_screen(void **state)
{
    (void)state;
    static char *const commands[][3] = {
        {"--help"},          {"run-batch", "--help"},        {"generate", "--help"},
        {"bench", "--help"}, {"bench", "latency", "--help"}, {"bench", "throughput", "-h"},
        {"bench", "serve", "--help"}};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        assert_int_equal(MICA(commands[i][0], commands[i][1], commands[i][2]), 0);
        size_t lines = 0;
        for (char *at = out_text; *at; lines++) {
            size_t n = strcspn(at, "\n");
            if (n > 80) fail_msg("%s: %zu columns: %.*s", commands[i][0], n, (int)n, at);
            at += n + (at[n] == '\n');
        }
        if (lines > 40) fail_msg("%s: %zu lines", commands[i][0], lines);
        assert_true(lines > 3);
    }
    assert_int_equal(MICA("run-batch", "--help"), 0);
    assert_non_null(strstr(out_text, "  --quantization auto|none|q8_0|q4_0 "));
    assert_non_null(strstr(out_text, "  -t, --threads N "));
    assert_int_equal(MICA("--version"), 0);
    assert_string_equal(out_text, "mica " MICA_VERSION "\n");
    assert_int_equal(MICA("bench", "latency", "--version"), 0);
    assert_string_equal(out_text, "mica " MICA_VERSION "\n");
    assert_int_equal(GENERATE("-p", "--version", "--max-tokens", "1"), 0);
    assert_string_not_equal(out_text, "mica " MICA_VERSION "\n");
    refused(MICA("run-bach"), "mica: unknown command 'run-bach'; the nearest is 'run-batch'\n");
    assert_int_equal(MICA(NULL), 1);
}

static void flags_reach_the_engine(void **state)
{
    (void)state;
    assert_int_equal(GENERATE("-p", "x", "--served-model-name", "granite", "--load-format=dummy", "--dtype",
                              "float32", "--max-model-len", "4K", "--block-size", "32",
                              "--kv-cache-memory-bytes", "2G", "--num-gpu-blocks-override", "99",
                              "--max-num-seqs", "7", "--max_num_batched_tokens", "64",
                              "--no-enable-prefix-caching", "--scheduling-policy", "priority", "-t", "3",
                              "--max-loras", "2", "--max-lora-rank", "128",
                              "--require-activation", "--cpu-kernels", "portable", "--enable-lora",
                              "--enable-chunked-prefill", "--enforce-eager", "--disable-log-stats",
                              "--gpu-memory-utilization", "0.9", "--swap-space", "4", "--max-cpu-loras", "3",
                              "--trust-remote-code", "--device", "cpu", "-tp", "1", "--tokenizer", "base",
                              "--lora-dtype", "auto", "--quantization", "auto", "--kv-cache-dtype", "auto"),
                     0);
    const mica_options *o = &fake_options;
    assert_true(o->load_dummy && o->disable_prefix_caching && o->priority_scheduling &&
                o->require_activation);
    assert_int_equal(o->max_model_len, 4096);
    assert_int_equal(o->block_size, 32);
    assert_true(o->kv_cache_memory_bytes == 2ull << 30);
    assert_int_equal(o->num_gpu_blocks, 99);
    assert_int_equal(o->max_num_seqs, 7);
    assert_int_equal(o->max_num_batched_tokens, 64);
    assert_int_equal(o->threads, 3);
    assert_int_equal(o->max_loras, 2);
    assert_int_equal(o->max_lora_rank, 128);
    assert_string_equal(o->kv_cache_dtype, "auto");
    assert_int_equal(MICA("bench", "latency", "--model", "base", "--seed", "18446744073709551615"), 0);
    assert_true(o->seed == UINT64_MAX);
    static char *const int8[] = {"int8", "int8_per_token_head"};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(GENERATE("-p", "x", "--kv-cache-dtype", int8[i]), 0);
        assert_string_equal(o->kv_cache_dtype, "int8");
    }
}

static void adapters_come_as_names_and_as_json(void **state)
{
    (void)state;
    assert_int_equal(GENERATE("--lora-modules", "a=/x=y",
                              "{\"name\":\"b\",\"path\":\"/z\",\"base_model_name\":\"base\"}", "--adapter",
                              "b", "--lora-modules=[{\"name\":\"c\",\"path\":\"/w\"}]", "-p", "x",
                              "--max-tokens", "1"),
                     0);
    assert_int_equal(fake_options.adapters_count, 3);
    refused(GENERATE("-p", "x", "--lora-modules", "a=1", "a=2"),
            "mica generate: --lora-modules has the name 'a' twice: expected it once\n");
    static char *const bad[] = {"a",  "=x", "a=", "{\"name\":\"b\"}", "{\"name\":3,\"path\":\"x\"}",
                                "{x", "[7]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(GENERATE("-p", "x", "--lora-modules", bad[i]), 1);
        assert_non_null(strstr(err_text, "expected NAME=PATH"));
    }
    refused(GENERATE("-p", "x", "--adapter", "nobody"),
            "mica generate: The model `nobody` does not exist.\n");
}

static void what_this_build_lacks_is_refused_in_one_line(void **state)
{
    (void)state;
    static char *const flags[][2] = {{"--quantization", "awq"},  {"--kv-cache-dtype", "fp8"},
                                     {"--device", "gpu"},        {"-tp", "0"},
                                     {"--tokenizer", "other"},   {"--block-size", "24"},
                                     {"--dtype", "float16"},     {"--max-num-seqs", "0"},
                                     {"--max-model-len", "-5"},  {"--threads", "0"},
                                     {"--no-such-flag", "1"},    {"--seed", "1.5"},
                                     {"--gpu-memory-utilization", "0"}};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        assert_int_equal(GENERATE("-p", "x", flags[i][0], flags[i][1]), 1);
        assert_ptr_equal(strchr(err_text, '\n'), err_text + strlen(err_text) - 1);
        assert_true(strlen(err_text) < 200);
    }
    refused(GENERATE("-p", "x", "--max-num-sequences", "5"),
            "mica generate: unknown flag '--max-num-sequences'; the nearest is '--max-num-seqs'\n");
    refused(GENERATE("-p", "x", "--gpu-memory-utilization", "0"),
            "mica generate: --gpu-memory-utilization '0': expected above 0 and at most 1\n");
    refused(GENERATE("-p", "x", "--max-model-len", "4G"),
            "mica generate: --max-model-len '4G': expected at most 4294967295\n");
    refused(MICA("generate", "-p", "x"),
            "mica generate: --model is missing: expected a model directory or a .gguf file\n");
}

static void generate_prints_the_text_and_nothing_else(void **state)
{
    (void)state;
    assert_int_equal(GENERATE("-p", "xy", "--max-tokens", "4"), 0);
    assert_string_equal(out_text, "defg");
    assert_string_equal(err_text, "");
    assert_int_equal(GENERATE("-p", "xy", "--max_tokens=4", "--echo", "--n", "2", "--verbose"), 0);
    assert_string_equal(out_text, "xydefg\nxyefgh");
    assert_string_equal(err_text, "weights 1.0 MiB\n");
    assert_int_equal(GENERATE("-p", "xy", "--stop", "q", "--stop", "f", "--stop-token-ids", "1,2", "3",
                              "--logit-bias", "{\"3\":1.5}", "--no-add-special-tokens", "--temperature", "0"),
                     0);
    refused(GENERATE("-p", "x", "--top-p", "much"),
            "mica generate: top_p is \"much\"; expected a number above 0 and at most 1\n");
    refused(GENERATE("-p", "x", "--max-tokens", "0"),
            "mica generate: max_tokens is 0; expected a whole number from 1 to 2147483647\n");
    refused(GENERATE("-p", "\xff"), "mica generate: the prompt is not UTF-8 at byte 0\n");
    refused(GENERATE("--echo"), "mica generate: the prompt is missing: expected -p TEXT, or - for stdin\n");
    assert_int_equal(GENERATE("-p", "!fail"), 1);
    assert_string_equal(err_text, "mica generate: the device was lost\n");
}

static double number_of(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_number(v)) fail_msg("%s is missing", key);
    return json_number_value(v);
}

static void bench_tells_every_figure(void **state)
{
    (void)state;
    char path[] = "/tmp/test_commands.XXXXXX";
    close(mkstemp(path));
    for (int i = 0; i < 2; i++) {
        memset(&fake, 0, sizeof fake);
        assert_int_equal(MICA("bench", i ? "throughput" : "latency", "--model", "base", "--input-len", "5",
                              "--output-len", "4", i ? "--num-prompts" : "--batch-size", "300",
                              "--prefix-len", "7", "--synthetic-loras", "12", "--synthetic-lora-rank", "70",
                              "--synthetic-lora-kind", "alora", "--output-json", path),
                         0);
        json_t *o = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
        assert_non_null(o);
        assert_true(number_of(o, "prefill_tokens_per_s") > 0 && number_of(o, "decode_tokens_per_s") > 0);
        assert_true(number_of(o, "requests_per_s") > 0 && number_of(o, "total_tokens_per_s") > 0);
        assert_true(number_of(o, "peak_rss_bytes") > 1e6);
        for (int k = 0; k < 3; k++) {
            number_of(json_object_get(o, "ttft_ms"), ((const char *[]){"p50", "p90", "p99"})[k]);
            number_of(json_object_get(o, "itl_ms"), ((const char *[]){"p50", "p90", "p99"})[k]);
        }
        assert_true(number_of(json_object_get(o, "settings"), "prefix_len") == 7);
        assert_int_equal(fake_options.max_model_len, 16);
        assert_int_equal(fake_options.max_num_seqs, i ? 0 : 300);
        assert_int_equal(fake_options.max_loras, 12);
        assert_int_equal(fake_options.max_lora_rank, 70);
        assert_int_equal(fake.submitted, (i ? 2 : 6) * 301);
        json_decref(o);
    }
    unlink(path);
    assert_int_equal(MICA("bench", "speed"), 1);
}

static void a_bench_without_figures_leaves_no_file_and_changes_none(void **state)
{
    (void)state;
    char path[] = "/tmp/test_commands.XXXXXX", kept[8] = {0};
    int fd = mkstemp(path);
    memset(&fake, 0, sizeof fake);
    refused(MICA("bench", "latency", "--model", "base", "--output-json", "/nonexistent/x"),
            "mica bench latency: cannot write '/nonexistent/x': No such file or directory\n");
    refused(MICA("bench", "latency", "--model", "base", "--output-json", "/tmp"),
            "mica bench latency: cannot write '/tmp': Is a directory\n");
    assert_int_equal(fake.opened, 0);
    assert_int_equal(write(fd, "before", 6), 6);
    assert_int_equal(MICA("bench", "latency", "--model", "missing", "--output-json", path), 1);
    assert_int_equal(pread(fd, kept, sizeof kept, 0), 6);
    assert_string_equal(kept, "before");
    close(fd);
    unlink(path);
    assert_int_equal(MICA("bench", "latency", "--model", "missing", "--output-json", path), 1);
    assert_int_equal(access(path, F_OK), -1);
}

static void a_signal_ends_a_bench_in_one_line(void **state)
{
    (void)state;
    char path[] = "/tmp/test_commands.XXXXXX";
    close(mkstemp(path));
    unlink(path);
    for (uint32_t at = 1; at < 20; at += 9) {
        memset(&fake, 0, sizeof fake);
        fake.sigint_at = at;
        int status = MICA("bench", "latency", "--model", "base", "--prefix-len", "3", "--output-json", path);
        assert_int_equal(status, 130);
        assert_string_equal(err_text, "weights 1.0 MiB\nmica bench latency: interrupted; no figures\n");
        assert_string_equal(out_text, "");
        assert_int_equal(access(path, F_OK), -1);
        assert_int_equal(fake.closed, 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_help_fits_a_screen),
        cmocka_unit_test(flags_reach_the_engine),
        cmocka_unit_test(adapters_come_as_names_and_as_json),
        cmocka_unit_test(what_this_build_lacks_is_refused_in_one_line),
        cmocka_unit_test(generate_prints_the_text_and_nothing_else),
        cmocka_unit_test(bench_tells_every_figure),
        cmocka_unit_test(a_bench_without_figures_leaves_no_file_and_changes_none),
        cmocka_unit_test(a_signal_ends_a_bench_in_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
