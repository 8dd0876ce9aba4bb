#include "runtime/base/samples.h"

#include <stdlib.h>

void rt_samples_add(rt_samples *s, double value)
{
    rt_bytes_add(&s->values, &value, sizeof value);
    s->is_sorted = false;
}

size_t rt_samples_count(const rt_samples *s)
{
    return s->values.count / sizeof(double);
}

void rt_samples_deinit(rt_samples *s)
{
    rt_bytes_deinit(&s->values);
}

static double *values_of(const rt_samples *s)
{
    return (double *)(void *)s->values.data;
}

double rt_samples_sum(const rt_samples *s)
{
    double sum = 0;
    for (size_t i = 0; i < rt_samples_count(s); i++) sum += values_of(s)[i];
    return sum;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

const double *rt_samples_sorted(rt_samples *s)
{
    size_t count = rt_samples_count(s);
    if (!s->is_sorted && count) qsort(values_of(s), count, sizeof(double), compare);
    s->is_sorted = true;
    return values_of(s);
}

double rt_samples_percentile(rt_samples *s, double p)
{
    size_t count = rt_samples_count(s);
    if (!count) return 0;
    const double *v = rt_samples_sorted(s);
    double place = p / 100 * (double)(count - 1);
    size_t below = (size_t)place, above = below + 1 < count ? below + 1 : below;
    return v[below] + (v[above] - v[below]) * (place - (double)below);
}
