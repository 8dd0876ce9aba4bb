/* runtime/model/names.h - which tensors of a checkpoint make up each weight, in both naming schemes.
 *
 *     weight         Hugging Face                                  GGUF
 *     embedding      model.embed_tokens                            token_embd
 *     head           lm_head                                       output
 *     norm           model.norm                                    output_norm
 *     layer N        model.layers.N.                               blk.N.
 *       q|k|v        self_attn.{q,k,v}_proj                        attn_{q,k,v}
 *       o            self_attn.o_proj                              attn_output
 *       gate|up      mlp.{gate,up}_proj, shared_mlp.input_linear   ffn_{gate,up}
 *       down         mlp.down_proj, shared_mlp.output_linear       ffn_down
 *       norms        input_layernorm, post_attention_layernorm     attn_norm, ffn_norm
 *
 * A GGUF's q and k rows come in pairs (interleaved RoPE); they are put back in rotate-half order.
 */
#ifndef RUNTIME_MODEL_NAMES_H
#define RUNTIME_MODEL_NAMES_H

#include "runtime/model/shard.h"

enum { RT_PARTS_MAX = 3, RT_NAME_BYTES_MAX = 96 };

/* Rows [first, first + rows) of one tensor inside a fused matrix: all of them, or the rank's. */
typedef struct rt_part {
    char name[RT_NAME_BYTES_MAX]; /* without ".weight" or ".bias" */
    uint32_t tensor_rows, first, rows;
    uint32_t whole_first; /* where they begin in the whole model's fused matrix */
    uint32_t paired_head_dim; /* rows of each head of this many are in pairs; 0: they are not */
} rt_part;

/* A weight matrix [n][k]: its parts one below the other; of a tensor's row columns [k_first, k_first + k). */
typedef struct rt_matrix_plan {
    uint32_t n, k;
    uint32_t tensor_k, k_first;
    uint32_t parts_count;
    rt_part parts[RT_PARTS_MAX];
    bool has_bias;
} rt_matrix_plan;

/* c: of the whole model. */
void rt__plan_embedding(const rt_model_config *c, const rt_shard *s, bool gguf, rt_matrix_plan *plan);
void rt__plan_head(const rt_model_config *c, const rt_shard *s, bool gguf, rt_matrix_plan *plan);
/* linear: RT_LINEAR_QKV .. RT_LINEAR_DOWN. Of what is a partial sum rank 0 alone has the bias. */
void rt__plan_linear(const rt_model_config *c, const rt_shard *s, bool gguf, uint32_t layer, uint32_t linear,
                     rt_matrix_plan *plan);

/* Names of the norm vectors, all [hidden]. */
void rt__name_final_norm(bool gguf, char name[RT_NAME_BYTES_MAX]);
void rt__name_layer_norm(bool gguf, uint32_t layer, bool after_attention, char name[RT_NAME_BYTES_MAX]);

/* Row of the stored tensor that holds row `row` of the weight. */
static inline uint32_t rt__stored_row(const rt_part *p, uint32_t row)
{
    uint32_t head_dim = p->paired_head_dim, half = head_dim / 2;
    if (!head_dim) return row;
    uint32_t within = row % head_dim;
    return row - within + 2 * (within % half) + within / half;
}

#endif
