/* runtime/backend/pick.h - what is wanted of a row of logits: a token to be drawn, or the log probability of
 * one that is known. runtime/engine/sampler.h says what the numbers mean and in which order they apply.
 */
#ifndef RUNTIME_BACKEND_PICK_H
#define RUNTIME_BACKEND_PICK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/mica.h"

enum { RT_TOPS_MAX = MICA_LOGPROBS_MAX }; /* log probabilities that come along with a token's own */

typedef struct rt_sampling {
    float temperature, top_p, min_p;
    uint32_t top_k; /* 0: all */
    float frequency_penalty, presence_penalty, repetition_penalty;
    const mica_bias *logit_bias;
    size_t logit_bias_count;
    uint32_t min_tokens;   /* before that many, the banned ids can't be drawn */
    const int32_t *banned; /* eos and stop ids, masked while generated_count < min_tokens */
    size_t banned_count;
    uint64_t seed;
    uint32_t choice;
} rt_sampling;

/* Below it vLLM takes the best token, too: dividing by less would overflow. */
#define RT_GREEDY_BELOW 1e-5f

static inline bool rt_sampling_has_penalties(const rt_sampling *s)
{
    return s->repetition_penalty != 1 || s->frequency_penalty != 0 || s->presence_penalty != 0;
}

/* What a choice's history is, for penalties and the position of the draw. */
typedef struct rt_history {
    const int32_t *tokens; /* prompt, then generated, of which the last may be one to come */
    uint32_t prompt_count, generated_count;
} rt_history;

/* A token that is still on the device: what pick `pick` of the step before comes to. */
static inline int32_t rt_token_to_come(uint32_t pick)
{
    return ~(int32_t)pick;
}

/* One row. What came of it is a mica_top for the token, and one for each of the best behind it. */
typedef struct rt_pick {
    const rt_sampling *sampling; /* NULL: nothing is drawn, since `token` is known */
    rt_history history;
    double uniform; /* in [0, 1): decides the draw */
    int32_t token;
    int32_t tops; /* how many of the best come along, at most RT_TOPS_MAX and the vocabulary; -1: no log
                     probabilities at all, and only the token is told */
} rt_pick;

/* 32-bit words of the lists that a pick reads: biases, history, banned ids. */
static inline uint64_t rt_pick_list_words(const rt_pick *p)
{
    const rt_sampling *s = p->sampling;
    const rt_history *h = &p->history;
    if (!s) return 0;
    uint64_t history = rt_sampling_has_penalties(s) ? (uint64_t)h->prompt_count + h->generated_count : 0;
    return 2 * s->logit_bias_count + history + (h->generated_count < s->min_tokens ? s->banned_count : 0);
}

#endif
