/* runtime/engine/sampler.h - from a row of logits to a token and its log probabilities.
 *
 * Order (vLLM's v1): logit_bias and the min_tokens mask, penalties, greedy choice if temperature is 0;
 * else temperature, min_p, top_k, top_p, draw. Log probabilities are of the raw logits, before all that.
 *
 * Random numbers come from (seed, choice, position) alone, so a choice draws the same whatever ran beside it.
 * Exact    Every sum has a fixed order; ties go to the lower id. No state is kept between calls.
 * Threads  Pure functions on the caller's scratch: rows may be sampled in parallel.
 * Source   vLLM v1/sample/sampler.py; penalties: v1/sample/ops/penalties.py.
 */
#ifndef RUNTIME_ENGINE_SAMPLER_H
#define RUNTIME_ENGINE_SAMPLER_H

#include "runtime/backend/pick.h"

/* Scratch for one call over a vocabulary of this size. */
size_t rt_sampler_scratch_bytes(uint32_t vocab);

/* Draws the next token. logits [vocab] are read only. top_k keeps exactly k (vLLM: all that tie with the
 * k-th). A temperature below 1e-5 is greedy. */
int32_t rt_sample(const float *logits, uint32_t vocab, const rt_sampling *s, const rt_history *h,
                  void *scratch);

/* Log probability and rank (1 + how many are strictly greater) of `token`, and the `top_count` best, best
 * first. */
void rt_logprobs(const float *logits, uint32_t vocab, int32_t token, uint32_t top_count, float *logprob,
                 uint32_t *rank, mica_top *top);

/* The number that decides the draw after this history, in [0, 1): from seed, choice and position alone. */
double rt_uniform(const rt_sampling *s, const rt_history *h);

/* Seed of a request without one: from the engine's seed and the request's key. */
uint64_t rt_seed_from_key(uint64_t engine_seed, const char *key);

#endif
