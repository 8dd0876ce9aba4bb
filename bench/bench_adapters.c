/* bench_adapters [threads] [kernels]: what adapters add to the products of 2B Granite layers.
 *
 * LAYERS layers, which no cache holds, run as a step's linears do: base alone, then with rank-32 adapters on
 * every linear, in turn; each row of a decode has an adapter of its own, a prefill has one. Limits are taken
 * in turn with them; the median of each is reported, and what was added against the adapters' bytes. */
#include "bench/limits.h"
#include "runtime/backend/backend.h"
#include "runtime/backend/matrix.h"
#include "runtime/backend/pages.h"

enum { LAYERS = 4, LINEARS = 4, RANK = 32, SLOTS = 8, ROWS_MAX = 512, WIDTH_MAX = 16384, ROUNDS = 9 };

static const struct {
    uint32_t k, n, parts, part_n[3]; /* modules of a linear: their widths */
} linears[LINEARS] = {{2048, 3072, 3, {2048, 512, 512}},
                      {2048, 2048, 1, {2048}},
                      {2048, 16384, 2, {8192, 8192}},
                      {8192, 2048, 1, {2048}}};

typedef struct bench {
    const rt_backend *cpu;
    rt_device *device;
    rt_pool *pool; /* for the limits */
    void *array;
    rt_matrix *w[LAYERS][LINEARS];
    float *x, *y;
    double adapter_bytes; /* of one adapter's matrices */
} bench;

static void stop(const char *why)
{
    fprintf(stderr, "bench_adapters: %s\n", why);
    exit(1);
}

static void make_layers(bench *b, const uint16_t *rows)
{
    rc_msg msg;
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < LINEARS; i++) {
            rt_matrix **m = &b->w[l][i];
            if (b->cpu->matrix_create(b->device, linears[i].n, linears[i].k, RC_BF16, m, &msg) != RC_OK)
                stop(msg.text);
            for (uint32_t row = 0; row < linears[i].n; row += 32)
                b->cpu->matrix_fill(*m, row, 32, rows, RC_BF16, linears[i].k);
        }
}

static void attach_adapters(bench *b, const uint16_t *values)
{
    adapter_delta deltas[LAYERS * LINEARS * 3];
    adapter_weights w = {.deltas = deltas, .rank_max = RANK};
    rc_msg msg;
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t i = 0; i < LINEARS; i++)
            for (uint32_t p = 0, at = 0; p < linears[i].parts; at += linears[i].part_n[p++]) {
                deltas[w.deltas_count++] = (adapter_delta){
                    .layer = l,
                    .linear = i,
                    .in = linears[i].k,
                    .out = linears[i].part_n[p],
                    .out_offset = at,
                    .rank = RANK,
                    .scaling = 0.5f,
                    .dtype = RC_BF16,
                    .a = values,
                    .b = values,
                };
                b->adapter_bytes += 2.0 * RANK * (linears[i].k + linears[i].part_n[p]);
            }
    for (uint32_t s = 0; s < SLOTS; s++)
        if (b->cpu->adapter_attach(b->device, s, &w, RC_BF16, &msg) != RC_OK) stop(msg.text);
}

/* Seconds of all layers' linears. */
static double time_layers(bench *b, uint32_t rows, const adapter_plan *adapters)
{
    double start = bench_seconds();
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t i = 0; i < LINEARS; i++)
            b->cpu->linear(b->device, &(rt_linear){.weight = b->w[l][i], .x = b->x, .x_stride = WIDTH_MAX / 2,
                                                   .y = b->y, .y_stride = WIDTH_MAX, .rows = rows,
                                                   .adapters = adapters, .layer = l, .linear = i});
    return bench_seconds() - start;
}

/* `rows` rows with `slots` adapters, dealt in runs. */
static void run_case(bench *b, uint32_t rows, uint32_t slots)
{
    adapter_segment segments[SLOTS];
    uint32_t row_index[ROWS_MAX];
    double base[ROUNDS], added[ROUNDS], bandwidth[ROUNDS];
    for (uint32_t s = 0; s < slots; s++) segments[s] = (adapter_segment){s, s * rows / slots, rows / slots};
    for (uint32_t r = 0; r < rows; r++) row_index[r] = r;
    adapter_plan plan = {segments, slots, row_index};
    for (int i = 0; i < ROUNDS; i++) {
        bandwidth[i] = bench_read_gbs(b->pool, b->array) * 1e9;
        base[i] = time_layers(b, rows, NULL);
        added[i] = time_layers(b, rows, &plan) - base[i];
    }
    double before = bench_median(base, ROUNDS), more = bench_median(added, ROUNDS);
    double floor = slots * b->adapter_bytes / bench_median(bandwidth, ROUNDS);
    printf("%5u %5u %10.3f %10.3f %10.3f %8.2f %8.1f\n", rows, slots, before * 1e3, more * 1e3, floor * 1e3,
           more / floor, 100 * before / (before + more));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    bench b = {.cpu = rt_backend_cpu(), .array = rt_pages_alloc(bench_read_bytes())};
    rt_device_options o = {.threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0,
                           .kernels = argc > 2 ? argv[2] : "auto",
                           .rows_max = ROWS_MAX, .width_max = WIDTH_MAX,
                           .slots_max = SLOTS, .layers = LAYERS, .linears = LINEARS, .lora_rank_max = RANK,
                           .kv = {1, 1, 64, 16, 2}, .kv_blocks = 1, .heads = 1};
    rc_msg msg = {.text = "no memory"};
    size_t count = 32 * WIDTH_MAX;
    uint16_t *values = malloc(count * sizeof *values);
    b.x = rt_pages_alloc((size_t)ROWS_MAX * WIDTH_MAX * sizeof *b.x);
    b.y = rt_pages_alloc((size_t)ROWS_MAX * WIDTH_MAX * sizeof *b.y);
    if (!b.array || !values || !b.x || !b.y || b.cpu->open(&o, &b.device, &msg) != RC_OK ||
        rt_pool_create(b.cpu->threads(b.device), &b.pool, &msg) != RC_OK)
        stop(msg.text);
    memset(b.array, 1, bench_read_bytes());
    for (size_t i = 0; i < count; i++) values[i] = rc_f32_to_bf16((float)(i % 251) * 0.01f - 1.25f);
    for (size_t i = 0; i < (size_t)ROWS_MAX * WIDTH_MAX; i++) b.x[i] = (float)(i % 127) * 0.01f - 0.6f;
    make_layers(&b, values);
    attach_adapters(&b, values);
    printf("%s, %d layers, rank %d: %.1f MB an adapter\n", b.cpu->describe(b.device), LAYERS, RANK,
           b.adapter_bytes * 1e-6);
    printf(" rows slots    base ms   added ms   bytes ms    ratio   %%of base's rate\n");
    const uint32_t cases[][2] = {{1, 1}, {8, 1}, {8, 8}, {32, 8}, {512, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) run_case(&b, cases[i][0], cases[i][1]);
    return 0;
}
