/* runtime/engine/sampler_internal.h - the steps of sampling one row, each in a file of its own. */
#ifndef RUNTIME_ENGINE_SAMPLER_INTERNAL_H
#define RUNTIME_ENGINE_SAMPLER_INTERNAL_H

#include "runtime/engine/sampler.h"

/* A token that may be drawn; a smaller order is a higher logit. */
typedef struct rt__candidate {
    uint32_t order;
    int32_t id;
} rt__candidate;

typedef struct rt__row {
    uint32_t vocab;
    float *logits;             /* [vocab] adjusted; then less the highest, over the temperature */
    float *weights;            /* [vocab] e^logit, 0 where the token can't be drawn; the highest is 1 */
    rt__candidate *candidates; /* [vocab] */
    rt__candidate *spare;      /* [vocab]: sorting, the tokens seen, weights that are kept */
} rt__row;

/* sampler_adjust.c: logit_bias, the banned ids and penalties, on row->logits. */
void rt__adjust(const rt__row *row, const rt_sampling *s, const rt_history *h);

/* sampler_truncate.c: takes the weight of every token that min_p, top_k or top_p rules out. */
void rt__truncate(const rt__row *row, const rt_sampling *s);

/* sampler_draw.c: the first id at which the weights, added up in order of ids, pass u of their total. */
int32_t rt__draw(const float *weights, uint32_t vocab, double u);

#endif
