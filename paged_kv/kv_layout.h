/* paged_kv/kv_layout.h - where the K and V of a position lie in memory. Host and device share it.
 *
 * One block holds block_tokens consecutive positions of one sequence in every layer:
 *
 *     block -> layer -> K [G][B][D], V [G][B][D]      G K/V heads, B positions, D head dim
 *
 * so a head's positions are contiguous rows of D elements, a layer's part of a block is one run of
 * 2*G*B*D elements, and a whole block (what is copied out or sent) is one run too.
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
    uint32_t element_bytes; /* 4: float32, 2: bf16 */
} kv_layout;

static inline size_t kv_head_elements(const kv_layout *l)
{
    return (size_t)l->block_tokens * l->head_dim;
}

static inline size_t kv_layer_elements(const kv_layout *l)
{
    return 2 * (size_t)l->kv_heads * kv_head_elements(l);
}

static inline size_t kv_block_bytes(const kv_layout *l)
{
    return (size_t)l->layers * kv_layer_elements(l) * l->element_bytes;
}

/* Element offset, from the start of the whole K/V buffer, of row `offset` of `block`; is_value picks V. */
static inline size_t kv_row_at(const kv_layout *l, uint32_t block, uint32_t layer, int is_value,
                               uint32_t head, uint32_t offset)
{
    size_t layer_at = ((size_t)block * l->layers + layer) * kv_layer_elements(l);
    size_t head_at = ((size_t)(is_value ? l->kv_heads : 0) + head) * kv_head_elements(l);
    return layer_at + head_at + (size_t)offset * l->head_dim;
}

#ifdef __cplusplus
}
#endif
#endif
