/* bench_device DEVICE WHAT [NUMBER]...: one op of a device, cpu or cuda, as one line of JSON.
 *
 *     name                      what the device is, and how many there are
 *     attention HEADS KV_HEADS DIM ROWS TOKENS
 *                               decode of ROWS sequences of TOKENS tokens, bf16 K/V: seconds of one layer,
 *                               and the bytes of K/V that it reads
 *     product N K ROWS          ROWS rows by an N x K matrix of bf16, another each time: its seconds beside
 *                               those of a norm before it, and what the device says
 *     sums RANKS ROWS WIDTH     the sum over ranks of ROWS rows of WIDTH floats, added to the residual and
 *                               normed: its seconds, the bytes of a rank's rows, and what the device says
 *     fused RANKS ROWS WIDTH    the same in one launch, where the device can do that
 *
 * Calls go one after the other and are waited for once, so that what is measured is the device's time, or the
 * host's where launching takes longer. Medians. The exit status is 2 where the device can't be used. */
#include <stdlib.h>
#include <string.h>

#include "bench/limits.h"
#include "runtime/backend/group_local.h"
#include "runtime/backend/plugin.h"

enum { LAYERS = 8, PASSES = 4, REPEATS = 5, BLOCK = 16, RANKS_MAX = 16, CALLS = 50, CALLS_MAX = 20000 };

static void stop(int status, const char *why)
{
    fprintf(stderr, "bench_device: %s\n", why);
    exit(status);
}

static void check(rc_code code, const rc_msg *msg)
{
    if (code != RC_OK) stop(code == RC_UNAVAILABLE ? 2 : 1, msg->text);
}

static const rt_backend *backend_named(const char *name, uint32_t *devices)
{
    const rt_plugin *plugin;
    rc_msg msg;
    *devices = 1;
    if (!strcmp(name, "cpu")) return rt_backend_cpu();
    if (strcmp(name, "cuda")) stop(1, "the first argument is cpu or cuda");
    check(rt_plugin_open(NULL, "libmica_cuda.so", &plugin, &msg), &msg);
    check(plugin->probe(devices, &msg), &msg);
    return plugin->backend;
}

static rt_device_options smallest(void)
{
    return (rt_device_options){.kernels = "auto",
                               .rows_max = 1,
                               .width_max = 64,
                               .slots_max = 1,
                               .layers = 1,
                               .linears = 1,
                               .lora_rank_max = 1,
                               .kv = {1, 1, 64, BLOCK, 2},
                               .kv_blocks = 1,
                               .heads = 1,
                               .table_words_max = 1,
                               .host_floats = 1,
                               .draws_max = 1};
}

static rt_device *open_device(const rt_backend *b, const rt_device_options *o)
{
    rt_device *d;
    rc_msg msg;
    check(b->open(o, &d, &msg), &msg);
    return d;
}

static float *buffer(const rt_backend *b, rt_device *d, size_t floats)
{
    float *out;
    rc_msg msg;
    check(b->buffer_create(d, floats, &out, &msg), &msg);
    return out;
}

static void wait_for(const rt_backend *b, rt_device *d, const float *any)
{
    rc_msg msg;
    b->host_rows(d, any, 1, 0);
    check(b->status(d, &msg), &msg);
}

static void print_name(const rt_backend *b, uint32_t devices)
{
    rt_device_options o = smallest();
    rt_device *d = open_device(b, &o);
    printf("{\"name\": \"%s\", \"devices\": %u}\n", b->describe(d), devices);
    b->close(d);
}

/* ---- attention ---- */

static double layer_seconds(const rt_backend *b, rt_device *d, kv_attn *a)
{
    double begun = bench_seconds();
    for (int pass = 0; pass < PASSES; pass++)
        for (a->layer = 0; a->layer < LAYERS; a->layer++) b->attention(d, a);
    wait_for(b, d, a->q);
    return (bench_seconds() - begun) / (PASSES * LAYERS);
}

/* Each row is the last of a sequence of its own. */
static void attend(const rt_backend *b, const uint32_t n[5])
{
    uint32_t heads = n[0], dim = n[2], rows = n[3], tokens = n[4], each = (tokens + BLOCK - 1) / BLOCK;
    rt_device_options o = smallest();
    o.layers = LAYERS;
    o.kv = (kv_layout){LAYERS, n[1], dim, BLOCK, 2};
    o.heads = heads;
    o.rows_max = rows;
    o.width_max = heads * dim;
    o.kv_blocks = o.table_words_max = rows * each;
    rt_device *d = open_device(b, &o);
    kv_span *spans = calloc(rows, sizeof *spans);
    kv_group *groups = calloc(rows, sizeof *groups);
    uint32_t *words = calloc(rows * (each + 1), sizeof *words);
    if (!spans || !groups || !words) stop(1, "no memory for the step");
    for (uint32_t i = 0; i < rows * each; i++) words[i] = i;
    for (uint32_t r = 0; r < rows; r++) {
        spans[r] = (kv_span){r, 1, tokens - 1, r * each};
        groups[r] = (kv_group){r, 1, 0};
    }
    kv_plan plan = {spans, rows, groups, rows, words};
    adapter_plan none = {0};
    float *q = buffer(b, d, (size_t)rows * heads * dim), *out = buffer(b, d, (size_t)rows * heads * dim);
    rt_step_plan step = {.rows = rows,
                         .tokens = (const int32_t *)(words + rows * each),
                         .kv = &plan,
                         .adapters = &none,
                         .kept_kv = &plan,
                         .kept_adapters = &none};
    kv_attn a = {&o.kv, &plan, 0, heads, 0.1f, q, heads * dim, out, heads * dim, b->kv_buffer(d)};
    double took[REPEATS];
    if (b->step_begin) b->step_begin(d, &step);
    layer_seconds(b, d, &a);
    for (int i = 0; i < REPEATS; i++) took[i] = layer_seconds(b, d, &a);
    printf("{\"seconds\": %.9f, \"bytes\": %.0f}\n", bench_median(took, REPEATS),
           (double)rows * tokens * n[1] * dim * 2 * sizeof(uint16_t));
    b->buffer_destroy(d, q, (size_t)rows * heads * dim);
    b->buffer_destroy(d, out, (size_t)rows * heads * dim);
    b->close(d);
    free(spans);
    free(groups);
    free(words);
}

/* ---- products ---- */

typedef struct products {
    const rt_backend *backend;
    rt_device *device;
    float *h, *x, *y, *norm; /* [rows][k] twice, [rows][n], [k] */
    rt_matrix *weights[LAYERS];
    rt_linear all[LAYERS];
} products;

static products open_products(const rt_backend *b, uint32_t n, uint32_t k, uint32_t rows)
{
    rt_device_options o = smallest();
    o.rows_max = o.draws_max = rows;
    o.width_max = n > k ? n : k;
    products p = {.backend = b, .device = open_device(b, &o)};
    p.h = buffer(b, p.device, (size_t)rows * k);
    p.x = buffer(b, p.device, (size_t)rows * k);
    p.y = buffer(b, p.device, (size_t)rows * n);
    p.norm = buffer(b, p.device, k);
    uint16_t *row = calloc(k, sizeof *row);
    rc_msg msg;
    if (!row) stop(1, "no memory for a row");
    for (uint32_t i = 0; i < k; i++) row[i] = (uint16_t)(0x3c00 + i % 97);
    for (int i = 0; i < LAYERS; i++) {
        check(b->matrix_create(p.device, n, k, RC_BF16, &p.weights[i], &msg), &msg);
        b->matrix_fill(p.weights[i], 0, n, row, RC_BF16, 0);
        p.all[i] = (rt_linear){
            .weight = p.weights[i], .x = p.x, .x_stride = k, .y = p.y, .y_stride = n, .rows = rows};
    }
    free(row);
    if (b->tune) b->tune(p.device, p.all, LAYERS);
    return p;
}

/* A norm leaves x as a product reads it; with or without the product behind it. */
static double norm_seconds(const products *p, bool has_product, uint32_t k)
{
    uint32_t rows = p->all[0].rows;
    double begun = bench_seconds();
    for (int pass = 0; pass < PASSES; pass++)
        for (int i = 0; i < LAYERS; i++) {
            p->backend->rms_norm(p->device, p->h, k, p->norm, 1, rows, k, p->x, k);
            if (has_product) p->backend->linear(p->device, &p->all[i]);
        }
    wait_for(p->backend, p->device, p->h);
    return (bench_seconds() - begun) / (PASSES * LAYERS);
}

static void multiply(const rt_backend *b, const uint32_t n[3])
{
    products p = open_products(b, n[0], n[1], n[2]);
    double took[REPEATS];
    for (int i = -1; i < REPEATS; i++) {
        double both = norm_seconds(&p, true, n[1]), alone = norm_seconds(&p, false, n[1]);
        if (i >= 0) took[i] = both > alone ? both - alone : 0;
    }
    printf("{\"seconds\": %.9f, \"device\": \"%s\"}\n", bench_median(took, REPEATS), b->describe(p.device));
    for (int i = 0; i < LAYERS; i++) b->matrix_destroy(p.device, p.weights[i]);
    b->buffer_destroy(p.device, p.h, (size_t)n[2] * n[1]);
    b->buffer_destroy(p.device, p.x, (size_t)n[2] * n[1]);
    b->buffer_destroy(p.device, p.y, (size_t)n[2] * n[0]);
    b->buffer_destroy(p.device, p.norm, n[1]);
    b->close(p.device);
}

/* ---- sums over ranks ---- */

typedef struct ranks {
    const rt_backend *backend;
    rt_device *devices[RANKS_MAX];
    float *x[RANKS_MAX], *h[RANKS_MAX], *y[RANKS_MAX], *weight[RANKS_MAX];
    rc_code codes[RANKS_MAX];
    rc_msg messages[RANKS_MAX];
    uint32_t rows, width, calls;
    double seconds; /* of a call, rank 0's */
} ranks;

static void join(void *arg, uint32_t rank, uint32_t count)
{
    ranks *r = arg;
    (void)count;
    r->codes[rank] = r->backend->join ? r->backend->join(r->devices[rank], &r->messages[rank]) : RC_OK;
}

static void sum_calls(const ranks *r, uint32_t rank, uint32_t calls)
{
    rt_residual all = {.h = r->h[rank],
                       .h_stride = r->width,
                       .x = r->x[rank],
                       .x_stride = r->width,
                       .rows = r->rows,
                       .width = r->width,
                       .weight = r->weight[rank],
                       .epsilon = 1,
                       .y = r->y[rank],
                       .y_stride = r->width};
    for (uint32_t i = 0; i < calls; i++) r->backend->add_residual(r->devices[rank], &all);
    wait_for(r->backend, r->devices[rank], r->x[rank]);
}

static void sums_of(void *arg, uint32_t rank, uint32_t count)
{
    ranks *r = arg;
    (void)count;
    sum_calls(r, rank, 0); /* the device is this thread's from here on */
    sum_calls(r, rank, 1);
    double begun = bench_seconds();
    sum_calls(r, rank, r->calls);
    if (rank == 0) r->seconds = (bench_seconds() - begun) / r->calls;
}

/* Calls for a tenth of a second, so that the ranks' threads have found their cores. */
static uint32_t calls_for(double seconds)
{
    double calls = 0.1 / seconds;
    return calls < CALLS ? CALLS : calls > CALLS_MAX ? CALLS_MAX : (uint32_t)calls;
}

static void open_rank(ranks *r, uint32_t i, uint32_t count, rt_group *group, bool is_fused)
{
    uint32_t cores = rt_pool_cores();
    size_t floats = (size_t)r->rows * r->width;
    rt_device_options o = smallest();
    o.threads = cores / count ? cores / count : 1;
    o.rows_max = r->rows;
    o.width_max = o.sums_width = r->width;
    o.ordinal = i;
    o.world = count;
    o.group = group;
    o.plain_sums = !is_fused;
    o.batch_invariant = is_fused; /* which leaves no choice */
    r->devices[i] = open_device(r->backend, &o);
    r->x[i] = buffer(r->backend, r->devices[i], floats);
    r->h[i] = buffer(r->backend, r->devices[i], floats);
    r->y[i] = buffer(r->backend, r->devices[i], floats);
    r->weight[i] = buffer(r->backend, r->devices[i], r->width);
}

static void close_rank(ranks *r, uint32_t i)
{
    size_t floats = (size_t)r->rows * r->width;
    r->backend->buffer_destroy(r->devices[i], r->x[i], floats);
    r->backend->buffer_destroy(r->devices[i], r->h[i], floats);
    r->backend->buffer_destroy(r->devices[i], r->y[i], floats);
    r->backend->buffer_destroy(r->devices[i], r->weight[i], r->width);
    r->backend->close(r->devices[i]);
}

static void sums(const rt_backend *b, uint32_t devices, const uint32_t n[3], bool is_fused)
{
    uint32_t count = n[0];
    ranks r = {.backend = b, .rows = n[1], .width = n[2], .calls = CALLS};
    rt_group_local_options group = {.ranks = count, .threads = rt_pool_cores()};
    rt_group_local *local;
    rt_pool *team;
    rc_msg msg;
    double took[REPEATS];
    if (count < 2 || count > RANKS_MAX) stop(1, "from 2 to 16 ranks");
    if (b != rt_backend_cpu() && count > devices) stop(2, "a rank needs a device of its own");
    check(rt_group_local_create(&group, &local, &msg), &msg);
    check(rt_pool_create(count, &team, &msg), &msg);
    for (uint32_t i = 0; i < count; i++) open_rank(&r, i, count, rt_group_local_rank(local, i), is_fused);
    rt_pool_run(team, join, &r);
    for (uint32_t i = 0; i < count; i++) check(r.codes[i], &r.messages[i]);
    for (int i = -1; i < REPEATS; i++) { /* one to see how long it takes */
        rt_pool_run(team, sums_of, &r);
        if (i < 0) r.calls = calls_for(r.seconds);
        else took[i] = r.seconds;
    }
    printf("{\"seconds\": %.9f, \"bytes\": %zu, \"device\": \"%s\"}\n", bench_median(took, REPEATS),
           (size_t)r.rows * r.width * sizeof(float), b->describe(r.devices[0]));
    for (uint32_t i = 0; i < count; i++) close_rank(&r, i);
    rt_pool_destroy(team);
    rt_group_local_destroy(local);
}

int main(int argc, char **argv)
{
    const char *what = argc > 2 ? argv[2] : "";
    uint32_t n[5] = {0}, count = 0, devices;
    for (int i = 3; i < argc && count < 5; i++) {
        n[count] = (uint32_t)strtoul(argv[i], NULL, 10);
        if (!n[count++]) stop(1, "numbers are from 1 on");
    }
    uint32_t wanted = !strcmp(what, "name") ? 0 : !strcmp(what, "attention") ? 5 : 3;
    bool is_fused = !strcmp(what, "fused"), is_product = !strcmp(what, "product");
    bool is_known = wanted != 3 || is_fused || is_product || !strcmp(what, "sums");
    if (!is_known || count != wanted || argc != 3 + (int)wanted)
        stop(1, "cpu|cuda name | attention HEADS KV_HEADS DIM ROWS TOKENS | product N K ROWS | "
                "sums RANKS ROWS WIDTH | fused RANKS ROWS WIDTH");
    const rt_backend *b = backend_named(argv[1], &devices);
    if (wanted == 0) print_name(b, devices);
    if (wanted == 5) attend(b, n);
    if (is_product) multiply(b, n);
    else if (wanted == 3) sums(b, devices, n, is_fused);
    return 0;
}
