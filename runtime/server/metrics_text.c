#include "runtime/server/metrics_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/clock.h"

static void add_escaped(rt_bytes *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\\' || *text == '"') rt_bytes_add_byte(out, '\\');
        if (*text == '\n')
            rt_bytes_add_text(out, "\\n");
        else
            rt_bytes_add_byte(out, *text);
    }
}

static void begin_labels(rt_metrics_page *p, const char *name, const char *suffix)
{
    rt_bytes_print(p->out, "vllm:%s%s{model_name=\"", name, suffix);
    add_escaped(p->out, p->model_name);
    rt_bytes_add_text(p->out, "\",engine=\"0\"");
}

void rt__page_family(rt_metrics_page *p, const char *name, const char *type, const char *help)
{
    rt_bytes_print(p->out, "# HELP vllm:%s %s\n# TYPE vllm:%s %s\n", name, help, name, type);
}

void rt__page_sample(rt_metrics_page *p, const char *name, const char *label, const char *value,
                     double sample)
{
    begin_labels(p, name, "");
    if (label) {
        rt_bytes_print(p->out, ",%s=\"", label);
        add_escaped(p->out, value);
        rt_bytes_add_byte(p->out, '"');
    }
    rt_bytes_print(p->out, "} %.17g\n", sample);
}

void rt__page_gauge(rt_metrics_page *p, const char *name, const char *help, double value)
{
    rt__page_family(p, name, "gauge", help);
    rt__page_sample(p, name, NULL, NULL, value);
}

void rt__page_counter(rt_metrics_page *p, const char *name, const char *help, uint64_t value)
{
    rt__page_family(p, name, "counter", help);
    rt__page_sample(p, name, NULL, NULL, (double)value);
}

void rt__page_bucket(rt_metrics_page *p, const char *name, double bound, uint64_t count)
{
    begin_labels(p, name, "_bucket");
    rt_bytes_print(p->out, ",le=\"%.15g\"} %" PRIu64 "\n", bound, count);
}

void rt__page_bucket_end(rt_metrics_page *p, const char *name, uint64_t count, double sum)
{
    begin_labels(p, name, "_bucket");
    rt_bytes_print(p->out, ",le=\"+Inf\"} %" PRIu64 "\n", count);
    begin_labels(p, name, "_sum");
    rt_bytes_print(p->out, "} %.17g\n", sum);
    begin_labels(p, name, "_count");
    rt_bytes_print(p->out, "} %" PRIu64 "\n", count);
}

void rt__page_cache_config(rt_metrics_page *p, const mica_info *info)
{
    rt__page_family(p, "cache_config_info", "gauge", "What the K/V cache was made with.");
    rt_bytes_print(p->out,
                   "vllm:cache_config_info{block_size=\"%" PRIu32 "\",num_gpu_blocks=\"%" PRIu32
                   "\",engine=\"0\"} 1\n",
                   info->block_size, info->blocks);
}

static bool is_resident(const mica_adapter *a)
{
    return a->is_resident;
}
static bool is_awaited(const mica_adapter *a)
{
    return a->is_awaited;
}

/* Names as one label's value. */
static void add_names(rt_bytes *out, const mica_adapter *list, size_t count,
                      bool (*wanted)(const mica_adapter *))
{
    const char *between = "";
    for (size_t i = 0; i < count; i++) {
        if (!wanted(&list[i])) continue;
        rt_bytes_add_text(out, between);
        add_escaped(out, list[i].name);
        between = ",";
    }
}

/* Routers take the series with the greatest value, which is the time. */
void rt__page_adapters(rt_metrics_page *p, const mica *engine, const mica_info *info)
{
    mica_adapter *list;
    size_t count;
    if (mica_adapter_list(engine, &list, &count, NULL) != RC_OK) return;
    rt__page_family(p, "lora_requests_info", "gauge", "Adapters that are resident, and that are waited for.");
    rt_bytes_print(p->out, "vllm:lora_requests_info{max_lora=\"%" PRIu32 "\",waiting_lora_adapters=\"",
                   info->max_loras);
    add_names(p->out, list, count, is_awaited);
    rt_bytes_add_text(p->out, "\",running_lora_adapters=\"");
    add_names(p->out, list, count, is_resident);
    rt_bytes_print(p->out, "\"} %" PRId64 "\n", rt_unix_seconds());
    free(list);
}

static void add_plain(rt_bytes *out, const char *name, const char *type, const char *help, double value)
{
    rt_bytes_print(out, "# HELP %s %s\n# TYPE %s %s\n%s %.17g\n", name, help, name, type, name, value);
}

static double resident_bytes(void)
{
    unsigned long long total, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%llu %llu", &total, &resident) != 2) resident = 0;
    if (f) fclose(f);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

void rt__page_process(rt_metrics_page *p, int64_t started)
{
    struct timespec cpu = {0};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    add_plain(p->out, "process_start_time_seconds", "gauge", "When the server started, since 1970.",
              (double)started);
    add_plain(p->out, "process_cpu_seconds_total", "counter", "Processor time of all threads.",
              (double)cpu.tv_sec + (double)cpu.tv_nsec * 1e-9);
    add_plain(p->out, "process_resident_memory_bytes", "gauge", "Memory that is resident.", resident_bytes());
}
