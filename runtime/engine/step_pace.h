/* runtime/engine/step_pace.h - when the next step need be told to a device that runs ahead: late enough that
 * who comes meanwhile is in it, early enough that the device has no pause. */
#ifndef RUNTIME_ENGINE_STEP_PACE_H
#define RUNTIME_ENGINE_STEP_PACE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    RT_PACE_SHORT_NS = 2000000, /* shorter steps are told at once */
    RT_PACE_SPARE = 8           /* of a step's time, what the next one is told earlier than it must */
};

typedef struct rt_step_pace {
    int64_t told_ns;    /* when the last step was */
    int64_t ended_ns;   /* when the last one that ran ahead did */
    int64_t step_ns;    /* what such a step takes: about the shortest of late; 0: not known */
    int64_t telling_ns; /* what planning and telling one takes: about the longest of late */
} rt_step_pace;

static inline void rt_step_pace_told(rt_step_pace *p, int64_t asked_ns, int64_t now_ns)
{
    int64_t took = now_ns - asked_ns, less = p->telling_ns - took;
    p->telling_ns = less < 0 ? took : p->telling_ns - less / 8;
    p->told_ns = now_ns;
}

/* follows: it was told while another ran, so the device had no pause before it. */
static inline void rt_step_pace_ended(rt_step_pace *p, bool follows, int64_t now_ns)
{
    int64_t took = now_ns - p->ended_ns, more = took - p->step_ns;
    if (follows) p->step_ns = !p->step_ns || more < 0 ? took : p->step_ns + more / 8;
    p->ended_ns = now_ns;
}

/* 0: at once. The device began with the last step when the one before ended, or when it was told. */
static inline int64_t rt_step_pace_next_at(const rt_step_pace *p, bool follows)
{
    int64_t spare = p->step_ns / RT_PACE_SPARE + 2 * p->telling_ns;
    if (p->step_ns < RT_PACE_SHORT_NS) return 0;
    return (follows ? p->ended_ns : p->told_ns) + (spare < p->step_ns ? p->step_ns - spare : 0);
}

#endif
