/* runtime/model/model_internal.h - an open model: weights, and the buffers of a forward pass.
 *
 *     h  [rows][hidden]                    the residual stream; at the end, of the rows with wanted logits
 *     a  [rows][hidden | q | ffn]          what the next product reads
 *     b  [rows][q|k|v | gate|up | hidden]  what a product wrote
 *     normed [logits_max][hidden], logits [logits_max][vocab]
 *     cos, sin [positions_max][head_dim/2]
 *
 * Three wide buffers do, since everything in b is used up before the next product writes it.
 */
#ifndef RUNTIME_MODEL_MODEL_INTERNAL_H
#define RUNTIME_MODEL_MODEL_INTERNAL_H

#include "runtime/model/wanted_rows.h"
#include "runtime/model/weights.h"

typedef struct rt_activations {
    size_t h_stride, a_stride, b_stride, normed_stride;
    size_t half; /* floats of a RoPE row; 0 without RoPE */
    size_t h_at, a_at, b_at, normed_at, logits_at, cos_at, sin_at, floats; /* offsets in the buffer */
} rt_activations;

struct rt_model {
    rt_model_config config; /* the rank's own */
    rt_shard shard;
    rt_step step; /* the last one; with the rows that the backend wants besides */
    rt_model_limits limits;
    const rt_backend *backend;
    rt_device *device;
    rt_weights weights;
    rt_activations plan;
    rt_wanted_rows wanted;
    float *buffer; /* of plan.floats */
    float *h, *a, *b, *normed, *logits, *cos, *sin;
};

#endif
