/* The CPU's ops: each cuts its work into the pool's parts. Work too small to be worth waking anyone runs on
 * the caller alone, as part 0 of 1; that moves no bit, since parts never share a sum. */
#include "paged_kv/kv_strip.h"
#include "runtime/backend/cpu_device.h"

/* Below these many elements a run on the pool costs more than it saves (about a microsecond). */
enum { FEW_ELEMENTS = 8192, FEW_EXPONENTIALS = 1024, FEW_ROWS = 8 };
enum { GATED_ROWS = 13 }; /* more than any family's tile has */

typedef struct rows_op {
    const rt_rows *rows;
    void (*kernel)(const rt_rows *r, uint32_t part, uint32_t parts);
} rows_op;

static void rows_task(void *arg, uint32_t part, uint32_t parts)
{
    const rows_op *o = arg;
    o->kernel(o->rows, part, parts);
}

static void run_rows(rt_device *d, const rt_rows *r, size_t few,
                     void (*kernel)(const rt_rows *r, uint32_t part, uint32_t parts))
{
    rows_op o = {r, kernel};
    if ((size_t)r->rows * r->width <= few) kernel(r, 0, 1);
    else rt_pool_run(d->pool, rows_task, &o);
}

void rt_cpu__rms_norm(rt_device *d, const float *x, size_t x_stride, const float *weight, float epsilon,
                      uint32_t rows, uint32_t width, float *y, size_t y_stride)
{
    rt_rows r = {.x = x, .x_stride = x_stride, .y = y, .y_stride = y_stride, .weight = weight,
                 .factor = epsilon, .rows = rows, .width = width};
    run_rows(d, &r, FEW_ELEMENTS, d->kernels->rms_norm);
}

void rt_cpu__swiglu(rt_device *d, const float *gate_up, size_t stride, uint32_t rows, uint32_t width,
                    float *y, size_t y_stride)
{
    rt_rows r = {
        .x = gate_up, .x_stride = stride, .y = y, .y_stride = y_stride, .rows = rows, .width = width};
    run_rows(d, &r, FEW_EXPONENTIALS, d->kernels->swiglu);
}

void rt_cpu__add_residual(rt_device *d, const rt_residual *r)
{
    rt_group *g = d->options.group;
    rt_rows added = {.x = r->x, .x_stride = r->x_stride, .y = r->h, .y_stride = r->h_stride,
                     .factor = r->scale, .rows = r->rows, .width = r->width};
    if (g) (void)g->ops->all_reduce(g, r->x, r->x_stride, r->rows, r->width); /* its status keeps a failure */
    run_rows(d, &added, FEW_ELEMENTS, d->kernels->add_scaled);
    if (r->weight)
        rt_cpu__rms_norm(d, r->h, r->h_stride, r->weight, r->epsilon, r->rows, r->width, r->y, r->y_stride);
}

void rt_cpu__divide(rt_device *d, float *x, size_t stride, uint32_t rows, uint32_t width, float divisor)
{
    rt_rows r = {.y = x, .y_stride = stride, .factor = divisor, .rows = rows, .width = width};
    run_rows(d, &r, FEW_ELEMENTS, d->kernels->divide);
}

void rt_cpu__keep_rows(rt_device *d, float *x, size_t stride, uint32_t width, const uint32_t *rows,
                       uint32_t count)
{
    (void)d;
    for (uint32_t i = 0; i < count; i++)
        if (rows[i] != i) memcpy(x + i * stride, x + rows[i] * stride, width * sizeof *x);
}

typedef struct embed_op {
    const rt_kernels *kernels;
    const rt_matrix *table;
    uint32_t first;
    const int32_t *tokens;
    uint32_t rows;
    float scale;
    float *h;
    size_t h_stride;
} embed_op;

static void embed_task(void *arg, uint32_t part, uint32_t parts)
{
    const embed_op *o = arg;
    uint32_t row, end;
    for (rt_share(o->rows, part, parts, &row, &end); row < end; row++) {
        uint32_t at = (uint32_t)o->tokens[row] - o->first; /* wraps below first */
        float *h = o->h + row * o->h_stride;
        RC_ASSERT(o->tokens[row] >= 0);
        if (at < o->table->n) o->kernels->row(o->table, at, o->scale, h);
        else memset(h, 0, o->table->k * sizeof *h);
    }
}

void rt_cpu__embed(rt_device *d, const rt_matrix *table, uint32_t first, const int32_t *tokens, uint32_t rows,
                   float scale, float *h, size_t h_stride)
{
    embed_op o = {d->kernels, table, first, tokens, rows, scale, h, h_stride};
    if (rows == 1) embed_task(&o, 0, 1);
    else rt_pool_run(d->pool, embed_task, &o);
}

typedef struct linear_op {
    const rt_kernels *kernels;
    const rt_dense *dense;
    const adapter_lora_run *lora; /* NULL: no adapters here */
} linear_op;

static void pack_task(void *arg, uint32_t part, uint32_t parts)
{
    const linear_op *o = arg;
    (o->dense->w->quant ? o->kernels->quant_pack : o->kernels->pack)(o->dense, part, parts);
}

/* Each of a joined matrix's parts, into its columns of y. */
static void run_joined(const rt_kernels *kernels, rt_dense d, uint32_t part, uint32_t parts)
{
    const rt_matrix *joined = d.w;
    for (uint32_t i = 0; i < joined->joined_count; i++) {
        d.w = joined->joined[i];
        kernels->quant(&d, part, parts);
        d.y += d.w->n;
        if (d.bias) d.bias += d.w->n;
    }
}

/* The base product; and A x, which needs nothing of it, in the same run. */
static void dense_task(void *arg, uint32_t part, uint32_t parts)
{
    const linear_op *o = arg;
    const rt_matrix *w = o->dense->w;
    if (w->joined_count) run_joined(o->kernels, *o->dense, part, parts);
    else (w->quant ? o->kernels->quant : o->kernels->dense)(o->dense, part, parts);
    if (o->lora) o->kernels->lora_shrink(o->lora, part, parts);
}

static void shrink_task(void *arg, uint32_t part, uint32_t parts)
{
    const linear_op *o = arg;
    o->kernels->lora_shrink(o->lora, part, parts);
}

static void expand_task(void *arg, uint32_t part, uint32_t parts)
{
    const linear_op *o = arg;
    o->kernels->lora_expand(o->lora, part, parts);
}

/* How many passes l's rows take. Codes are expanded in each, so there are as few as can be. */
static uint32_t row_blocks(const rt_device *d, const rt_linear *l)
{
    uint32_t least = (l->rows + RT_ROWS_BLOCK - 1) / RT_ROWS_BLOCK, most = l->rows / d->kernels->pass_rows;
    return most > least && !l->weight->quant ? most : least;
}

/* Block b of the rows. */
static rt_dense rows_of(rt_device *d, const rt_linear *l, uint32_t b, uint32_t blocks)
{
    uint32_t first, end;
    rt_share(l->rows, b, blocks, &first, &end);
    return (rt_dense){
        .w = l->weight,
        .bias = l->bias,
        .x = l->x + first * l->x_stride,
        .x_stride = l->x_stride,
        .y = l->y + first * l->y_stride,
        .y_stride = l->y_stride,
        .rows = end - first,
        .packed = d->packed,
        .scratch = d->scratch,
    };
}

static void run_base(rt_device *d, const rt_linear *l, const adapter_lora_run *lora)
{
    for (uint32_t b = 0, blocks = row_blocks(d, l); b < blocks; b++) {
        rt_dense dense = rows_of(d, l, b, blocks);
        linear_op o = {d->kernels, &dense, b + 1 == blocks ? lora : NULL};
        if (dense.rows <= FEW_ROWS) pack_task(&o, 0, 1);
        else rt_pool_run(d->pool, pack_task, &o);
        rt_pool_run(d->pool, dense_task, &o);
    }
}

void rt_cpu__linear(rt_device *d, const rt_linear *l)
{
    RC_ASSERT(l->weight->k <= d->options.width_max);
    adapter_lora_run lora = {
        .slots = d->slots,
        .plan = l->adapters,
        .layer = l->layer,
        .linear = l->linear,
        .x = l->x,
        .x_stride = l->x_stride,
        .y = l->y,
        .y_stride = l->y_stride,
        .s = d->lora,
        .rank_max = d->options.lora_rank_max,
    };
    uint32_t waves = l->adapters && l->adapters->segments_count ? adapter_lora_waves(&lora) : 0;
    run_base(d, l, waves ? &lora : NULL);
    linear_op o = {d->kernels, NULL, &lora};
    for (; lora.wave < waves; lora.wave++) {
        if (lora.wave) rt_pool_run(d->pool, shrink_task, &o);
        rt_pool_run(d->pool, expand_task, &o);
    }
}

/* Can the first product leave SwiGLU's result as the second one's packed rows? Not where deltas are added in
 * between, panels of gate and up would not pair, packed rows have sums behind them, or there is no room for
 * both products' rows. Few rows are bound by the stream over the weights, which is to stay one. */
static bool can_gate(const rt_device *d, const rt_linear *gate_up, const rt_linear *down)
{
    const rt_matrix *first = gate_up->weight, *next = down->weight;
    size_t blocks = (size_t)rt_cpu__packed_blocks(first->k) + rt_cpu__packed_blocks(next->k);
    return gate_up->rows >= GATED_ROWS && !(gate_up->adapters && gate_up->adapters->segments_count) &&
           next->k % RT_PANEL == 0 && !first->joined_count && !(next->quant && next->quant->has_min) &&
           blocks <= rt_cpu__packed_room(&d->options);
}

bool rt_cpu__feed_forward(rt_device *d, const rt_linear *gate_up, const rt_linear *down)
{
    RC_ASSERT(gate_up->weight->n == 2 * down->weight->k && gate_up->rows == down->rows);
    if (!can_gate(d, gate_up, down)) return false;
    for (uint32_t b = 0, blocks = row_blocks(d, gate_up); b < blocks; b++) {
        rt_dense first = rows_of(d, gate_up, b, blocks), second = rows_of(d, down, b, blocks);
        size_t packed_rows = (size_t)first.rows * rt_cpu__packed_blocks(first.w->k);
        second.packed = (char *)d->packed + packed_rows * RT_X_STRIDE;
        first.next = second.w;
        first.next_packed = second.packed;
        linear_op o = {d->kernels, &first, NULL}, next = {d->kernels, &second, NULL};
        rt_pool_run(d->pool, pack_task, &o);
        rt_pool_run(d->pool, dense_task, &o);
        rt_pool_run(d->pool, dense_task, &next);
    }
    return true;
}

typedef struct kv_op {
    rt_device *d;
    const rt_rope *rope;
    const kv_write *write;
    const kv_attn *attn;
    uint32_t from_block, to_block, rows;
} kv_op;

static void rope_task(void *arg, uint32_t part, uint32_t parts)
{
    const kv_op *o = arg;
    o->d->kernels->rope(o->rope, part, parts);
}

static void rotate(kv_op *o)
{
    const rt_rope *r = o->rope;
    size_t elements = (size_t)r->rows * (r->heads + r->kv_heads) * r->head_dim;
    if (elements <= FEW_ELEMENTS) rope_task(o, 0, 1);
    else rt_pool_run(o->d->pool, rope_task, o);
}

static void kv_write_task(void *arg, uint32_t part, uint32_t parts)
{
    const kv_op *o = arg;
    o->d->kernels->kv_write(o->write, part, parts);
}

void rt_cpu__kv_write(rt_device *d, const rt_rope *rope, const kv_write *w)
{
    kv_op o = {.d = d, .rope = rope, .write = w};
    if (rope) rotate(&o);
    rt_pool_run(d->pool, kv_write_task, &o);
}

static void attention_task(void *arg, uint32_t part, uint32_t parts)
{
    const kv_op *o = arg;
    o->d->kernels->attention(o->attn, part, parts, o->d->attention + part * o->d->sizes.attention_part);
}

void rt_cpu__attention(rt_device *d, const kv_attn *a)
{
    kv_op o = {.d = d, .attn = a};
    rt_pool_run(d->pool, attention_task, &o);
}

static void kv_copy_task(void *arg, uint32_t part, uint32_t parts)
{
    const kv_op *o = arg;
    const kv_layout *l = &o->d->options.kv;
    char *kv = o->d->kv;
    uint32_t strips = (o->rows + kv_strip_positions(l) - 1) / kv_strip_positions(l);
    size_t elements = strips * kv_strip_bytes(l), scales = o->rows * kv_scale_bytes(l);
    uint32_t layer, end;
    for (rt_share(l->layers, part, parts, &layer, &end); layer < end; layer++)
        for (uint32_t h = 0; h < 2 * l->kv_heads; h++) {
            const char *from = kv + kv_head_offset(l, o->from_block, layer, h % 2, h / 2);
            char *to = kv + kv_head_offset(l, o->to_block, layer, h % 2, h / 2);
            memcpy(to, from, elements);
            memcpy(to + kv_scale_offset(l, 0), from + kv_scale_offset(l, 0), scales);
        }
}

void rt_cpu__kv_copy_rows(rt_device *d, uint32_t from_block, uint32_t to_block, uint32_t rows)
{
    RC_ASSERT(rows <= d->options.kv.block_tokens);
    if (from_block == to_block) return;
    kv_op o = {.d = d, .from_block = from_block, .to_block = to_block, .rows = rows};
    rt_pool_run(d->pool, kv_copy_task, &o);
}
