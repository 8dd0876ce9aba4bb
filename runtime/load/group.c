#include "runtime/load/group.h"

static void add_done(const rt_load *l, const rt_load_record *r, rt_load_group *g)
{
    double ms[RT_LOAD_METRICS];
    size_t gaps_count;
    const float *gaps = rt_load_record_gaps(r, &gaps_count);
    rt_load_record_metrics(r, ms);
    g->done++;
    g->good += rt_load_slo_is_met(&l->o->slo, ms);
    g->prompt_tokens += r->prompt_tokens;
    g->output_tokens += r->output_tokens;
    g->cached_tokens += r->cached_tokens;
    rt_samples_add(&g->ms[RT_LOAD_TTFT], ms[RT_LOAD_TTFT]);
    rt_samples_add(&g->ms[RT_LOAD_E2EL], ms[RT_LOAD_E2EL]);
    if (gaps_count) rt_samples_add(&g->ms[RT_LOAD_TPOT], ms[RT_LOAD_TPOT]);
    for (size_t i = 0; i < gaps_count; i++)
        if (gaps[i] > 0) rt_samples_add(&g->ms[RT_LOAD_ITL], gaps[i]);
}

rc_code rt_load_group_of(const rt_load *l, uint32_t lora, uint32_t tenant, rt_load_group *g, rc_msg *msg)
{
    bool has_failed = false;
    *g = (rt_load_group){0};
    for (size_t i = 0; i < l->count; i++) {
        const rt_load_record *r = &l->records[i];
        if ((lora != RT_LOAD_ANY && r->lora != lora) || (tenant != RT_LOAD_ANY && r->tenant != tenant))
            continue;
        g->requests++;
        g->failed += r->end == RT_LOAD_FAILED;
        has_failed = has_failed || r->gaps.failed;
        if (r->end != RT_LOAD_UNSENT) rt_samples_add(&g->queued_ms, (double)(r->sent_ns - r->due_ns) / 1e6);
        if (r->end == RT_LOAD_DONE) add_done(l, r, g);
    }
    has_failed = has_failed || g->queued_ms.values.failed;
    for (int i = 0; i < RT_LOAD_METRICS; i++) has_failed = has_failed || g->ms[i].values.failed;
    return has_failed ? rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the samples") : RC_OK;
}

void rt_load_group_deinit(rt_load_group *g)
{
    for (int i = 0; i < RT_LOAD_METRICS; i++) rt_samples_deinit(&g->ms[i]);
    rt_samples_deinit(&g->queued_ms);
}
