#include "bench/limits.h"

#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

enum { ROUNDS = 100000, CHAINS_512 = 24, CHAINS_256 = 12, TRIES = 3 };
/* Of arithmetic: a run takes under a millisecond, and a core that was asleep needs several to wake up. */
static const double arithmetic_seconds = 0.05, sustained_seconds = 1;
/* Far more than a cache holds; a run of some milliseconds is close in time to what it is compared with. */
static const size_t read_bytes = (size_t)256 << 20;

double bench_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, ascending);
    return values[count / 2];
}

size_t bench_read_bytes(void) { return read_bytes; }

typedef struct probe {
    const char *array;
    void (*arithmetic)(void);
    uint32_t times;
    float sinks[RT_POOL_THREADS_MAX];
} probe;

#if defined(__x86_64__)
/* One instruction on each of 24 chains, or 12 where there are 16 registers: more than latency times ports.
 * Zen 5 starts two bf16 dots a cycle and takes six cycles for each; 12 chains are 92 % of its rate. The loop
 * is assembly: from an array the compiler would keep the chains in memory. */
#define CHAIN_(op, r, n) op " %%" r "mm12, %%" r "mm13, %%" r "mm" #n "\n\t"
#define CHAINS_(op, r, a, b, c, d) CHAIN_(op, r, a) CHAIN_(op, r, b) CHAIN_(op, r, c) CHAIN_(op, r, d)
#define TWELVE_(op, r) \
    CHAINS_(op, r, 0, 1, 2, 3) CHAINS_(op, r, 4, 5, 6, 7) CHAINS_(op, r, 8, 9, 10, 11)
#define MORE_(op, r) \
    CHAINS_(op, r, 16, 17, 18, 19) CHAINS_(op, r, 20, 21, 22, 23) CHAINS_(op, r, 24, 25, 26, 27)
#define CLOBBERED_ \
    "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
    "xmm12", "xmm13"
#define LOOP_(chains, ...) \
    uint32_t rounds = ROUNDS; \
    __asm__ volatile("vzeroall\n1:\n\t" chains "dec %0\n\tjnz 1b" : "+r"(rounds) : : __VA_ARGS__)
#define LOOP_512_(op) \
    LOOP_(TWELVE_(op, "z") MORE_(op, "z"), CLOBBERED_, "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", \
          "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27")

__attribute__((target("avx512f"))) static void fma_avx512(void) { LOOP_512_("vfmadd231ps"); }
__attribute__((target("avx512f"))) static void dot_avx512(void) { LOOP_512_("vdpbf16ps"); }
__attribute__((target("avx2,fma"))) static void fma_avx2(void)
{
    LOOP_(TWELVE_("vfmadd231ps", "y"), CLOBBERED_, "xmm14", "xmm15");
}
#endif

static void arithmetic_task(void *arg, uint32_t part, uint32_t parts)
{
    (void)part;
    (void)parts;
    const probe *p = arg;
    for (uint32_t i = 0; i < p->times; i++) p->arithmetic();
}

/* A loop of arithmetic, and the operations of one call; NULL and 0 where this CPU has none. */
typedef struct kind {
    void (*arithmetic)(void);
    double operations;
} kind;

static kind fma_kind(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return (kind){fma_avx512, 32.0 * CHAINS_512 * ROUNDS};
    if (__builtin_cpu_supports("fma")) return (kind){fma_avx2, 16.0 * CHAINS_256 * ROUNDS};
#endif
    return (kind){0};
}

static kind dot_kind(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512bf16")) return (kind){dot_avx512, 64.0 * CHAINS_512 * ROUNDS};
#endif
    return (kind){0};
}

static double rate_of(rt_pool *pool, kind k, uint32_t times)
{
    probe p = {.arithmetic = k.arithmetic, .times = times};
    double start = bench_seconds();
    rt_pool_run(pool, arithmetic_task, &p);
    return k.operations * times * rt_pool_threads(pool) / (bench_seconds() - start) * 1e-9;
}

static double best_gflops(rt_pool *pool, kind k)
{
    double best = 0, first = bench_seconds();
    while (k.arithmetic && bench_seconds() - first < arithmetic_seconds) {
        double rate = rate_of(pool, k, 1);
        if (rate > best) best = rate;
    }
    return best;
}

double bench_fma_gflops(rt_pool *pool) { return best_gflops(pool, fma_kind()); }

double bench_dot_gflops(rt_pool *pool) { return best_gflops(pool, dot_kind()); }

double bench_sustained_gflops(rt_pool *pool, bool of_dots)
{
    kind k = of_dots ? dot_kind() : fma_kind();
    if (!k.arithmetic) return 0;
    double calls = best_gflops(pool, k) * 1e9 / rt_pool_threads(pool) / k.operations * sustained_seconds;
    return rate_of(pool, k, (uint32_t)calls);
}

/* Each part one linear run of lines, one load a line, each line prefetched `ahead` bytes early. */
static inline __attribute__((always_inline)) void read_lines(probe *p, uint32_t part, uint32_t parts,
                                                             size_t ahead, bool to_l2)
{
    size_t lines = read_bytes / 64, end = lines * (part + 1) / parts;
    uint64_t sum[8] = {0};
    for (size_t i = lines * part / parts; i + 8 <= end; i += 8)
        for (int j = 0; j < 8; j++) {
            const char *line = p->array + (i + j) * 64;
            if (ahead && to_l2) __builtin_prefetch(line + ahead, 0, 2);
            else if (ahead) __builtin_prefetch(line + ahead, 0, 3);
            uint64_t word;
            memcpy(&word, line, sizeof word);
            sum[j] += word;
        }
    for (int j = 1; j < 8; j++) sum[0] += sum[j];
    p->sinks[part] = (float)sum[0];
}

static void read_plain(void *arg, uint32_t part, uint32_t parts) { read_lines(arg, part, parts, 0, false); }
static void read_to_l1(void *arg, uint32_t part, uint32_t parts)
{
    read_lines(arg, part, parts, 4096, false);
}
static void read_to_l2(void *arg, uint32_t part, uint32_t parts) { read_lines(arg, part, parts, 2048, true); }

/* Which is best differs by machine and by the minute, by up to a third: a limit is the best of all. */
double bench_read_gbs(rt_pool *pool, const void *array)
{
    static const rt_pool_task patterns[] = {read_plain, read_to_l1, read_to_l2};
    probe p = {.array = array};
    double best = 0;
    for (int i = 0; i < 3 * TRIES; i++) {
        double start = bench_seconds();
        rt_pool_run(pool, patterns[i % 3], &p);
        double rate = (double)read_bytes / (bench_seconds() - start) * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}
