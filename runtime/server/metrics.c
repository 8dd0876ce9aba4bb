#include "runtime/server/metrics.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>

#include "runtime/base/clock.h"
#include "runtime/server/metrics_text.h"

enum { BUCKETS_MAX = 24, REASONS = 4 };

typedef enum histogram_name {
    TTFT,
    ITL,
    TPOT,
    E2E,
    QUEUE,
    INFERENCE,
    PREFILL,
    DECODE,
    PROMPT_TOKENS,
    GENERATION_TOKENS,
    MAX_TOKENS,
    HISTOGRAMS
} histogram_name;

typedef struct histogram {
    uint64_t counts[BUCKETS_MAX + 1]; /* of each bucket alone; the last is above all bounds */
    double sum;
} histogram;

struct rt_metrics {
    pthread_mutex_t lock;
    histogram histograms[HISTOGRAMS];
    uint64_t ended[REASONS];
    int64_t started; /* seconds since 1970 */
};

/* Bounds end with a 0. */
static const double first_token_bounds[] = {.001, .005, .01, .02, .04, .06, .08, .1,  .25, .5,   .75, 1,
                                            2.5,  5,    7.5, 10,  20,  40,  80,  160, 640, 2560, 0};
static const double gap_bounds[] = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                    .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80, 0};
static const double request_bounds[] = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,   20,
                                        30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680, 0};
static const double token_bounds[] = {1,    2,    5,    10,    20,    50,    100,    200,    500,
                                      1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 0};

static const struct {
    const char *name, *help;
    const double *bounds;
} families[HISTOGRAMS] = {
    [TTFT] = {"time_to_first_token_seconds", "Arrival to first token.", first_token_bounds},
    [ITL] = {"inter_token_latency_seconds", "Between two tokens of a request.", gap_bounds},
    [TPOT] = {"request_time_per_output_token_seconds", "Mean gap of a request's tokens.", gap_bounds},
    [E2E] = {"e2e_request_latency_seconds", "Arrival to end.", request_bounds},
    [QUEUE] = {"request_queue_time_seconds", "Arrival to first admission.", request_bounds},
    [INFERENCE] = {"request_inference_time_seconds", "Admission to last token.", request_bounds},
    [PREFILL] = {"request_prefill_time_seconds", "Admission to first token.", request_bounds},
    [DECODE] = {"request_decode_time_seconds", "First to last token.", request_bounds},
    [PROMPT_TOKENS] = {"request_prompt_tokens", "Prompt tokens of a request.", token_bounds},
    [GENERATION_TOKENS] = {"request_generation_tokens", "Generated tokens of a request.", token_bounds},
    [MAX_TOKENS] = {"request_params_max_tokens", "Tokens that were asked for.", token_bounds},
};
static const char *const reasons[REASONS] = {"stop", "length", "abort", "error"};

rt_metrics *rt__metrics_create(void)
{
    rt_metrics *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    pthread_mutex_init(&m->lock, NULL);
    m->started = rt_unix_seconds();
    return m;
}

void rt__metrics_destroy(rt_metrics *m)
{
    if (!m) return;
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* ---- observing ---- */

/* The lock is held. */
static void observe(rt_metrics *m, histogram_name name, double value)
{
    const double *bounds = families[name].bounds;
    uint32_t i = 0;
    while (bounds[i] != 0 && value > bounds[i]) i++;
    m->histograms[name].counts[i]++;
    m->histograms[name].sum += value;
}

static void observe_span(rt_metrics *m, histogram_name name, int64_t from, int64_t to)
{
    if (from && to) observe(m, name, (double)(to - from) * 1e-9);
}

void rt__metrics_first_token(rt_metrics *m, double seconds)
{
    pthread_mutex_lock(&m->lock);
    observe(m, TTFT, seconds);
    pthread_mutex_unlock(&m->lock);
}

void rt__metrics_next_tokens(rt_metrics *m, double seconds)
{
    pthread_mutex_lock(&m->lock);
    observe(m, ITL, seconds);
    pthread_mutex_unlock(&m->lock);
}

static uint32_t reason_of(mica_finish finish)
{
    return finish == MICA_STOP ? 0 : finish == MICA_LENGTH ? 1 : finish == MICA_CANCELLED ? 2 : 3;
}

const char *rt__metrics_reason(mica_finish finish)
{
    return reasons[reason_of(finish)];
}

void rt__metrics_ended(rt_metrics *m, const rt_request_facts *f)
{
    const rt_request_times *t = &f->times;
    pthread_mutex_lock(&m->lock);
    m->ended[reason_of(f->finish)]++;
    observe_span(m, E2E, t->arrived, t->ended);
    observe_span(m, QUEUE, t->arrived, t->admitted);
    observe_span(m, INFERENCE, t->admitted, t->last_token);
    observe_span(m, PREFILL, t->admitted, t->first_token);
    observe_span(m, DECODE, t->first_token, t->last_token);
    if (f->generated_tokens > 1)
        observe(m, TPOT, (double)(t->last_token - t->first_token) * 1e-9 / (f->generated_tokens - 1));
    observe(m, PROMPT_TOKENS, f->prompt_tokens);
    observe(m, GENERATION_TOKENS, f->generated_tokens);
    if (f->max_tokens) observe(m, MAX_TOKENS, f->max_tokens);
    pthread_mutex_unlock(&m->lock);
}

/* ---- the page; the lock is held for a copy only ---- */

static void write_histogram(rt_metrics_page *p, const histogram *h, histogram_name name)
{
    const double *bounds = families[name].bounds;
    uint64_t count = 0;
    uint32_t i;
    rt__page_family(p, families[name].name, "histogram", families[name].help);
    for (i = 0; bounds[i] != 0; i++) {
        count += h->counts[i];
        rt__page_bucket(p, families[name].name, bounds[i], count);
    }
    rt__page_bucket_end(p, families[name].name, count + h->counts[i], h->sum);
}

static void write_engine(rt_metrics_page *p, const mica_stats *s)
{
    double blocks = s->blocks_total ? (double)s->blocks_live / s->blocks_total : 0;
    rt__page_gauge(p, "num_requests_running", "Requests in the running batch.", s->running);
    rt__page_gauge(p, "num_requests_waiting", "Requests that wait to run.", s->waiting);
    rt__page_gauge(p, "kv_cache_usage_perc", "Share of the K/V blocks that requests hold, 0 to 1.", blocks);
    rt__page_counter(p, "prompt_tokens_total", "Prompt tokens, cached ones too.", s->prompt_tokens);
    rt__page_counter(p, "prompt_tokens_cached_total", "Prompt tokens from the cache.",
                     s->cached_prompt_tokens);
    rt__page_counter(p, "generation_tokens_total", "Generated tokens.", s->generated_tokens);
    rt__page_counter(p, "num_preemptions_total", "Preemptions.", s->preemptions);
    rt__page_counter(p, "prefix_cache_queries_total", "Tokens looked for in the prefix cache.",
                     s->prompt_tokens);
    rt__page_counter(p, "prefix_cache_hits_total", "Tokens found in the prefix cache.",
                     s->cached_prompt_tokens);
}

static void write_ended(rt_metrics_page *p, const uint64_t *ended)
{
    rt__page_family(p, "request_success_total", "counter", "Requests by how they ended.");
    for (uint32_t i = 0; i < REASONS; i++)
        rt__page_sample(p, "request_success_total", "finished_reason", reasons[i], (double)ended[i]);
}

void rt__metrics_write(rt_metrics *m, const mica *engine, rt_bytes *out)
{
    mica_info info = mica_get_info(engine);
    mica_stats stats = mica_get_stats(engine);
    rt_metrics_page page = {out, info.model_name};
    rt_metrics now;
    pthread_mutex_lock(&m->lock);
    memcpy(now.histograms, m->histograms, sizeof now.histograms);
    memcpy(now.ended, m->ended, sizeof now.ended);
    pthread_mutex_unlock(&m->lock);
    write_engine(&page, &stats);
    write_ended(&page, now.ended);
    for (uint32_t i = 0; i < HISTOGRAMS; i++) write_histogram(&page, &now.histograms[i], i);
    rt__page_cache_config(&page, &info);
    rt__page_adapters(&page, engine, &info);
    rt__page_process(&page, m->started);
}
