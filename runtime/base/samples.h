/* runtime/base/samples.h - a growing list of measured numbers, and what is told of them. {0} is an empty one.
 *
 * Errors   memory only, told by values.failed.
 */
#ifndef RUNTIME_BASE_SAMPLES_H
#define RUNTIME_BASE_SAMPLES_H

#include "runtime/base/bytes.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rt_samples {
    rt_bytes values; /* double */
    bool is_sorted;
} rt_samples;

void rt_samples_add(rt_samples *s, double value);
size_t rt_samples_count(const rt_samples *s);
double rt_samples_sum(const rt_samples *s);
/* The p-th percentile, 0 to 100, between the two values around it; 0 of none. Sorts the samples. */
double rt_samples_percentile(rt_samples *s, double p);
/* [count], ascending; valid until the next add. */
const double *rt_samples_sorted(rt_samples *s);
void rt_samples_deinit(rt_samples *s);

#ifdef __cplusplus
}
#endif
#endif
