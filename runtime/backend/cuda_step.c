/* A step: one descriptor with all that the host has to say, then the ops, which only launch. */
#include "runtime/backend/cuda_device.h"

bool rt_cuda__picks(const rt_device_options *o)
{
    return !o->group || o->group->rank == 0;
}

/* tokens, kept rows; picks; for all rows and for the kept ones adapters and K/V. */
size_t rt_cuda__descriptor_words(const rt_device_options *o, const kv_cuda_limits *l)
{
    size_t plans = kv_cuda_plan_words(l) + adapter_cuda_plan_words(o->rows_max);
    size_t picks = rt_cuda__picks(o) ? rt_cuda_pick_words(o->rows_max, o->draws_max, o->lists_max) : 0;
    return 3 * (size_t)o->rows_max + 2 * plans + picks;
}

size_t rt_cuda__picked_bytes(const rt_device_options *o)
{
    return rt_cuda__picks(o) ? (size_t)o->rows_max * (1 + RT_TOPS_MAX) * sizeof(mica_top) : 0;
}

static uint32_t put(uint32_t *words, uint32_t *at, const void *from, uint32_t count)
{
    uint32_t begin = *at;
    if (count) memcpy(words + begin, from, count * sizeof *words);
    *at += count;
    return begin;
}

static void pack_adapters(const adapter_plan *adapters, uint32_t rows, uint32_t *words, uint32_t *at,
                          rt_cuda_plans *out)
{
    out->adapters = adapters;
    out->adapters_at = *at;
    if (adapters->segments_count) adapter_cuda_pack(adapters, rows, words + *at, &out->adapter_parts);
    *at += out->adapter_parts.words;
}

static void pack_kv(const rt_device *d, const kv_plan *kv, uint32_t rows, uint32_t *words, uint32_t *at,
                    rt_cuda_plans *out)
{
    out->kv = kv;
    out->kv_at = *at;
    kv_cuda_pack(&d->limits, d->options.kv.block_tokens, kv, rows, words + *at, &out->kv_parts);
    *at += out->kv_parts.words;
}

/* Zeros behind, so that rows which are nobody's are of a token and at a position that there is. */
static uint32_t put_padded(uint32_t *words, uint32_t *at, const void *from, uint32_t count, uint32_t padded)
{
    uint32_t begin = put(words, at, from, count);
    memset(words + *at, 0, (padded - count) * sizeof *words);
    *at = begin + padded;
    return begin;
}

static uint32_t stride_of(const rt_pick *picks, uint32_t count)
{
    int32_t tops = 0;
    for (uint32_t i = 0; i < count; i++)
        if (picks[i].tops > tops) tops = picks[i].tops;
    return 1 + (uint32_t)tops;
}

/* What launches read by place comes first, in an order in which no place depends on more than they do; block
 * tables and lists, whose sizes vary, are found by what is there. */
static uint32_t pack_step(rt_device *d, const rt_step_plan *p, uint32_t *words)
{
    rt_cuda_step *s = &d->step;
    uint32_t at = 0, kept = p->kept_count == p->rows ? s->rows : p->kept_count;
    bool is_one = p->kept_kv == p->kv, picks = p->is_picked && rt_cuda__picks(&d->options);
    s->tokens_at = put_padded(words, &at, p->tokens, p->rows, s->rows);
    s->kept_at = put(words, &at, p->kept, p->kept_count);
    s->kept_count = p->kept_count;
    s->plans[0] = s->plans[1] = (rt_cuda_plans){0};
    at = s->kept_at + kept;
    s->picks_at = at;
    s->picks_count = picks ? p->kept_count : 0;
    s->picked_stride = stride_of(p->picks, s->picks_count);
    s->picks_rows = picks ? kept : 0;
    s->drawn_rows = p->is_picked ? kept : 0;
    at += s->picks_rows * RT_CUDA_PICK_WORDS;
    pack_adapters(p->adapters, s->rows, words, &at, &s->plans[0]);
    pack_kv(d, p->kv, s->rows, words, &at, &s->plans[0]);
    if (!is_one) {
        pack_adapters(p->kept_adapters, kept, words, &at, &s->plans[1]);
        pack_kv(d, p->kept_kv, kept, words, &at, &s->plans[1]);
    }
    return rt_cuda_pick_pack(p->picks, s->picks_count, s->picks_rows, d->options.lists_max, s->picked_stride,
                             words, s->picks_at, at);
}

/* What the step reads of the one before stays while it draws. */
static void keep_drawn(rt_device *d)
{
    size_t bytes = d->options.rows_max * sizeof *d->drawn;
    if (!rt_cuda__launches(d)) return;
    rt_cuda__check(d, cudaMemcpyAsync(d->before, d->drawn, bytes, cudaMemcpyDeviceToDevice, d->stream),
                   "tokens");
}

uint32_t rt_cuda__step_begin(rt_device *d, const rt_step_plan *p)
{
    bool has_graph = rt_cuda__has_graph(d, p);
    rt_cuda__enter(d);
    uint32_t turn = d->turn++ % RT_CUDA_DESCRIPTORS;
    uint32_t *words = d->descriptors[turn];
    d->step.rows = has_graph ? rt_cuda__padded_rows(d, p->rows) : p->rows;
    if (d->has_failed) return d->step.rows;
    rt_cuda__wait(d, d->sent[turn]); /* of the step before the last */
    if (d->has_failed) return d->step.rows;
    size_t bytes = pack_step(d, p, words) * sizeof *words;
    d->rounded = NULL;
    rt_cuda__check(d, cudaMemcpyAsync(d->words, words, bytes, cudaMemcpyHostToDevice, d->stream), "step");
    rt_cuda__check(d, cudaEventRecord(d->sent[turn], d->stream), "step");
    if (has_graph && !d->has_failed) rt_cuda__graph_begin(d);
    keep_drawn(d);
    return d->step.rows;
}

static const rt_cuda_plans *plans_of(const rt_device *d, const kv_plan *kv)
{
    const rt_cuda_plans *p = &d->step.plans[kv != d->step.plans[0].kv];
    RC_ASSERT(p->kv == kv);
    return p;
}

void rt_cuda__kv_copy_rows(rt_device *d, uint32_t from_block, uint32_t to_block, uint32_t rows)
{
    if (d->has_failed || from_block == to_block || !rows) return;
    rt_cuda__enter(d);
    rt_cuda__check(d, kv_cuda_copy_rows(&d->options.kv, d->kv, from_block, to_block, rows, d->stream),
                   "K/V copy");
}

void rt_cuda__embed(rt_device *d, const rt_matrix *table, uint32_t first, const int32_t *tokens,
                    uint32_t rows, float scale, float *h, size_t h_stride)
{
    (void)tokens; /* the step's, which are on the device */
    rt_cuda_rows r = {.y = h, .y_stride = h_stride, .rows = rows, .width = table->k};
    rt_cuda_table t = {table->data, table->stride, table->n, table->stored == RC_BF16};
    const int32_t *own = (const int32_t *)(d->words + d->step.tokens_at);
    if (!rt_cuda__launches(d)) return;
    if (table->has_codes)
        rt_cuda__check(
            d, rt_cuda_codes_embed(&table->codes, &r, own, d->before, first, scale, d->stream), "embedding");
    else
        rt_cuda__check(d, rt_cuda_embed(&r, &t, own, d->before, first, scale, d->stream), "embedding");
}

/* Rows whose y the next product reads: their bf16 is written with them, whatever the weights are. */
static rt_cuda_rows read_next(rt_device *d, const float *x, size_t x_stride, float *y, size_t y_stride,
                              uint32_t rows, uint32_t width)
{
    d->rounded = y;
    d->rounded_rows = rows;
    d->rounded_width = width;
    return (rt_cuda_rows){
        x, x_stride, y, y_stride, rows, width, (uint16_t *)d->scratch, rt_cuda_padded(width)};
}

void rt_cuda__norm(rt_device *d, const float *x, size_t x_stride, const float *weight, float epsilon,
                   uint32_t rows, uint32_t width, float *y, size_t y_stride)
{
    rt_cuda_rows r = read_next(d, x, x_stride, y, y_stride, rows, width);
    if (rt_cuda__launches(d)) rt_cuda__check(d, rt_cuda_rms_norm(&r, weight, epsilon, d->stream), "norm");
}

void rt_cuda__gated(rt_device *d, const float *gate_up, size_t stride, uint32_t rows, uint32_t width,
                    float *y, size_t y_stride)
{
    rt_cuda_rows r = read_next(d, gate_up, stride, y, y_stride, rows, width);
    if (rt_cuda__launches(d)) rt_cuda__check(d, rt_cuda_swiglu(&r, d->stream), "SwiGLU");
}

void rt_cuda__kv_write(rt_device *d, const rt_rope *rope, const kv_write *w)
{
    const rt_cuda_plans *p = plans_of(d, w->plan);
    kv_cuda_rope rotates = {0};
    if (!rt_cuda__launches(d)) return;
    if (rope) rotates = (kv_cuda_rope){rope->q, rope->k, rope->heads, rope->cos, rope->sin};
    rt_cuda__check(d, kv_cuda_write(w, &rotates, &p->kv_parts, d->words + p->kv_at, d->stream), "K/V write");
}

void rt_cuda__attention(rt_device *d, const kv_attn *a)
{
    const rt_cuda_plans *p = plans_of(d, a->plan);
    d->rounded = NULL;
    if (!rt_cuda__launches(d)) return;
    rt_cuda__check(d, kv_cuda_attention(a, &p->kv_parts, d->words + p->kv_at, d->attention, d->stream),
                   "attention");
}

void rt_cuda__add_residual(rt_device *d, const rt_residual *r)
{
    rt_cuda_residual all = {
        .h = r->h, .h_stride = r->h_stride, .scale = r->scale, .epsilon = r->epsilon, .weight = r->weight};
    if (r->weight)
        all.rows = read_next(d, r->x, r->x_stride, r->y, r->y_stride, r->rows, r->width);
    else
        all.rows = (rt_cuda_rows){.x = r->x, .x_stride = r->x_stride, .rows = r->rows, .width = r->width};
    if (!rt_cuda__launches(d)) return;
    if (d->comm) rt_cuda__sum_residual(d, &all);
    else rt_cuda__check(d, rt_cuda_add_residual(&all, d->stream), "residual");
}

/* By way of the scratch, since a row may go where another still has to be read. */
void rt_cuda__keep_rows(rt_device *d, float *x, size_t stride, uint32_t width, const uint32_t *rows,
                        uint32_t count)
{
    (void)rows; /* the step's, which are on the device */
    rt_cuda_rows r = {
        .x = x, .x_stride = stride, .y = d->scratch, .y_stride = width, .rows = count, .width = width};
    RC_ASSERT(count == d->step.kept_count);
    d->rounded = NULL;
    if (!rt_cuda__launches(d) || !count) return;
    rt_cuda__check(d, rt_cuda_gather(&r, d->words + d->step.kept_at, d->stream), "kept rows");
    size_t bytes = width * sizeof *x;
    rt_cuda__check(d,
                   cudaMemcpy2DAsync(x, stride * sizeof *x, d->scratch, bytes, bytes, count,
                                     cudaMemcpyDeviceToDevice, d->stream),
                   "kept rows");
}

void rt_cuda__divided(rt_device *d, float *x, size_t stride, uint32_t rows, uint32_t width, float divisor)
{
    rt_cuda_rows r = {.y = x, .y_stride = stride, .rows = rows, .width = width};
    if (rt_cuda__launches(d)) rt_cuda__check(d, rt_cuda_divide(&r, divisor, d->stream), "division");
}

void rt_cuda__pick(rt_device *d, const float *logits, uint32_t vocab, uint32_t first, uint32_t rows)
{
    const rt_cuda_step *s = &d->step;
    rt_cuda_pick_run r = {.words = d->words,
                          .at = s->picks_at,
                          .first = first,
                          .rows = rows,
                          .logits = logits,
                          .logits_stride = vocab,
                          .vocab = vocab,
                          .scratch = d->weights,
                          .picked = d->picked,
                          .before = d->before,
                          .drawn = d->drawn};
    if (!rt_cuda__picks(&d->options)) return;
    RC_ASSERT(vocab <= RT_CUDA_PICK_VOCAB_MAX);
    RC_ASSERT(first + rows <= s->picks_rows && (size_t)rows * vocab <= d->options.host_floats);
    if (rt_cuda__launches(d)) rt_cuda__check(d, rt_cuda_pick_rows(&r, d->stream), "sampling");
}

static size_t bytes_of(const rt_cuda_picked *g)
{
    return (size_t)g->count * g->stride * sizeof *g->picked;
}

void rt_cuda__step_end(rt_device *d)
{
    rt_cuda_picked *g = &d->given[d->ended++ % RT_CUDA_PICKED];
    RC_ASSERT(d->ended - d->asked <= RT_CUDA_PICKED);
    g->count = d->step.picks_count;
    g->stride = d->step.picked_stride;
    rt_cuda__spread_drawn(d, d->step.drawn_rows);
    rt_cuda__graph_end(d);
    if (d->has_failed) return;
    if (bytes_of(g))
        rt_cuda__check(d,
                       cudaMemcpyAsync(g->picked, d->picked, bytes_of(g), cudaMemcpyDeviceToHost, d->stream),
                       "tokens");
    rt_cuda__check(d, cudaEventRecord(g->there, d->stream), "tokens");
}

const mica_top *rt_cuda__picked(rt_device *d, uint32_t *stride)
{
    const rt_cuda_picked *g = &d->given[d->asked++ % RT_CUDA_PICKED];
    RC_ASSERT(d->ended - d->asked <= RT_STEPS_AHEAD);
    rt_cuda__enter(d);
    rt_cuda__wait(d, g->there);
    if (d->has_failed && bytes_of(g)) memset(g->picked, 0, bytes_of(g));
    *stride = g->stride;
    return g->picked;
}

const float *rt_cuda__host_rows(rt_device *d, const float *buffer, size_t stride, uint32_t rows)
{
    size_t bytes = rows * stride * sizeof *buffer;
    RC_ASSERT(rows * stride <= d->options.host_floats && !d->graph);
    rt_cuda__enter(d);
    if (!d->has_failed && bytes)
        rt_cuda__check(d, cudaMemcpyAsync(d->host, buffer, bytes, cudaMemcpyDeviceToHost, d->stream),
                       "logits");
    if (!d->has_failed) rt_cuda__check(d, cudaEventRecord(d->done, d->stream), "logits");
    rt_cuda__wait(d, d->done);
    if (d->has_failed) memset(d->host, 0, bytes);
    return d->host;
}
