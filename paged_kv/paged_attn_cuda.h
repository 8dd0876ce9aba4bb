/* paged_kv/paged_attn_cuda.h - attention over blocks, and writing and copying K/V, on a CUDA device.
 *
 * The host lays a step's plan out once, as words that the backend sends with the rest of the step; every
 * layer uses them. Work is cut into items: some rows of sequences, times a run of segments.
 *
 *     segment   KV_SEGMENT positions, counted from 0: its tiles are folded in order from an empty state
 *     whole     an item with all of its rows' segments, merged in order as they come
 *     partial   an item with one segment; a second kernel merges a row's partials in order
 *
 * Numbers of items and merges are rounded up to powers of two by some that do nothing, and tables come last:
 * launches, and where they find what they read, follow from three numbers that few steps change.
 *
 * Exact  Both ways do the same operations on a (row, head) in the same order, so no bit depends on how a plan
 * is cut, on the other rows, on the block size or on what is shared. K/V in float32, and heads wider than
 *        KV_CUDA_PAIR_DIM_MAX, take a plain kernel; others are products of bf16 pairs on tensor cores, with
 *        float32 sums. int8 rows enter those as scale times number, rounded to bf16.
 * Memory Pointers named device are the device's. Nothing is allocated here.
 * Source FlashAttention-2 (arXiv 2307.08691) sec. 3.1; split over K/V: Flash-Decoding (Dao et al. 2023).
 */
#ifndef PAGED_KV_PAGED_ATTN_CUDA_H
#define PAGED_KV_PAGED_ATTN_CUDA_H

#include <cuda_runtime_api.h>

#include "paged_kv/paged_attn.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KV_SEGMENT = 8 * KV_TILE, KV_CUDA_PAIR_DIM_MAX = 256 };

/* The plan as words: where its parts begin, and how much of them there is. */
typedef struct kv_cuda_plan {
    uint32_t rows;          /* of the step */
    uint32_t items, merges; /* of the attention; merges: rows whose partials are merged */
    uint32_t rows_at, items_at, merges_at, tables_at;
    uint32_t words; /* in all */
} kv_cuda_plan;

/* What holds for every step. */
typedef struct kv_cuda_limits {
    uint32_t rows_max;
    uint32_t table_words_max; /* block ids of all sequences of a step */
    uint32_t heads, kv_heads, head_dim;
} kv_cuda_limits;

/* Words that kv_cuda_pack fills at most; bytes of partials on the device. */
size_t kv_cuda_plan_words(const kv_cuda_limits *l);
size_t kv_cuda_scratch_bytes(const kv_cuda_limits *l);

/* Lays `plan` out in words. Its spans cover the step's rows in order, as far as they are anyone's: of `rows`
 * rows, at most rows_max, those behind have no K/V and are not attended to. */
void kv_cuda_pack(const kv_cuda_limits *l, uint32_t block_tokens, const kv_plan *plan, uint32_t rows,
                  uint32_t *words, kv_cuda_plan *out);

/* RoPE, in rotate-half order, of the rows that are written: of the heads of q and of k, in place. All
 * pointers are the device's; no heads: none. */
typedef struct kv_cuda_rope {
    float *q, *k;                         /* k: the kv_write's; q at its stride */
    uint32_t heads;                       /* of q */
    const float *device_cos, *device_sin; /* [positions][D/2] */
} kv_cuda_rope;

/* One layer of a step; `plan` of the arguments is not read. */
cudaError_t kv_cuda_write(const kv_write *w, const kv_cuda_rope *rope, const kv_cuda_plan *plan,
                          const uint32_t *device_words, cudaStream_t stream);
cudaError_t kv_cuda_attention(const kv_attn *a, const kv_cuda_plan *plan, const uint32_t *device_words,
                              void *device_scratch, cudaStream_t stream);
/* The first `rows` rows of a block, in every layer. */
cudaError_t kv_cuda_copy_rows(const kv_layout *l, void *device_kv, uint32_t from_block, uint32_t to_block,
                              uint32_t rows, cudaStream_t stream);
/* Once per device: lets the kernels have the shared memory that wide heads need. */
cudaError_t kv_cuda_prepare(void);

#ifdef __cplusplus
}
#endif
#endif
