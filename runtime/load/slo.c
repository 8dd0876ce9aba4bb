#include "runtime/load/slo.h"

#include <math.h>

const char *const rt_load_metric_names[RT_LOAD_METRICS] = {"ttft", "tpot", "itl", "e2el"};

static rc_code fail(const char *text, rc_msg *msg)
{
    return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg,
                            "--goodput '%.100s': expected ttft:MS, tpot:MS, itl:MS or e2el:MS, once each",
                            text),
                    msg, "goodput");
}

rc_code rt_load_slo_add(rt_load_slo *s, const char *text, rc_msg *msg)
{
    const char *colon = strchr(text, ':');
    size_t bytes = colon ? (size_t)(colon - text) : 0;
    int metric = 0;
    char *end;
    while (metric < RT_LOAD_METRICS && (strlen(rt_load_metric_names[metric]) != bytes ||
                                        strncmp(rt_load_metric_names[metric], text, bytes)))
        metric++;
    if (!colon || metric == RT_LOAD_METRICS || s->ms[metric] > 0) return fail(text, msg);
    double ms = strtod(colon + 1, &end);
    if (!colon[1] || *end || !isfinite(ms) || ms <= 0) return fail(text, msg);
    s->ms[metric] = ms;
    return RC_OK;
}

bool rt_load_slo_is_set(const rt_load_slo *s)
{
    for (int i = 0; i < RT_LOAD_METRICS; i++)
        if (s->ms[i] > 0) return true;
    return false;
}

bool rt_load_slo_is_met(const rt_load_slo *s, const double ms[RT_LOAD_METRICS])
{
    for (int i = 0; i < RT_LOAD_METRICS; i++)
        if (s->ms[i] > 0 && ms[i] > s->ms[i]) return false;
    return true;
}
