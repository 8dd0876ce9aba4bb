/* runtime/base/random.h - splitmix64: what fresh prompts and arrivals need, and the same on every machine. */
#ifndef RUNTIME_BASE_RANDOM_H
#define RUNTIME_BASE_RANDOM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

static inline uint64_t rt_random_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Any state will do to begin with. */
static inline uint64_t rt_random_next(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u;
    return rt_random_mix(*state);
}

/* At least 0 and below 1. */
static inline double rt_random_unit(uint64_t *state)
{
    return (double)(rt_random_next(state) >> 11) * 0x1p-53;
}

#ifdef __cplusplus
}
#endif
#endif
