/* Sampling: each rule against the plainest statement of it, and draws against their distribution. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/engine/sampler.h"

enum { VOCAB_MAX = 3001 };

static uint64_t state_;

static double random_double(void)
{
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t x = state_;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (double)((x ^ x >> 31) >> 11) * 0x1p-53;
}

static uint32_t below(uint32_t n) { return (uint32_t)(random_double() * n); }

/* Coarse values, so that ties are common. */
static void random_logits(float *logits, uint32_t vocab, double width)
{
    for (uint32_t i = 0; i < vocab; i++)
        logits[i] = (float)(floor((random_double() + random_double() - 1) * width * 8) / 8);
}

static const rt_sampling plain = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 1};

static int32_t sample_at(const float *logits, uint32_t vocab, const rt_sampling *s, uint32_t position)
{
    void *scratch = malloc(rt_sampler_scratch_bytes(vocab));
    rt_history h = {.prompt_count = 0, .generated_count = position};
    int32_t *tokens = calloc(position + 1, sizeof *tokens);
    h.tokens = tokens;
    int32_t id = rt_sample(logits, vocab, s, &h, scratch);
    free(tokens);
    free(scratch);
    return id;
}

/* The definition: probabilities in double, sorted by selection. Gives each token's, 0 where ruled out. */
static void naive_probabilities(const float *logits, uint32_t vocab, const rt_sampling *s, double *p)
{
    double sum = 0, highest = -INFINITY;
    bool *is_kept = calloc(vocab, 1);
    for (uint32_t i = 0; i < vocab; i++)
        if (logits[i] > highest) highest = logits[i];
    for (uint32_t i = 0; i < vocab; i++) {
        p[i] = exp((logits[i] - highest) / s->temperature);
        if (p[i] < s->min_p) p[i] = 0;
        sum += p[i];
    }
    double reached = 0, of = 0;
    uint32_t most = s->top_k && s->top_k < vocab ? s->top_k : vocab;
    for (int pass = 0; pass < 2; pass++) {
        memset(is_kept, 0, vocab);
        for (uint32_t n = 0; n < most && (pass == 0 || reached < s->top_p * of); n++) {
            uint32_t at = vocab;
            for (uint32_t i = 0; i < vocab; i++)
                if (!is_kept[i] && p[i] > 0 && (at == vocab || p[i] > p[at])) at = i;
            if (at == vocab) break;
            is_kept[at] = true;
            *(pass == 0 ? &of : &reached) += p[at];
        }
        if (s->top_p >= 1) break;
    }
    for (uint32_t i = 0; i < vocab; i++) p[i] = is_kept[i] ? p[i] : 0;
    sum = 0;
    for (uint32_t i = 0; i < vocab; i++) sum += p[i];
    for (uint32_t i = 0; i < vocab; i++) p[i] /= sum;
    free(is_kept);
}

static void greedy_takes_the_lowest_id_among_equals(void **state)
{
    (void)state;
    float logits[] = {1, 3, 3, 2, 3};
    rt_sampling s = plain;
    s.temperature = 0;
    assert_int_equal(sample_at(logits, 5, &s, 0), 1);
    mica_bias bias = {4, 0.5f};
    s.logit_bias = &bias;
    s.logit_bias_count = 1;
    assert_int_equal(sample_at(logits, 5, &s, 0), 4);
}

static void banned_ids_wait_for_min_tokens(void **state)
{
    (void)state;
    float logits[] = {1, 9, 2};
    int32_t banned[] = {1};
    rt_sampling s = plain;
    s.min_tokens = 3;
    s.banned = banned;
    s.banned_count = 1;
    for (uint32_t position = 0; position < 3; position++)
        assert_int_not_equal(sample_at(logits, 3, &s, position), 1);
    s.temperature = 0;
    assert_int_equal(sample_at(logits, 3, &s, 2), 2);
    assert_int_equal(sample_at(logits, 3, &s, 3), 1);
}

static void top_k_1_is_greedy(void **state)
{
    (void)state;
    static float logits[VOCAB_MAX];
    rt_sampling greedy = plain, one = plain;
    greedy.temperature = 0;
    one.top_k = 1;
    state_ = 7;
    for (int i = 0; i < 50; i++) {
        random_logits(logits, VOCAB_MAX, 4);
        assert_int_equal(sample_at(logits, VOCAB_MAX, &one, 0), sample_at(logits, VOCAB_MAX, &greedy, 0));
    }
}

/* Many draws: none outside of the set that the definition keeps, and chi-square of those inside. */
static void draws_follow_the_definition(void **state)
{
    (void)state;
    enum { VOCAB = 50, DRAWS = 20000 };
    float logits[VOCAB];
    double p[VOCAB];
    void *scratch = malloc(rt_sampler_scratch_bytes(VOCAB));
    for (uint32_t seed = 1; seed <= 40; seed++) {
        state_ = seed;
        uint32_t counts[VOCAB] = {0};
        random_logits(logits, VOCAB, 3);
        rt_sampling s = plain;
        s.seed = seed;
        s.temperature = (float)(0.3 + 2 * random_double());
        if (seed & 1) s.top_k = 1 + below(VOCAB);
        if (seed & 2) s.top_p = (float)(0.2 + 0.7 * random_double());
        if (seed & 4) s.min_p = (float)(0.2 * random_double());
        naive_probabilities(logits, VOCAB, &s, p);
        for (uint32_t i = 0; i < DRAWS; i++) {
            rt_history h = {.prompt_count = i};
            counts[rt_sample(logits, VOCAB, &s, &h, scratch)]++;
        }
        double chi = 0, bins = -1, rest_want = 0, rest_got = 0;
        for (uint32_t i = 0; i < VOCAB; i++) {
            if (p[i] == 0) assert_int_equal(counts[i], 0);
            if (p[i] * DRAWS >= 10) {
                chi += pow(counts[i] - p[i] * DRAWS, 2) / (p[i] * DRAWS);
                bins++;
            } else {
                rest_want += p[i] * DRAWS;
                rest_got += counts[i];
            }
        }
        if (rest_want >= 10) {
            chi += pow(rest_got - rest_want, 2) / rest_want;
            bins++;
        }
        /* 4.5 standard deviations of the chi-square's mean */
        if (chi > bins + 4.5 * sqrt(2 * bins + 1) + 4)
            fail_msg("seed %u: chi-square %g of %g", seed, chi, bins);
    }
    free(scratch);
}

/* Members of these sets have similar weights, so that each is seen within few draws. */
static void truncated_sets_are_exact_where_logits_tie(void **state)
{
    (void)state;
    enum { VOCAB = 300, DRAWS = 600 };
    float logits[VOCAB];
    double p[VOCAB];
    void *scratch = malloc(rt_sampler_scratch_bytes(VOCAB));
    for (uint32_t seed = 1; seed <= 60; seed++) {
        state_ = 1000 + seed;
        uint32_t counts[VOCAB] = {0};
        for (uint32_t i = 0; i < VOCAB; i++)
            logits[i] = below(20) == 0 ? 2.0f + 0.125f * (float)below(3) : -30;
        rt_sampling s = plain;
        s.seed = seed;
        if (seed & 1) s.top_k = 1 + below(12);
        if (!(seed & 1) || seed & 2) s.top_p = (float)(0.05 + 0.9 * random_double());
        naive_probabilities(logits, VOCAB, &s, p);
        for (uint32_t i = 0; i < DRAWS; i++) {
            rt_history h = {.prompt_count = i};
            counts[rt_sample(logits, VOCAB, &s, &h, scratch)]++;
        }
        for (uint32_t i = 0; i < VOCAB; i++)
            if ((p[i] > 1e-9) != (counts[i] > 0))
                fail_msg("seed %u, id %u: p %g, drawn %u", seed, i, p[i], counts[i]);
    }
    free(scratch);
}

static void penalties_count_prompt_and_generated_as_vllm_does(void **state)
{
    (void)state;
    enum { VOCAB = 9 };
    void *scratch = malloc(rt_sampler_scratch_bytes(VOCAB));
    for (uint32_t seed = 1; seed <= 500; seed++) {
        state_ = seed;
        float logits[VOCAB], want[VOCAB];
        int32_t tokens[12], best = 0;
        rt_history h = {tokens, below(6), below(6)};
        random_logits(logits, VOCAB, 2);
        for (int i = 0; i < 12; i++) tokens[i] = (int32_t)below(VOCAB);
        rt_sampling s = plain;
        s.temperature = 0;
        s.repetition_penalty = (float)(0.5 + random_double());
        s.frequency_penalty = (float)(2 * random_double() - 1);
        s.presence_penalty = (float)(2 * random_double() - 1);
        for (int32_t id = 0; id < VOCAB; id++) {
            uint32_t prompt = 0, generated = 0;
            for (uint32_t i = 0; i < h.prompt_count; i++) prompt += tokens[i] == id;
            for (uint32_t i = 0; i < h.generated_count; i++) generated += tokens[h.prompt_count + i] == id;
            float x = logits[id];
            if (prompt + generated) x = x > 0 ? x / s.repetition_penalty : x * s.repetition_penalty;
            x -= s.frequency_penalty * (float)generated;
            x -= generated ? s.presence_penalty : 0;
            want[id] = x;
            if (want[id] > want[best]) best = id;
        }
        assert_int_equal(rt_sample(logits, VOCAB, &s, &h, scratch), best);
    }
    free(scratch);
}

static void a_draw_depends_on_seed_choice_and_position_only(void **state)
{
    (void)state;
    enum { VOCAB = 1000, DRAWS = 200 };
    static float logits[VOCAB];
    rt_sampling a = plain, b = plain, c = plain;
    b.seed = 2;
    c.choice = 1;
    int same_b = 0, same_c = 0, same_next = 0;
    for (uint32_t i = 0; i < DRAWS; i++) {
        int32_t id = sample_at(logits, VOCAB, &a, i);
        assert_int_equal(sample_at(logits, VOCAB, &a, i), id);
        same_b += sample_at(logits, VOCAB, &b, i) == id;
        same_c += sample_at(logits, VOCAB, &c, i) == id;
        same_next += sample_at(logits, VOCAB, &a, i + 1) == id;
    }
    assert_true(same_b < 5 && same_c < 5 && same_next < 5);
    assert_true(rt_seed_from_key(1, "a") != rt_seed_from_key(1, "b"));
    assert_true(rt_seed_from_key(1, "a") != rt_seed_from_key(2, "a"));
    assert_true(rt_seed_from_key(1, "a") == rt_seed_from_key(1, "a"));
}

static void check_logprobs(const float *logits, uint32_t vocab, uint32_t top_count)
{
    long double sum = 0, highest = -INFINITY;
    for (uint32_t i = 0; i < vocab; i++)
        if (logits[i] > highest) highest = logits[i];
    for (uint32_t i = 0; i < vocab; i++) sum += expl(logits[i] - highest);
    long double norm = highest + logl(sum);
    mica_top top[20];
    float logprob;
    uint32_t rank;
    int32_t token = (int32_t)below(vocab);
    rt_logprobs(logits, vocab, token, top_count, &logprob, &rank, top);
    uint32_t want = 1;
    for (uint32_t i = 0; i < vocab; i++) want += logits[i] > logits[token];
    assert_int_equal(rank, want);
    assert_true(fabsl(logprob - (logits[token] - norm)) <= 1e-6);
    for (uint32_t k = 0; k < top_count; k++) {
        uint32_t before = 0, greater = 0;
        for (uint32_t i = 0; i < vocab; i++) {
            greater += logits[i] > logits[top[k].token];
            before += logits[i] == logits[top[k].token] && (int32_t)i < top[k].token;
        }
        assert_int_equal(greater + before, k);
        assert_int_equal(top[k].rank, greater + 1);
        assert_true(fabsl(top[k].logprob - (logits[top[k].token] - norm)) <= 1e-6);
    }
}

static void logprobs_agree_with_long_double(void **state)
{
    (void)state;
    static float logits[VOCAB_MAX];
    static const uint32_t sizes[] = {1, 2, 15, 16, 17, 40, 1000, VOCAB_MAX};
    for (uint32_t seed = 1; seed <= 160; seed++) {
        state_ = seed;
        uint32_t vocab = sizes[seed % 8];
        random_logits(logits, vocab, seed % 3 ? 5 : 0.4);
        check_logprobs(logits, vocab, vocab < 20 ? vocab : seed % 21);
    }
}

static void logits_that_are_no_numbers_do_no_harm(void **state)
{
    (void)state;
    float logits[40], logprob;
    uint32_t rank;
    mica_top top[20];
    static const float odd[] = {NAN, INFINITY, -INFINITY, 0, 1e38f, -1e38f};
    for (uint32_t seed = 0; seed < 3000; seed++) {
        state_ = seed;
        for (int i = 0; i < 40; i++) logits[i] = odd[below(seed % 6 + 1)];
        rt_sampling s = plain;
        if (seed & 1) s.top_k = 5;
        if (seed & 2) s.top_p = 0.5f;
        if (seed & 4) s.min_p = 0.1f;
        if (seed & 8) s.temperature = 1e-4f;
        int32_t id = sample_at(logits, 40, &s, 0);
        assert_true(id >= 0 && id < 40);
        rt_logprobs(logits, 40, id, 20, &logprob, &rank, top);
        assert_false(isnan(logprob));
        for (int k = 0; k < 20; k++)
            assert_true(top[k].token >= 0 && top[k].token < 40 && !isnan(top[k].logprob));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_lowest_id_among_equals),
        cmocka_unit_test(banned_ids_wait_for_min_tokens),
        cmocka_unit_test(top_k_1_is_greedy),
        cmocka_unit_test(draws_follow_the_definition),
        cmocka_unit_test(truncated_sets_are_exact_where_logits_tie),
        cmocka_unit_test(penalties_count_prompt_and_generated_as_vllm_does),
        cmocka_unit_test(a_draw_depends_on_seed_choice_and_position_only),
        cmocka_unit_test(logprobs_agree_with_long_double),
        cmocka_unit_test(logits_that_are_no_numbers_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
