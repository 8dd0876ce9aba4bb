/* The layer loop. Source: GraniteModel.forward, GraniteDecoderLayer.forward. */
#include <stdlib.h>

#include "runtime/model/model_internal.h"

/* b = a W^T (+ bias) (+ adapters) */
static rt_linear linear_of(const rt_model *m, const rt_step *step, uint32_t layer, uint32_t linear)
{
    const rt_layer_weights *w = &m->weights.layers[layer];
    return (rt_linear){.weight = w->linear[linear],
                       .bias = w->bias[linear],
                       .x = m->a,
                       .x_stride = m->plan.a_stride,
                       .y = m->b,
                       .y_stride = m->plan.b_stride,
                       .rows = step->rows,
                       .adapters = &step->adapters,
                       .layer = layer,
                       .linear = linear};
}

static void product(const rt_model *m, const rt_step *step, uint32_t layer, uint32_t linear)
{
    rt_linear l = linear_of(m, step, layer, linear);
    m->backend->linear(m->device, &l);
}

/* h += residual_multiplier * b, of whose sum each rank has a part; a = h normed for what reads it next */
static void add_residual(const rt_model *m, uint32_t rows, const float *next_norm)
{
    m->backend->add_residual(m->device, &(rt_residual){.h = m->h,
                                                       .h_stride = m->plan.h_stride,
                                                       .x = m->b,
                                                       .x_stride = m->plan.b_stride,
                                                       .scale = m->config.residual_multiplier,
                                                       .rows = rows,
                                                       .width = m->config.hidden,
                                                       .weight = next_norm,
                                                       .epsilon = m->config.rms_epsilon,
                                                       .y = m->a,
                                                       .y_stride = m->plan.a_stride});
}

/* b = q|k|v of the normed h, which is in a; K and V go where they stay. */
static void write_kv(const rt_model *m, const rt_step *step, uint32_t layer)
{
    const rt_model_config *c = &m->config;
    float *q = m->b, *k = q + (size_t)c->heads * c->head_dim, *v = k + (size_t)c->kv_heads * c->head_dim;
    rt_rope rope = {.q = q,
                    .k = k,
                    .stride = m->plan.b_stride,
                    .rows = step->rows,
                    .heads = c->heads,
                    .kv_heads = c->kv_heads,
                    .head_dim = c->head_dim,
                    .positions = step->positions,
                    .cos = m->cos,
                    .sin = m->sin};

    product(m, step, layer, RT_LINEAR_QKV);
    m->backend->kv_write(m->device, c->rope_kind == RT_ROPE_NONE ? NULL : &rope,
                         &(kv_write){.layout = &m->limits.kv,
                                     .plan = &step->kv,
                                     .layer = layer,
                                     .k = k,
                                     .v = v,
                                     .stride = m->plan.b_stride,
                                     .kv = m->backend->kv_buffer(m->device)});
}

/* h += residual_multiplier * o(attention of the q in b); a = h normed for the MLP */
static void attend(const rt_model *m, const rt_step *step, uint32_t layer)
{
    m->backend->attention(m->device, &(kv_attn){.layout = &m->limits.kv,
                                                .plan = &step->kv,
                                                .layer = layer,
                                                .heads = m->config.heads,
                                                .scale = m->config.attention_multiplier,
                                                .q = m->b,
                                                .q_stride = m->plan.b_stride,
                                                .out = m->a,
                                                .out_stride = m->plan.a_stride,
                                                .kv = m->backend->kv_buffer(m->device)});
    product(m, step, layer, RT_LINEAR_O);
    add_residual(m, step->rows, m->weights.layers[layer].mlp_norm);
}

/* The last layer's h is normed where its logits are computed. */
static void feed_forward(const rt_model *m, const rt_step *step, uint32_t layer)
{
    bool is_last = layer + 1 == m->config.layers;
    rt_linear gate_up = linear_of(m, step, layer, RT_LINEAR_GATE_UP);
    rt_linear down = linear_of(m, step, layer, RT_LINEAR_DOWN);
    if (!m->backend->feed_forward || !m->backend->feed_forward(m->device, &gate_up, &down)) {
        m->backend->linear(m->device, &gate_up);
        m->backend->swiglu(m->device, m->b, m->plan.b_stride, step->rows, m->config.ffn, m->a,
                           m->plan.a_stride);
        m->backend->linear(m->device, &down);
    }
    add_residual(m, step->rows, is_last ? NULL : m->weights.layers[layer + 1].attention_norm);
}

/* Logits of the rank's columns, of rows that are normed; before they are scaled. */
static rt_linear head_of(const rt_model *m, uint32_t rows)
{
    return (rt_linear){.weight = m->weights.head,
                       .x = m->normed,
                       .x_stride = m->plan.normed_stride,
                       .y = m->logits + m->shard.vocab.first,
                       .y_stride = m->config.vocab,
                       .rows = rows};
}

/* Of the step before only as many tokens can be to come as it picks. */
static void check_step(const rt_model *m, const rt_step *step)
{
    uint32_t picks = m->step.is_picked ? m->step.logit_rows_count : 0;
    RC_ASSERT(step->rows <= m->limits.rows_max && (!step->is_picked || m->backend->pick));
    for (uint32_t t = 0; t < step->rows; t++) {
        int32_t token = step->tokens[t];
        RC_ASSERT(token < 0 ? (uint32_t)~token < picks : (uint32_t)token < m->config.vocab);
        RC_ASSERT(step->positions[t] < m->limits.positions_max);
    }
}

/* Of h and of the q in b only the rows whose logits are wanted, at the front. */
static void keep_wanted_rows(const rt_model *m, const rt_step *step)
{
    const rt_model_config *c = &m->config;
    const uint32_t *rows = step->logit_rows, count = step->logit_rows_count;
    m->backend->keep_rows(m->device, m->h, m->plan.h_stride, c->hidden, rows, count);
    m->backend->keep_rows(m->device, m->b, m->plan.b_stride, c->heads * c->head_dim, rows, count);
}

/* wanted: the step from the last layer's attention on. */
static void begin(const rt_model *m, rt_step *step, const rt_step *wanted)
{
    if (!m->backend->step_begin) return;
    uint32_t rows = m->backend->step_begin(m->device, &(rt_step_plan){.rows = step->rows,
                                                                      .tokens = step->tokens,
                                                                      .kv = &step->kv,
                                                                      .adapters = &step->adapters,
                                                                      .kept = step->logit_rows,
                                                                      .kept_count = step->logit_rows_count,
                                                                      .kept_kv = &wanted->kv,
                                                                      .kept_adapters = &wanted->adapters,
                                                                      .is_picked = step->is_picked,
                                                                      .picks = step->picks});
    RC_ASSERT(rows == step->rows || (wanted == step && rows > step->rows && rows <= m->limits.rows_max));
    if (wanted == step) step->logit_rows_count = rows;
    step->rows = rows;
}

/* The layers: h of the wanted rows. */
static void run_layers(const rt_model *m, const rt_step *step, const rt_step *wanted)
{
    m->backend->embed(m->device, m->weights.embedding, m->shard.vocab.first, step->tokens, step->rows,
                      m->config.embedding_multiplier, m->h, m->plan.h_stride);
    m->backend->all_reduce(m->device, m->h, m->plan.h_stride, step->rows, m->config.hidden);
    m->backend->rms_norm(m->device, m->h, m->plan.h_stride, m->weights.layers[0].attention_norm,
                         m->config.rms_epsilon, step->rows, m->config.hidden, m->a, m->plan.a_stride);
    for (uint32_t layer = 0; layer < m->config.layers; layer++) {
        write_kv(m, step, layer);
        if (layer + 1 == m->config.layers && wanted != step) {
            if (!wanted->rows) return;
            keep_wanted_rows(m, step);
            step = wanted;
        }
        attend(m, step, layer);
        feed_forward(m, step, layer);
    }
}

/* logits of count wanted rows, whole on rank 0 */
static void project(rt_model *m, const rt_step *step, uint32_t first, uint32_t count)
{
    uint32_t vocab = m->config.vocab;
    RC_ASSERT(count <= m->limits.logits_max);
    RC_ASSERT(first <= step->logit_rows_count && count <= step->logit_rows_count - first);
    if (!count) return;
    m->backend->rms_norm(m->device, m->h + first * m->plan.h_stride, m->plan.h_stride, m->weights.final_norm,
                         m->config.rms_epsilon, count, m->config.hidden, m->normed, m->plan.normed_stride);
    rt_linear head = head_of(m, count);
    m->backend->linear(m->device, &head);
    if (m->config.logits_scaling != 1)
        m->backend->divide(m->device, head.y, vocab, count, m->shard.vocab.count, m->config.logits_scaling);
    m->backend->gather_columns(m->device, m->logits, vocab, count, vocab);
}

static void pick(rt_model *m)
{
    uint32_t rows = m->step.logit_rows_count, most = m->limits.logits_max;
    for (uint32_t first = 0, count; first < rows; first += count) {
        count = rows - first < most ? rows - first : most;
        project(m, &m->step, first, count);
        m->backend->pick(m->device, m->logits, m->config.vocab, first, count);
    }
    m->backend->step_end(m->device);
}

void rt_model_forward(rt_model *m, const rt_step *given)
{
    const rt_step *step = &m->step, *wanted = step;
    check_step(m, given);
    m->step = *given;
    if (!step->rows) return;
    if (step->logit_rows_count < step->rows) wanted = rt__wanted_rows_plan(&m->wanted, step);
    begin(m, &m->step, wanted);
    run_layers(m, step, wanted);
    if (step->is_picked) pick(m);
}

const float *rt_model_logits(rt_model *m, const rt_step *step, uint32_t first, uint32_t count)
{
    project(m, step, first, count);
    return m->backend->host_rows(m->device, m->logits, m->config.vocab, m->shard.rank ? 0 : count);
}

const mica_top *rt_model_picked(rt_model *m, uint32_t *stride)
{
    return m->backend->picked(m->device, stride);
}

rc_code rt_model_tune(rt_model *m, rc_msg *msg)
{
    const rt_step most = {.rows = m->limits.rows_max};
    uint32_t count = 0;
    if (!m->backend->tune) return RC_OK;
    rt_linear *all = malloc((m->config.layers * RT_LINEARS + 1) * sizeof *all);
    if (!all) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a list of products");
    for (uint32_t layer = 0; layer < m->config.layers; layer++)
        for (uint32_t linear = 0; linear < RT_LINEARS; linear++) {
            all[count] = linear_of(m, &most, layer, linear);
            all[count++].adapters = NULL;
        }
    all[count++] = head_of(m, m->limits.logits_max);
    m->backend->tune(m->device, all, count);
    free(all);
    return m->backend->status(m->device, msg);
}
