#include "bench/limits.h"

#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { ROUNDS = 200000, CHAINS = 12, TRIES = 3 };
/* Of arithmetic: a run takes under a millisecond, and a core that was asleep needs several to wake up. */
static const double arithmetic_seconds = 0.05;
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
    float (*arithmetic)(void);
    float sinks[RT_POOL_THREADS_MAX];
} probe;

#if defined(__x86_64__)
/* One instruction on each of twelve chains, more than latency times ports anywhere. One block of assembly:
 * from an array the compiler would keep the chains in memory. */
#define CHAINS_(op)                                                                                        \
    __asm__ volatile(op " %12, %13, %0\n\t" op " %12, %13, %1\n\t" op " %12, %13, %2\n\t"                  \
                     op " %12, %13, %3\n\t" op " %12, %13, %4\n\t" op " %12, %13, %5\n\t"                  \
                     op " %12, %13, %6\n\t" op " %12, %13, %7\n\t" op " %12, %13, %8\n\t"                  \
                     op " %12, %13, %9\n\t" op " %12, %13, %10\n\t" op " %12, %13, %11"                     \
                     : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g), "+v"(h), "+v"(i),     \
                       "+v"(j), "+v"(k), "+v"(l)                                                           \
                     : "v"(x), "v"(y))

__attribute__((target("avx512f"))) static float fma_avx512(void)
{
    __m512 a = _mm512_setzero_ps(), b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a, k = a,
           l = a;
    __m512 x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(0.25f);
    for (int round = 0; round < ROUNDS; round++) CHAINS_("vfmadd231ps");
    return _mm512_cvtss_f32(a);
}

__attribute__((target("avx512f"))) static float dot_avx512(void)
{
    __m512 a = _mm512_setzero_ps(), b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a, k = a,
           l = a;
    __m512 x = _mm512_castsi512_ps(_mm512_set1_epi32(0x3f003f00)), y = x;
    for (int round = 0; round < ROUNDS; round++) CHAINS_("vdpbf16ps");
    return _mm512_cvtss_f32(a);
}

__attribute__((target("avx2,fma"))) static float fma_avx2(void)
{
    __m256 a = _mm256_setzero_ps(), b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a, k = a,
           l = a;
    __m256 x = _mm256_set1_ps(0.5f), y = _mm256_set1_ps(0.25f);
    for (int round = 0; round < ROUNDS; round++) CHAINS_("vfmadd231ps");
    return _mm256_cvtss_f32(a);
}
#endif

static void arithmetic_task(void *arg, uint32_t part, uint32_t parts)
{
    (void)parts;
    probe *p = arg;
    p->sinks[part] = p->arithmetic();
}

static double best_gflops(rt_pool *pool, float (*arithmetic)(void), double operations)
{
    probe p = {.arithmetic = arithmetic};
    double best = 0, first = bench_seconds(), start;
    while ((start = bench_seconds()) - first < arithmetic_seconds) {
        rt_pool_run(pool, arithmetic_task, &p);
        double rate = operations * rt_pool_threads(pool) / (bench_seconds() - start) * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}

double bench_fma_gflops(rt_pool *pool)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return best_gflops(pool, fma_avx512, 32.0 * CHAINS * ROUNDS);
    if (__builtin_cpu_supports("fma")) return best_gflops(pool, fma_avx2, 16.0 * CHAINS * ROUNDS);
#endif
    (void)best_gflops;
    (void)pool;
    return 0;
}

double bench_dot_gflops(rt_pool *pool)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512bf16")) return best_gflops(pool, dot_avx512, 64.0 * CHAINS * ROUNDS);
#endif
    (void)pool;
    return 0;
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
