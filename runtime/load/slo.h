/* runtime/load/slo.h - what a request must keep to count as good: "ttft:200", "itl:50", in milliseconds. */
#ifndef RUNTIME_LOAD_SLO_H
#define RUNTIME_LOAD_SLO_H

#include <stdbool.h>

#include "proto/rc.h"

typedef enum rt_load_metric {
    RT_LOAD_TTFT = 0, /* from sending to the first token */
    RT_LOAD_TPOT,     /* mean gap between tokens */
    RT_LOAD_ITL,      /* the 99th percentile of a request's gaps; in reports all gaps of all requests */
    RT_LOAD_E2EL,     /* from sending to the last token */
    RT_LOAD_METRICS
} rt_load_metric;

typedef struct rt_load_slo {
    double ms[RT_LOAD_METRICS]; /* 0: nothing is asked of it */
} rt_load_slo;

extern const char *const rt_load_metric_names[RT_LOAD_METRICS];

/* Adds "ttft:200". Errors INVALID_ARGUMENT. */
RC_MUST_CHECK rc_code rt_load_slo_add(rt_load_slo *s, const char *text, rc_msg *msg);
bool rt_load_slo_is_set(const rt_load_slo *s);
/* `ms` are a request's values. */
bool rt_load_slo_is_met(const rt_load_slo *s, const double ms[RT_LOAD_METRICS]);

#endif
