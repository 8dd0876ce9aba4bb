/* bench/bench_attention.c - attention of one Granite-2B layer (32 heads, 8 of K/V, 64 dimensions).
 *
 *     bench_attention [FAMILY [THREADS [CASE [int8]]]]      CASE: those whose name contains it; else bf16 K/V
 *
 * A case goes through many layers, so that its K/V comes from memory, as in a step. GB/s counts each K/V byte
 * once a layer, shared ones too; GFLOP/s counts 4 * D for each (query, position) pair that is seen. The limit
 * of a case is the larger of bytes / read bandwidth and FLOPs / FLOP limit (the better of multiply-add and
 * bf16 dot). Limits and case are measured in turn by the same threads; medians.
 */
#include <stdbool.h>

#include "bench/limits.h"
#include "paged_kv/paged_attn_cpu.h"
#include "runtime/backend/pages.h"

enum { HEADS = 32, KV_HEADS = 8, DIM = 64, BLOCK = 16, LAYERS = 10 };
enum { SPANS_MAX = 8, THREADS_MAX = 64, REPEATS = 5 };

typedef struct bench_case {
    const char *name;
    uint32_t spans, rows, position, shared;
} bench_case;

static const bench_case cases[] = {
    {"1 row on 8k", 1, 1, 8191, 0},
    {"1 row on 512", 1, 1, 511, 0},
    {"8 rows on 8 x 1k", 8, 1, 1023, 0},
    {"8 rows on 8 x 8k", 8, 1, 8191, 0},
    {"8 forks of 8k", 8, 1, 8255, 8192},
    {"512 rows on 0", 1, 512, 0, 0},
    {"512 rows on 4k", 1, 512, 4096, 0},
};

typedef struct job {
    const kv_cpu_kernels *kernels;
    const kv_layout *layout;
    kv_attn attn;
    char *scratch;
    size_t scratch_bytes;
} job;

static void attend(void *arg, uint32_t part, uint32_t parts)
{
    job *j = arg;
    j->kernels->attn(&j->attn, part, parts, j->scratch + part * j->scratch_bytes);
}

/* Blocks of the spans, spread over the buffer; a shared prefix has the same ones. Gives how many. */
static uint32_t lay_out(const bench_case *c, uint32_t blocks, uint32_t stride, uint32_t *tables)
{
    uint32_t next = 0;
    for (uint32_t s = 0; s < c->spans; s++)
        for (uint32_t e = 0; e < stride; e++) {
            bool is_shared = s && e < c->shared / BLOCK;
            tables[s * stride + e] = is_shared ? tables[e] : (uint32_t)(next++ * 7919ull % blocks);
        }
    return next;
}

/* Of one layer, all being gone through once. */
static double layer_seconds(rt_pool *pool, job *j)
{
    double start = bench_seconds();
    for (j->attn.layer = 0; j->attn.layer < LAYERS; j->attn.layer++) rt_pool_run(pool, attend, j);
    return (bench_seconds() - start) / LAYERS;
}

/* Times the case and its limits in turn. */
static void measure(rt_pool *pool, job *j, const char *name, double bytes, double operations,
                    const void *probe)
{
    double took[REPEATS], share[REPEATS], read[REPEATS], flops[REPEATS];
    for (int r = 0; r < REPEATS; r++) {
        double fma = bench_fma_gflops(pool), dot = bench_dot_gflops(pool);
        flops[r] = fma > dot ? fma : dot;
        read[r] = bench_read_gbs(pool, probe);
        took[r] = layer_seconds(pool, j);
        double by_bytes = bytes / read[r] / 1e9, by_flops = operations / flops[r] / 1e9;
        share[r] = (by_bytes > by_flops ? by_bytes : by_flops) / took[r];
    }
    double seconds = bench_median(took, REPEATS);
    printf("%-18s %9.1f us  %5.1f of %5.1f GB/s  %6.1f of %6.1f GFLOP/s  %3.0f %% of the limit\n", name,
           seconds * 1e6, bytes / seconds / 1e9, bench_median(read, REPEATS), operations / seconds / 1e9,
           bench_median(flops, REPEATS), bench_median(share, REPEATS) * 100);
}

static void run_case(rt_pool *pool, job *j, const bench_case *c, const void *probe)
{
    uint32_t stride = (c->position + c->rows + BLOCK - 1) / BLOCK, blocks = c->spans * stride;
    size_t floats = (size_t)c->spans * c->rows * HEADS * DIM;
    kv_layout layout = *j->layout;
    size_t kv_bytes = blocks * kv_block_bytes(&layout);
    uint16_t *kv = rt_pages_alloc(kv_bytes);
    float *q = rt_pages_alloc(floats * sizeof *q), *out = rt_pages_alloc(floats * sizeof *out);
    uint32_t *tables = rt_pages_alloc(blocks * sizeof *tables);
    RC_ASSERT(kv && q && out && tables);
    for (size_t i = 0; i < kv_bytes / 2; i++) kv[i] = (uint16_t)(0x3f00 + ((uint32_t)i * 2654435761u >> 25));
    for (size_t i = 0; i < floats; i++) q[i] = (float)(i % 97) / 97 - 0.5f;
    kv_span spans[SPANS_MAX];
    kv_group groups[SPANS_MAX], all = {0, c->spans, c->shared};
    for (uint32_t s = 0; s < c->spans; s++) {
        spans[s] = (kv_span){s * c->rows, c->rows, c->position, s * stride};
        groups[s] = (kv_group){s, 1, 0};
    }
    kv_plan plan = {spans, c->spans, c->shared ? &all : groups, c->shared ? 1 : c->spans, tables};
    double bytes = (double)lay_out(c, blocks, stride, tables) * kv_layer_bytes(&layout);
    double operations = 4.0 * DIM * c->spans * c->rows * HEADS * (c->position + (c->rows + 1) / 2.0);
    j->attn = (kv_attn){&layout, &plan, 0, HEADS, 0.125f, q, HEADS * DIM, out, HEADS * DIM, kv};
    measure(pool, j, c->name, bytes, operations, probe);
    rt_pages_free(kv, kv_bytes);
    rt_pages_free(q, floats * sizeof *q);
    rt_pages_free(out, floats * sizeof *out);
    rt_pages_free(tables, blocks * sizeof *tables);
}

int main(int argc, char **argv)
{
    const char *family = argc > 1 ? argv[1] : "portable";
    uint32_t threads = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : rt_pool_cores();
    bool is_int8 = argc > 4 && strcmp(argv[4], "int8") == 0;
    kv_layout layout = {LAYERS, KV_HEADS, DIM, BLOCK, is_int8 ? 1 : 2};
    job j = {.kernels = kv_cpu_kernels_of(family), .layout = &layout};
    j.scratch_bytes = kv_attn_cpu_scratch_bytes(&layout);
    rt_pool *pool;
    rc_msg msg;
    if (!j.kernels || threads < 1 || threads > THREADS_MAX) {
        fprintf(stderr, "usage: bench_attention [FAMILY [THREADS [CASE [int8]]]]; no family '%s' here\n",
                family);
        return 2;
    }
    void *probe = rt_pages_alloc(bench_read_bytes());
    j.scratch = malloc(threads * j.scratch_bytes);
    RC_ASSERT(probe && j.scratch && rt_pool_create(threads, &pool, &msg) == RC_OK);
    memset(probe, 1, bench_read_bytes());
    printf("%s, %u threads, %s K/V\n", family, threads, is_int8 ? "int8" : "bf16");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (argc < 4 || strstr(cases[i].name, argv[3])) run_case(pool, &j, &cases[i], probe);
    rt_pool_destroy(pool);
    rt_pages_free(probe, bench_read_bytes());
    free(j.scratch);
    return 0;
}
