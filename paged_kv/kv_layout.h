/* paged_kv/kv_layout.h - where K and V lie in memory. CPU and CUDA share it, down to a head.
 *
 * One block holds block_tokens consecutive positions of one sequence in every layer:
 *
 *     block -> layer -> head [G] -> K, V      each: B * D elements, then for int8 scales [B]
 *
 * (G K/V heads, B positions, head dim D). What is read together lies together: K and V of a head, heads that
 * follow each other, a layer's part of a block, a whole block. On CUDA the elements are rows [B][D]; the CPU
 * keeps them in the order of kv_strip.h.
 *
 * An int8 row, a position's D elements, is whole numbers from -127 to 127 and has a float32 scale of its own:
 * an element is scale times number. The scales lie behind the elements, 4-byte aligned since B * D is a
 * multiple of 16.
 */
#ifndef PAGED_KV_KV_LAYOUT_H
#define PAGED_KV_KV_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kv_layout {
    uint32_t layers;
    uint32_t kv_heads;      /* G */
    uint32_t head_dim;      /* D */
    uint32_t block_tokens;  /* B */
    uint32_t element_bytes; /* 4: float32, 2: bf16, 1: int8 with scales */
} kv_layout;

static inline size_t kv_row_bytes(const kv_layout *l) { return (size_t)l->head_dim * l->element_bytes; }
/* Of a row, beside its elements. */
static inline size_t kv_scale_bytes(const kv_layout *l) { return l->element_bytes == 1 ? sizeof(float) : 0; }

/* Of a head's K in a block, or its V. */
static inline size_t kv_head_bytes(const kv_layout *l)
{
    return l->block_tokens * (kv_row_bytes(l) + kv_scale_bytes(l));
}

static inline size_t kv_layer_bytes(const kv_layout *l) { return 2 * (size_t)l->kv_heads * kv_head_bytes(l); }
static inline size_t kv_block_bytes(const kv_layout *l) { return (size_t)l->layers * kv_layer_bytes(l); }

/* Bytes from the start of the whole K/V buffer to the K of a head of `block`; is_value picks its V. */
static inline size_t kv_head_offset(const kv_layout *l, uint32_t block, uint32_t layer, int is_value,
                                    uint32_t head)
{
    size_t layer_at = ((size_t)block * l->layers + layer) * kv_layer_bytes(l);
    return layer_at + (2 * (size_t)head + !!is_value) * kv_head_bytes(l);
}

/* From there to row `row` where elements are rows, and to that row's scale. */
static inline size_t kv_row_offset(const kv_layout *l, uint32_t row) { return row * kv_row_bytes(l); }
static inline size_t kv_scale_offset(const kv_layout *l, uint32_t row)
{
    return l->block_tokens * kv_row_bytes(l) + row * sizeof(float);
}

#ifdef __cplusplus
}
#endif
#endif
