/* runtime/model/model_config.h - the shape of a model, from config.json or GGUF metadata.
 *
 * Everything that the layer loop computes is a field here; what a checkpoint asks for beyond it
 * (another architecture, rope kind, activation, experts) is refused by name while parsing.
 *
 * Source  transformers 5.19 models/{granite,llama,granitemoehybrid}/configuration_*.py and
 *         modeling_rope_utils.py; llama.cpp gguf-py/gguf/constants.py for GGUF keys.
 */
#ifndef RUNTIME_MODEL_MODEL_CONFIG_H
#define RUNTIME_MODEL_MODEL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/dtype.h"
#include "proto/rc.h"

enum { RT_EOS_MAX = 16 };

/* Past these a config is refused: so that no size computed from it can overflow. */
enum {
    RT_LAYERS_MAX = 1024,
    RT_HIDDEN_MAX = 1 << 17,
    RT_HEADS_MAX = 4096,
    RT_HEAD_DIM_MAX = 1024,
    RT_FFN_MAX = 1 << 20,
    RT_VOCAB_MAX = 1 << 24,
    RT_POSITIONS_MAX = 1 << 30
};

/* FACTORS: default frequencies, each divided by one of the checkpoint's own (GGUF: rope_freqs.weight). */
typedef enum rt_rope_kind {
    RT_ROPE_NONE = 1,
    RT_ROPE_DEFAULT,
    RT_ROPE_LINEAR,
    RT_ROPE_LLAMA3,
    RT_ROPE_FACTORS
} rt_rope_kind;

typedef struct rt_model_config {
    char arch[64]; /* "GraniteForCausalLM", or GGUF's "granite" */
    uint32_t vocab, hidden, layers, heads, kv_heads, head_dim, ffn;
    uint32_t positions_max; /* max_position_embeddings */
    float rms_epsilon;
    float embedding_multiplier, attention_multiplier, residual_multiplier;
    float logits_scaling; /* logits are divided by it */
    bool tied_head;       /* the head is the embedding */
    bool attention_bias;  /* q, k, v and o have biases */
    bool mlp_bias;
    bool fused_mlp;            /* shared_mlp.input_linear / output_linear (GraniteMoeHybrid) */
    rc_dtype checkpoint_dtype; /* torch_dtype / dtype; RC_BF16 where it is not said */
    bool dtype_said;
    rt_rope_kind rope_kind;
    double rope_theta, rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    uint32_t rope_original_positions;
    uint32_t eos_count;
    int32_t eos[RT_EOS_MAX]; /* generation_config.json's where present, else config.json's */
    int32_t bos;             /* -1: none */
} rt_model_config;

/* Parses config.json; generation_json may be NULL. `label` is the directory that messages name. */
RC_MUST_CHECK rc_code rt_model_config_parse(const char *config_json, size_t config_bytes,
                                            const char *generation_json, size_t generation_bytes,
                                            const char *label, rt_model_config *out, rc_msg *msg);

/* The same from a GGUF file's metadata and tensor table. */
struct rt_gguf;
RC_MUST_CHECK rc_code rt_model_config_gguf(const struct rt_gguf *g, const char *label, rt_model_config *out,
                                           rc_msg *msg);

#endif
