#include "runtime/model/names.h"

#include <inttypes.h>

#include "runtime/model/model.h"

static void add_part(rt_matrix_plan *plan, const char *name, uint32_t tensor_rows, rt_range rows,
                     uint32_t paired_head_dim)
{
    uint32_t whole = 0;
    for (uint32_t i = 0; i < plan->parts_count; i++)
        if (strcmp(plan->parts[i].name, name)) whole += plan->parts[i].tensor_rows;
    rt_part *p = &plan->parts[plan->parts_count++];
    RC_ASSERT(plan->parts_count <= RT_PARTS_MAX);
    snprintf(p->name, sizeof p->name, "%s", name);
    p->tensor_rows = tensor_rows;
    p->first = rows.first;
    p->whole_first = whole + rows.first;
    p->rows = rows.count;
    p->paired_head_dim = paired_head_dim;
    plan->n += rows.count;
}

static void add_layer_part(rt_matrix_plan *plan, bool gguf, uint32_t layer, const char *name,
                           uint32_t tensor_rows, rt_range rows, uint32_t paired_head_dim)
{
    char full[RT_NAME_BYTES_MAX];
    snprintf(full, sizeof full, "%s%" PRIu32 ".%s", gguf ? "blk." : "model.layers.", layer, name);
    add_part(plan, full, tensor_rows, rows, paired_head_dim);
}

static void take_columns(rt_matrix_plan *plan, uint32_t tensor_k, rt_range columns)
{
    plan->tensor_k = tensor_k;
    plan->k_first = columns.first;
    plan->k = columns.count;
}

static rt_range all_of(uint32_t count) { return (rt_range){0, count}; }

static rt_range times(rt_range r, uint32_t factor)
{
    return (rt_range){r.first * factor, r.count * factor};
}

void rt__plan_embedding(const rt_model_config *c, const rt_shard *s, bool gguf, rt_matrix_plan *plan)
{
    *plan = (rt_matrix_plan){0};
    take_columns(plan, c->hidden, all_of(c->hidden));
    add_part(plan, gguf ? "token_embd" : "model.embed_tokens", c->vocab, s->vocab, 0);
}

void rt__plan_head(const rt_model_config *c, const rt_shard *s, bool gguf, rt_matrix_plan *plan)
{
    *plan = (rt_matrix_plan){0};
    take_columns(plan, c->hidden, all_of(c->hidden));
    add_part(plan, gguf ? "output" : "lm_head", c->vocab, s->vocab, 0);
}

static void plan_qkv(const rt_model_config *c, const rt_shard *s, bool gguf, uint32_t layer,
                     rt_matrix_plan *plan)
{
    static const char *const names[2][3] = {{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
                                            {"attn_q", "attn_k", "attn_v"}};
    uint32_t d = c->head_dim, paired = gguf ? d : 0;
    take_columns(plan, c->hidden, all_of(c->hidden));
    add_layer_part(plan, gguf, layer, names[gguf][0], c->heads * d, times(s->heads, d), paired);
    add_layer_part(plan, gguf, layer, names[gguf][1], c->kv_heads * d, times(s->kv_heads, d), paired);
    add_layer_part(plan, gguf, layer, names[gguf][2], c->kv_heads * d, times(s->kv_heads, d), 0);
}

static void plan_gate_up(const rt_model_config *c, const rt_shard *s, bool gguf, uint32_t layer,
                         rt_matrix_plan *plan)
{
    static const char *const fused = "shared_mlp.input_linear";
    take_columns(plan, c->hidden, all_of(c->hidden));
    if (c->fused_mlp && s->world == 1) {
        add_layer_part(plan, gguf, layer, fused, 2 * c->ffn, all_of(2 * c->ffn), 0);
    } else if (c->fused_mlp) {
        rt_range up = {c->ffn + s->ffn.first, s->ffn.count};
        add_layer_part(plan, gguf, layer, fused, 2 * c->ffn, s->ffn, 0);
        add_layer_part(plan, gguf, layer, fused, 2 * c->ffn, up, 0);
    } else {
        add_layer_part(plan, gguf, layer, gguf ? "ffn_gate" : "mlp.gate_proj", c->ffn, s->ffn, 0);
        add_layer_part(plan, gguf, layer, gguf ? "ffn_up" : "mlp.up_proj", c->ffn, s->ffn, 0);
    }
}

static void plan_down(const rt_model_config *c, const rt_shard *s, bool gguf, uint32_t layer,
                      rt_matrix_plan *plan)
{
    const char *name = gguf ? "ffn_down" : c->fused_mlp ? "shared_mlp.output_linear" : "mlp.down_proj";
    take_columns(plan, c->ffn, s->ffn);
    add_layer_part(plan, gguf, layer, name, c->hidden, all_of(c->hidden), 0);
}

static void plan_o(const rt_model_config *c, const rt_shard *s, bool gguf, uint32_t layer,
                   rt_matrix_plan *plan)
{
    take_columns(plan, c->heads * c->head_dim, times(s->heads, c->head_dim));
    add_layer_part(plan, gguf, layer, gguf ? "attn_output" : "self_attn.o_proj", c->hidden, all_of(c->hidden),
                   0);
}

void rt__plan_linear(const rt_model_config *c, const rt_shard *s, bool gguf, uint32_t layer, uint32_t linear,
                     rt_matrix_plan *plan)
{
    bool is_sum = linear == RT_LINEAR_O || linear == RT_LINEAR_DOWN;
    *plan = (rt_matrix_plan){.has_bias = linear <= RT_LINEAR_O ? c->attention_bias : c->mlp_bias};
    if (is_sum && s->rank > 0) plan->has_bias = false;
    switch (linear) {
    case RT_LINEAR_QKV:
        plan_qkv(c, s, gguf, layer, plan);
        break;
    case RT_LINEAR_O:
        plan_o(c, s, gguf, layer, plan);
        break;
    case RT_LINEAR_GATE_UP:
        plan_gate_up(c, s, gguf, layer, plan);
        break;
    default:
        RC_ASSERT(linear == RT_LINEAR_DOWN);
        plan_down(c, s, gguf, layer, plan);
    }
}

void rt__name_final_norm(bool gguf, char name[RT_NAME_BYTES_MAX])
{
    snprintf(name, RT_NAME_BYTES_MAX, "%s", gguf ? "output_norm.weight" : "model.norm.weight");
}

void rt__name_layer_norm(bool gguf, uint32_t layer, bool after_attention, char name[RT_NAME_BYTES_MAX])
{
    static const char *const names[2][2] = {{"input_layernorm", "post_attention_layernorm"},
                                            {"attn_norm", "ffn_norm"}};
    snprintf(name, RT_NAME_BYTES_MAX, "%s%" PRIu32 ".%s.weight", gguf ? "blk." : "model.layers.", layer,
             names[gguf][after_attention]);
}

/* Modules as PEFT names them, at their columns of the fused matrices. */
void rt_model_adapter_shape(const rt_model_config *c, adapter_shape *shape)
{
    uint32_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, e = c->hidden, f = c->ffn;
    const adapter_module attention[] = {{"self_attn.q_proj", RT_LINEAR_QKV, e, q, 0},
                                        {"self_attn.k_proj", RT_LINEAR_QKV, e, kv, q},
                                        {"self_attn.v_proj", RT_LINEAR_QKV, e, kv, q + kv},
                                        {"self_attn.o_proj", RT_LINEAR_O, q, e, 0}};
    const adapter_module split[] = {{"mlp.gate_proj", RT_LINEAR_GATE_UP, e, f, 0},
                                    {"mlp.up_proj", RT_LINEAR_GATE_UP, e, f, f},
                                    {"mlp.down_proj", RT_LINEAR_DOWN, f, e, 0}};
    const adapter_module fused[] = {{"shared_mlp.input_linear", RT_LINEAR_GATE_UP, e, 2 * f, 0},
                                    {"shared_mlp.output_linear", RT_LINEAR_DOWN, f, e, 0}};
    uint32_t mlp_count = c->fused_mlp ? 2 : 3, rank_max = shape->rank_max;
    *shape = (adapter_shape){.layer_prefix = "model.layers.",
                             .layers = c->layers,
                             .vocab = c->vocab,
                             .modules_count = 4 + mlp_count,
                             .rank_max = rank_max};
    memcpy(shape->modules, attention, sizeof attention);
    memcpy(shape->modules + 4, c->fused_mlp ? fused : split, mlp_count * sizeof *split);
}
