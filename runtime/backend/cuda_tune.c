/* Before the first step: which of cuBLASLt's algorithms, or for few rows our own kernel, is the quickest for
 * each shape of the model's products and each number of rows that steps will often have. All are tried, on
 * the weights themselves. */
#include <math.h>
#include <stdlib.h>

#include "runtime/backend/cuda_device.h"
#include "runtime/base/clock.h"

enum {
    SHAPES_MAX = 32, /* any more are left to the heuristic */
    WAYS_MAX = RT_CUDA_ALGOS + 1,
    MATRICES_MAX = 8, /* of a shape, one after the other, so that none is in the cache from the time before */
    ROUNDS = 3,       /* of which the best counts */
    SEQUENCE_US = 500 /* of products that are timed together, where there are matrices enough */
};
static const double BUDGET_MS = 2000; /* of the device's time; what is not come to is left to the heuristic */
static const float NOISE = 0.02f;     /* nearer to the heuristic's first none is quicker */
static const float SLOW = 1.5f;       /* times the quickest: is not tried again */

/* Products of one shape. */
typedef struct tuned_shape {
    const rt_cuda_shape *shape;
    rt_matrix piece;                  /* of codes */
    rt_linear products[MATRICES_MAX]; /* with as many rows as there can be */
    uint32_t count, rows_min;
} tuned_shape;

typedef struct tuning {
    rt_device *device;
    int64_t began_ns;
    double spent_ms; /* by the device */
    cudaEvent_t events[2];
    uint32_t timed; /* of a shape and a number of rows */
    uint32_t count;
    tuned_shape shapes[SHAPES_MAX];
} tuning;

/* ---- what there is to do ---- */

static tuned_shape *shape_of(tuning *t, const rt_cuda_shape *shape)
{
    for (uint32_t i = 0; i < t->count; i++)
        if (t->shapes[i].shape == shape) return &t->shapes[i];
    if (t->count == SHAPES_MAX) return NULL;
    t->shapes[t->count].shape = shape;
    t->shapes[t->count].rows_min = 1;
    return &t->shapes[t->count++];
}

static void add_product(tuning *t, const rt_linear *l)
{
    tuned_shape *s = shape_of(t, l->weight->shapes[l->bias != NULL]);
    if (s && s->count < MATRICES_MAX) s->products[s->count++] = *l;
}

/* Of codes some rows at a time are multiplied as numbers, always in one place: the first such rows, and the
 * last where they are fewer. */
static void add_piece(tuning *t, const rt_linear *l, uint32_t n)
{
    rt_matrix some;
    rt_linear piece = rt_cuda__codes_piece(t->device, l, n, &some);
    tuned_shape *s = shape_of(t, some.shapes[l->bias != NULL]);
    if (!s || s->count) return;
    s->piece = some;
    piece.weight = &s->piece;
    s->products[s->count++] = piece;
    s->rows_min = RT_CUDA_CODES_MOST + 1;
}

static void add(tuning *t, const rt_linear *l)
{
    const rt_matrix *w = l->weight;
    rt_linear part = *l;
    for (uint32_t i = 0; i < w->parts_count; i++) {
        part.weight = w->parts[i];
        add(t, &part);
        part.y += part.weight->n;
        part.bias = l->bias ? part.bias + part.weight->n : NULL;
    }
    if (w->parts_count) return;
    if (!w->has_codes) {
        add_product(t, l);
        return;
    }
    uint32_t most = w->shapes[0]->n;
    add_piece(t, l, 0);
    if (w->n % most) add_piece(t, l, w->n / most * most);
}

/* ---- trying it ---- */

/* What is written meanwhile takes the cache, and the device as long as the host needs to get ahead of it. */
static void fill_cache(rt_device *d)
{
    rt_cuda__check(d, cudaMemsetAsync(d->expanded, 0x3c, RT_CUDA_EXPANDED, d->stream), "products");
}

/* A product's x, as it is when one is made. */
static const void *x_of(const rt_device *d, const rt_linear *l, size_t *stride)
{
    bool is_rounded = l->weight->stored == RC_BF16;
    *stride = is_rounded ? rt_cuda_padded(l->weight->k) : l->x_stride;
    return is_rounded ? (const void *)d->scratch : l->x;
}

/* Of the first `count` products one after the other; INFINITY: it can't be done so. */
static float milliseconds_of(tuning *t, const tuned_shape *s, uint32_t rows, uint32_t count,
                             const cublasLtMatmulAlgo_t *algo)
{
    rt_device *d = t->device;
    float ms = INFINITY;
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    fill_cache(d);
    rt_cuda__check(d, cudaEventRecord(t->events[0], d->stream), "products");
    for (uint32_t i = 0; !status && i < count; i++) {
        rt_linear l = s->products[i];
        size_t stride;
        const void *x = x_of(d, &l, &stride);
        l.rows = rows;
        status = rt_cuda__multiply_by(d, &l, x, stride, algo);
    }
    rt_cuda__check(d, cudaEventRecord(t->events[1], d->stream), "products");
    rt_cuda__wait(d, t->events[1]);
    if (!status && !d->has_failed)
        rt_cuda__check(d, cudaEventElapsedTime(&ms, t->events[0], t->events[1]), "products");
    if (ms < INFINITY) t->spent_ms += (double)ms;
    return ms;
}

/* How many products to time together. Each algorithm was tried, so its kernel is loaded. */
static uint32_t sequence_of(tuning *t, const tuned_shape *s, uint32_t rows, const cublasLtMatmulAlgo_t *algo)
{
    float wanted = SEQUENCE_US * 1e-3f / milliseconds_of(t, s, rows, 1, algo);
    return wanted < 1 ? 1 : wanted < (float)s->count ? (uint32_t)wanted : s->count;
}

/* The quickest of `count`, by their times; the first that can be used where it is as quick. */
static uint32_t quickest_of(const float *ms, uint32_t count)
{
    uint32_t first = 0, best;
    while (first + 1 < count && ms[first] == INFINITY) first++;
    best = first;
    for (uint32_t i = first + 1; i < count; i++)
        if (ms[i] < ms[best]) best = i;
    return ms[best] < (1 - NOISE) * ms[first] ? best : first;
}

/* The number of the one to take; `count`: none can be used. */
static uint32_t choose(tuning *t, const tuned_shape *s, uint32_t rows,
                       const cublasLtMatmulAlgo_t *const *algos, uint32_t count)
{
    float once[WAYS_MAX], best[WAYS_MAX];
    for (uint32_t i = 0; i < count; i++) {
        once[i] = milliseconds_of(t, s, rows, 1, algos[i]);
        best[i] = INFINITY;
    }
    uint32_t chosen = quickest_of(once, count);
    if (once[chosen] == INFINITY) return count;
    uint32_t sequence = sequence_of(t, s, rows, algos[chosen]);
    for (int round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < count; i++) {
            if (once[i] == INFINITY || (round && best[i] > SLOW * best[chosen])) continue;
            best[i] = fminf(best[i], milliseconds_of(t, s, rows, sequence, algos[i]));
        }
        chosen = quickest_of(best, count);
    }
    return chosen;
}

/* Whether there was anything to choose, which is so where cuBLASLt itself has a choice. */
static bool tune_shape(tuning *t, const tuned_shape *s, uint32_t rows)
{
    rt_device *d = t->device;
    cublasLtMatmulAlgo_t found[RT_CUDA_ALGOS];
    const cublasLtMatmulAlgo_t *algos[WAYS_MAX];
    uint32_t count, ways, chosen = 0;
    rt_linear l = s->products[0];
    size_t stride;
    if (rows < s->rows_min || rows > l.rows || s->shape->alignments[rows]) return false;
    l.rows = rows;
    (void)x_of(d, &l, &stride);
    if (rt_cuda__algos(d, &l, stride, RT_CUDA_ALGOS, found, &count)) return false;
    for (ways = 0; ways < count; ways++) algos[ways] = &found[ways];
    if (rt_cuda_few_takes(rows)) algos[ways++] = NULL;
    if (count > 1) chosen = choose(t, s, rows, algos, ways);
    if (chosen < ways && !d->has_failed) rt_cuda__keep_algo(&l, algos[chosen]);
    return count > 1;
}

static void tune_rows(tuning *t, uint32_t rows)
{
    for (uint32_t i = 0; i < t->count && !t->device->has_failed; i++)
        if (t->spent_ms < BUDGET_MS) t->timed += tune_shape(t, &t->shapes[i], rows);
}

/* Of steps with prompts as many as there can be, and of decoding all that graphs are made of: the doubles
 * first, in case that time runs out. */
static void tune_all(tuning *t)
{
    rt_device *d = t->device;
    const rt_device_options *o = &d->options;
    uint32_t most =
        rt_cuda__padded_rows(d, o->draws_max < RT_CUDA_GRAPH_ROWS ? o->draws_max : RT_CUDA_GRAPH_ROWS);
    size_t scratch = (size_t)o->rows_max * (o->width_max + RT_CUDA_ALIGN) * sizeof *d->scratch;
    rt_cuda__check(d, cudaMemsetAsync(d->scratch, 0x3c, scratch, d->stream), "products"); /* 0.01 each */
    tune_rows(t, o->rows_max);
    for (uint32_t rows = 1; rows <= most; rows *= 2) tune_rows(t, rows);
    for (uint32_t rows = 8; rows <= most; rows += 8) tune_rows(t, rows);
}

/* Else what cuBLASLt takes of the device's memory would show only in the first step. */
static void do_each_once(rt_device *d, const rt_linear *products, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        rt_linear l = products[i];
        l.rows = 1;
        rt_cuda__linear(d, &l);
    }
}

/* What is told of the device says it, too. */
static void say(const tuning *t)
{
    rt_device *d = t->device;
    size_t at = strlen(d->name);
    snprintf(d->name + at, sizeof d->name - at, ", %u products timed in %.1f s", t->timed,
             (double)(rt_now_ns() - t->began_ns) * 1e-9);
}

void rt_cuda__tune(rt_device *d, const rt_linear *products, uint32_t count)
{
    rt_cuda__enter(d);
    tuning *t = d->options.batch_invariant ? NULL : calloc(1, sizeof *t);
    if (!t) {
        do_each_once(d, products, count);
        return;
    }
    t->device = d;
    t->began_ns = rt_now_ns();
    for (int i = 0; i < 2; i++) rt_cuda__check(d, cudaEventCreate(&t->events[i]), "event");
    for (uint32_t i = 0; i < count; i++) add(t, &products[i]);
    tune_all(t);
    for (int i = 0; i < 2; i++)
        if (t->events[i]) cudaEventDestroy(t->events[i]);
    if (t->timed)
        say(t);
    else
        do_each_once(d, products, count);
    free(t);
}
