/* tests/support/prng.h - seeded random numbers for tests: splitmix64. Same seed, same numbers, everywhere. */
#ifndef TESTS_SUPPORT_PRNG_H
#define TESTS_SUPPORT_PRNG_H

#include <stdbool.h>
#include <stdint.h>

typedef struct prng {
    uint64_t state;
} prng;

static inline uint64_t prng_next(prng *p)
{
    uint64_t x = p->state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Uniform enough in [0, bound); 0 for a bound of 0. */
static inline uint32_t prng_below(prng *p, uint32_t bound)
{
    return (uint32_t)(((prng_next(p) >> 32) * bound) >> 32);
}

/* In [low, high]. */
static inline uint32_t prng_range(prng *p, uint32_t low, uint32_t high)
{
    return low + prng_below(p, high - low + 1);
}

/* True once in `n` times. */
static inline bool prng_one_in(prng *p, uint32_t n) { return prng_below(p, n) == 0; }

#endif
