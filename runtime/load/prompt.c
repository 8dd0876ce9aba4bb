#include "runtime/load/prompt.h"

#include "runtime/base/random.h"

void rt_load_prompt_add(rt_bytes *ids, uint64_t seed, rt_load_text kind, uint64_t a, uint64_t b,
                        uint32_t count, uint32_t vocab)
{
    uint64_t random = rt_random_mix(rt_random_mix(rt_random_mix(seed + kind) + a) + b);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t id = (uint32_t)(rt_random_next(&random) % vocab);
        rt_bytes_add(ids, &id, sizeof id);
    }
}
