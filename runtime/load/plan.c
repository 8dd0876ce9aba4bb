#include "runtime/load/plan.h"

#include <math.h>

#include "runtime/base/random.h"

rc_code rt_load_plan_add(rt_load_plan *p, const rt_load_arrival *a, rc_msg *msg)
{
    if (p->count == p->room) {
        size_t room = p->room ? p->room * 2 : 256;
        rt_load_arrival *arrivals = realloc(p->arrivals, room * sizeof *arrivals);
        if (!arrivals) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for %zu requests", room);
        p->arrivals = arrivals;
        p->room = room;
    }
    p->arrivals[p->count++] = *a;
    return RC_OK;
}

void rt_load_plan_deinit(rt_load_plan *p)
{
    free(p->arrivals);
    *p = (rt_load_plan){0};
}

/* The rate is rate * t / ramp up to the ramp's end, so rate * t^2 / (2 ramp) have arrived by then. */
double rt_load_ramp_time(double expected, double rate, double ramp_s)
{
    double in_ramp = rate * ramp_s / 2;
    if (isinf(rate)) return 0;
    if (expected < in_ramp) return sqrt(2 * expected * ramp_s / rate);
    return ramp_s + (expected - in_ramp) / rate;
}

/* Gaps of unit rate, stretched by the ramp: a Poisson process whatever the rate does meanwhile. */
rc_code rt_load_plan_make(rt_load_plan *p, const rt_load_plan_options *o, rc_msg *msg)
{
    uint64_t random = o->seed;
    double expected = 0;
    for (uint32_t i = 0; i < o->count; i++) {
        expected -= log1p(-rt_random_unit(&random));
        rt_load_arrival a = {.at_s = rt_load_ramp_time(expected, o->rate, o->ramp_s),
                             .input_len = o->input_len,
                             .output_len = o->output_len,
                             .lora = (uint32_t)rt_load_mix_draw(o->loras, rt_random_unit(&random)),
                             .tenant = (uint32_t)rt_load_mix_draw(o->tenants, rt_random_unit(&random)),
                             .prefix = (uint32_t)(rt_random_next(&random) % o->prefixes)};
        RC_TRY(rt_load_plan_add(p, &a, msg));
    }
    return RC_OK;
}
