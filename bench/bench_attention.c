/* bench/bench_attention.c - attention of one Granite-2B layer (32 heads, 8 of K/V, 64 dimensions), bf16 K/V.
 *
 *     bench_attention [FAMILY [THREADS]]
 *
 * Cases cycle through as many layers as make the K/V larger than a cache, as a step does. GB/s counts each
 * K/V byte once a layer, GFLOP/s 4 * D for each (query, position) pair that is seen. Limits are measured
 * first, by the same threads.
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "paged_kv/paged_attn_cpu.h"
#include "proto/dtype.h"

enum { HEADS = 32, KV_HEADS = 8, DIM = 64, BLOCK = 16, THREADS_MAX = 64 };

typedef struct bench_case {
    const char *name;
    uint32_t spans, rows, position, shared, layers;
} bench_case;

static const bench_case cases[] = {
    {"decode, 1 row at 8k", 1, 1, 8191, 0, 40},
    {"decode, 1 row at 512", 1, 1, 511, 0, 40},
    {"decode, 8 rows at 1k", 8, 1, 1023, 0, 40},
    {"decode, 8 forks of 8k", 8, 1, 8255, 8192, 40},
    {"the same, not grouped", 8, 1, 8255, 0, 40},
    {"prefill 512 on 0", 1, 512, 0, 0, 40},
    {"prefill 512 on 4k", 1, 512, 4096, 0, 40},
};

typedef struct team {
    uint32_t threads;
    void (*task)(void *, uint32_t, uint32_t);
    void *arg;
    atomic_uint round, arrived;
} team;

typedef struct member {
    team *team;
    uint32_t part;
} member;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *follow(void *arg)
{
    member *m = arg;
    for (unsigned round = 1;; round++) {
        while (atomic_load(&m->team->round) != round) {}
        if (!m->team->task) return NULL;
        m->team->task(m->team->arg, m->part, m->team->threads);
        atomic_fetch_add(&m->team->arrived, 1);
    }
}

static void together(team *t, void (*task)(void *, uint32_t, uint32_t), void *arg)
{
    t->task = task;
    t->arg = arg;
    atomic_store(&t->arrived, 0);
    atomic_fetch_add(&t->round, 1);
    if (!task) return;
    task(arg, 0, t->threads);
    while (atomic_load(&t->arrived) != t->threads - 1) {}
}

typedef struct job {
    const kv_cpu_kernels *kernels;
    kv_attn attn;
    char *scratch[THREADS_MAX];
    const unsigned char *bytes;
    size_t bytes_count;
    uint64_t sums[THREADS_MAX][8];
} job;

static void attend(void *arg, uint32_t part, uint32_t parts)
{
    job *j = arg;
    j->kernels->attn(&j->attn, part, parts, j->scratch[part]);
}

static void read_all(void *arg, uint32_t part, uint32_t parts)
{
    job *j = arg;
    size_t first = j->bytes_count / 64 * part / parts, end = j->bytes_count / 64 * (part + 1) / parts;
    uint64_t sum[8] = {0};
    for (size_t i = first; i < end; i++) {
        uint64_t x[8];
        memcpy(x, j->bytes + 64 * i, sizeof x);
        for (int k = 0; k < 8; k++) sum[k] += x[k];
    }
    memcpy(j->sums[part], sum, sizeof sum);
}

static double bandwidth(team *t, job *j)
{
    double best = 1e9;
    for (int i = 0; i < 5; i++) {
        double start = now();
        together(t, read_all, j);
        if (now() - start < best) best = now() - start;
    }
    return (double)j->bytes_count / best / 1e9;
}

/* Blocks of the sequences: the shared ones first, then each one's own, spread over the buffer. */
static uint32_t lay_out(const bench_case *c, uint32_t blocks, uint32_t *tables, uint32_t stride)
{
    uint32_t next = 0;
    for (uint32_t s = 0; s < c->spans; s++)
        for (uint32_t e = 0; e < stride; e++)
            tables[s * stride + e] = s && e < c->shared / BLOCK ? tables[e] : (uint32_t)((next++ * 7919ull) % blocks);
    return next;
}

static void run_case(team *t, job *j, const bench_case *c)
{
    uint32_t stride = (c->position + c->rows + BLOCK - 1) / BLOCK, rows = c->spans * c->rows;
    uint32_t blocks = c->spans * stride + 1;
    while (blocks % 7919 == 0) blocks++;
    kv_layout layout = {c->layers, KV_HEADS, DIM, BLOCK, 2};
    size_t kv_bytes = blocks * kv_block_bytes(&layout);
    uint16_t *kv = aligned_alloc(64, (kv_bytes + 63) / 64 * 64);
    for (size_t i = 0; i < kv_bytes / 2; i++) kv[i] = (uint16_t)(0x3f00 + (i * 2654435761u >> 25));
    uint32_t *tables = malloc((size_t)c->spans * stride * sizeof *tables);
    uint32_t used = lay_out(c, blocks, tables, stride);
    kv_span spans[64];
    kv_group groups[64], all = {0, c->spans, c->shared};
    for (uint32_t s = 0; s < c->spans; s++) {
        spans[s] = (kv_span){s * c->rows, c->rows, c->position, s * stride};
        groups[s] = (kv_group){s, 1, 0};
    }
    kv_plan plan = {spans, c->spans, c->shared ? &all : groups, c->shared ? 1 : c->spans, tables};
    float *q = malloc((size_t)rows * HEADS * DIM * sizeof *q), *out = malloc((size_t)rows * HEADS * DIM * sizeof *out);
    for (uint32_t i = 0; i < rows * HEADS * DIM; i++) q[i] = (float)(i % 97) / 97 - 0.5f;
    j->attn = (kv_attn){&layout, &plan, 0, HEADS, 0.125f, q, HEADS * DIM, out, HEADS * DIM, kv};
    j->bytes = (const unsigned char *)kv;
    j->bytes_count = kv_bytes;
    double best = 1e9, limit = kv_bytes > 100000000 ? bandwidth(t, j) : 0;
    for (int repeat = 0; repeat < 5; repeat++) {
        double start = now();
        for (j->attn.layer = 0; j->attn.layer < c->layers; j->attn.layer++) together(t, attend, j);
        double took = (now() - start) / c->layers;
        if (took < best) best = took;
    }
    double pairs = (double)rows * HEADS * ((double)c->position + (c->rows + 1) / 2.0);
    double bytes = (double)used * kv_layer_elements(&layout) * 2;
    printf("%-24s %9.1f us  %6.1f GB/s (reading %5.1f)  %6.1f GFLOP/s\n", c->name, best * 1e6, bytes / best / 1e9,
           limit, 4.0 * DIM * pairs / best / 1e9);
    free(kv);
    free(tables);
    free(q);
    free(out);
}

int main(int argc, char **argv)
{
    static job j;
    const char *family = argc > 1 ? argv[1] : "portable";
    team t = {.threads = argc > 2 ? (uint32_t)atoi(argv[2]) : 2};
    j.kernels = kv_cpu_kernels_of(family);
    if (!j.kernels || t.threads < 1 || t.threads > THREADS_MAX) {
        fprintf(stderr, "usage: bench_attention [FAMILY [THREADS]]; no family '%s' here\n", family);
        return 2;
    }
    kv_layout layout = {1, KV_HEADS, DIM, BLOCK, 2};
    pthread_t ids[THREADS_MAX];
    member members[THREADS_MAX];
    for (uint32_t i = 0; i < t.threads; i++) {
        j.scratch[i] = malloc(kv_attn_cpu_scratch_bytes(&layout, HEADS, 512));
        members[i] = (member){&t, i};
        if (i && pthread_create(&ids[i], NULL, follow, &members[i])) return 1;
    }
    printf("%s, %u threads\n", family, t.threads);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) run_case(&t, &j, &cases[i]);
    together(&t, NULL, NULL);
    for (uint32_t i = 1; i < t.threads; i++) pthread_join(ids[i], NULL);
    for (uint32_t i = 0; i < t.threads; i++) free(j.scratch[i]);
    return 0;
}
