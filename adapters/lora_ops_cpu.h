/* adapters/lora_ops_cpu.h - y += scaling * B (A x) on the CPU: packed adapters, and the two passes.
 *
 * A packed adapter is one run of memory:  header, index, deltas, then each delta's
 *     A  [rank][in, padded to 32]      a row of A is a dot product with x, 16 lanes wide
 *     B  [out/32][rank][32]            a panel of B adds into 32 columns of y, r by r
 * so the rank is never padded, and a decode step over many adapters streams each one's bytes once.
 *
 * A linear runs  shrink (s = A x, kept float32)  and, when all parts of that are done,  expand
 * (y += scaling * (B s))  after the base product and its bias are in y. Deltas are taken ADAPTER_WAVE at a
 * time, so that the scratch for s has a bound: a linear with more (never a Granite one) has several waves.
 *
 * Exact  s[r]: 16 lanes run over k in increasing order, then fold in one tree. A column's B s: one float32
 *        sum over r in increasing order. Tiles, parts and the other rows change no bit.
 * Threads  adapter_lora_pack touches only its own memory. The passes read; parts write disjoint cells.
 */
#ifndef ADAPTERS_LORA_OPS_CPU_H
#define ADAPTERS_LORA_OPS_CPU_H

#include "adapters/lora_ops.h"
#include "adapters/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { ADAPTER_WAVE = 3, ADAPTER_LORA_PANEL = 32 };

/* Weights in a row of A as stored: whole lines, so that every row starts on one. */
static inline size_t adapter_lora_a_stride(uint32_t in) { return ((size_t)in + 31) / 32 * 32; }

typedef struct adapter_lora_delta {
    uint32_t in, out, out_offset, rank;
    float scaling;
    rc_dtype stored;
    const void *a, *b;
} adapter_lora_delta;

typedef struct adapter_lora {
    uint32_t layers, linears;
    const uint32_t *first; /* [layers * linears + 1]: where a linear's deltas start */
    const adapter_lora_delta *deltas;
} adapter_lora;

/* What adapter_lora_pack needs, 64-byte aligned. stored: RC_F32 or RC_BF16. */
size_t adapter_lora_bytes(const adapter_weights *w, rc_dtype stored, uint32_t layers, uint32_t linears);
/* Packs w into `memory`, which must be zeroed; the result lives there. w is not needed after it.
 * Needs  every delta's layer and linear below the limits; deltas in their order; a linear's output ranges
 *        disjoint. */
const adapter_lora *adapter_lora_pack(void *memory, const adapter_weights *w, rc_dtype stored,
                                      uint32_t layers, uint32_t linears);

/* One linear of a step. */
typedef struct adapter_lora_run {
    const adapter_lora *const *slots; /* [slot] */
    const adapter_plan *plan;
    uint32_t layer, linear;
    uint32_t wave;                    /* deltas [wave * ADAPTER_WAVE, + ADAPTER_WAVE) of each slot */
    const float *x;
    size_t x_stride;
    float *y;
    size_t y_stride;
    float *s;                         /* [rows of the plan][ADAPTER_WAVE * rank_max] */
    uint32_t rank_max;
} adapter_lora_run;

/* 0: none of the plan's adapters has a delta here. */
uint32_t adapter_lora_waves(const adapter_lora_run *r);

static inline size_t adapter_lora_scratch_floats(uint32_t rows_max, uint32_t rank_max)
{
    return (size_t)rows_max * ADAPTER_WAVE * rank_max;
}

/* The two passes of part `part` of `parts`; one pair per kernel family. */
#define ADAPTER_LORA_FAMILY_(family)                                                               \
    void adapter_lora_shrink_##family(const adapter_lora_run *r, uint32_t part, uint32_t parts);   \
    void adapter_lora_expand_##family(const adapter_lora_run *r, uint32_t part, uint32_t parts);
ADAPTER_LORA_FAMILY_(portable)
ADAPTER_LORA_FAMILY_(avx2)
ADAPTER_LORA_FAMILY_(avx512)
ADAPTER_LORA_FAMILY_(avx512_bf16)
#undef ADAPTER_LORA_FAMILY_

#ifdef __cplusplus
}
#endif
#endif
