/* paged_kv/paged_attn_cpu.h - the CPU's attention and K/V writing, one pair of functions per family.
 *
 * Each call does one part of parts; together they do the whole, in any order or at once. Which part does
 * what follows from the plan alone.
 *
 * Threads  Parts share what they read and write disjoint rows of `out` (of `kv`); scratch is the part's own.
 */
#ifndef PAGED_KV_PAGED_ATTN_CPU_H
#define PAGED_KV_PAGED_ATTN_CPU_H

#include "paged_kv/paged_attn.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KV_CPU_FAMILIES(X) X(portable) X(avx2) X(avx512) X(avx512_bf16)

/* A family that this build lacks is declared but not defined. */
#define KV_CPU_DECLARE_(family)                                                                        \
    void kv_attn_cpu_##family(const kv_attn *a, uint32_t part, uint32_t parts, void *scratch);         \
    void kv_write_cpu_##family(const kv_write *w, uint32_t part, uint32_t parts);
KV_CPU_FAMILIES(KV_CPU_DECLARE_)
#undef KV_CPU_DECLARE_

typedef struct kv_cpu_kernels {
    const char *family;
    void (*attn)(const kv_attn *a, uint32_t part, uint32_t parts, void *scratch);
    void (*write)(const kv_write *w, uint32_t part, uint32_t parts);
} kv_cpu_kernels;

/* NULL where this build has no such family. That the CPU can run it is the caller's to know. */
const kv_cpu_kernels *kv_cpu_kernels_of(const char *family);

#ifdef __cplusplus
}
#endif
#endif
