/* runtime/backend/gate.h - SwiGLU, by itself and at the end of a product. Only for files that mica_kernels()
 * compiles. */
#ifndef RUNTIME_BACKEND_GATE_H
#define RUNTIME_BACKEND_GATE_H

#include "proto/vec.h"

#include "runtime/backend/tile_shape.h"

/* silu(gate) * up */
static inline rc_vf rt_gate(rc_vf gate, rc_vf up)
{
    rc_vf decay = rc_vf_exp(rc_vf_sub(rc_vf_zero(), gate));
    return rc_vf_mul(rc_vf_div(gate, rc_vf_add(rc_vf_set1(1.0f), decay)), up);
}

/* Where a part of a gated product has a panel's columns of gate and, RT_PANEL further, those of up: rows
 * RT_PATCH_STRIDE apart. */
static inline float *rt_patch(const rt_dense *d, uint32_t part)
{
    return d->scratch + (size_t)part * RT_SCRATCH_FLOATS + 2 * RT_WIDE_FLOATS;
}

/* Both are whole, and still in the cache: these columns of the rows that `next` takes. */
static inline void rt_gate_panel(const rt_dense *d, uint32_t panel, const float *patch)
{
    const uint32_t k = panel * RT_PANEL, step = block_depth(d->next);
    const bool rounds = packs_bf16(d->next);
    char *out = (char *)d->next_packed + (size_t)(k / step) * d->rows * RT_X_STRIDE;
    out += k % step * (rounds ? sizeof(uint16_t) : sizeof(float));
    for (uint32_t r = 0; r < d->rows; r++, patch += RT_PATCH_STRIDE, out += RT_X_STRIDE)
        for (int c = 0; c < RT_PANEL; c += RC_LANES) {
            rc_vf x = rt_gate(rc_vf_load(patch + c), rc_vf_load(patch + RT_PANEL + c));
            if (rounds) rc_vf_store_bf16((uint16_t *)(void *)out + c, x);
            else rc_vf_store((float *)(void *)out + c, x);
        }
}

#endif
