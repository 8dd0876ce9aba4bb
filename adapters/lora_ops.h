/* adapters/lora_ops.h - y += scaling * B (A x), rows grouped by adapter slot.
 *
 * A step sorts its adapted rows into segments, one per slot, once; every linear of every layer uses
 * the same segments. Rows of base are in no segment and cost nothing.
 *
 * Exact  A row's delta depends on that row and its adapter alone: each A-output and each column of y is
 *        one float32 sum in a fixed order, and is added to y after the base product (and bias) is whole.
 * Source Punica SGMV (arXiv 2310.18547) sec. 4; true ranks: S-LoRA (arXiv 2311.03285) sec. 5.3.
 */
#ifndef ADAPTERS_LORA_OPS_H
#define ADAPTERS_LORA_OPS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct adapter_segment {
    uint32_t slot;
    uint32_t first, rows; /* row_index[first .. first + rows) */
} adapter_segment;

typedef struct adapter_plan {
    const adapter_segment *segments;
    uint32_t segments_count;
    const uint32_t *row_index; /* rows of the step, sorted by slot, then by row */
} adapter_plan;

#ifdef __cplusplus
}
#endif
#endif
