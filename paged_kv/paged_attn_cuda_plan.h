/* paged_kv/paged_attn_cuda_plan.h - the words of a kv_cuda_plan, as host and kernels read them. */
#ifndef PAGED_KV_PAGED_ATTN_CUDA_PLAN_H
#define PAGED_KV_PAGED_ATTN_CUDA_PLAN_H

#include <stdint.h>

#define KV_CUDA_WHOLE UINT32_MAX
#define KV_CUDA_NO_ROW UINT32_MAX /* a position */

/* Of each row of the step. */
typedef struct kv_cuda_row {
    uint32_t position;
    uint32_t table; /* its sequence's first entry in the tables */
} kv_cuda_row;

/* Rows [row, row + rows) over segments [segment, segment + segments), as far as each row sees. The rows'
 * tables agree in those segments where there is more than one sequence. No rows: nothing to do. */
typedef struct kv_cuda_item {
    uint32_t row, rows;
    uint32_t segment, segments;
    uint32_t partial; /* of its first row; KV_CUDA_WHOLE: it writes the answer itself */
} kv_cuda_item;

/* A row's partials: first + i * stride of `count` for segments from 0, then the same of the rest. Partials
 * are counted in rows; each has all heads. Both counts 0: nothing to do. */
typedef struct kv_cuda_merge {
    uint32_t row;
    uint32_t shared, shared_stride, shared_count;
    uint32_t own, own_stride, own_count;
} kv_cuda_merge;

#endif
