#include "runtime/load/record.h"

#include "runtime/base/samples.h"

const float *rt_load_record_gaps(const rt_load_record *r, size_t *count)
{
    *count = r->gaps.count / sizeof(float);
    return (const float *)(const void *)r->gaps.data;
}

void rt_load_record_tokens(rt_load_record *r, uint32_t tokens, int64_t now_ns)
{
    uint32_t later = tokens;
    if (!tokens) return;
    if (!r->output_tokens) {
        r->first_ns = r->last_ns = now_ns;
        later--;
    }
    float gap = (float)((double)(now_ns - r->last_ns) / 1e6), none = 0;
    for (uint32_t i = 0; i < later; i++) rt_bytes_add(&r->gaps, i ? &none : &gap, sizeof gap);
    r->output_tokens += tokens;
    r->last_ns = now_ns;
}

void rt_load_record_metrics(const rt_load_record *r, double ms[RT_LOAD_METRICS])
{
    size_t count;
    const float *gaps = rt_load_record_gaps(r, &count);
    rt_samples sorted = {0};
    for (size_t i = 0; i < count; i++)
        if (gaps[i] > 0) rt_samples_add(&sorted, gaps[i]);
    ms[RT_LOAD_TTFT] = (double)(r->first_ns - r->sent_ns) / 1e6;
    ms[RT_LOAD_E2EL] = (double)(r->last_ns - r->sent_ns) / 1e6;
    ms[RT_LOAD_TPOT] = count ? (double)(r->last_ns - r->first_ns) / 1e6 / (double)count : 0;
    ms[RT_LOAD_ITL] = rt_samples_percentile(&sorted, 99);
    rt_samples_deinit(&sorted);
}
