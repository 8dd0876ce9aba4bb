/* bench/bench_attention.c - attention of one Granite-2B layer (32 heads, 8 of K/V, 64 dimensions), bf16 K/V.
 *
 *     bench_attention [FAMILY [THREADS]]
 *
 * A case goes through many layers, so that its K/V comes from memory, as in a step. GB/s counts each K/V byte
 * once a layer; GFLOP/s counts 4 * D for each (query, position) pair that is seen. The limits are measured
 * before each case, by the same threads.
 */
#include <stdbool.h>

#include "bench/limits.h"
#include "paged_kv/paged_attn_cpu.h"
#include "runtime/backend/pages.h"

enum { HEADS = 32, KV_HEADS = 8, DIM = 64, BLOCK = 16, LAYERS = 40, SPANS_MAX = 8, THREADS_MAX = 64 };

typedef struct bench_case {
    const char *name;
    uint32_t spans, rows, position, shared;
} bench_case;

static const bench_case cases[] = {
    {"decode, 1 row at 8k", 1, 1, 8191, 0},
    {"decode, 1 row at 512", 1, 1, 511, 0},
    {"decode, 8 rows at 1k", 8, 1, 1023, 0},
    {"decode, 8 forks of 8k", 8, 1, 8255, 8192},
    {"prefill 512 on 0", 1, 512, 0, 0},
    {"prefill 512 on 4k", 1, 512, 4096, 0},
};

typedef struct job {
    const kv_cpu_kernels *kernels;
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

static double best_seconds(rt_pool *pool, job *j)
{
    double best = 1e9;
    for (int repeat = 0; repeat < 5; repeat++) {
        double start = bench_seconds();
        for (j->attn.layer = 0; j->attn.layer < LAYERS; j->attn.layer++) rt_pool_run(pool, attend, j);
        double took = (bench_seconds() - start) / LAYERS;
        if (took < best) best = took;
    }
    return best;
}

static void run_case(rt_pool *pool, job *j, const bench_case *c, const void *probe)
{
    uint32_t stride = (c->position + c->rows + BLOCK - 1) / BLOCK, blocks = c->spans * stride;
    size_t floats = (size_t)c->spans * c->rows * HEADS * DIM;
    kv_layout layout = {LAYERS, KV_HEADS, DIM, BLOCK, 2};
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
    double read = bench_read_gbs(pool, probe), fma = bench_fma_gflops(pool), took = best_seconds(pool, j);
    printf("%-22s %9.1f us  %5.1f of %5.1f GB/s  %6.1f of %6.1f GFLOP/s\n", c->name, took * 1e6,
           bytes / took / 1e9, read, operations / took / 1e9, fma);
    rt_pages_free(kv, kv_bytes);
    rt_pages_free(q, floats * sizeof *q);
    rt_pages_free(out, floats * sizeof *out);
    rt_pages_free(tables, blocks * sizeof *tables);
}

int main(int argc, char **argv)
{
    const char *family = argc > 1 ? argv[1] : "portable";
    uint32_t threads = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : rt_pool_cores();
    kv_layout layout = {LAYERS, KV_HEADS, DIM, BLOCK, 2};
    job j = {.kernels = kv_cpu_kernels_of(family), .scratch_bytes = kv_attn_cpu_scratch_bytes(&layout)};
    rt_pool *pool;
    rc_msg msg;
    if (!j.kernels || threads < 1 || threads > THREADS_MAX) {
        fprintf(stderr, "usage: bench_attention [FAMILY [THREADS]]; no family '%s' here\n", family);
        return 2;
    }
    void *probe = rt_pages_alloc(bench_read_bytes());
    j.scratch = malloc(threads * j.scratch_bytes);
    RC_ASSERT(probe && j.scratch && rt_pool_create(threads, &pool, &msg) == RC_OK);
    memset(probe, 1, bench_read_bytes());
    printf("%s, %u threads\n", family, threads);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) run_case(pool, &j, &cases[i], probe);
    rt_pool_destroy(pool);
    rt_pages_free(probe, bench_read_bytes());
    free(j.scratch);
    return 0;
}
