/* paged_kv/kv_layout.h - where the K and V of a position lie in memory. Host and device share it.
 *
 * One block holds block_tokens consecutive positions of one sequence in every layer:
 *
 *     block -> layer -> K [G], V [G]      G K/V heads, each: rows [B][D], then for int8 scales [B]
 *
 * so a head's positions are contiguous rows of D elements (B positions, head dim D), a layer's part of a
 * block is one run of bytes, and a whole block (what is copied out or sent) is one run too.
 *
 * An int8 row is whole numbers from -127 to 127 and has a float32 scale of its own: an element is scale times
 * number. The scales of a head lie behind its rows, 4-byte aligned since B * D is a multiple of 16.
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

static inline size_t kv_head_bytes(const kv_layout *l)
{
    return l->block_tokens * (kv_row_bytes(l) + kv_scale_bytes(l));
}

static inline size_t kv_layer_bytes(const kv_layout *l) { return 2 * (size_t)l->kv_heads * kv_head_bytes(l); }
static inline size_t kv_block_bytes(const kv_layout *l) { return (size_t)l->layers * kv_layer_bytes(l); }

/* Bytes from the start of the whole K/V buffer to the rows of a head of `block`; is_value picks V. */
static inline size_t kv_head_offset(const kv_layout *l, uint32_t block, uint32_t layer, int is_value,
                                    uint32_t head)
{
    size_t layer_at = ((size_t)block * l->layers + layer) * kv_layer_bytes(l);
    return layer_at + ((size_t)(is_value ? l->kv_heads : 0) + head) * kv_head_bytes(l);
}

/* From the start of a head to row `row`, and to that row's scale. */
static inline size_t kv_row_offset(const kv_layout *l, uint32_t row) { return row * kv_row_bytes(l); }
static inline size_t kv_scale_offset(const kv_layout *l, uint32_t row)
{
    return l->block_tokens * kv_row_bytes(l) + row * sizeof(float);
}

#ifdef __cplusplus
}
#endif
#endif
