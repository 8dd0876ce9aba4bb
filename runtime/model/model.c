#include <inttypes.h>
#include <math.h>

#include "runtime/model/model_internal.h"
#include "runtime/model/rope_table.h"

static size_t padded(size_t floats)
{
    return (floats + 15) / 16 * 16;
}
/* From a row to the next: an odd number of the 128 bytes that a product writes at a time. Rows a power of
 * two apart would fall on the same few sets of every cache: 512 rows of 2048 x 16384 take Zen 5 3 % more. */
static size_t apart(size_t floats)
{
    return ((floats + 31) / 32 | 1) * 32;
}
static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t qkv_width(const rt_model_config *c)
{
    return ((size_t)c->heads + 2 * c->kv_heads) * c->head_dim;
}

uint32_t rt_model_width_max(const rt_model_config *c)
{
    return (uint32_t)larger(larger(c->hidden, 2 * (size_t)c->ffn), qkv_width(c));
}

static size_t reserve(rt_activations *p, size_t floats)
{
    size_t at = p->floats;
    p->floats += padded(floats);
    return at;
}

static rt_activations plan_activations(const rt_model_config *c, const rt_model_limits *l)
{
    rt_activations p = {0};
    size_t q = (size_t)c->heads * c->head_dim;
    p.h_stride = p.normed_stride = apart(c->hidden);
    p.a_stride = apart(larger(larger(c->hidden, q), c->ffn));
    p.b_stride = apart(rt_model_width_max(c));
    p.half = c->rope_kind == RT_ROPE_NONE ? 0 : c->head_dim / 2;
    p.h_at = reserve(&p, l->rows_max * p.h_stride);
    p.a_at = reserve(&p, l->rows_max * p.a_stride);
    p.b_at = reserve(&p, l->rows_max * p.b_stride);
    p.normed_at = reserve(&p, l->logits_max * p.normed_stride);
    p.logits_at = reserve(&p, (size_t)l->logits_max * c->vocab);
    p.cos_at = reserve(&p, l->positions_max * p.half);
    p.sin_at = reserve(&p, l->positions_max * p.half);
    return p;
}

size_t rt_model_activation_bytes(const rt_model_config *c, const rt_model_limits *limits)
{
    return plan_activations(c, limits).floats * sizeof(float) + rt__wanted_rows_bytes(limits->rows_max);
}

/* auto: what config.json says, or the embedding where it says nothing. */
static rc_dtype choose_dtype(const rt_model_options *o, const rt_source *s)
{
    const rt_model_config *c = rt__source_config(s);
    rt_tensor t;
    if (!o->dtype_auto) return o->dtype;
    if (c->dtype_said || !rt__source_has_tensors(s)) return c->checkpoint_dtype == RC_F32 ? RC_F32 : RC_BF16;
    return rt__source_find(s, "model.embed_tokens.weight", &t) && t.dtype == RC_F32 ? RC_F32 : RC_BF16;
}

/* Embedding and head stay at eight bits: rounding them to four costs most for its bytes. */
static rt_weight_choice choose_weights(const rt_model_options *o, rc_dtype dtype)
{
    const rt_quant *of_tables = o->quant ? rt_quant_named("q8_0") : NULL;
    return (rt_weight_choice){.dtype = dtype, .quant = o->quant, .table_quant = of_tables};
}

static rc_code probe_source(const rt_model_options *o, const rt_source *s, const rt_backend *backend,
                            rt_model_info *info, rc_msg *msg)
{
    rt_weight_list list;
    rt_model_info found = {.config = *rt__source_config(s), .is_gguf = rt__source_is_gguf(s)};
    rt__settle_head(s, &found.config);
    found.dtype = choose_dtype(o, s);
    if (o->quant && found.is_gguf)
        return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg,
                                "--quantization %s: %.255s is a GGUF file, whose tensors stay as stored",
                                o->quant->name, rt__source_path(s)),
                        msg, "quantization");
    RC_TRY(rt_shard_make(&found.config, o->rank, o->world, &found.shard, msg));
    found.own = rt_shard_config(&found.config, &found.shard);
    rt_weight_choice choice = choose_weights(o, found.dtype);
    RC_TRY(rt__weights_resolve(s, &found.config, &found.shard, &choice, backend, o->seed, &list, msg));
    found.weight_bytes = list.bytes;
    rt__weight_list_free(&list);
    *info = found;
    return RC_OK;
}

rc_code rt_model_probe(const rt_model_options *o, const rt_backend *backend, rt_model_info *info, rc_msg *msg)
{
    rt_source *s;
    if (!o->dtype_auto && o->dtype != RC_F32 && o->dtype != RC_BF16)
        return rc_about(
            rc_fail(RC_INVALID_ARGUMENT, msg, "dtype %d, expected float32 or bfloat16", (int)o->dtype), msg,
            "dtype");
    RC_TRY(rt__source_open(o->path, o->dummy, &s, msg));
    rc_code code = probe_source(o, s, backend, info, msg);
    rt__source_close(s);
    return code;
}

typedef struct rope_job {
    rt_model *m;
    const float *inv_freq;
} rope_job;

static void rope_task(void *arg, uint32_t part, uint32_t parts)
{
    const rope_job *job = arg;
    rt_model *m = job->m;
    uint32_t half = (uint32_t)m->plan.half, first, end;
    float cos_rows[RT_HEAD_DIM_MAX / 2 * 4], sin_rows[RT_HEAD_DIM_MAX / 2 * 4];
    rt_share(m->limits.positions_max, part, parts, &first, &end);
    for (uint32_t row = first; row < end; row += 4) {
        uint32_t rows = end - row < 4 ? end - row : 4;
        rt__rope_rows(job->inv_freq, half, row, rows, cos_rows, sin_rows);
        m->backend->buffer_write(m->device, m->cos + (size_t)row * half, cos_rows, (size_t)rows * half);
        m->backend->buffer_write(m->device, m->sin + (size_t)row * half, sin_rows, (size_t)rows * half);
    }
}

static rc_code read_rope_factors(const rt_source *s, const rt_model_config *c, float *factors, rc_msg *msg)
{
    rt_tensor t;
    RC_TRY(rt__find_vector(s, "rope_freqs.weight", c->head_dim / 2, &t, msg));
    rt__tensor_row(&t, 0, factors);
    for (uint32_t i = 0; i < c->head_dim / 2; i++)
        if (!isfinite(factors[i]) || factors[i] <= 0)
            return rc_fail(RC_INVALID_ARGUMENT, msg,
                           "%.255s: rope_freqs.weight[%" PRIu32 "] is %g, expected above 0",
                           rt__source_path(s), i, (double)factors[i]);
    return RC_OK;
}

static rc_code fill_rope(rt_model *m, const rt_source *s, rt_pool *pool, rc_msg *msg)
{
    float factors[RT_HEAD_DIM_MAX / 2], inv_freq[RT_HEAD_DIM_MAX / 2];
    bool has_factors = m->config.rope_kind == RT_ROPE_FACTORS;
    if (!m->plan.half) return RC_OK;
    if (has_factors) RC_TRY(read_rope_factors(s, &m->config, factors, msg));
    rt__rope_frequencies(&m->config, has_factors ? factors : NULL, inv_freq);
    rt_pool_run(pool, rope_task, &(rope_job){m, inv_freq});
    return RC_OK;
}

static rc_code create_buffer(rt_model *m, rc_msg *msg)
{
    const rt_activations *p = &m->plan;
    float *base;
    RC_TRY(m->backend->buffer_create(m->device, p->floats, &m->buffer, msg));
    base = m->buffer;
    m->h = base + p->h_at;
    m->a = base + p->a_at;
    m->b = base + p->b_at;
    m->normed = base + p->normed_at;
    m->logits = base + p->logits_at;
    m->cos = base + p->cos_at;
    m->sin = base + p->sin_at;
    return RC_OK;
}

static rc_code load(rt_model *m, const rt_model_options *o, const rt_model_info *info, const rt_source *s,
                    rt_pool *pool, rc_msg *msg)
{
    rt_weight_list list;
    RC_TRY(rt__wanted_rows_create(m->limits.rows_max, &m->wanted, msg));
    RC_TRY(create_buffer(m, msg));
    RC_TRY(fill_rope(m, s, pool, msg));
    rt_weight_choice choice = choose_weights(o, info->dtype);
    RC_TRY(rt__weights_resolve(s, &info->config, &m->shard, &choice, m->backend, o->seed, &list, msg));
    rc_code code = rt__weights_load(s, &info->config, &list, m->backend, m->device, pool, o->progress,
                                    o->progress_ctx, &m->weights, msg);
    rt__weight_list_free(&list);
    return code == RC_OK ? m->backend->status(m->device, msg) : code; /* filling it may have failed */
}

static rc_code open_source(const rt_model_options *o, const rt_model_info *info, rt_source **out, rc_msg *msg)
{
    rt_source *s;
    RC_TRY(rt__source_open(o->path, o->dummy, &s, msg));
    if (rt__source_is_gguf(s) != info->is_gguf) {
        rt__source_close(s);
        return rc_fail(RC_FAILED_PRECONDITION, msg, "%.255s: it was replaced while it was loaded", o->path);
    }
    *out = s;
    return RC_OK;
}

rc_code rt_model_open(const rt_model_options *o, const rt_model_info *info, const rt_model_limits *limits,
                      const rt_backend *backend, rt_device *device, rt_model **out, rc_msg *msg)
{
    const rt_model_config *c = &info->own;
    rt_source *s = NULL;
    rt_pool *pool = NULL;
    RC_ASSERT(limits->kv.layers == c->layers && limits->kv.kv_heads == c->kv_heads);
    RC_ASSERT(limits->kv.head_dim == c->head_dim);
    RC_ASSERT(limits->rows_max > 0 && limits->logits_max > 0);

    rt_model *m = calloc(1, sizeof *m);
    if (!m) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "%.255s: no memory to open it", o->path);
    *m = (rt_model){.config = *c,
                    .shard = info->shard,
                    .limits = *limits,
                    .backend = backend,
                    .device = device,
                    .plan = plan_activations(c, limits)};
    rc_code code = open_source(o, info, &s, msg);
    if (code == RC_OK) code = rt_pool_create(o->threads ? o->threads : rt_pool_cores(), &pool, msg);
    if (code == RC_OK) code = load(m, o, info, s, pool, msg);
    rt_pool_destroy(pool);
    rt__source_close(s);
    if (code != RC_OK) {
        rt_model_close(m);
        return code;
    }
    *out = m;
    return RC_OK;
}

void rt_model_close(rt_model *m)
{
    if (!m) return;
    if (m->weights.backend) rt__weights_unload(&m->weights);
    if (m->buffer) m->backend->buffer_destroy(m->device, m->buffer, m->plan.floats);
    rt__wanted_rows_destroy(&m->wanted);
    free(m);
}
