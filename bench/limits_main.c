/* mica_limits [threads [fma | flops]]: this CPU's limits as a line of JSON: arithmetic (flops_gflops is the
 * better of both kinds), the bandwidth of reading huge pages, and the named one over a second. */
#include "bench/limits.h"

#include "runtime/backend/pages.h"

int main(int argc, char **argv)
{
    uint32_t threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : rt_pool_cores();
    rt_pool *pool;
    rc_msg msg;
    void *array = rt_pages_alloc(bench_read_bytes());
    if (!array || rt_pool_create(threads, &pool, &msg) != RC_OK) {
        fprintf(stderr, "mica_limits: %s\n", array ? msg.text : "no memory");
        return 1;
    }
    memset(array, 1, bench_read_bytes());
    double fma = bench_fma_gflops(pool), dot = bench_dot_gflops(pool);
    printf("{\"threads\": %u, \"fma_gflops\": %.1f, \"bf16_dot_gflops\": %.1f, \"flops_gflops\": %.1f, "
           "\"read_gbs\": %.2f",
           threads, fma, dot, fma > dot ? fma : dot, bench_read_gbs(pool, array));
    if (argc > 2) {
        bool of_dots = strcmp(argv[2], "flops") == 0 && dot > fma;
        printf(", \"sustained_gflops\": %.1f", bench_sustained_gflops(pool, of_dots));
    }
    puts("}");
    rt_pool_destroy(pool);
    rt_pages_free(array, bench_read_bytes());
    return 0;
}
