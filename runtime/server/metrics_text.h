/* runtime/server/metrics_text.h - lines of Prometheus' text format, version 0.0.4.
 *
 * Names are given without vLLM's `vllm:`; each sample has vLLM's labels model_name and engine. Values of
 * labels are escaped.
 */
#ifndef RUNTIME_SERVER_METRICS_TEXT_H
#define RUNTIME_SERVER_METRICS_TEXT_H

#include "runtime/base/bytes.h"
#include "runtime/mica.h"

typedef struct rt_metrics_page {
    rt_bytes *out;
    const char *model_name;
} rt_metrics_page;

void rt__page_family(rt_metrics_page *p, const char *name, const char *type, const char *help);
/* label: one more, or NULL */
void rt__page_sample(rt_metrics_page *p, const char *name, const char *label, const char *value,
                     double sample);
void rt__page_gauge(rt_metrics_page *p, const char *name, const char *help, double value);
void rt__page_counter(rt_metrics_page *p, const char *name, const char *help, uint64_t value);
/* Counts are of all values up to the bound. */
void rt__page_bucket(rt_metrics_page *p, const char *name, double bound, uint64_t count);
void rt__page_bucket_end(rt_metrics_page *p, const char *name, uint64_t count, double sum);

void rt__page_cache_config(rt_metrics_page *p, const mica_info *info);
void rt__page_adapters(rt_metrics_page *p, const mica *engine, const mica_info *info);
void rt__page_process(rt_metrics_page *p, int64_t started);

#endif
