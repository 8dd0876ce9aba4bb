#include <stdio.h>

#include "runtime/base/json_out.h"
#include "runtime/base/size.h"
#include "runtime/cli/bench.h"

static double median(rt_samples *s)
{
    return rt_samples_percentile(s, 50);
}
static double rate(double count, double seconds)
{
    return seconds > 0 ? count / seconds : 0;
}

/* What was measured, in the units it is told in. */
typedef struct figures {
    double prefill_tokens_per_s, decode_tokens_per_s, requests_per_s, total_tokens_per_s, seconds;
    uint64_t peak_rss_bytes;
} figures;

static uint64_t peak_rss_bytes(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %llu kB", &kib) == 1) break;
    if (f) fclose(f);
    return kib * 1024;
}

static figures figures_of(const rt_bench *b, rt_bench_result *r)
{
    double input = (double)b->prompts * b->flags->input_len,
           later = (double)b->prompts * (b->flags->output_len - 1);
    double all = (double)b->prompts * ((double)b->flags->input_len + b->flags->output_len);
    double total_s = median(&r->total_s);
    figures f = {.seconds = total_s, .peak_rss_bytes = peak_rss_bytes()};
    f.prefill_tokens_per_s = rate(input, b->is_throughput ? total_s : median(&r->prefill_s));
    f.decode_tokens_per_s = rate(later, b->is_throughput ? total_s : median(&r->decode_s));
    f.requests_per_s = rate(b->prompts, total_s);
    f.total_tokens_per_s = rate(all, total_s);
    return f;
}

static void print_percentiles(const char *name, rt_samples *s)
{
    printf("%-10s p50 %.2f ms, p90 %.2f ms, p99 %.2f ms\n", name, median(s), rt_samples_percentile(s, 90),
           rt_samples_percentile(s, 99));
}

void rt__bench_print(const rt_bench *b, rt_bench_result *r)
{
    figures f = figures_of(b, r);
    char rss[32];
    const rt_bench_flags *flags = b->flags;
    printf("%s, %s, %s: %u requests of %u + %u + %u tokens (prefix, input, output)\n", b->info.model_name,
           b->info.dtype, b->info.device, b->prompts, flags->prefix_len, flags->input_len, flags->output_len);
    printf("prefill    %.1f tokens/s\n", f.prefill_tokens_per_s);
    printf("decode     %.1f tokens/s\n", f.decode_tokens_per_s);
    printf("all        %.2f requests/s, %.1f tokens/s, %.3f s\n", f.requests_per_s, f.total_tokens_per_s,
           f.seconds);
    print_percentiles("ttft", &r->ttft_ms);
    print_percentiles("itl", &r->itl_ms);
    printf("peak RSS   %s\n", rt_size_text(f.peak_rss_bytes, rss, sizeof rss));
}

static void write_percentiles(rt_bytes *out, const char *key, rt_samples *s)
{
    rt_json_key(out, key);
    rt_json_open(out, '{');
    rt_json_add_f64(out, "p50", median(s));
    rt_json_add_f64(out, "p90", rt_samples_percentile(s, 90));
    rt_json_add_f64(out, "p99", rt_samples_percentile(s, 99));
    rt_json_close(out, '}');
}

static void write_settings(const rt_bench *b, rt_bytes *out)
{
    const rt_bench_flags *f = b->flags;
    rt_json_key(out, "settings");
    rt_json_open(out, '{');
    rt_json_add_text(out, "model", f->engine.options.model);
    rt_json_add_text(out, "load_format", f->engine.load_format);
    rt_json_add_text(out, "dtype", b->info.dtype);
    rt_json_add_text(out, "device", b->info.device);
    rt_json_add_u64(out, "threads", f->engine.options.threads); /* 0: all cores */
    rt_json_add_u64(out, "seed", f->engine.options.seed);
    rt_json_add_u64(out, "max_model_len", b->info.max_model_len);
    rt_json_add_u64(out, "block_size", b->info.block_size);
    rt_json_add_u64(out, "blocks", b->info.blocks);
    rt_json_add_u64(out, "max_num_seqs", b->info.max_num_seqs);
    rt_json_add_u64(out, "max_num_batched_tokens", b->info.max_num_batched_tokens);
    rt_json_key(out, "enable_prefix_caching");
    rt_json_bool(out, f->engine.enable_prefix_caching);
    rt_json_add_u64(out, "input_len", f->input_len);
    rt_json_add_u64(out, "output_len", f->output_len);
    rt_json_add_u64(out, "prefix_len", f->prefix_len);
    rt_json_add_u64(out, b->is_throughput ? "num_prompts" : "batch_size", b->prompts);
    if (!b->is_throughput) rt_json_add_u64(out, "num_iters", f->num_iters);
    rt_json_add_u64(out, "synthetic_loras", f->synthetic_loras);
    rt_json_add_u64(out, "synthetic_lora_rank", f->synthetic_lora_rank);
    rt_json_add_text(out, "synthetic_lora_targets", f->synthetic_lora_targets);
    rt_json_add_text(out, "synthetic_lora_kind", f->synthetic_lora_kind);
    rt_json_close(out, '}');
}

void rt__bench_write(const rt_bench *b, rt_bench_result *r, rt_bytes *out)
{
    figures f = figures_of(b, r);
    rt_json_open(out, '{');
    rt_json_add_text(out, "benchmark", b->is_throughput ? "throughput" : "latency");
    rt_json_add_text(out, "version", MICA_VERSION);
    rt_json_add_f64(out, "prefill_tokens_per_s", f.prefill_tokens_per_s);
    rt_json_add_f64(out, "decode_tokens_per_s", f.decode_tokens_per_s);
    rt_json_add_f64(out, "requests_per_s", f.requests_per_s);
    rt_json_add_f64(out, "total_tokens_per_s", f.total_tokens_per_s);
    rt_json_add_f64(out, "elapsed_s", f.seconds);
    write_percentiles(out, "ttft_ms", &r->ttft_ms);
    write_percentiles(out, "itl_ms", &r->itl_ms);
    rt_json_add_u64(out, "peak_rss_bytes", f.peak_rss_bytes);
    write_settings(b, out);
    rt_json_close(out, '}');
    rt_bytes_add_byte(out, '\n');
}
