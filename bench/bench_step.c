/* Host work of a decode step: schedule, batch, commit and bookkeeping of SEQS running requests.
 *
 * The device does nothing and the vocabulary has two entries; the sampler, which belongs to the device's
 * threads, is timed apart. What is left is scheduler, cache and batch, and the list of news. usage bench_step
 * [SEQS] [CONTEXT]      default 256 requests of 1000 tokens each
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/engine/engine.h"

enum { VOCAB = 2, STEPS = 400, SPARE = 1000, ROWS_MAX = 8192 };

static void copy_rows(void *ctx, uint32_t from, uint32_t to, uint32_t rows)
{
    (void)ctx, (void)from, (void)to, (void)rows;
}
static void forward(void *ctx, const rt_step *step) { (void)ctx, (void)step; }
static rc_code status(void *ctx, rc_msg *msg)
{
    (void)ctx, (void)msg;
    return RC_OK;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The context: logits of zeros, then the seconds that the sampler took. */
typedef struct device {
    float zeros[ROWS_MAX * VOCAB];
    double sampling;
} device;

static const float *logits(void *ctx, const rt_step *step, uint32_t first, uint32_t count)
{
    (void)step, (void)first, (void)count;
    return ((device *)ctx)->zeros;
}

static void parallel(void *ctx, rt_task task, void *arg)
{
    device *d = ctx;
    double t = now();
    task(arg, 0, 1);
    d->sampling += now() - t;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static rt_engine *make_engine(uint32_t seqs, uint32_t context, device *d)
{
    rt_engine_options o = {.blocks_max = seqs * ((context + STEPS + SPARE) / 16 + 2) + 16,
                           .block_tokens = 16,
                           .enable_prefix_cache = true,
                           .max_model_len = context + STEPS + SPARE + 1,
                           .running_max = seqs,
                           .seqs_max = seqs,
                           .rows_max = ROWS_MAX,
                           .slots_max = 8,
                           .contents_max = 8};
    rt_engine *e;
    rc_msg msg;
    o.exec = (rt_exec){.ctx = d,
                       .vocab = VOCAB,
                       .logits_max = ROWS_MAX,
                       .copy_rows = copy_rows,
                       .forward = forward,
                       .logits = logits,
                       .status = status,
                       .parallel = parallel,
                       .parts = 1};
    if (rt_engine_create(&o, &e, &msg) == RC_OK) return e;
    fprintf(stderr, "%s\n", msg.text);
    exit(1);
}

static rt_request *make_request(uint32_t seed, uint32_t context)
{
    mica_request q = MICA_REQUEST_INIT;
    rt_request_limits l = { .vocab = 1 << 30, .max_model_len = context + STEPS + SPARE + 1, .piece_max = 1 };
    int32_t *prompt = malloc(context * sizeof *prompt);
    rt_request *r;
    rc_msg msg;
    for (uint32_t i = 0; i < context; i++) prompt[i] = (int32_t)(seed * 1000003u + i * 7919u) & 0xffff;
    q.temperature = 0;
    q.max_tokens = STEPS + SPARE;
    if (rt_request_create(&q, prompt, context, &l, &r, &msg) != RC_OK) exit(1);
    free(prompt);
    return r;
}

int main(int argc, char **argv)
{
    uint32_t seqs = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 256;
    uint32_t context = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 1000;
    device *d = calloc(1, sizeof *d);
    rt_engine *e = make_engine(seqs, context, d);
    rt_request **requests = malloc(seqs * sizeof *requests);
    double times[STEPS], sampling = 0;
    for (uint32_t i = 0; i < seqs; i++) rt_engine_submit(e, requests[i] = make_request(i + 1, context));
    while (rt_engine_get_stats(e).rows < (uint64_t)seqs * context || rt_engine_get_stats(e).sched.waiting)
        rt_engine_step(e);
    for (int i = 0; i < STEPS; i++) {
        double t = now();
        d->sampling = 0;
        if (!rt_engine_step(e)) return 1;
        rt_engine_take_news(e);
        times[i] = now() - t - d->sampling;
        sampling += d->sampling;
        if (rt_engine_get_stats(e).sched.running < seqs) {
            fprintf(stderr, "a request ended too early\n");
            return 1;
        }
    }
    qsort(times, STEPS, sizeof *times, by_value);
    printf(
        "decode step of %u requests of %u tokens: median %.1f us, p90 %.1f us; sampler beside it %.1f us\n",
        seqs, context, times[STEPS / 2] * 1e6, times[STEPS * 9 / 10] * 1e6, sampling / STEPS * 1e6);
    rt_engine_destroy(e);
    for (uint32_t i = 0; i < seqs; i++) rt_request_free(requests[i]);
    free(requests);
    free(d);
    return 0;
}
