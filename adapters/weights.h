/* adapters/weights.h - the low-rank matrices of one PEFT checkpoint, as loaded, in host memory.
 *
 * An adapter is a list of deltas. A delta adds  scaling * B (A x)  to columns
 * [out_offset, out_offset + out) of the output of one linear of one layer. Which linears exist, and
 * which module names lead to them, the caller tells by an adapter_shape; fused base matrices
 * (q|k|v, gate|up) are one linear with several modules at their column offsets.
 *
 * Content ids are unique per load, never per name: K/V computed with other weights is never found.
 */
#ifndef ADAPTERS_WEIGHTS_H
#define ADAPTERS_WEIGHTS_H

#include "adapters/adapter_config.h"
#include "proto/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { ADAPTER_MODULES_MAX = 16, ADAPTER_RANK_MAX = 4096 };

/* One adaptable module of every layer. */
typedef struct adapter_module {
    const char *name;      /* below the layer: "self_attn.q_proj" */
    uint32_t linear;       /* which linear of the layer, the caller's numbering from 0 */
    uint32_t in, out;
    uint32_t out_offset;   /* its first column in the linear's output */
} adapter_module;

typedef struct adapter_shape {
    const char *layer_prefix; /* "model.layers." ; a module's path is prefix + layer + "." + name */
    uint32_t layers;
    uint32_t vocab;           /* invocation ids must be below it */
    uint32_t modules_count;
    adapter_module modules[ADAPTER_MODULES_MAX];
    uint32_t rank_max;        /* larger ranks are refused (--max-lora-rank) */
} adapter_shape;

typedef struct adapter_delta {
    uint32_t layer, linear;
    uint32_t in, out, out_offset;
    uint32_t rank;
    float scaling;
    rc_dtype dtype;
    const void *a; /* [rank][in]  row-major, dtype; owned by the adapter_weights */
    const void *b; /* [out][rank] row-major, dtype */
} adapter_delta;

typedef struct adapter_weights {
    adapter_kind kind;
    uint32_t rank_max;             /* largest rank of any delta */
    uint32_t invocation_count;     /* of an aLoRA; 0: active from the prompt's last token */
    int32_t invocation[ADAPTER_INVOCATION_MAX];
    uint32_t deltas_count;
    adapter_delta *deltas;         /* ordered by layer, then linear, then out_offset */
    size_t bytes;                  /* of all A and B */
    void *storage;
} adapter_weights;

/* Turns legacy invocation text into ids, without special tokens. Gives the count, at most `max`, or
 * a code with a message. */
typedef rc_code (*adapter_tokenize)(void *ctx, const char *text, int32_t *ids, uint32_t max,
                                    uint32_t *count, rc_msg *msg);

/* Reads directory `path` (adapter_config.json, adapter_model.safetensors) and copies the weights.
 * Every tensor must belong to a module that the config targets, and every module that it targets must
 * have both tensors of the right shape; else the message names the tensor.
 * Threads  any; takes no lock.
 * Errors   INVALID_ARGUMENT, NOT_FOUND, INTERNAL (read), RESOURCE_EXHAUSTED (memory). */
RC_MUST_CHECK rc_code adapter_weights_load(const char *path, const adapter_shape *shape,
                                           adapter_tokenize tokenize, void *tokenize_ctx,
                                           adapter_weights **out, rc_msg *msg);
void adapter_weights_free(adapter_weights *w); /* NULL is allowed */

#ifdef __cplusplus
}
#endif
#endif
