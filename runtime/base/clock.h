/* runtime/base/clock.h - the one place that asks what time it is. */
#ifndef RUNTIME_BASE_CLOCK_H
#define RUNTIME_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Nanoseconds since some moment; never goes back. */
static inline int64_t rt_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Nanoseconds, and whole seconds, since 1970. */
static inline int64_t rt_unix_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
static inline int64_t rt_unix_seconds(void)
{
    return rt_unix_ns() / 1000000000;
}

#ifdef __cplusplus
}
#endif
#endif
