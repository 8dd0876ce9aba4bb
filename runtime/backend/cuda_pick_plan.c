#include <string.h>

#include "runtime/backend/cuda_pick.h"

size_t rt_cuda_pick_words(size_t count, size_t draws, size_t lists_max)
{
    return count * RT_CUDA_PICK_WORDS + draws * lists_max;
}

static uint32_t *put(uint32_t *to, const void *from, uint32_t words)
{
    if (words) memcpy(to, from, words * sizeof *to);
    return to + words;
}

static rt_cuda_pick header_of(const rt_pick *p)
{
    const rt_sampling *s = p->sampling;
    const rt_history *h = &p->history;
    if (!s) return (rt_cuda_pick){.kind = RT_CUDA_PICK_KNOWN, .token = p->token, .tops = p->tops};
    uint64_t uniform = (uint64_t)(p->uniform * 0x1p53);
    bool is_penalized = rt_sampling_has_penalties(s), is_masked = h->generated_count < s->min_tokens;
    return (rt_cuda_pick){.kind = RT_CUDA_PICK_DRAW,
                          .tops = p->tops,
                          .temperature = s->temperature,
                          .top_p = s->top_p,
                          .min_p = s->min_p,
                          .top_k = s->top_k,
                          .frequency_penalty = s->frequency_penalty,
                          .presence_penalty = s->presence_penalty,
                          .repetition_penalty = s->repetition_penalty,
                          .uniform_low = (uint32_t)uniform,
                          .uniform_high = (uint32_t)(uniform >> 32),
                          .biases = (uint32_t)s->logit_bias_count,
                          .prompt = is_penalized ? h->prompt_count : 0,
                          .generated = is_penalized ? h->generated_count : 0,
                          .banned = is_masked ? (uint32_t)s->banned_count : 0};
}

uint32_t rt_cuda_pick_pack(const rt_pick *picks, uint32_t count, uint32_t rows, uint32_t lists_max,
                           uint32_t stride, uint32_t *words, uint32_t at, uint32_t lists_at)
{
    uint32_t *lists = words + lists_at;
    for (uint32_t i = 0; i < rows; i++) {
        rt_cuda_pick h = i < count ? header_of(&picks[i]) : (rt_cuda_pick){.kind = RT_CUDA_PICK_NONE};
        uint64_t needs = i < count ? rt_pick_list_words(&picks[i]) : 0;
        if (needs > lists_max) {
            h = (rt_cuda_pick){.kind = RT_CUDA_PICK_HOST};
        } else if (needs) {
            const rt_pick *p = &picks[i];
            h.lists_at = (uint32_t)(lists - words);
            lists = put(lists, p->sampling->logit_bias, 2 * h.biases);
            lists = put(lists, p->history.tokens, h.prompt + h.generated);
            lists = put(lists, p->sampling->banned, h.banned);
        }
        h.picked_at = i * stride;
        memcpy(words + at + (size_t)i * RT_CUDA_PICK_WORDS, &h, sizeof h);
    }
    return (uint32_t)(lists - words);
}
