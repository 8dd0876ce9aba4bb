/* runtime/model/rope_table.h - cos and sin of the angles that a head's halves are rotated by.
 *
 * Computed in float32 step by step as the reference does (frequencies, their product with the position, the
 * cosine of that float32): at far positions the rounding of the angle is part of the model.
 *
 * Source  transformers 5.19 modeling_rope_utils.py _compute_linear_scaling_rope_parameters,
 *         _compute_llama3_parameters; GraniteRotaryEmbedding.forward. llama.cpp's freq_factors for FACTORS.
 */
#ifndef RUNTIME_MODEL_ROPE_TABLE_H
#define RUNTIME_MODEL_ROPE_TABLE_H

#include "runtime/model/model_config.h"

/* inv_freq [head_dim / 2]. factors [head_dim / 2] with RT_ROPE_FACTORS, else NULL. Needs a kind other than
 * NONE. */
void rt__rope_frequencies(const rt_model_config *c, const float *factors, float *inv_freq);

/* cos, sin [rows][half] of positions first .. first + rows. */
void rt__rope_rows(const float *inv_freq, uint32_t half, uint32_t first, uint32_t rows, float *cos_out,
                   float *sin_out);

#endif
