/* Picking on a device against the host's sampler, which is the definition: the same tokens, ranks and best,
 * and log probabilities within 10^-6. A draw that hangs on the last digits of a sum would fall apart, with a
 * chance of about 10^-7 each; the seeds are fixed, so that it either does or never will. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/backend/cuda_pick.h"
#include "runtime/engine/sampler.h"

enum { ROWS = 24, VOCAB_MAX = 2500, LISTS_MAX = 400, HISTORY = 90, BIASES = 12, BANNED = 3 };

typedef struct scene {
    uint32_t vocab;
    float *logits; /* [ROWS][vocab] */
    rt_pick picks[ROWS];
    rt_sampling sampling[ROWS];
    mica_bias biases[ROWS][BIASES];
    int32_t history[ROWS][LISTS_MAX + 1], banned[ROWS][BANNED];
} scene;

static uint64_t state_;

static double random_double(void)
{
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (double)(state_ >> 11) * 0x1p-53;
}

static uint32_t below(uint32_t n)
{
    return (uint32_t)(random_double() * n);
}

static bool chance(double p)
{
    return random_double() < p;
}

/* Ties are common where `steps` is small. */
static float random_logit(double width, double steps)
{
    double x = (random_double() + random_double() + random_double() - 1.5) * width;
    return (float)(floor(x * steps) / steps);
}

static void random_row(float *logits, uint32_t vocab)
{
    double width = 1 + 30 * random_double(), steps = chance(0.5) ? 4 : 1 << 20;
    bool is_odd = chance(0.4);
    for (uint32_t i = 0; i < vocab; i++) {
        logits[i] = random_logit(width, steps);
        if (is_odd && chance(0.05)) logits[i] = -INFINITY;
        if (is_odd && chance(0.01)) logits[i] = NAN;
        if (is_odd && chance(0.002)) logits[i] = INFINITY;
        if (is_odd && chance(0.01)) logits[i] = -0.0f;
    }
}

static void random_lists(scene *s, uint32_t row)
{
    rt_sampling *p = &s->sampling[row];
    for (uint32_t i = 0; i < BIASES; i++)
        s->biases[row][i] = (mica_bias){(int32_t)below(i % 3 ? s->vocab : 5), random_logit(20, 64)};
    for (uint32_t i = 0; i < BANNED; i++) s->banned[row][i] = (int32_t)below(s->vocab);
    for (uint32_t i = 0; i < HISTORY; i++)
        s->history[row][i] = (int32_t)below(i % 2 && s->vocab > 8 ? 8 : s->vocab);
    rt_history *h = &s->picks[row].history;
    *h = (rt_history){s->history[row], below(HISTORY / 2), 1 + below(HISTORY / 2)};
    p->logit_bias = s->biases[row];
    p->banned = s->banned[row];
    if (chance(0.4)) p->logit_bias_count = below(BIASES + 1);
    if (chance(0.4)) p->banned_count = below(BANNED + 1);
    if (chance(0.5)) p->min_tokens = h->generated_count + below(2);
    if (chance(0.3)) p->repetition_penalty = (float)(0.5 + random_double());
    if (chance(0.3)) p->frequency_penalty = (float)(2 * random_double() - 1);
    if (chance(0.3)) p->presence_penalty = (float)(2 * random_double() - 1);
}

static void random_pick(scene *s, uint32_t row)
{
    rt_sampling *p = &s->sampling[row];
    rt_pick *pick = &s->picks[row];
    *p = (rt_sampling){.temperature = chance(0.2) ? 0 : (float)(0.2 + 2 * random_double()),
                       .top_p = chance(0.5) ? 1 : (float)(0.01 + 0.98 * random_double()),
                       .min_p = chance(0.7) ? 0 : (float)random_double(),
                       .top_k = chance(0.5) ? 0 : 1 + below(s->vocab + 2),
                       .repetition_penalty = 1,
                       .seed = row,
                       .choice = row % 3};
    *pick = (rt_pick){.sampling = p, .tops = (int32_t)below(RT_TOPS_MAX + 2) - 1};
    random_lists(s, row);
    pick->uniform = rt_uniform(p, &pick->history);
    if (pick->tops > (int32_t)s->vocab) pick->tops = (int32_t)s->vocab;
    if (chance(0.2)) {
        pick->sampling = NULL;
        pick->token = (int32_t)below(s->vocab);
        if (pick->tops < 0) pick->tops = 0;
    }
}

static scene *random_scene(uint32_t vocab, uint64_t seed)
{
    scene *s = calloc(1, sizeof *s);
    assert_non_null(s);
    state_ = seed * 7919 + vocab;
    s->vocab = vocab;
    s->logits = malloc((size_t)ROWS * vocab * sizeof *s->logits);
    assert_non_null(s->logits);
    for (uint32_t row = 0; row < ROWS; row++) {
        random_row(s->logits + (size_t)row * vocab, vocab);
        random_pick(s, row);
    }
    return s;
}

static void free_scene(scene *s)
{
    free(s->logits);
    free(s);
}

static void *on_device(size_t bytes)
{
    void *p = NULL;
    assert_int_equal(cudaMalloc(&p, bytes + 1), cudaSuccess);
    return p;
}

enum { STRIDE = 1 + RT_TOPS_MAX };

/* The last token of every second row's history is to come, of a step before whose pick i drew for row i. */
static int32_t *hide_last_tokens(scene *s, int32_t *before)
{
    for (uint32_t row = 0; row < ROWS; row++) {
        const rt_history *h = &s->picks[row].history;
        if (row % 2 || !h->generated_count) continue;
        int32_t *last = &s->history[row][h->prompt_count + h->generated_count - 1];
        before[row] = *last;
        *last = rt_token_to_come(row);
    }
    return before;
}

static void show_last_tokens(scene *s, const int32_t *before)
{
    for (uint32_t row = 0; row < ROWS; row++) {
        const rt_history *h = &s->picks[row].history;
        if (row % 2 || !h->generated_count) continue;
        s->history[row][h->prompt_count + h->generated_count - 1] = before[row];
    }
}

/* Picks of rows [first, first + rows) of the scene, `each` a launch. */
static void run(scene *s, uint32_t first, uint32_t rows, uint32_t each, mica_top *out)
{
    int32_t hidden[ROWS], tokens[ROWS];
    const uint32_t at = 5, all = rows + 2; /* the last two are nobody's */
    uint32_t *words = calloc(at + rt_cuda_pick_words(ROWS + 2, ROWS, LISTS_MAX), sizeof *words);
    size_t logits_bytes = (size_t)rows * s->vocab * sizeof(float);
    size_t picked_bytes = rows * STRIDE * sizeof *out;
    int32_t *before = on_device(sizeof hidden), *drawn = on_device(sizeof tokens);
    cudaMemcpy(before, hide_last_tokens(s, hidden), sizeof hidden, cudaMemcpyHostToDevice);
    uint32_t count = rt_cuda_pick_pack(s->picks + first, rows, all, LISTS_MAX, STRIDE, words, at,
                                       at + all * RT_CUDA_PICK_WORDS);
    show_last_tokens(s, hidden);
    assert_true(count <= at + rt_cuda_pick_words(ROWS + 2, ROWS, LISTS_MAX));
    uint32_t *device_words = on_device(count * sizeof *words);
    float *logits = on_device(logits_bytes);
    float *scratch = on_device(2 * (size_t)each * s->vocab * sizeof(float));
    mica_top *picked = on_device(picked_bytes);
    cudaMemcpyAsync(device_words, words, count * sizeof *words, cudaMemcpyHostToDevice, NULL);
    cudaMemcpyAsync(logits, s->logits + (size_t)first * s->vocab, logits_bytes, cudaMemcpyHostToDevice, NULL);
    for (uint32_t row = 0; row < all; row += each) {
        rt_cuda_pick_run r = {.words = device_words,
                              .at = at,
                              .first = row,
                              .rows = all - row < each ? all - row : each,
                              .logits = logits + (size_t)row * s->vocab,
                              .logits_stride = s->vocab,
                              .vocab = s->vocab,
                              .scratch = scratch,
                              .picked = picked,
                              .before = before,
                              .drawn = drawn};
        assert_int_equal(rt_cuda_pick_rows(&r, NULL), cudaSuccess);
    }
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    cudaMemcpy(out, picked, picked_bytes, cudaMemcpyDeviceToHost);
    cudaMemcpy(tokens, drawn, rows * sizeof *tokens, cudaMemcpyDeviceToHost);
    for (uint32_t row = 0; row < rows; row++) assert_int_equal(tokens[row], out[row * STRIDE].token);
    cudaFree(before);
    cudaFree(drawn);
    cudaFree(device_words);
    cudaFree(logits);
    cudaFree(scratch);
    cudaFree(picked);
    free(words);
}

static void check_top(const mica_top *got, const mica_top *want, uint32_t row)
{
    bool is_near = got->logprob == want->logprob ||
                   fabsf(got->logprob - want->logprob) <= 1e-6f * (1 + fabsf(want->logprob));
    if (got->token != want->token || got->rank != want->rank || !is_near)
        fail_msg("row %u: token %d rank %u logprob %.9g, expected %d %u %.9g", row, got->token, got->rank,
                 (double)got->logprob, want->token, want->rank, (double)want->logprob);
}

static void check_row(const scene *s, uint32_t row, const mica_top *got)
{
    const rt_pick *p = &s->picks[row];
    const float *logits = s->logits + (size_t)row * s->vocab;
    void *scratch = malloc(rt_sampler_scratch_bytes(s->vocab));
    mica_top own = {.token = p->token}, best[RT_TOPS_MAX + 1];
    if (p->sampling) own.token = rt_sample(logits, s->vocab, p->sampling, &p->history, scratch);
    if (got->token != own.token)
        fail_msg("vocabulary %u row %u: token %d, expected %d", s->vocab, row, got->token, own.token);
    if (p->tops >= 0) {
        rt_logprobs(logits, s->vocab, own.token, (uint32_t)p->tops, &own.logprob, &own.rank, best);
        check_top(got, &own, row);
        for (int32_t i = 0; i < p->tops; i++) check_top(got + 1 + i, &best[i], row);
    }
    free(scratch);
}

static void rows_are_picked_as_the_host_does(void **state)
{
    (void)state;
    static const uint32_t vocabs[] = {1, 2, 7, 31, 33, 250, 511, 513, 1000, VOCAB_MAX};
    for (size_t v = 0; v < sizeof vocabs / sizeof *vocabs; v++)
        for (uint64_t seed = 1; seed <= 4; seed++) {
            scene *s = random_scene(vocabs[v], seed);
            mica_top got[ROWS * STRIDE];
            run(s, 0, ROWS, 10, got);
            for (uint32_t row = 0; row < ROWS; row++) check_row(s, row, got + row * STRIDE);
            free_scene(s);
        }
}

static void a_row_does_not_depend_on_the_others(void **state)
{
    (void)state;
    scene *s = random_scene(700, 3);
    mica_top all[ROWS * STRIDE], alone[STRIDE];
    run(s, 0, ROWS, ROWS, all);
    for (uint32_t row = 0; row < ROWS; row++) {
        run(s, row, 1, 1, alone);
        int32_t tops = s->picks[row].tops;
        size_t told = tops < 0 ? sizeof all->token : (1 + (size_t)tops) * sizeof *all;
        assert_memory_equal(alone, all + row * STRIDE, told);
    }
    free_scene(s);
}

/* Draws by evenly spaced numbers: each token as often as its probability says. */
static void draws_follow_the_weights(void **state)
{
    (void)state;
    const float logits[] = {logf(1), logf(5), logf(2), -INFINITY, logf(8), logf(4)};
    const uint32_t want[] = {1, 5, 2, 0, 8, 4};
    scene *s = calloc(1, sizeof *s);
    s->vocab = 6;
    s->logits = malloc(ROWS * sizeof logits);
    rt_sampling p = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    uint32_t counts[6] = {0};
    for (uint32_t i = 0; i < 20; i++) {
        memcpy(s->logits + i * 6, logits, sizeof logits);
        s->picks[i] = (rt_pick){.sampling = &p, .uniform = (i + 0.5) / 20, .tops = -1};
    }
    mica_top got[ROWS * STRIDE];
    run(s, 0, 20, 20, got);
    for (uint32_t i = 0; i < 20; i++) counts[got[i * STRIDE].token]++;
    for (uint32_t i = 0; i < 6; i++) assert_int_equal(counts[i], want[i]);
    free_scene(s);
}

static void lists_that_are_too_long_are_left_to_the_host(void **state)
{
    (void)state;
    scene *s = random_scene(40, 8);
    for (uint32_t row = 0; row < 4; row++) {
        rt_sampling *p = &s->sampling[row];
        *p = (rt_sampling){.temperature = 0, .top_p = 1, .repetition_penalty = 1};
        s->picks[row] = (rt_pick){.sampling = p, .history = {s->history[row], LISTS_MAX, row % 2}, .tops = 2};
    }
    s->sampling[1].frequency_penalty = 0.5f; /* LISTS_MAX + 1 words */
    s->sampling[2].frequency_penalty = 0.5f; /* LISTS_MAX */
    mica_top got[ROWS * STRIDE];
    run(s, 0, ROWS, 10, got);
    assert_int_equal(got[1 * STRIDE].token, -1);
    for (uint32_t row = 0; row < ROWS; row++)
        if (row != 1) check_row(s, row, got + row * STRIDE);
    free_scene(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_picked_as_the_host_does),
        cmocka_unit_test(a_row_does_not_depend_on_the_others),
        cmocka_unit_test(draws_follow_the_weights),
        cmocka_unit_test(lists_that_are_too_long_are_left_to_the_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
