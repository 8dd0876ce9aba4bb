/* min_p, top_k and top_p. Better means a higher logit, or the lower id of equal ones.
 *
 * Nothing is sorted that need not be: top_k finds by a histogram which candidates can be among the best,
 * top_p leaves out the many that are too small to matter.
 */
#include <string.h>

#include "proto/dtype.h"
#include "runtime/engine/sampler_internal.h"

enum { RADIX_BITS = 11, RADIX = 1 << RADIX_BITS };

static void drop_below(const rt__row *row, float least)
{
    for (uint32_t i = 0; i < row->vocab; i++)
        if (row->weights[i] < least) row->weights[i] = 0;
}

/* Logits are at most 0, so the bits of their negatives order them. */
static uint32_t gather(const rt__row *row, float least)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < row->vocab; i++) {
        if (!(row->weights[i] > least)) continue;
        row->candidates[count++] = (rt__candidate){rc_f32_to_bits(0.0f - row->logits[i]), (int32_t)i};
    }
    return count;
}

/* Stable, so equal ones stay in order of ids. */
static void sort(const rt__row *row, uint32_t count)
{
    rt__candidate *from = row->candidates, *to = row->spare;
    for (int shift = 0; shift < 32; shift += RADIX_BITS) {
        uint32_t starts[RADIX] = {0}, at = 0;
        for (uint32_t i = 0; i < count; i++) starts[from[i].order >> shift & (RADIX - 1)]++;
        for (uint32_t d = 0; d < RADIX; d++) {
            uint32_t n = starts[d];
            starts[d] = at;
            at += n;
        }
        for (uint32_t i = 0; i < count; i++) to[starts[from[i].order >> shift & (RADIX - 1)]++] = from[i];
        rt__candidate *t = from;
        from = to;
        to = t;
    }
    if (from != row->candidates) memcpy(row->candidates, from, count * sizeof *from);
}

/* Keeps every candidate that can be among the k best, in order of ids. */
static uint32_t keep_near_best(const rt__row *row, uint32_t count, uint32_t k)
{
    const int shift = 32 - RADIX_BITS;
    uint32_t have[RADIX] = {0}, last = 0, kept = 0;
    for (uint32_t i = 0; i < count; i++) have[row->candidates[i].order >> shift]++;
    for (uint32_t sum = have[0]; sum < k; sum += have[last]) last++;
    for (uint32_t i = 0; i < count; i++)
        if (row->candidates[i].order >> shift <= last) row->candidates[kept++] = row->candidates[i];
    return kept;
}

static double total_of(const rt__row *row, uint32_t count)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) sum += row->weights[row->candidates[i].id];
    return sum;
}

/* The fewest of the sorted candidates whose weights reach `goal`. */
static uint32_t reach(const rt__row *row, uint32_t count, double goal)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum += row->weights[row->candidates[i].id];
        if (sum >= goal) return i + 1;
    }
    return count;
}

/* Candidates below half of their equal share of what top_p rules out can't, all together, be needed to
 * reach it. */
static uint32_t gather_for_top_p(const rt__row *row, float top_p, double *goal)
{
    uint32_t count = gather(row, 0);
    double total = total_of(row, count);
    *goal = top_p * total;
    return gather(row, (float)(0.5 * (1.0 - top_p) * total / count));
}

void rt__truncate(const rt__row *row, const rt_sampling *s)
{
    if (s->min_p > 0) drop_below(row, s->min_p < 1 ? s->min_p : 1);
    bool is_top_k = s->top_k > 0 && s->top_k < row->vocab, is_top_p = s->top_p < 1;
    if (!is_top_k && !is_top_p) return;
    double goal = 0;
    uint32_t count = is_top_k ? gather(row, 0) : gather_for_top_p(row, s->top_p, &goal);
    if (is_top_k && s->top_k < count) count = keep_near_best(row, count, s->top_k);
    sort(row, count);
    if (is_top_k) {
        if (s->top_k < count) count = s->top_k;
        goal = s->top_p * total_of(row, count);
    }
    if (is_top_p) count = reach(row, count, goal);
    float *kept = (float *)(void *)row->spare;
    memset(kept, 0, row->vocab * sizeof *kept);
    for (uint32_t i = 0; i < count; i++) kept[row->candidates[i].id] = row->weights[row->candidates[i].id];
    memcpy(row->weights, kept, row->vocab * sizeof *kept);
}
