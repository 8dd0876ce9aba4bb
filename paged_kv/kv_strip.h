/* paged_kv/kv_strip.h - how the CPU keeps a head's K and V inside a block: as attention multiplies them.
 *
 * A strip is S = 16 consecutive positions (a whole block where that is smaller) of one head, in words of P
 * elements: P = 2 for bf16, else 1.
 *
 *     K strip   [D / P][S] words of P dimensions          V strip   [S / P][D] words of P positions
 *
 *               position   0     1    ..                            dim      0     1    ..
 *     dims 0, 1         |k0 k1|k0 k1|                     positions 0, 1  |v  v'|v  v'|
 *          2, 3         |k2 k3|k2 k3|                               2, 3  |v  v'|v  v'|
 *
 * so that a vector of words is a row of either product's right operand, and nothing need be turned when it is
 * read. A block's strips follow each other; the int8 scales lie where kv_layout.h says. D is a multiple of P.
 */
#ifndef PAGED_KV_KV_STRIP_H
#define PAGED_KV_KV_STRIP_H

#include "paged_kv/kv_layout.h"

enum { KV_STRIP = 16 };

static inline uint32_t kv_strip_positions(const kv_layout *l)
{
    return l->block_tokens < KV_STRIP ? l->block_tokens : KV_STRIP;
}

static inline uint32_t kv_word_elements(const kv_layout *l) { return l->element_bytes == 2 ? 2 : 1; }
static inline uint32_t kv_word_bytes(const kv_layout *l) { return l->element_bytes * kv_word_elements(l); }

static inline size_t kv_strip_bytes(const kv_layout *l) { return kv_strip_positions(l) * kv_row_bytes(l); }

/* Bytes from the start of a head's K to row `row`'s first word, and from the start of its V to the first word
 * that the row shares with those beside it. */
static inline size_t kv_strip_k_word(const kv_layout *l, uint32_t row)
{
    uint32_t positions = kv_strip_positions(l);
    return row / positions * kv_strip_bytes(l) + (size_t)(row % positions) * kv_word_bytes(l);
}

static inline size_t kv_strip_v_word(const kv_layout *l, uint32_t row)
{
    return (size_t)(row / kv_word_elements(l)) * l->head_dim * kv_word_bytes(l);
}

#endif
