/* Random adapters, for benchmarks. */
#include <math.h>
#include <stdlib.h>

#include "runtime/api/mica_internal.h"

static float next_random(uint64_t *state, float gain)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return ((float)(*state >> 40) * 0x1p-23f - 1.0f) * gain;
}

static uint16_t *random_matrix(size_t count, float gain, uint64_t *state, uint16_t **at)
{
    uint16_t *matrix = *at;
    for (size_t i = 0; i < count; i++) matrix[i] = rc_f32_to_bf16(next_random(state, gain));
    *at += count;
    return matrix;
}

static bool wanted(const adapter_module *module, bool qkv_only)
{
    return !qkv_only || module->linear == RT_LINEAR_QKV;
}

/* Room for so many deltas with so many elements in all; NULL: no memory. */
static adapter_weights *make_room(size_t deltas, size_t elements)
{
    adapter_weights *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->bytes = elements * sizeof(uint16_t);
    w->deltas = calloc(deltas, sizeof *w->deltas);
    w->storage = malloc(w->bytes);
    if (w->deltas && w->storage) return w;
    adapter_weights_free(w);
    return NULL;
}

static adapter_delta make_delta(const adapter_module *module, uint32_t layer, uint32_t rank, uint64_t *state,
                                uint16_t **at)
{
    adapter_delta d = {.layer = layer,
                       .linear = module->linear,
                       .in = module->in,
                       .out = module->out,
                       .out_offset = module->out_offset,
                       .rank = rank,
                       .scaling = 1,
                       .dtype = RC_BF16};
    d.a = random_matrix((size_t)rank * module->in, 1 / sqrtf((float)module->in), state, at);
    d.b = random_matrix((size_t)rank * module->out, 0.5f / sqrtf((float)rank), state, at);
    return d;
}

rc_code mica__synthetic_weights(const adapter_shape *shape, uint32_t rank, bool qkv_only, bool alora,
                                uint64_t seed, adapter_weights **out, rc_msg *msg)
{
    size_t elements = 0, count = 0;
    if (!rank || rank > shape->rank_max)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "rank must be in [1, %u] (--max-lora-rank), got %u",
                       shape->rank_max, rank);
    for (uint32_t i = 0; i < shape->modules_count; i++) {
        const adapter_module *module = &shape->modules[i];
        if (!wanted(module, qkv_only)) continue;
        elements += ((size_t)module->in + module->out) * rank * shape->layers;
        count += shape->layers;
    }
    adapter_weights *w = make_room(count, elements);
    if (!w)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for an adapter of %zu bytes",
                       elements * sizeof(uint16_t));
    w->kind = alora ? ADAPTER_ALORA : ADAPTER_LORA;
    w->rank_max = rank;
    uint16_t *at = w->storage;
    for (uint32_t layer = 0; layer < shape->layers; layer++)
        for (uint32_t i = 0; i < shape->modules_count; i++)
            if (wanted(&shape->modules[i], qkv_only))
                w->deltas[w->deltas_count++] = make_delta(&shape->modules[i], layer, rank, &seed, &at);
    *out = w;
    return RC_OK;
}
