/* What was measured, as text for people and as JSON. */
#include <math.h>

#include "runtime/base/json_out.h"
#include "runtime/load/group.h"

enum { LINES_MAX = 16 }; /* adapters and tenants told on the screen */

static double seconds_of(const rt_load *l)
{
    return (double)l->duration_ns / 1e9;
}
static double rate(double count, double seconds)
{
    return seconds > 0 ? count / seconds : 0;
}
static double share(double part, double all)
{
    return all > 0 ? part / all : 0;
}
static double mean(const rt_samples *s)
{
    size_t count = rt_samples_count(s);
    return count ? rt_samples_sum(s) / (double)count : 0;
}

/* ---- text ---- */

static void print_row(const char *name, rt_samples *s)
{
    printf("%-8s %9.2f %9.2f %9.2f %9.2f %9.2f\n", name, mean(s), rt_samples_percentile(s, 50),
           rt_samples_percentile(s, 90), rt_samples_percentile(s, 99), rt_samples_percentile(s, 100));
}

static void print_head(const rt_load *l)
{
    const rt_load_options *o = l->o;
    printf("%s at %s: %zu requests, ", l->model, o->target, l->count);
    if (isnan(o->rate))
        printf("from a trace");
    else if (isinf(o->rate))
        printf("all at once");
    else
        printf("Poisson, %g a second", o->rate);
    if (o->turns > 1) printf(" of conversations of %u", o->turns);
    printf(", %.2f s\n", seconds_of(l));
}

static void print_goodput(const rt_load *l, const rt_load_group *g)
{
    const rt_load_slo *s = &l->o->slo;
    if (!rt_load_slo_is_set(s)) return;
    printf("goodput  %.1f %% of requests, %.2f/s, within", 100 * share((double)g->good, (double)g->requests),
           rate((double)g->good, seconds_of(l)));
    for (int i = 0; i < RT_LOAD_METRICS; i++)
        if (s->ms[i] > 0) printf(" %s:%g", rt_load_metric_names[i], s->ms[i]);
    printf("\n");
}

static void print_group_line(const rt_load *l, const char *kind, const char *name, rt_load_group *g)
{
    printf("%s %s: %zu completed, %zu failed; ttft p50 %.2f, p99 %.2f; itl p50 %.2f, p99 %.2f ms; %.1f %% "
           "cached",
           kind, name, g->done, g->failed, rt_samples_percentile(&g->ms[RT_LOAD_TTFT], 50),
           rt_samples_percentile(&g->ms[RT_LOAD_TTFT], 99), rt_samples_percentile(&g->ms[RT_LOAD_ITL], 50),
           rt_samples_percentile(&g->ms[RT_LOAD_ITL], 99),
           100 * share((double)g->cached_tokens, (double)g->prompt_tokens));
    if (rt_load_slo_is_set(&l->o->slo))
        printf("; %.1f %% good", 100 * share((double)g->good, (double)g->requests));
    printf("\n");
}

static rc_code print_groups(const rt_load *l, const char *kind, const rt_load_mix *mix, bool is_lora,
                            rc_msg *msg)
{
    uint32_t told = 0;
    for (uint32_t i = 0; mix->count > 1 && i < mix->count; i++) {
        rt_load_group g;
        rc_code code = rt_load_group_of(l, is_lora ? i : RT_LOAD_ANY, is_lora ? RT_LOAD_ANY : i, &g, msg);
        if (code == RC_OK && g.requests && told++ < LINES_MAX)
            print_group_line(l, kind, mix->choices[i].name, &g);
        rt_load_group_deinit(&g);
        RC_TRY(code);
    }
    if (told > LINES_MAX) printf("%ss: %u more; --output-json has all\n", kind, told - LINES_MAX);
    return RC_OK;
}

static size_t failures(const rt_load *l, uint32_t status)
{
    size_t count = 0;
    for (size_t i = 0; i < l->count; i++)
        count += l->records[i].end == RT_LOAD_FAILED && l->records[i].status == status;
    return count;
}

static void print_errors(const rt_load *l)
{
    for (uint32_t i = 0; i < RPC_STATUSES; i++) {
        size_t count = failures(l, i);
        if (count) printf("%s %zu times, first: %s\n", rpc_status_name(i), count, l->said[i]);
    }
}

static void print_all(const rt_load *l, rt_load_group *g)
{
    double s = seconds_of(l);
    print_head(l);
    printf("requests %zu completed, %zu failed, %zu not sent; %.2f/s; at most %u in flight\n", g->done,
           g->failed, g->requests - g->done - g->failed, rate((double)g->done, s), l->peak);
    printf("tokens   input %llu (%.1f %% cached), output %llu; %.1f output/s\n",
           (unsigned long long)g->prompt_tokens,
           100 * share((double)g->cached_tokens, (double)g->prompt_tokens),
           (unsigned long long)g->output_tokens, rate((double)g->output_tokens, s));
    printf("%-8s %9s %9s %9s %9s %9s\n", "ms", "mean", "p50", "p90", "p99", "max");
    for (int i = 0; i < RT_LOAD_METRICS; i++) print_row(rt_load_metric_names[i], &g->ms[i]);
    print_row("queued", &g->queued_ms);
    print_goodput(l, g);
}

rc_code rt_load_print(const rt_load *l, rc_msg *msg)
{
    rt_load_group all;
    rc_code code = rt_load_group_of(l, RT_LOAD_ANY, RT_LOAD_ANY, &all, msg);
    if (code == RC_OK) print_all(l, &all);
    rt_load_group_deinit(&all);
    if (code == RC_OK) code = print_groups(l, "adapter", l->o->loras, true, msg);
    if (code == RC_OK) code = print_groups(l, "tenant", l->o->tenants, false, msg);
    if (code == RC_OK) print_errors(l);
    return code;
}

/* ---- JSON ---- */

static void write_samples(rt_bytes *out, const char *name, rt_samples *s)
{
    char key[24];
    snprintf(key, sizeof key, "%s_ms", name);
    rt_json_key(out, key);
    rt_json_open(out, '{');
    rt_json_add_f64(out, "mean", mean(s));
    rt_json_add_f64(out, "p50", rt_samples_percentile(s, 50));
    rt_json_add_f64(out, "p90", rt_samples_percentile(s, 90));
    rt_json_add_f64(out, "p95", rt_samples_percentile(s, 95));
    rt_json_add_f64(out, "p99", rt_samples_percentile(s, 99));
    rt_json_add_f64(out, "max", rt_samples_percentile(s, 100));
    rt_json_close(out, '}');
}

/* The members of a group, into an open object. */
static void write_group(const rt_load *l, rt_load_group *g, rt_bytes *out)
{
    double s = seconds_of(l);
    rt_json_add_u64(out, "num_requests", g->requests);
    rt_json_add_u64(out, "completed", g->done);
    rt_json_add_u64(out, "failed", g->failed);
    rt_json_add_u64(out, "total_input_tokens", g->prompt_tokens);
    rt_json_add_u64(out, "total_output_tokens", g->output_tokens);
    rt_json_add_u64(out, "cached_tokens", g->cached_tokens);
    rt_json_add_f64(out, "cache_hit_rate", share((double)g->cached_tokens, (double)g->prompt_tokens));
    rt_json_add_f64(out, "request_throughput", rate((double)g->done, s));
    rt_json_add_f64(out, "output_throughput", rate((double)g->output_tokens, s));
    rt_json_add_f64(out, "total_token_throughput", rate((double)(g->prompt_tokens + g->output_tokens), s));
    if (rt_load_slo_is_set(&l->o->slo)) {
        rt_json_add_u64(out, "good", g->good);
        rt_json_add_f64(out, "request_goodput", rate((double)g->good, s));
    }
    for (int i = 0; i < RT_LOAD_METRICS; i++) write_samples(out, rt_load_metric_names[i], &g->ms[i]);
    write_samples(out, "queued", &g->queued_ms);
}

static rc_code write_groups(const rt_load *l, const char *key, const rt_load_mix *mix, bool is_lora,
                            rt_bytes *out, rc_msg *msg)
{
    rt_json_key(out, key);
    rt_json_open(out, '{');
    for (uint32_t i = 0; i < mix->count; i++) {
        rt_load_group g;
        rc_code code = rt_load_group_of(l, is_lora ? i : RT_LOAD_ANY, is_lora ? RT_LOAD_ANY : i, &g, msg);
        if (code == RC_OK && g.requests && mix->choices[i].name[0]) {
            rt_json_key(out, mix->choices[i].name);
            rt_json_open(out, '{');
            write_group(l, &g, out);
            rt_json_close(out, '}');
        }
        rt_load_group_deinit(&g);
        RC_TRY(code);
    }
    rt_json_close(out, '}');
    return RC_OK;
}

static void write_errors(const rt_load *l, rt_bytes *out)
{
    rt_json_key(out, "errors");
    rt_json_open(out, '{');
    for (uint32_t i = 0; i < RPC_STATUSES; i++) {
        size_t count = failures(l, i);
        if (!count) continue;
        rt_json_key(out, rpc_status_name(i));
        rt_json_open(out, '{');
        rt_json_add_u64(out, "count", count);
        rt_json_add_text(out, "first", l->said[i]);
        rt_json_close(out, '}');
    }
    rt_json_close(out, '}');
}

static void write_settings(const rt_load *l, rt_bytes *out)
{
    const rt_load_options *o = l->o;
    rt_json_key(out, "settings");
    rt_json_open(out, '{');
    rt_json_add_text(out, "target", o->target);
    rt_json_add_text(out, "model", l->model);
    rt_json_key(out, "request_rate");
    if (isnan(o->rate))
        rt_json_null(out);
    else if (isinf(o->rate))
        rt_json_text(out, "inf");
    else
        rt_json_f64(out, o->rate);
    rt_json_add_f64(out, "ramp_seconds", o->ramp_s);
    rt_json_add_u64(out, "num_prompts", o->plan->count);
    rt_json_add_u64(out, "turns", o->turns);
    rt_json_add_u64(out, "prefix_len", o->prefix_len);
    rt_json_add_u64(out, "max_concurrency", o->max_concurrency);
    rt_json_add_u64(out, "vocab_size", l->vocab);
    rt_json_add_u64(out, "seed", o->seed);
    rt_json_key(out, "goodput");
    rt_json_open(out, '{');
    for (int i = 0; i < RT_LOAD_METRICS; i++)
        if (o->slo.ms[i] > 0) rt_json_add_f64(out, rt_load_metric_names[i], o->slo.ms[i]);
    rt_json_close(out, '}');
    rt_json_close(out, '}');
}

static rc_code write_body(const rt_load *l, rt_load_group *all, rt_bytes *out, rc_msg *msg)
{
    rt_json_open(out, '{');
    rt_json_add_text(out, "benchmark", "serve");
    rt_json_add_text(out, "version", l->o->version);
    rt_json_add_f64(out, "duration", seconds_of(l));
    write_group(l, all, out);
    rt_json_add_u64(out, "not_sent", all->requests - all->done - all->failed);
    rt_json_add_u64(out, "peak_concurrency", l->peak);
    write_errors(l, out);
    RC_TRY(write_groups(l, "loras", l->o->loras, true, out, msg));
    RC_TRY(write_groups(l, "tenants", l->o->tenants, false, out, msg));
    write_settings(l, out);
    rt_json_close(out, '}');
    rt_bytes_add_byte(out, '\n');
    return out->failed ? rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the figures") : RC_OK;
}

rc_code rt_load_write(const rt_load *l, rt_bytes *out, rc_msg *msg)
{
    rt_load_group all;
    rc_code code = rt_load_group_of(l, RT_LOAD_ANY, RT_LOAD_ANY, &all, msg);
    if (code == RC_OK) code = write_body(l, &all, out, msg);
    rt_load_group_deinit(&all);
    return code;
}
