/* runtime/backend/matrix.h - a weight matrix as the CPU kernels read it.
 *
 * Rows of W (columns of y) lie in panels of 32, each one run of memory in the order in which a product
 * reads it, so that a step with one row is a plain stream over the weights:
 *
 *     F32   [N/32][K]     [32]          one k: 32 columns
 *     BF16  [N/32][K/2][2][16][2]       one 64-byte line: 16 columns x 2 consecutive k
 *
 * which is also what bf16 dot instructions take; quant.h says how quantised
 * panels are. Columns past N, and the k past an odd K, are zero.
 * All families share the layout.
 */
#ifndef RUNTIME_BACKEND_MATRIX_H
#define RUNTIME_BACKEND_MATRIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/dtype.h"

enum { RT_PANEL = 32, RT_JOINED_MAX = 3 };

struct rt_kernels;
struct rt_quant;

typedef struct rt_matrix {
    uint32_t n, k;
    rc_dtype stored; /* RC_F32 or RC_BF16; 0 where quantised */
    void *data;
    size_t bytes, panel_bytes;
    const struct rt_kernels *kernels;
    const struct rt_quant *quant; /* NULL, or the format of the panels (quant.h) */
    bool rounds_x;                /* quantised: products may round x to bf16 */
    uint32_t joined_count;        /* 0, or this one is others below each other: no data of its own, and as */
    struct rt_matrix *joined[RT_JOINED_MAX]; /* quant one of theirs, with minima where any has them */
} rt_matrix;

static inline uint32_t rt_matrix_panels(uint32_t n) { return n / RT_PANEL + (n % RT_PANEL != 0); }

/* K as stored: whole pairs in bf16. */
static inline size_t rt_matrix_depth(uint32_t k, rc_dtype stored)
{
    return stored == RC_BF16 ? (size_t)k + (k & 1) : k;
}

static inline size_t rt_matrix_panel_bytes(uint32_t k, rc_dtype stored)
{
    return rt_matrix_depth(k, stored) * RT_PANEL * rc_dtype_bytes(stored);
}

static inline const void *rt_matrix_panel(const rt_matrix *m, uint32_t panel)
{
    return (const char *)m->data + panel * m->panel_bytes;
}

/* From depth k0 (even) of a panel on. */
static inline const void *rt_matrix_at(const rt_matrix *m, uint32_t panel, size_t k0)
{
    size_t column_bytes = RT_PANEL * rc_dtype_bytes(m->stored);
    return (const char *)m->data + panel * rt_matrix_panel_bytes(m->k, m->stored) + k0 * column_bytes;
}

#endif
