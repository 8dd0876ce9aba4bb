/* runtime/load/plan.h - what arrives when: made from a rate, or read from a trace.
 *
 * The same seed makes the same plan. Open loop: nothing here knows whether earlier requests are done.
 */
#ifndef RUNTIME_LOAD_PLAN_H
#define RUNTIME_LOAD_PLAN_H

#include "runtime/load/mix.h"

typedef struct rt_load_arrival {
    double at_s; /* after the start; never before the one above */
    uint32_t input_len, output_len;
    uint32_t lora, tenant; /* indices in their mixes */
    uint32_t prefix;       /* which of the shared ones */
} rt_load_arrival;

typedef struct rt_load_plan {
    rt_load_arrival *arrivals; /* [count] */
    size_t count, room;
} rt_load_plan;

typedef struct rt_load_plan_options {
    double rate;   /* arrivals a second; INFINITY: all at once */
    double ramp_s; /* for so long the rate rises, from 0; 0: it is there at once */
    uint32_t count;
    uint32_t input_len, output_len; /* also of a trace's lines that do not say */
    uint32_t prefixes;              /* at least 1 */
    uint64_t seed;
    const rt_load_mix *loras, *tenants; /* of at least one choice each */
} rt_load_plan_options;

/* Poisson arrivals. Errors RESOURCE_EXHAUSTED: no memory. */
RC_MUST_CHECK rc_code rt_load_plan_make(rt_load_plan *p, const rt_load_plan_options *o, rc_msg *msg);
/* Lines of {"at": seconds, "input_len": N, "output_len": N, "lora": "name", "tenant": "name"}; blank ones are
 * skipped. Only "at" must be there; a null or absent adapter or tenant is drawn, a "lora" that is not in its
 * mix joins it with weight 0. `count` 0: all lines, else the first so many. Errors INVALID_ARGUMENT: with the
 * line's number; also a file that cannot be read or holds none. */
RC_MUST_CHECK rc_code rt_load_plan_read(rt_load_plan *p, const char *path, rt_load_mix *loras,
                                        const rt_load_plan_options *o, rc_msg *msg);
RC_MUST_CHECK rc_code rt_load_plan_add(rt_load_plan *p, const rt_load_arrival *a, rc_msg *msg);
void rt_load_plan_deinit(rt_load_plan *p);

/* When the rate has made `expected` arrivals on average. */
double rt_load_ramp_time(double expected, double rate, double ramp_s);

#endif
