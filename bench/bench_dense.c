/* bench_dense [threads] [kernels] [bf16 | q8_0 | q4_0]: the products of a 2B Granite layer, as shares of this
 * CPU's limits.
 *
 * Matrices are rotated over 1 GiB of copies, as a model's layers are, so no cache holds them. Limits and
 * products are taken in turn and the best of each is reported, since a shared machine moves by the minute. */
#include "bench/limits.h"
#include "runtime/backend/backend.h"
#include "runtime/backend/matrix.h"
#include "runtime/backend/pages.h"

enum { COPIES_MAX = 128, ROWS_MAX = 512, WIDTH_MAX = 16384, ROUNDS = 5 };

typedef struct shape {
    uint32_t k, n;
} shape;

static const shape shapes[] = {{2048, 3072}, {2048, 2048}, {2048, 16384}, {8192, 2048}, {2048, 49155}};
static const uint32_t row_counts[] = {1, 8, 32, 512};

/* What matrices are filled with: rows of bf16, and one row of the quantised format. */
typedef struct filling {
    uint16_t values[32 * WIDTH_MAX];
    uint8_t blocks[2 * WIDTH_MAX];
} filling;

typedef struct bench {
    rt_device *device;
    rt_pool *pool; /* for the limits */
    void *array;
    float *x, *y;
    bool is_dot;
    const rt_quant *format; /* NULL: bf16 */
    uint32_t next; /* copy */
    double flops, bytes; /* best limits so far, per second */
} bench;

static void take_limits(bench *b)
{
    double flops = (b->is_dot ? bench_dot_gflops(b->pool) : bench_fma_gflops(b->pool)) * 1e9;
    double bytes = bench_read_gbs(b->pool, b->array) * 1e9;
    if (flops > b->flops) b->flops = flops;
    if (bytes > b->bytes) b->bytes = bytes;
}

static size_t matrix_bytes(const bench *b, shape s)
{
    return b->format ? rt_backend_cpu()->quant_bytes(s.n, s.k, b->format, true)
                     : rt_backend_cpu()->matrix_bytes(s.n, s.k, RC_BF16);
}

static rc_code create(const bench *b, shape s, rt_matrix **m, rc_msg *msg)
{
    return b->format ? rt_backend_cpu()->quant_create(b->device, s.n, s.k, b->format, true, m, msg)
                     : rt_backend_cpu()->matrix_create(b->device, s.n, s.k, RC_BF16, m, msg);
}

static rt_matrix *make_copy(bench *b, shape s, const filling *from)
{
    rt_matrix *m;
    rc_msg msg;
    if (create(b, s, &m, &msg) != RC_OK) {
        fprintf(stderr, "bench_dense: %s\n", msg.text);
        exit(1);
    }
    for (uint32_t row = 0; b->format && row < s.n; row++) rt_backend_cpu()->quant_fill(m, row, from->blocks);
    for (uint32_t row = 0; !b->format && row < s.n; row += 32)
        rt_backend_cpu()->matrix_fill(m, row, s.n - row < 32 ? s.n - row : 32, from->values, RC_BF16, s.k);
    return m;
}

/* Seconds of one product: of a run over all copies, or over as many as a tenth of a second holds. */
static double time_product(bench *b, rt_matrix *const *copies, uint32_t count, uint32_t rows)
{
    const rt_backend *cpu = rt_backend_cpu();
    const rt_matrix *const *m = (const rt_matrix *const *)copies;
    uint32_t done = 0;
    double start = bench_seconds(), spent = 0;
    for (; done < count && (done < 2 || spent < 0.15); done++, b->next++) {
        rt_linear l = {.weight = m[b->next % count],
                       .x = b->x,
                       .x_stride = m[0]->k,
                       .y = b->y,
                       .y_stride = m[0]->n,
                       .rows = rows};
        cpu->linear(b->device, &l);
        spent = bench_seconds() - start;
    }
    return spent / done;
}

static void run_shape(bench *b, shape s, const filling *from)
{
    rt_matrix *copies[COPIES_MAX];
    size_t bytes = matrix_bytes(b, s);
    uint32_t count = (uint32_t)(((size_t)1 << 30) / bytes);
    if (count > COPIES_MAX) count = COPIES_MAX;
    for (uint32_t i = 0; i < count; i++) copies[i] = make_copy(b, s, from);
    for (size_t t = 0; t < sizeof row_counts / sizeof *row_counts; t++) {
        uint32_t T = row_counts[t];
        double best = 1e9;
        for (int r = 0; r < ROUNDS; r++) {
            take_limits(b);
            double seconds = time_product(b, copies, count, T);
            if (seconds < best) best = seconds;
        }
        double work = 2.0 * T * s.n * s.k, stream = (double)bytes;
        double floor = work / b->flops > stream / b->bytes ? work / b->flops : stream / b->bytes;
        printf("%6u %6u %4u %10.3f %8.1f %7.2f %7.1f %7.1f %8.1f\n", s.k, s.n, T, best * 1e3,
               work / best * 1e-9, stream / best * 1e-9, 100 * work / best / b->flops,
               100 * stream / best / b->bytes, 100 * floor / best);
        fflush(stdout);
    }
    for (uint32_t i = 0; i < count; i++) rt_backend_cpu()->matrix_destroy(b->device, copies[i]);
}

static void nothing(void *arg, uint32_t part, uint32_t parts) { (void)arg, (void)part, (void)parts; }

/* Seconds of a run of the pool in which there is nothing to do: what any op costs beyond its work. */
static double time_barrier(rt_pool *pool)
{
    enum { RUNS = 100000 };
    double best = 1e9;
    for (int r = 0; r < ROUNDS; r++) {
        double start = bench_seconds();
        for (int i = 0; i < RUNS; i++) rt_pool_run(pool, nothing, NULL);
        double seconds = (bench_seconds() - start) / RUNS;
        if (seconds < best) best = seconds;
    }
    return best;
}

int main(int argc, char **argv)
{
    bench b = {.array = rt_pages_alloc(bench_read_bytes())};
    rt_device_options o = {
        .threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0,
        .kernels = argc > 2 ? argv[2] : "auto",
        .rows_max = ROWS_MAX,
        .width_max = WIDTH_MAX,
        .kv = {1, 1, 64, 16, 2},
        .kv_blocks = 1,
        .heads = 1,
    };
    rc_msg msg = {.text = "no memory"};
    filling *from = malloc(sizeof *from);
    b.x = rt_pages_alloc(ROWS_MAX * WIDTH_MAX * sizeof *b.x);
    b.y = rt_pages_alloc((size_t)ROWS_MAX * 49155 * sizeof *b.y);
    if (!b.array || !from || !b.x || !b.y || rt_backend_cpu()->open(&o, &b.device, &msg) != RC_OK ||
        rt_pool_create(rt_backend_cpu()->threads(b.device), &b.pool, &msg) != RC_OK) {
        fprintf(stderr, "bench_dense: %s\n", msg.text);
        return 1;
    }
    memset(b.array, 1, bench_read_bytes());
    for (uint32_t i = 0; i < 32 * WIDTH_MAX; i++)
        from->values[i] = rc_f32_to_bf16((float)(i % 251) * 0.01f - 1.25f);
    for (uint32_t i = 0; i < ROWS_MAX * WIDTH_MAX; i++) b.x[i] = (float)(i % 127) * 0.01f - 0.6f;
    if (argc > 3) b.format = rt_quant_named(argv[3]);
    if (b.format) rt_quant_row(b.format, b.x, WIDTH_MAX, from->blocks);
    b.is_dot = strncmp(rt_backend_cpu()->describe(b.device), "avx512_bf16", 11) == 0;
    take_limits(&b);
    printf("%s: limits %.1f GFLOP/s, %.2f GB/s; a run of the pool takes %.2f us\n",
           rt_backend_cpu()->describe(b.device), b.flops * 1e-9, b.bytes * 1e-9, time_barrier(b.pool) * 1e6);
    printf("     K      N    T         ms  GFLOP/s    GB/s  %%flops  %%bytes  %%roofline\n");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_shape(&b, shapes[i], from);
    printf("limits at the end: %.1f GFLOP/s, %.2f GB/s\n", b.flops * 1e-9, b.bytes * 1e-9);
    return 0;
}
