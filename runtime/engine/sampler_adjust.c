#include <math.h>
#include <string.h>

#include "runtime/engine/sampler_internal.h"

static bool is_token(const rt__row *row, int32_t id) { return id >= 0 && (uint32_t)id < row->vocab; }

/* Penalizes each token of the history once. `seen` counts how often it was generated; the upper bit says
 * that it is done. */
static void penalize(const rt__row *row, const rt_sampling *s, const rt_history *h)
{
    const uint32_t done = 1u << 31;
    uint32_t *seen = (uint32_t *)(void *)row->spare, count = h->prompt_count + h->generated_count;
    memset(seen, 0, row->vocab * sizeof *seen);
    for (uint32_t i = h->prompt_count; i < count; i++)
        if (is_token(row, h->tokens[i])) seen[h->tokens[i]]++;
    for (uint32_t i = 0; i < count; i++) {
        int32_t id = h->tokens[i];
        if (!is_token(row, id) || seen[id] & done) continue;
        float x = row->logits[id];
        x = x > 0 ? x / s->repetition_penalty : x * s->repetition_penalty;
        x -= s->frequency_penalty * (float)seen[id];
        if (seen[id]) x -= s->presence_penalty;
        row->logits[id] = x;
        seen[id] |= done;
    }
}

void rt__adjust(const rt__row *row, const rt_sampling *s, const rt_history *h)
{
    for (size_t i = 0; i < s->logit_bias_count; i++) {
        mica_bias b = s->logit_bias[i];
        if (is_token(row, b.token)) row->logits[b.token] += b.bias;
    }
    if (rt_sampling_has_penalties(s)) penalize(row, s, h);
    if (h->generated_count < s->min_tokens)
        for (size_t i = 0; i < s->banned_count; i++)
            if (is_token(row, s->banned[i])) row->logits[s->banned[i]] = -INFINITY;
}
