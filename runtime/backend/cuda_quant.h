/* runtime/backend/cuda_quant.h - quantised matrices on a CUDA device, as the codes that a file has.
 *
 * A panel keeps 16 rows of W together, group after group of k (quant.h), as tensor cores take them:
 *
 *     d        [16] float16; then the minimum's [16] where the format has one
 *     factors  [group / run][16] bytes, then the minimum's, where scales are d * factor
 *     blocks   [group / 32] of 32 k. Lane l of a warp has, of rows l / 4 and l / 4 + 8, eight k, numbered by
 *              j: four from 4 (l % 4) on, and four from 16 + 4 (l % 4) on:
 *                4 bits  [32 lanes][2 rows] words; the nibble of j is at 4 (j / 2) + 16 (j % 2)
 *                5 bits  the same, then [32 lanes][2 rows] bytes, the fifth bit of j at j / 2 + 4 (j % 2)
 *                6 bits  the same, then [32 lanes][2 rows] 16 bits, the upper two at 2 (j / 2) + 8 (j % 2)
 *                8 bits  [32 lanes][2 rows][8] bytes
 *
 * Exact  Codes are multiplied as bf16, which holds them exactly, by x rounded to bf16, summed over a run in
 *        float32, and scaled. A row of y follows from its row of x alone.
 */
#ifndef RUNTIME_BACKEND_CUDA_QUANT_H
#define RUNTIME_BACKEND_CUDA_QUANT_H

#include <cuda_runtime_api.h>

#include "runtime/backend/cuda_ops.h"
#include "runtime/backend/quant.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    RT_CUDA_PANEL = 16,
    RT_CUDA_CODES_ROWS = 32 /* of x that one launch multiplies while it reads the codes once */
};

typedef struct rt_cuda_codes {
    const uint8_t *panels; /* on the device */
    uint32_t n, k, bits, run, group;
    uint32_t has_min, has_factors, signed_factors;
    int32_t offset;
    uint32_t block_bytes, group_bytes, blocks_at; /* blocks: within a group */
} rt_cuda_codes;

rt_cuda_codes rt_cuda_codes_of(const rt_quant *q, uint32_t n, uint32_t k); /* without panels */
size_t rt_cuda_codes_bytes(const rt_cuda_codes *c);
/* One row as a file stores it into `panels` on the host, where it is zero so far. */
void rt_cuda_codes_put(const rt_cuda_codes *c, const rt_quant *q, uint32_t row, const void *blocks,
                       uint8_t *panels);

/* y = x W^T (+ bias); x: bf16, rows 16-byte aligned. At most RT_CUDA_CODES_ROWS rows. */
typedef struct rt_cuda_codes_product {
    const uint16_t *x;
    size_t x_stride;
    const float *bias; /* [n] or NULL */
    float *y;
    size_t y_stride;
    uint32_t rows;
} rt_cuda_codes_product;
cudaError_t rt_cuda_codes_multiply(const rt_cuda_codes *c, const rt_cuda_codes_product *p,
                                   cudaStream_t stream);
/* Rows [first, first + rows) of W as bf16, k apart; first: of a panel. */
cudaError_t rt_cuda_codes_expand(const rt_cuda_codes *c, uint32_t first, uint32_t rows, uint16_t *out,
                                 cudaStream_t stream);
/* As rt_cuda_embed, of a table of codes. */
cudaError_t rt_cuda_codes_embed(const rt_cuda_codes *c, const rt_cuda_rows *r, const int32_t *tokens,
                                const int32_t *before, uint32_t first, float scale, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
