/* Log probabilities of a row. Exponentials are float32 (one unit in the last place), their sum is double:
 * together off by less than 1e-7. The portable vectors, whatever the device's family, so that all families
 * turn the same logits into the same bits. */
#include <float.h>
#include <math.h>

#include "proto/vec.h"
#include "runtime/engine/sampler.h"

/* NaN counts as -inf, and infinity as the highest finite value. */
static rc_vf clean(rc_vf x)
{
    return rc_vf_min(rc_vf_max(x, rc_vf_set1(-INFINITY)), rc_vf_set1(FLT_MAX));
}

static float clean1(float x) { return x > FLT_MAX ? FLT_MAX : x == x ? x : -INFINITY; }

/* Lanes past the end are -inf. */
static rc_vf load(const float *logits, uint32_t vocab, uint32_t i)
{
    if (vocab - i >= RC_LANES) return clean(rc_vf_load(logits + i));
    uint32_t n = vocab - i;
    return clean(rc_vf_keep(rc_vf_load_n(logits + i, n), n, rc_vf_set1(-INFINITY)));
}

static double log_sum(const float *logits, uint32_t vocab, float highest)
{
    double sums[RC_LANES] = {0}, sum = 0;
    for (uint32_t i = 0; i < vocab; i += RC_LANES) {
        float e[RC_LANES];
        rc_vf_store(e, rc_vf_exp(rc_vf_sub(load(logits, vocab, i), rc_vf_set1(highest))));
        for (int k = 0; k < RC_LANES; k++) sums[k] += e[k];
    }
    for (int k = 0; k < RC_LANES; k++) sum += sums[k];
    return log(sum);
}

/* Puts a token into best[0 .. held), sorted, at most `most` long; `logprob` holds logits meanwhile. Tokens
 * come in order of ids, so an equal one goes behind. Gives the new length. */
static uint32_t insert(mica_top *best, uint32_t held, uint32_t most, int32_t id, float x)
{
    uint32_t at = held;
    while (at > 0 && x > best[at - 1].logprob) at--;
    if (at == most) return held;
    if (held < most) held++;
    memmove(best + at + 1, best + at, (held - 1 - at) * sizeof *best);
    best[at] = (mica_top){id, x, 0};
    return held;
}

static void find_best(const float *logits, uint32_t vocab, mica_top *best, uint32_t count)
{
    uint32_t held = 0;
    for (uint32_t i = 0; i < vocab; i += RC_LANES) {
        if (held == count && !(rc_vf_top(load(logits, vocab, i)) > best[count - 1].logprob)) continue;
        for (uint32_t k = i; k < vocab && k < i + RC_LANES; k++)
            held = insert(best, held, count, (int32_t)k, clean1(logits[k]));
    }
}

static uint32_t rank_of(const float *logits, uint32_t vocab, float x)
{
    uint32_t greater = 0;
    for (uint32_t i = 0; i < vocab; i++) greater += logits[i] > x;
    return 1 + greater;
}

void rt_logprobs(const float *logits, uint32_t vocab, int32_t token, uint32_t top_count, float *logprob,
                 uint32_t *rank, mica_top *top)
{
    rc_vf highs = rc_vf_set1(-INFINITY);
    for (uint32_t i = 0; i < vocab; i += RC_LANES) highs = rc_vf_max(highs, load(logits, vocab, i));
    float highest = rc_vf_top(highs), own = clean1(logits[token]);
    bool is_empty = highest == -INFINITY; /* no token is possible, so none has a probability */
    double norm = is_empty ? 0 : highest + log_sum(logits, vocab, highest);
    *logprob = (float)(own - norm);
    *rank = rank_of(logits, vocab, own);
    if (top_count > vocab) top_count = vocab;
    if (!top_count) return;
    find_best(logits, vocab, top, top_count);
    for (uint32_t i = 0; i < top_count; i++) {
        bool is_tied = i > 0 && top[i].logprob == clean1(logits[top[i - 1].token]);
        top[i].rank = is_tied ? top[i - 1].rank : i + 1;
        top[i].logprob = (float)(top[i].logprob - norm);
    }
}
