#include "runtime/model/weights.h"

static size_t padded(size_t floats)
{
    return (floats + 15) / 16 * 16;
}

static float *take(float *base, size_t *at, size_t floats)
{
    float *p = base ? base + *at : NULL;
    *at += padded(floats);
    return p;
}

/* Where each norm and bias lies in w->vectors. Gives the floats in all; with no vectors yet, only that. */
static size_t place_vectors(const rt_model_config *c, const rt_shard *shard, bool gguf, rt_weights *w)
{
    size_t at = 0;
    for (uint32_t l = 0; l < c->layers; l++) {
        rt_layer_weights *layer = &w->layers[l];
        layer->attention_norm = take(w->vectors, &at, c->hidden);
        layer->mlp_norm = take(w->vectors, &at, c->hidden);
        for (uint32_t i = 0; i < RT_LINEARS; i++) {
            rt_matrix_plan plan;
            rt__plan_linear(c, shard, gguf, l, i, &plan);
            if (plan.has_bias) layer->bias[i] = take(w->vectors, &at, plan.n);
        }
    }
    w->final_norm = take(w->vectors, &at, c->hidden);
    return at;
}

static rc_code read_norm(const rt_source *s, const rt_weights *w, const char *name, uint64_t seed,
                         uint32_t columns, float *scratch, float *to, rc_msg *msg)
{
    rt_tensor t;
    if (rt__source_has_tensors(s)) {
        RC_TRY(rt__find_vector(s, name, columns, &t, msg));
        rt__tensor_row(&t, 0, scratch);
    } else {
        rt__dummy_row(seed, 0, 0, columns, 0.1f, scratch);
        for (uint32_t i = 0; i < columns; i++) scratch[i] += 1;
    }
    w->backend->buffer_write(w->device, to, scratch, columns);
    return RC_OK;
}

/* The bias of one part, in the weight's row order. */
static rc_code read_part_bias(const rt_source *s, const rt_part *p, float *scratch, float *ordered,
                              rc_msg *msg)
{
    char name[RT_NAME_BYTES_MAX + 8];
    rt_tensor t;
    snprintf(name, sizeof name, "%s.bias", p->name);
    RC_TRY(rt__find_vector(s, name, p->tensor_rows, &t, msg));
    if (!rt__tensor_columns(&t, p->first, p->rows))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%.255s: tensor %s is quantised and can't be split",
                       rt__source_path(s), name);
    rt__tensor_row(&t, 0, scratch);
    for (uint32_t row = 0; row < p->rows; row++) ordered[row] = scratch[rt__stored_row(p, row)];
    return RC_OK;
}

/* scratch [2][n]: as stored, then in the weight's row order. */
static rc_code read_bias(const rt_source *s, const rt_weights *w, const rt_matrix_plan *plan, uint64_t seed,
                         float *scratch, float *to, rc_msg *msg)
{
    float *ordered = scratch + plan->n;
    uint32_t done = 0;
    for (uint32_t i = 0; i < plan->parts_count; i++) {
        const rt_part *p = &plan->parts[i];
        if (rt__source_has_tensors(s)) RC_TRY(read_part_bias(s, p, scratch, ordered + done, msg));
        else rt__dummy_row(seed, 1, p->whole_first, p->rows, 0.1f, ordered + done);
        done += p->rows;
    }
    w->backend->buffer_write(w->device, to, ordered, plan->n);
    return RC_OK;
}

static rc_code read_layer_vectors(const rt_source *s, const rt_model_config *c, const rt_shard *shard,
                                  const rt_weights *w, uint32_t l, uint64_t seed, float *scratch, rc_msg *msg)
{
    const rt_layer_weights *layer = &w->layers[l];
    bool gguf = rt__source_is_gguf(s);
    char name[RT_NAME_BYTES_MAX];
    rt__name_layer_norm(gguf, l, false, name);
    RC_TRY(read_norm(s, w, name, seed + 8 * l, c->hidden, scratch, layer->attention_norm, msg));
    rt__name_layer_norm(gguf, l, true, name);
    RC_TRY(read_norm(s, w, name, seed + 8 * l + 1, c->hidden, scratch, layer->mlp_norm, msg));
    for (uint32_t i = 0; i < RT_LINEARS; i++) {
        rt_matrix_plan plan;
        if (!layer->bias[i]) continue;
        rt__plan_linear(c, shard, gguf, l, i, &plan);
        RC_TRY(read_bias(s, w, &plan, seed + 8 * l + 2 + i, scratch, layer->bias[i], msg));
    }
    return RC_OK;
}

static rc_code read_vectors(const rt_source *s, const rt_model_config *c, const rt_shard *shard,
                            const rt_weights *w, uint64_t seed, uint32_t widest, rc_msg *msg)
{
    float *scratch = malloc(2 * (size_t)widest * sizeof *scratch);
    char name[RT_NAME_BYTES_MAX];
    rc_code code = RC_OK;
    if (!scratch)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "%.255s: no memory to read its norms", rt__source_path(s));
    for (uint32_t l = 0; code == RC_OK && l < c->layers; l++)
        code = read_layer_vectors(s, c, shard, w, l, seed, scratch, msg);
    rt__name_final_norm(rt__source_is_gguf(s), name);
    if (code == RC_OK)
        code = read_norm(s, w, name, seed + 8 * (uint64_t)c->layers, c->hidden, scratch, w->final_norm, msg);
    free(scratch);
    return code;
}

/* Parts, each in its own format, as one matrix. */
static rc_code create_joined(const rt_weights *w, const rt_fill *f, rt_matrix **out, rc_msg *msg)
{
    rt_matrix *parts[RT_PARTS_MAX] = {NULL};
    rc_code code = RC_OK;
    for (uint32_t i = 0; code == RC_OK && i < f->parts_count; i++)
        code = w->backend->quant_create(w->device, f->part_rows[i], f->k, f->joined[i], f->rounds_x,
                                        &parts[i], msg);
    if (code == RC_OK) code = w->backend->quant_join(w->device, parts, f->parts_count, out, msg);
    for (uint32_t i = 0; code != RC_OK && i < f->parts_count; i++)
        if (parts[i]) w->backend->matrix_destroy(w->device, parts[i]);
    return code;
}

static rc_code create_matrices(const rt_model_config *c, rt_weight_list *list, rt_weights *w, rc_msg *msg)
{
    for (uint32_t i = 0; i < list->count; i++) {
        rt_fill *f = &list->fills[i];
        if (f->joined[0])
            RC_TRY(create_joined(w, f, &f->matrix, msg));
        else if (f->quant)
            RC_TRY(w->backend->quant_create(w->device, f->n, f->k, f->quant, f->rounds_x, &f->matrix, msg));
        else
            RC_TRY(w->backend->matrix_create(w->device, f->n, f->k, f->stored, &f->matrix, msg));
        if (i < c->layers * RT_LINEARS)
            w->layers[i / RT_LINEARS].linear[i % RT_LINEARS] = f->matrix;
        else if (i == c->layers * RT_LINEARS)
            w->embedding = f->matrix;
        else
            w->head = f->matrix;
    }
    if (c->tied_head) w->head = w->embedding;
    return RC_OK;
}

static rc_code create_vectors(const rt_source *s, const rt_model_config *c, const rt_shard *shard,
                              rt_weights *w, rc_msg *msg)
{
    size_t floats = place_vectors(c, shard, rt__source_is_gguf(s), w);
    RC_TRY(w->backend->buffer_create(w->device, floats, &w->vectors, msg));
    w->vectors_floats = floats;
    place_vectors(c, shard, rt__source_is_gguf(s), w);
    return RC_OK;
}

static uint32_t widest_of(const rt_weight_list *list, const rt_model_config *c)
{
    uint32_t widest = c->hidden;
    for (uint32_t i = 0; i < list->count; i++) {
        if (list->fills[i].n > widest) widest = list->fills[i].n;
        if (list->fills[i].k > widest) widest = list->fills[i].k;
    }
    return widest;
}

rc_code rt__weights_load(const rt_source *s, const rt_model_config *c, rt_weight_list *list,
                         const rt_backend *backend, rt_device *device, rt_pool *pool, rt_progress progress,
                         void *progress_ctx, rt_weights *out, rc_msg *msg)
{
    rt_weights w = {.backend = backend, .device = device, .layers_count = c->layers};
    w.layers = calloc(c->layers, sizeof *w.layers);
    if (!w.layers)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "%.255s: no memory for its layers", rt__source_path(s));
    rc_code code = create_vectors(s, c, &list->shard, &w, msg);
    if (code == RC_OK) code = create_matrices(c, list, &w, msg);
    if (code == RC_OK)
        code =
            read_vectors(s, c, &list->shard, &w, list->fills[0].dummy_seed, widest_of(list, c), msg);
    if (code == RC_OK)
        code = rt__fill_all(list->fills, list->count, backend, pool, progress, progress_ctx, msg);
    if (code != RC_OK) {
        rt__weights_unload(&w);
        return code;
    }
    *out = w;
    return RC_OK;
}

void rt__weights_unload(rt_weights *w)
{
    for (uint32_t l = 0; w->layers && l < w->layers_count; l++)
        for (uint32_t i = 0; i < RT_LINEARS; i++)
            if (w->layers[l].linear[i]) w->backend->matrix_destroy(w->device, w->layers[l].linear[i]);
    if (w->head && w->head != w->embedding) w->backend->matrix_destroy(w->device, w->head);
    if (w->embedding) w->backend->matrix_destroy(w->device, w->embedding);
    if (w->vectors) w->backend->buffer_destroy(w->device, w->vectors, w->vectors_floats);
    free(w->layers);
    *w = (rt_weights){0};
}
