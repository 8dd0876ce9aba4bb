#include "runtime/engine/sampler.h"

#include <float.h>
#include <math.h>

#include "proto/vec.h"
#include "runtime/engine/sampler_internal.h"

size_t rt_sampler_scratch_bytes(uint32_t vocab)
{
    return vocab * (2 * sizeof(float) + 2 * sizeof(rt__candidate));
}

/* NaN becomes the lowest finite value, so that it is drawn only where all else is banned; infinity becomes
 * the highest. */
static void copy_finite(const float *logits, uint32_t vocab, float *out)
{
    for (uint32_t i = 0; i < vocab; i++) {
        float x = logits[i];
        x = x != x ? -FLT_MAX : x;
        out[i] = x > FLT_MAX ? FLT_MAX : x;
    }
}

static int32_t best(const float *logits, uint32_t vocab)
{
    uint32_t at = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[at]) at = i;
    return (int32_t)at;
}

static void weigh(const rt__row *row, float highest, float temperature)
{
    rc_vf top = rc_vf_set1(highest), t = rc_vf_set1(temperature);
    for (uint32_t i = 0; i < row->vocab; i += RC_LANES) {
        uint32_t n = rc_vf_lanes(i, row->vocab);
        rc_vf x = rc_vf_div(rc_vf_sub(rc_vf_load_n(row->logits + i, n), top), t);
        rc_vf_store_n(row->logits + i, x, n);
        rc_vf_store_n(row->weights + i, rc_vf_exp(x), n);
    }
}

int32_t rt_sample(const float *logits, uint32_t vocab, const rt_sampling *s, const rt_history *h,
                  void *scratch)
{
    rt__row row = {.vocab = vocab, .candidates = scratch};
    row.spare = row.candidates + vocab;
    row.logits = (float *)(void *)(row.spare + vocab);
    row.weights = row.logits + vocab;
    copy_finite(logits, vocab, row.logits);
    rt__adjust(&row, s, h);
    int32_t top = best(row.logits, vocab);
    float highest = row.logits[top];
    if (s->temperature < RT_GREEDY_BELOW || !isfinite(highest)) return top;
    weigh(&row, highest, s->temperature);
    rt__truncate(&row, s);
    return rt__draw(row.weights, vocab, rt_uniform(s, h));
}
