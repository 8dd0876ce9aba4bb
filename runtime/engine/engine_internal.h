/* runtime/engine/engine_internal.h - the engine's insides, which engine.c and engine_step.c share. */
#ifndef RUNTIME_ENGINE_ENGINE_INTERNAL_H
#define RUNTIME_ENGINE_ENGINE_INTERNAL_H

#include "runtime/engine/batch.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/step_pace.h"

/* A row of logits and what is wanted of it. */
typedef struct rt__logit_item {
    rt_choice *choice;
    uint32_t position;   /* of the row; it tells of the token at position + 1 */
    bool is_picked;      /* by the device */
} rt__logit_item;

/* A step that the device was told of, until its tokens are taken. */
typedef struct rt__begun_step {
    rt__logit_item *items;   /* [rows_max] in the order of its logit rows; choice NULL: it ended meanwhile */
    uint32_t items_count;
    bool runs_ahead;     /* the next one may begin before this one's tokens are known */
    bool follows;        /* it began behind one that ran ahead, so the device had no pause before it */
    rt_step step;        /* else its logits can be asked for */
} rt__begun_step;

enum { RT__STEPS = RT_STEPS_AHEAD + 1 };

struct rt_engine {
    rt_engine_options o;
    kv *cache;
    adapter_registry *adapters;
    rt_sched *sched;
    rt_batch *batch;
    rt_choice **choice_of;   /* [seqs_max] by the scheduler's index */
    rt__begun_step steps[RT__STEPS];
    rt__begun_step *latest;      /* of them */
    rt__begun_step *begun;       /* the latest, where its tokens are still to be taken; else NULL */
    rt_step_pace pace;
    rt_pick *picks;          /* [rows_max] what is wanted of the latest, for the device */
    char *scratch;           /* [exec.parts] of the sampler */
    size_t scratch_bytes;
    rt_choice *news;
    rt_engine_stats stats;
    bool is_lost;
    rc_msg why_lost;
};

/* engine.c */
void rt__engine_tell(rt_engine *e, rt_choice *c); /* it has news */
void rt__engine_end_choice(rt_engine *e, rt_choice *c, mica_finish finish);
void rt__engine_fail_request(rt_engine *e, rt_request *r); /* what is left of it */

#endif
