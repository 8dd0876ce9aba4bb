/* Finding and checking tensors: rt__weights_resolve. */
#include <inttypes.h>
#include <math.h>

#include "runtime/model/weights.h"

enum { SHAPE_BYTES_MAX = 64 };

static void print_shape(const rt_tensor *t, char out[SHAPE_BYTES_MAX])
{
    if (t->dims == 2)
        snprintf(out, SHAPE_BYTES_MAX, "[%" PRIu64 ", %" PRIu64 "]", t->rows, t->columns);
    else if (t->dims == 1)
        snprintf(out, SHAPE_BYTES_MAX, "[%" PRIu64 "]", t->columns);
    else
        snprintf(out, SHAPE_BYTES_MAX, "of %" PRIu32 " dimensions", t->dims);
}

static rc_code find_tensor(const rt_source *s, const char *name, uint32_t dims, uint64_t rows,
                           uint64_t columns, rt_tensor *out, rc_msg *msg)
{
    rt_tensor expected = {.dims = dims, .rows = rows, .columns = columns};
    char seen_text[SHAPE_BYTES_MAX], expected_text[SHAPE_BYTES_MAX];
    print_shape(&expected, expected_text);
    if (!rt__source_find(s, name, out))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%.255s: tensor %s is missing, expected shape %s",
                       rt__source_path(s), name, expected_text);
    print_shape(out, seen_text);
    if (out->dims != dims || out->columns != columns || (dims == 2 && out->rows != rows))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%.255s: tensor %s has shape %s, expected %s",
                       rt__source_path(s), name, seen_text, expected_text);
    if (!rt__tensor_readable(out))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%.255s: tensor %s is %.32s, which is not supported%s",
                       rt__source_path(s), name, out->type_name,
                       rt__source_is_gguf(s) ? "" : ", expected F32, F16 or BF16");
    return RC_OK;
}

rc_code rt__find_vector(const rt_source *s, const char *name, uint64_t columns, rt_tensor *out, rc_msg *msg)
{
    return find_tensor(s, name, 1, 1, columns, out, msg);
}

void rt__settle_head(const rt_source *s, rt_model_config *config)
{
    rt_tensor a, b;
    if (!config->tied_head || rt__source_is_gguf(s)) return;
    if (!rt__source_find(s, "model.embed_tokens.weight", &a) || !rt__source_find(s, "lm_head.weight", &b))
        return;
    bool equal = a.dtype && a.dtype == b.dtype && a.dims == 2 && b.dims == 2 && a.rows == b.rows &&
                 a.columns == b.columns && memcmp(a.data, b.data, a.rows * a.row_bytes) == 0;
    config->tied_head = equal;
}

/* bf16 keeps what a bf16 matrix can hold; GGUF's other types stay as they are stored, exact in float32. */
static rc_dtype stored_dtype(const rt_fill *f, rc_dtype dtype)
{
    if (dtype == RC_F32) return RC_F32;
    for (uint32_t i = 0; i < f->parts_count; i++)
        if (f->tensors[i].from_gguf && f->tensors[i].dtype != RC_BF16) return RC_F32;
    return RC_BF16;
}

static rc_code refuse_cut(const rt_matrix_plan *plan, const char *type, uint32_t group, rc_msg *msg)
{
    return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg,
                            "--tensor-parallel-size: a rank would have columns %u to %u of %s, expected "
                            "whole groups of %u (%.32s)",
                            plan->k_first, plan->k_first + plan->k, plan->parts[0].name, group, type),
                    msg, "--tensor-parallel-size");
}

/* The formats of quantised tensors, where panels can keep them: one for all parts, or one for each where the
 * backend joins such and no two parts share a group of rows. */
static void find_formats(rt_fill *f, bool joins)
{
    bool differ = false;
    for (uint32_t i = 0; i < f->parts_count; i++) {
        f->joined[i] = f->is_dummy || f->tensors[i].dtype ? NULL : rt_quant_find(f->tensors[i].ggml_type);
        differ = differ || f->joined[i] != f->joined[0];
    }
    f->quant = f->joined[0];
    for (uint32_t i = 0; differ && i < f->parts_count; i++) {
        bool straddles = i + 1 < f->parts_count && f->part_rows[i] % RT_FILL_GROUP;
        if (!joins || straddles || !f->joined[i]) f->quant = NULL;
    }
    if (!differ || !f->quant) memset(f->joined, 0, sizeof f->joined);
}

/* How the matrix is kept: quantised as it is stored, or as asked for where whole blocks make up its rows (of
 * `plan`'s tensors: a part of a row must then be whole blocks too). */
static rc_code settle_format(const rt_matrix_plan *plan, rt_fill *f, const rt_weight_choice *choice,
                             bool is_table, rc_msg *msg)
{
    f->stored = stored_dtype(f, choice->dtype);
    f->rounds_x = choice->dtype == RC_BF16;
    find_formats(f, choice->joins);
    const rt_quant *asked = is_table ? choice->table_quant : choice->quant;
    if (f->quant || !asked || plan->tensor_k % asked->group) return RC_OK;
    if (plan->k_first % asked->group || plan->k % asked->group)
        return refuse_cut(plan, asked->name, asked->group, msg);
    f->quant = asked;
    f->quantises = true;
    return RC_OK;
}

static rc_code check_biases(const rt_source *s, const rt_matrix_plan *plan, rc_msg *msg)
{
    char name[RT_NAME_BYTES_MAX + 8];
    rt_tensor t;
    for (uint32_t i = 0; plan->has_bias && i < plan->parts_count; i++) {
        snprintf(name, sizeof name, "%s.bias", plan->parts[i].name);
        RC_TRY(rt__find_vector(s, name, plan->parts[i].tensor_rows, &t, msg));
    }
    return RC_OK;
}

/* The rows and columns of a part's tensor that the plan asks for. */
static rc_code resolve_part(const rt_source *s, const rt_matrix_plan *plan, const rt_part *p, rt_tensor *out,
                            rc_msg *msg)
{
    char name[RT_NAME_BYTES_MAX + 8];
    rt_tensor t;
    snprintf(name, sizeof name, "%s.weight", p->name);
    RC_TRY(find_tensor(s, name, 2, p->tensor_rows, plan->tensor_k, &t, msg));
    *out = rt__tensor_rows(&t, p->first, p->rows);
    if (rt__tensor_columns(out, plan->k_first, plan->k)) return RC_OK;
    return refuse_cut(plan, t.type_name, rt__tensor_group(&t), msg);
}

static rc_code resolve_matrix(const rt_source *s, const rt_matrix_plan *plan, const rt_weight_choice *choice,
                              bool is_table, rt_fill *f, rc_msg *msg)
{
    *f = (rt_fill){.n = plan->n,
                   .k = plan->k,
                   .parts_count = plan->parts_count,
                   .is_dummy = !rt__source_has_tensors(s),
                   .dummy_column = plan->k_first,
                   .dummy_k = plan->tensor_k};
    for (uint32_t i = 0; i < plan->parts_count; i++) {
        const rt_part *p = &plan->parts[i];
        f->part_rows[i] = p->rows;
        f->paired_head_dim[i] = p->paired_head_dim;
        f->dummy_rows[i] = p->whole_first;
        if (!f->is_dummy) RC_TRY(resolve_part(s, plan, p, &f->tensors[i], msg));
    }
    if (!f->is_dummy) RC_TRY(check_biases(s, plan, msg));
    return settle_format(plan, f, choice, is_table, msg);
}

static rc_code check_norms(const rt_source *s, const rt_model_config *c, rc_msg *msg)
{
    char name[RT_NAME_BYTES_MAX];
    bool gguf = rt__source_is_gguf(s);
    rt_tensor t;
    if (!rt__source_has_tensors(s)) return RC_OK;
    for (uint32_t i = 0; i < 2 * c->layers; i++) {
        rt__name_layer_norm(gguf, i / 2, i % 2, name);
        RC_TRY(rt__find_vector(s, name, c->hidden, &t, msg));
    }
    rt__name_final_norm(gguf, name);
    return rt__find_vector(s, name, c->hidden, &t, msg);
}

/* Dummies: every linear keeps the size of what it is given, and logits spread over a few units. */
static void dummy_bounds(const rt_model_config *c, uint64_t seed, rt_weight_list *list)
{
    uint32_t embedding = c->layers * RT_LINEARS;
    float spread = 3 * fabsf(c->logits_scaling) / sqrtf((float)c->hidden), input = 1;
    if (c->embedding_multiplier != 0) input = 1 / fabsf(c->embedding_multiplier);
    for (uint32_t i = 0; i < list->count; i++) {
        float deviation = 1 / sqrtf((float)list->fills[i].dummy_k);
        if (i == embedding) deviation = c->tied_head ? sqrtf(input * spread) : input;
        if (i > embedding) deviation = spread;
        list->fills[i].dummy_bound = deviation * sqrtf(3);
        list->fills[i].dummy_seed = seed + (uint64_t)(i + 1) * 0x9e3779b97f4a7c15u;
    }
}

static rc_code resolve_all(const rt_source *s, const rt_model_config *c, const rt_shard *shard,
                           const rt_weight_choice *choice, rt_weight_list *list, rc_msg *msg)
{
    bool gguf = rt__source_is_gguf(s);
    rt_matrix_plan plan;
    rt_tensor t;
    rt_fill *f = list->fills;
    for (uint32_t i = 0; i < c->layers * RT_LINEARS; i++) {
        rt__plan_linear(c, shard, gguf, i / RT_LINEARS, i % RT_LINEARS, &plan);
        RC_TRY(resolve_matrix(s, &plan, choice, false, f++, msg));
    }
    rt__plan_embedding(c, shard, gguf, &plan);
    /* Tied either way round: some checkpoints store only the head. */
    if (c->tied_head && rt__source_has_tensors(s) && !rt__source_find(s, "model.embed_tokens.weight", &t) &&
        rt__source_find(s, "lm_head.weight", &t))
        rt__plan_head(c, shard, gguf, &plan);
    RC_TRY(resolve_matrix(s, &plan, choice, true, f++, msg));
    if (!c->tied_head) {
        rt__plan_head(c, shard, gguf, &plan);
        RC_TRY(resolve_matrix(s, &plan, choice, true, f++, msg));
    }
    return check_norms(s, c, msg);
}

static size_t vector_bytes(const rt_model_config *c, const rt_shard *s)
{
    size_t q = (size_t)s->heads.count * c->head_dim, kv = 2 * (size_t)s->kv_heads.count * c->head_dim;
    size_t floats = 2 * (size_t)c->hidden, sums = s->rank == 0 ? c->hidden : 0;
    if (c->attention_bias) floats += q + kv + sums;
    if (c->mlp_bias) floats += 2 * (size_t)s->ffn.count + sums;
    return (floats * c->layers + c->hidden) * sizeof(float);
}

rc_code rt__weights_resolve(const rt_source *s, const rt_model_config *c, const rt_shard *shard,
                            const rt_weight_choice *choice, const rt_backend *backend, uint64_t dummy_seed,
                            rt_weight_list *out, rc_msg *msg)
{
    rt_weight_list list = {.count = c->layers * RT_LINEARS + (c->tied_head ? 1 : 2), .shard = *shard};
    list.fills = calloc(list.count, sizeof *list.fills);
    if (!list.fills)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "%.255s: no memory to list its tensors",
                       rt__source_path(s));
    rt_weight_choice of_backend = *choice;
    of_backend.joins = backend->quant_join != NULL;
    rc_code code = resolve_all(s, c, shard, &of_backend, &list, msg);
    if (code != RC_OK) {
        rt__weight_list_free(&list);
        return code;
    }
    dummy_bounds(c, dummy_seed, &list);
    list.bytes = vector_bytes(c, shard);
    for (uint32_t i = 0; i < list.count; i++)
        list.bytes += rt__fill_bytes(&list.fills[i], backend);
    *out = list;
    return RC_OK;
}

void rt__weight_list_free(rt_weight_list *list)
{
    free(list->fills);
    *list = (rt_weight_list){0};
}
