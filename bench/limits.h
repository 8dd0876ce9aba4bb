/* bench/limits.h - what this CPU can do at most: the denominators of every share that a benchmark states.
 *
 * Each figure but one is the best of a few short runs on `pool`. On a shared machine they move by the minute:
 * measure them next to, and in turn with, what is divided by them.
 */
#ifndef BENCH_LIMITS_H
#define BENCH_LIMITS_H

#include <stdbool.h>

#include "runtime/backend/pool.h"

double bench_seconds(void);
double bench_median(double *values, size_t count); /* sorts them; of an even number the greater one */

/* GFLOP/s of float32 multiply-adds in registers (two operations each); 0: not known for this CPU. */
double bench_fma_gflops(rt_pool *pool);
/* GFLOP/s of bf16 dot products in registers; 0: the CPU has none. */
double bench_dot_gflops(rt_pool *pool);
/* GFLOP/s of either kind over a second in which no thread waits for another: without a boost of the clock
 * that does not last, and with the time that a virtual machine's cores are away. */
double bench_sustained_gflops(rt_pool *pool, bool of_dots);
/* GB/s of reading bench_read_bytes() at `array`, which should lie on huge pages and be written before. */
double bench_read_gbs(rt_pool *pool, const void *array);
size_t bench_read_bytes(void);

#endif
