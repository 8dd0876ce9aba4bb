#include <string.h>
#include <xxhash.h>

#include "runtime/engine/sampler_internal.h"

uint64_t rt_seed_from_key(uint64_t engine_seed, const char *key)
{
    return XXH3_64bits_withSeed(key, strlen(key), engine_seed);
}

/* A counter-based generator: XXH3 of the counter, seeded. Bytes are laid out by hand, so that any machine
 * draws the same. */
double rt_uniform(const rt_sampling *s, const rt_history *h)
{
    uint64_t position = (uint64_t)h->prompt_count + h->generated_count;
    unsigned char counter[12];
    for (int i = 0; i < 4; i++) counter[i] = (unsigned char)(s->choice >> 8 * i);
    for (int i = 0; i < 8; i++) counter[4 + i] = (unsigned char)(position >> 8 * i);
    return (double)(XXH3_64bits_withSeed(counter, sizeof counter, s->seed) >> 11) * 0x1p-53;
}

int32_t rt__draw(const float *weights, uint32_t vocab, double u)
{
    double total = 0, sum = 0;
    for (uint32_t i = 0; i < vocab; i++) total += weights[i];
    int32_t last = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        if (!(weights[i] > 0)) continue;
        last = (int32_t)i;
        sum += weights[i];
        if (sum > u * total) break;
    }
    return last;
}
