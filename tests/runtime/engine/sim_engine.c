/* The whole engine over a fake device, one seed at a time.
 *
 * Goal    Whatever the limits and whatever happens (arrivals, cancels, priorities, preemption, adapters that
 *         come, go, fail to load and share slots), every request ends exactly once, with the tokens that it
 * gets when it runs alone, and nothing leaks. Method  The fake device's tokens are hashes of what its K/V
 * really holds (tests/support/fake_exec.h). Every ended choice is replayed by the definition alone. Block
 * manager, registry and scheduler check their invariants after every step. Limits are small and drawn at
 * random, as the events are. usage   sim_engine [--steps N] [--seed S [--one]]
 */
#include <stdlib.h>
#include <string.h>

#include "adapters/activation.h"
#include "runtime/engine/engine.h"
#include "tests/support/fake_exec.h"

enum { VOCAB = 24, ADAPTERS = 5, OPEN_MAX = 24, PROMPT_MAX = 48, JOBS = 8, EOS = 3 };

typedef struct open_request {
    rt_request *request;
    mica_request asked;
    mica_bias bias;
    uint64_t weights;    /* what its adapted rows are computed with */
    int32_t prompt[PROMPT_MAX], stop_ids[2];
    uint32_t choices_left;
} open_request;

typedef struct sim {
    uint64_t random;
    rt_engine *engine;
    rt_engine_options o;
    rt_request_limits limits;
    fake_exec device;
    rt_exec exec;
    uint64_t weights_made;
    uint64_t weights_of[ADAPTERS]; /* by name; 0: not known */
    adapter_job jobs[JOBS];
    uint32_t jobs_count;
    open_request open[OPEN_MAX];
    uint64_t ended, steps;
    uint32_t idle;
} sim;

static uint32_t roll(sim *s, uint32_t sides)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return (uint32_t)((s->random * 0x2545f4914f6cdd1du) >> 33) % sides;
}

/* ---- what a choice must have answered ---- */

static void check_prompt_logprobs(const open_request *q, const uint64_t *rows)
{
    float logits[VOCAB], logprob;
    uint32_t rank;
    for (uint32_t p = 0; q->asked.prompt_logprobs >= 0 && p + 1 < q->request->prompt_count; p++) {
        fake_logits(rows[p], VOCAB, logits);
        rt_logprobs(logits, VOCAB, q->prompt[p + 1], 0, &logprob, &rank, NULL);
        RC_ASSERT(q->request->prompt_logprob[p + 1].logprob == logprob);
    }
}

/* Replays a choice by the definition of the fake's K/V; it may have been cut short by a cancel. */
static void replay(sim *s, const open_request *q, const rt_choice *c)
{
    const rt_request *r = q->request;
    char *scratch = malloc(rt_sampler_scratch_bytes(VOCAB));
    uint32_t known = r->prompt_count + c->generated_count;
    uint64_t *rows = malloc(known * sizeof *rows);
    float logits[VOCAB];
    rt_sampling sampling = r->sampling;
    RC_ASSERT(scratch && rows);
    sampling.choice = c->index;
    for (uint32_t p = 0; p + 1 < known; p++) {
        bool adapted = r->activation != ADAPTER_NEVER && p >= r->activation;
        rows[p] = fake_row(rows, p, c->tokens[p], adapted ? q->weights : 0);
        if (p + 1 < r->prompt_count) continue;
        rt_history history = { c->tokens, r->prompt_count, p + 1 - r->prompt_count };
        fake_logits(rows[p], VOCAB, logits);
        RC_ASSERT(c->tokens[p + 1] == rt_sample(logits, VOCAB, &sampling, &history, scratch));
    }
    if (c == &r->choices[0] && c->generated_count) check_prompt_logprobs(q, rows);
    if (c->finish == MICA_LENGTH) RC_ASSERT(c->generated_count == r->max_tokens);
    if (c->generated_count) RC_ASSERT(r->cached_tokens < r->prompt_count);
    if (c->generated_count && r->prompt_logprob && r->prompt_count > 1) RC_ASSERT(r->cached_tokens == 0);
    (void)s;
    free(rows);
    free(scratch);
}

static open_request *open_of(sim *s, const rt_request *r)
{
    for (uint32_t i = 0; i < OPEN_MAX; i++)
        if (s->open[i].request == r) return &s->open[i];
    RC_ASSERT(!"news of a request that had ended");
    return NULL;
}

static void read_news(sim *s)
{
    for (rt_choice *c = rt_engine_take_news(s->engine), *next; c; c = next) {
        open_request *q = open_of(s, c->request);
        next = c->next_news;
        if (c->finish == MICA_RUNNING) continue;
        RC_ASSERT(c->published_finish == MICA_RUNNING); /* ends once */
        c->published_finish = c->finish;
        replay(s, q, c);
        s->ended++;
        if (--q->choices_left) continue;
        RC_ASSERT(q->request->choices_alive == 0);
        rt_request_free(q->request);
        q->request = NULL;
    }
}

/* ---- events ---- */

static const char *const NAMES[ADAPTERS] = { "a", "b", "c", "d", "e" };

/* Prompts come from few stems, so that prefixes collide at every length. */
static uint32_t draw_prompt(sim *s, int32_t *prompt, uint32_t max)
{
    uint32_t count = 1 + roll(s, max), stem = roll(s, 3), same = roll(s, count + 1);
    for (uint32_t i = 0; i < count; i++)
        prompt[i] = (int32_t)(i < same ? (stem * 7 + i * (stem + 3)) % VOCAB : roll(s, 4) + 1);
    return count;
}

static void draw_request(sim *s, open_request *q, uint32_t count)
{
    mica_request *a = &q->asked;
    *a = (mica_request)MICA_REQUEST_INIT;
    a->temperature = roll(s, 2) ? 0 : 1.5f;
    a->n = a->temperature > 0 ? 1 + roll(s, 3) : 1;
    a->max_tokens = 1 + roll(s, s->o.max_model_len - count);
    a->min_tokens = roll(s, 4) ? 0 : roll(s, a->max_tokens + 1);
    a->ignore_eos = roll(s, 2);
    a->priority = (int32_t)roll(s, 3) - 1;
    a->logprobs = roll(s, 3) ? -1 : (int32_t)roll(s, 4);
    a->prompt_logprobs = roll(s, 6) ? -1 : (int32_t)roll(s, 3);
    a->cache_salt = roll(s, 3) ? NULL : NAMES[roll(s, 2)];
    a->key = NAMES[roll(s, ADAPTERS)];
    if (!roll(s, 4)) {
        q->stop_ids[0] = (int32_t)roll(s, VOCAB);
        a->stop_token_ids = q->stop_ids;
        a->stop_token_ids_count = 1;
    }
    if (!roll(s, 4)) {
        q->bias = (mica_bias){ (int32_t)roll(s, VOCAB), 2 };
        a->logit_bias = &q->bias;
        a->logit_bias_count = 1;
        a->repetition_penalty = 1.3f;
    }
}

static void arrive(sim *s)
{
    uint32_t i = roll(s, OPEN_MAX), name = roll(s, ADAPTERS * 2), count;
    open_request *q = &s->open[i];
    adapter_content *adapter = NULL;
    rc_msg msg;
    if (q->request) return;
    count =
        draw_prompt(s, q->prompt, s->o.max_model_len - 1 < PROMPT_MAX ? s->o.max_model_len - 1 : PROMPT_MAX);
    draw_request(s, q, count);
    if (name < ADAPTERS && s->weights_of[name])
        adapter = adapter_registry_find(rt_engine_adapters(s->engine), NAMES[name]);
    q->weights = adapter ? s->weights_of[name] : 0;
    if (adapter && adapter_content_weights(adapter)->kind == ADAPTER_ALORA && !roll(s, 4)) {
        q->asked.has_activation = true;
        q->asked.activation = roll(s, count);
    }
    RC_ASSERT(rt_request_validate(&q->asked, &s->limits, &msg) == RC_OK);
    RC_ASSERT(rt_request_create(&q->asked, q->prompt, count, &s->limits, &q->request, &msg) == RC_OK);
    RC_ASSERT(rt_request_set_adapter(q->request, &q->asked, adapter, &s->limits, &msg) == RC_OK);
    q->choices_left = q->asked.n;
    rt_engine_submit(s->engine, q->request);
}

static void cancel(sim *s)
{
    rt_request *r = s->open[roll(s, OPEN_MAX)].request;
    if (!r) return;
    if (roll(s, 2)) rt_engine_cancel(s->engine, r);
    else rt_engine_cancel_choice(s->engine, &r->choices[roll(s, r->choices_count)]);
}

static void change_adapter(sim *s)
{
    adapter_registry *r = rt_engine_adapters(s->engine);
    uint32_t i = roll(s, ADAPTERS);
    rc_msg msg;
    if (s->weights_of[i]) {
        RC_ASSERT(adapter_registry_remove(r, NAMES[i], &msg) == RC_OK);
        s->weights_of[i] = 0;
        return;
    }
    int32_t invocation[2] = { (int32_t)roll(s, 3) + 1, (int32_t)roll(s, 3) + 1 };
    adapter_kind kind = roll(s, 3) ? ADAPTER_ALORA : ADAPTER_LORA;
    adapter_weights *w =
        fake_weights(++s->weights_made, kind, invocation, kind == ADAPTER_ALORA ? roll(s, 3) : 0);
    if (adapter_registry_add(r, NAMES[i], w, &msg) == RC_OK) s->weights_of[i] = s->weights_made;
    else adapter_weights_free(w); /* contents_max */
}

/* The loader: takes jobs and ends one of them at some later time, now and then badly. */
static void serve_jobs(sim *s)
{
    adapter_registry *r = rt_engine_adapters(s->engine);
    while (s->jobs_count < JOBS && adapter_registry_next_job(r, &s->jobs[s->jobs_count])) s->jobs_count++;
    if (!s->jobs_count || roll(s, 3)) return;
    uint32_t i = roll(s, s->jobs_count);
    adapter_job job = s->jobs[i];
    bool ok = roll(s, 16) > 0;
    s->jobs[i] = s->jobs[--s->jobs_count];
    if (job.evicts) s->exec.adapter_detach(s->exec.ctx, job.slot);
    if (job.content && ok)
        RC_ASSERT(s->exec.adapter_attach(s->exec.ctx, job.slot, job.weights, NULL) == RC_OK);
    if (job.content && !ok) rt_engine_fail_adapter(s->engine, job.content);
    adapter_registry_job_done(r, &job, ok);
}

static void event(sim *s, bool closing)
{
    uint32_t what = roll(s, 12);
    if (!closing && what < 5) arrive(s);
    else if (what == 5) cancel(s);
    else if (what == 6) change_adapter(s);
    serve_jobs(s);
}

/* ---- one run ---- */

static void open_sim(sim *s, uint64_t seed)
{
    static const int32_t eos[] = { EOS };
    rc_msg msg;
    *s = (sim){ .random = seed * 0x9e3779b97f4a7c15u + 1 };
    rt_engine_options *o = &s->o;
    o->block_tokens = 8u << roll(s, 2);
    o->blocks_max = 2 + roll(s, 24);
    o->enable_prefix_cache = roll(s, 8) > 0;
    o->max_model_len = o->blocks_max * o->block_tokens;
    if (o->max_model_len > 72) o->max_model_len = 72;
    o->running_max = 1 + roll(s, 8);
    o->seqs_max = o->running_max + roll(s, 40);
    o->rows_max = 1 + roll(s, 40);
    o->by_priority = roll(s, 2);
    o->in_order = roll(s, 2);
    o->prefill_first = !roll(s, 4);
    o->slots_max = 1 + roll(s, 3);
    o->contents_max = ADAPTERS + roll(s, 4);
    o->eos = eos;
    o->eos_count = 1;
    fake_exec_create(&s->device, o->blocks_max, o->block_tokens, o->slots_max, VOCAB, o->rows_max, &s->exec);
    if (seed % 2) fake_exec_pick(&s->device, roll(s, 2) * roll(s, 100), &s->exec);
    if (!roll(s, 8)) s->device.fails_at = 1 + roll(s, 300);
    o->exec = s->exec;
    RC_ASSERT(rt_engine_create(o, &s->engine, &msg) == RC_OK);
    s->limits = (rt_request_limits){.vocab = VOCAB,
                                    .max_model_len = o->max_model_len,
                                    .engine_seed = seed,
                                    .eos = eos,
                                    .eos_count = 1,
                                    .piece_max = 1};
}

static uint32_t unfinished(const sim *s)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < OPEN_MAX; i++) count += s->open[i].request != NULL;
    return count;
}

static void step(sim *s, bool closing)
{
    if (closing || roll(s, 2)) event(s, closing);
    bool ran = rt_engine_step(s->engine);
    read_news(s);
    rt_engine_check(s->engine);
    bool is_lost = s->device.has_told;
    RC_ASSERT((rt_engine_status(s->engine, NULL) == RC_OK) == !is_lost);
    RC_ASSERT(!is_lost || (!ran && !unfinished(s)));
    s->steps += ran;
    s->idle = ran || !unfinished(s) ? 0 : s->idle + 1;
    RC_ASSERT(s->idle < 2000); /* something waits for an event that never comes */
}

static void close_sim(sim *s)
{
    for (uint32_t i = 0; unfinished(s); i++) {
        RC_ASSERT(i < 200000);
        step(s, true);
    }
    rt_engine_stats stats = rt_engine_get_stats(s->engine);
    RC_ASSERT(stats.cache.blocks_live == 0);
    RC_ASSERT(stats.cache.seqs_open == 0);
    RC_ASSERT(stats.sched.running == 0 && stats.sched.waiting == 0);
    rt_engine_destroy(s->engine);
    fake_exec_destroy(&s->device);
}

/* Steps run and choices ended by one seed. */
static uint64_t run_seed(uint64_t seed, uint64_t events, uint64_t *ended, uint64_t *preempted,
                         uint64_t *cached, uint64_t *ahead)
{
    sim *s = malloc(sizeof *s);
    RC_ASSERT(s);
    open_sim(s, seed);
    for (uint64_t i = 0; i < events; i++) step(s, false);
    rt_engine_stats stats = rt_engine_get_stats(s->engine);
    *preempted += stats.sched.preemptions;
    *cached += stats.cached_tokens;
    close_sim(s);
    *ended += s->ended;
    *ahead += s->device.ahead;
    uint64_t steps = s->steps;
    free(s);
    return steps;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, steps_wanted = 100000, steps = 0, ended = 0, preempted = 0, cached = 0, ahead = 0;
    bool one = false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--seed") && i + 1 < argc) seed = strtoull(argv[++i], NULL, 0);
        else if (!strcmp(argv[i], "--steps") && i + 1 < argc) steps_wanted = strtoull(argv[++i], NULL, 0);
        else if (!strcmp(argv[i], "--one")) one = true;
        else return fprintf(stderr, "usage: %s [--steps N] [--seed S [--one]]\n", argv[0]), 1;
    }
    for (; steps < steps_wanted; seed++) {
        fprintf(stderr, "\rrepro: %s --seed %llu --one   ", argv[0], (unsigned long long)seed);
        steps += run_seed(seed, 1500, &ended, &preempted, &cached, &ahead);
        if (one) break;
    }
    fprintf(stderr, "\n");
    printf("%llu steps, %llu of them ahead, %llu choices ended, %llu preemptions, "
           "%llu prompt tokens from the cache\n",
           (unsigned long long)steps, (unsigned long long)ahead, (unsigned long long)ended,
           (unsigned long long)preempted, (unsigned long long)cached);
    return ended == 0 || (!one && ahead == 0);
}
