/* runtime/model/weights.h - a model's matrices, norms and biases in the backend.
 *
 * resolve finds and checks every tensor by name, shape and type without reading it; load creates the
 * matrices and fills them.
 */
#ifndef RUNTIME_MODEL_WEIGHTS_H
#define RUNTIME_MODEL_WEIGHTS_H

#include "runtime/model/fill.h"

typedef struct rt_layer_weights {
    rt_matrix *linear[RT_LINEARS];
    float *bias[RT_LINEARS]; /* NULL: none */
    float *attention_norm, *mlp_norm;
} rt_layer_weights;

typedef struct rt_weights {
    const rt_backend *backend;
    rt_device *device;
    uint32_t layers_count;
    rt_layer_weights *layers;
    rt_matrix *embedding;
    rt_matrix *head; /* the embedding itself where they are tied */
    float *final_norm;
    float *vectors; /* all norms and biases, one after the other */
    size_t vectors_floats;
} rt_weights;

/* What to load, every matrix of the model: layer 0's four linears, layer 1's, ..., embedding, head. */
typedef struct rt_weight_list {
    uint32_t count;
    rt_fill *fills; /* matrices are not created yet */
    size_t bytes;   /* in the backend's layout, norms and biases included */
    rt_shard shard; /* whose part of the model it is */
} rt_weight_list;

/* How matrices are to be kept. */
typedef struct rt_weight_choice {
    rc_dtype dtype;
    const rt_quant *quant, *table_quant; /* NULL, or what layers, and embedding and head, are rounded to */
    bool joins; /* the backend keeps parts of different formats (set by resolve) */
} rt_weight_choice;

/* config->tied_head of a Hugging Face checkpoint, by what is stored: as the reference does, two matrices that
 * differ are not tied whatever config.json says. */
void rt__settle_head(const rt_source *s, rt_model_config *config);

/* Errors INVALID_ARGUMENT: a tensor is missing, misshapen or of an unsupported type; it is named.
 *        RESOURCE_EXHAUSTED: no memory for the list. c: of the whole model, here and in load. */
RC_MUST_CHECK rc_code rt__weights_resolve(const rt_source *s, const rt_model_config *c,
                                          const rt_shard *shard, const rt_weight_choice *choice,
                                          const rt_backend *backend, uint64_t dummy_seed, rt_weight_list *out,
                                          rc_msg *msg);
void rt__weight_list_free(rt_weight_list *list);

/* Creates and fills everything on `list`. On failure nothing is left. */
RC_MUST_CHECK rc_code rt__weights_load(const rt_source *s, const rt_model_config *c, rt_weight_list *list,
                                       const rt_backend *backend, rt_device *device, rt_pool *pool,
                                       rt_progress progress, void *progress_ctx, rt_weights *out,
                                       rc_msg *msg);
void rt__weights_unload(rt_weights *w); /* all zero is allowed */

/* Tensor `name`, which must be a vector of `columns` in a readable type. */
RC_MUST_CHECK rc_code rt__find_vector(const rt_source *s, const char *name, uint64_t columns, rt_tensor *out,
                                      rc_msg *msg);

#endif
