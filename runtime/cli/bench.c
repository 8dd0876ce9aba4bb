#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/cli/bench.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/follow.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/out_file.h"

#define COUNT(name, member, min, help)                                                                       \
    {                                                                                                        \
        name, NULL, RT_FLAG_U32, offsetof(rt_bench_flags, member), "N", help, min, 0, NULL, NULL             \
    }

static const rt_flag latency[] = {
    COUNT("input-len", input_len, 1, "fresh tokens of a prompt (32)"),
    COUNT("output-len", output_len, 1, "tokens of an answer (128)"),
    COUNT("batch-size", batch_size, 1, "prompts at a time (8)"),
    COUNT("num-iters", num_iters, 1, "measured iterations (5)"),
};

static const rt_flag throughput[] = {
    COUNT("input-len", input_len, 1, "fresh tokens of a prompt (32)"),
    COUNT("output-len", output_len, 1, "tokens of an answer (128)"),
    COUNT("num-prompts", num_prompts, 1, "prompts, all submitted at once (100)"),
};

static const rt_flag both[] = {
    COUNT("prefix-len", prefix_len, 0, "common prefix, served by base before (0)"),
    COUNT("synthetic-loras", synthetic_loras, 0, "random adapters, dealt round robin (0)"),
    COUNT("synthetic-lora-rank", synthetic_lora_rank, 1, "(32)"),
    {"synthetic-lora-targets", NULL, RT_FLAG_CHOICE, offsetof(rt_bench_flags, synthetic_lora_targets),
     "all|qkv", "(all)", 0, 0, NULL, NULL},
    {"synthetic-lora-kind", NULL, RT_FLAG_CHOICE, offsetof(rt_bench_flags, synthetic_lora_kind), "lora|alora",
     "(lora)", 0, 0, NULL, NULL},
    {"output-json", NULL, RT_FLAG_TEXT, offsetof(rt_bench_flags, output_json), "FILE",
     "write the figures too", 0, 0, NULL, NULL},
};

static rc_code write_json(const rt_bench *b, rt_bench_result *r, rc_msg *msg)
{
    rt_bytes out = {0};
    rt__bench_write(b, r, &out);
    rc_code code = out.failed ? rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the figures")
                              : rt__out_file_write(b->flags->output_json, &out, msg);
    rt_bytes_deinit(&out);
    return code;
}

/* Limits that were not given grow with what is measured: nothing of it is refused or waits in a queue. */
static rc_code fit_options(rt_bench_flags *f, uint32_t prompts, bool is_throughput, rc_msg *msg)
{
    mica_options *o = &f->engine.options;
    uint64_t length = (uint64_t)f->prefix_len + f->input_len + f->output_len;
    if (length > INT32_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%llu tokens in a sequence: expected fewer than 2^31",
                       (unsigned long long)length);
    o->prefill_first = !is_throughput;
    if (!o->max_model_len) o->max_model_len = (uint32_t)length;
    if (!is_throughput && prompts > (o->max_num_seqs ? o->max_num_seqs : 256)) o->max_num_seqs = prompts;
    if (f->synthetic_loras > (o->max_loras ? o->max_loras : 8)) o->max_loras = f->synthetic_loras;
    if (f->synthetic_loras && f->synthetic_lora_rank > (o->max_lora_rank ? o->max_lora_rank : 64))
        o->max_lora_rank = f->synthetic_lora_rank;
    return RC_OK;
}

static void warn_if_small(const rt_bench *b, rt_console *console)
{
    const rt_bench_flags *f = b->flags;
    uint32_t together = b->prompts < b->info.max_num_seqs ? b->prompts : b->info.max_num_seqs;
    uint64_t needed = f->prefix_len + (uint64_t)together * ((uint64_t)f->input_len + f->output_len);
    uint64_t held = (uint64_t)b->info.blocks * b->info.block_size;
    if (needed > held)
        rt_progress_line(&console->progress,
                         "%s: warning: K/V memory holds %llu tokens of %llu: preemption is measured too",
                         console->command, (unsigned long long)held, (unsigned long long)needed);
}

static rc_code measure(rt_bench *b, rt_console *console, rt_bench_result *r, rc_msg *msg)
{
    uint32_t iterations = b->is_throughput ? 1 : b->flags->num_iters;
    char text[48];
    for (uint32_t i = 0; i <= iterations; i++) {
        snprintf(text, sizeof text, i ? "iteration %u of %u" : "warming up", i, iterations);
        rt_progress_draw(&console->progress, rt_now_ns(), "bench", i, iterations + 1, text);
        RC_TRY(rt__bench_iterate(b, i ? r : NULL, msg));
    }
    rt_progress_clear(&console->progress);
    const rt_samples *samples[] = {&r->prefill_s, &r->decode_s, &r->total_s, &r->ttft_ms, &r->itl_ms};
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++)
        if (samples[i]->values.failed)
            return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the samples");
    return RC_OK;
}

static rc_code run(rt_bench *b, rt_bench_flags *f, rt_console *console, rt_bench_result *r, rc_msg *msg)
{
    bool follows;
    RC_TRY(fit_options(f, b->prompts, b->is_throughput, msg));
    RC_TRY(rt__follow(&f->engine, &follows, msg));
    if (follows) return RC_OK;
    RC_TRY(rt__out_file_check(f->output_json, msg));
    rt__console_attach(console, &f->engine.options);
    RC_TRY(mica_open(&f->engine.options, &b->m, msg));
    rt__console_loaded(console);
    rt__interrupt_watch();
    RC_TRY(rt__bench_init(b, msg));
    warn_if_small(b, console);
    RC_TRY(measure(b, console, r, msg));
    rt__bench_print(b, r);
    return f->output_json ? write_json(b, r, msg) : RC_OK;
}

static int work(rt_bench_flags *f, bool is_throughput, rt_console *console)
{
    rt_bench b = {.flags = f,
                  .is_throughput = is_throughput,
                  .prompts = is_throughput ? f->num_prompts : f->batch_size};
    rt_bench_result r = {0};
    rc_msg msg;
    rc_code code = run(&b, f, console, &r, &msg);
    int signal_number = rt__interrupt_signal();
    rt__bench_deinit(&b);
    mica_close(b.m);
    rt__interrupt_unwatch();
    rt_samples *samples[] = {&r.prefill_s, &r.decode_s, &r.total_s, &r.ttft_ms, &r.itl_ms};
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) rt_samples_deinit(samples[i]);
    if (code == RC_OK) return 0;
    rt__console_fail(console, &msg);
    return code == RC_CANCELLED ? 128 + signal_number : 1;
}

static int bench(bool is_throughput, int argc, char **argv)
{
    enum { SETS = 2 + RT_ENGINE_SETS };
    rt_bench_flags f = {.input_len = 32,
                        .output_len = 128,
                        .batch_size = 8,
                        .num_iters = 5,
                        .num_prompts = 100,
                        .synthetic_lora_rank = 32,
                        .synthetic_lora_targets = "all",
                        .synthetic_lora_kind = "lora"};
    const char *name = is_throughput ? "throughput" : "latency";
    rt_flag_set sets[SETS] = {
        {NULL, is_throughput ? throughput : latency,
         is_throughput ? sizeof throughput / sizeof *throughput : sizeof latency / sizeof *latency, &f},
        {NULL, both, sizeof both / sizeof *both, &f}};
    rt_console console;
    rc_msg msg;
    int status = 0;
    rt__engine_flags_init(&f.engine);
    rt__engine_flag_sets(&f.engine, sets + 2);
    rt__console_init(&console, is_throughput ? "mica bench throughput" : "mica bench latency");
    rc_code code = rt_flags_parse(sets, SETS, argc, argv, NULL, &msg);
    if (code == RC_OK && f.engine.help) {
        printf("usage: mica bench %s --model DIR [flags]\n\nGreedy, on random tokens, after one warm-up.\n\n",
               name);
        rt_flags_help(sets, SETS, stdout);
    } else {
        if (code == RC_OK) code = rt__engine_flags_finish(&f.engine, &msg);
        status = code == RC_OK ? work(&f, is_throughput, &console) : rt__console_fail(&console, &msg);
    }
    rt__engine_flags_deinit(&f.engine);
    rt__console_deinit(&console);
    return status;
}

int rt_command_bench(int argc, char **argv)
{
    const char *name = argc ? argv[0] : "";
    if (!strcmp(name, "latency") || !strcmp(name, "throughput"))
        return bench(name[0] == 't', argc - 1, argv + 1);
    if (!strcmp(name, "serve")) return rt__bench_serve(argc - 1, argv + 1);
    FILE *out = strcmp(name, "--help") && strcmp(name, "-h") ? stderr : stdout;
    if (out == stderr) fprintf(out, "mica bench: '%.60s': expected latency, throughput or serve\n", name);
    if (out == stdout)
        fprintf(out, "usage: mica bench latency    --model DIR [flags]   one batch at a time\n"
                     "       mica bench throughput --model DIR [flags]   all at once\n"
                     "       mica bench serve [flags]                    load on a running server\n\n"
                     "       mica bench latency --help, and so on: their flags\n");
    return out == stdout ? 0 : 1;
}
