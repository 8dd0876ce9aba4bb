#include "runtime/backend/cpu_device.h"

#include "runtime/backend/cpu_family.h"
#include "runtime/backend/pages.h"

static size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

/* A product of sizes; SIZE_MAX, which no allocation grants, where it does not fit. */
static size_t times(size_t a, size_t b)
{
    size_t product;
    return __builtin_mul_overflow(a, b, &product) ? SIZE_MAX : product;
}

static size_t plus(size_t a, size_t b)
{
    size_t sum;
    return __builtin_add_overflow(a, b, &sum) ? SIZE_MAX : sum;
}

static rt_cpu_sizes sizes_of(const rt_device_options *o)
{
    size_t rows = o->rows_max < RT_ROWS_BLOCK ? o->rows_max : RT_ROWS_BLOCK;
    size_t blocks = rt_cpu__packed_room(o);
    rt_cpu_sizes s = {.threads = o->threads ? o->threads : rt_pool_cores()};
    s.packed = times(times(rows, blocks), RT_X_STRIDE);
    s.scratch = times(s.threads, RT_SCRATCH_FLOATS * sizeof(float));
    if (o->slots_max)
        s.lora = times(adapter_lora_scratch_floats(o->rows_max, o->lora_rank_max), sizeof(float));
    s.attention_part = round_up(kv_attn_cpu_scratch_bytes(&o->kv), 64);
    s.attention = times(s.attention_part, s.threads);
    s.kv = times(kv_block_bytes(&o->kv), o->kv_blocks);
    s.slots = times(o->slots_max, sizeof(adapter_lora *) + sizeof(void *) + sizeof(size_t));
    return s;
}

static size_t cpu_bytes(const rt_device_options *o)
{
    rt_cpu_sizes s = sizes_of(o);
    size_t parts[] = {s.packed, s.scratch, s.lora, s.attention, s.kv, s.slots}, total = sizeof(rt_device);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) total = plus(total, rt_pages_bytes(parts[i]));
    return total;
}

static void cpu_adapter_detach(rt_device *d, uint32_t slot)
{
    RC_ASSERT(slot < d->options.slots_max);
    rt_pages_free(d->slot_memory[slot], d->slot_bytes[slot]);
    d->slots[slot] = NULL;
    d->slot_memory[slot] = NULL;
}

static void cpu_close(rt_device *d)
{
    if (!d) return;
    if (d->slots)
        for (uint32_t i = 0; i < d->options.slots_max; i++) cpu_adapter_detach(d, i);
    rt_pool_destroy(d->pool);
    rt_pages_free(d->slots, d->sizes.slots);
    rt_pages_free(d->kv, d->sizes.kv);
    rt_pages_free(d->attention, d->sizes.attention);
    rt_pages_free(d->lora, d->sizes.lora);
    rt_pages_free(d->scratch, d->sizes.scratch);
    rt_pages_free(d->packed, d->sizes.packed);
    free(d);
}

static rc_code take_memory(rt_device *d, const rt_device_options *o, rc_msg *msg)
{
    d->packed = rt_pages_alloc(d->sizes.packed);
    d->scratch = rt_pages_alloc(d->sizes.scratch);
    d->lora = rt_pages_alloc(d->sizes.lora);
    d->attention = rt_pages_alloc(d->sizes.attention);
    d->kv = rt_pages_alloc(d->sizes.kv);
    char *slots = rt_pages_alloc(d->sizes.slots);
    d->slots = (const adapter_lora **)(void *)slots;
    if (d->packed && d->scratch && d->lora && d->attention && d->kv && slots) {
        d->slot_memory = (void **)(d->slots + o->slots_max);
        d->slot_bytes = (size_t *)(void *)(d->slot_memory + o->slots_max);
        return RC_OK;
    }
    return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for %zu bytes of K/V (%u blocks) and scratch",
                   cpu_bytes(o), o->kv_blocks);
}

static rc_code cpu_open(const rt_device_options *o, rt_device **out, rc_msg *msg)
{
    const rt_kernels *kernels;
    RC_TRY(rt_cpu_family_choose(o->kernels, &kernels, msg));
    rt_device *d = calloc(1, sizeof *d);
    if (!d) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a device");
    d->options = *o;
    d->options.kernels = NULL;
    d->kernels = kernels;
    d->sizes = sizes_of(o);
    rc_code code = rt_pool_create(d->sizes.threads, &d->pool, msg);
    if (code == RC_OK) code = take_memory(d, o, msg);
    if (code != RC_OK) {
        d->options.slots_max = d->slot_bytes ? d->options.slots_max : 0;
        cpu_close(d);
        return code;
    }
    snprintf(d->name, sizeof d->name, "%s, %u thread%s", kernels->name, d->sizes.threads,
             d->sizes.threads == 1 ? "" : "s");
    *out = d;
    return RC_OK;
}

static const char *cpu_describe(const rt_device *d) { return d->name; }

static rc_code cpu_buffer_create(rt_device *d, size_t floats, float **out, rc_msg *msg)
{
    (void)d;
    float *buffer = rt_pages_alloc(times(floats, sizeof *buffer));
    if (!buffer) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a buffer of %zu floats", floats);
    *out = buffer;
    return RC_OK;
}

static void cpu_buffer_destroy(rt_device *d, float *buffer, size_t floats)
{
    (void)d;
    rt_pages_free(buffer, times(floats, sizeof *buffer));
}

static void cpu_buffer_write(rt_device *d, float *buffer, const float *src, size_t floats)
{
    (void)d;
    memcpy(buffer, src, floats * sizeof *buffer);
}

static size_t data_bytes(uint32_t n, uint32_t k, rc_dtype stored)
{
    return times(rt_matrix_panels(n), rt_matrix_panel_bytes(k, stored));
}

static size_t cpu_matrix_bytes(uint32_t n, uint32_t k, rc_dtype stored)
{
    return plus(rt_pages_bytes(data_bytes(n, k, stored)), sizeof(rt_matrix));
}

/* `shape` but for its memory. */
static rc_code create_matrix(rt_matrix shape, rt_matrix **out, rc_msg *msg)
{
    RC_ASSERT(shape.n > 0 && shape.k > 0);
    rt_matrix *m = malloc(sizeof *m);
    shape.bytes = times(rt_matrix_panels(shape.n), shape.panel_bytes);
    shape.data = m ? rt_pages_alloc(shape.bytes) : NULL;
    if (!shape.data) {
        free(m);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a %u x %u matrix of %zu bytes", shape.n,
                       shape.k, shape.bytes);
    }
    *m = shape;
    *out = m;
    return RC_OK;
}

static rc_code cpu_matrix_create(rt_device *d, uint32_t n, uint32_t k, rc_dtype stored, rt_matrix **out,
                                 rc_msg *msg)
{
    RC_ASSERT(stored == RC_F32 || stored == RC_BF16);
    size_t panel = rt_matrix_panel_bytes(k, stored);
    return create_matrix(
        (rt_matrix){.n = n, .k = k, .stored = stored, .panel_bytes = panel, .kernels = d->kernels}, out, msg);
}

static size_t quant_panel_bytes(uint32_t k, const rt_quant *q)
{
    return times(k / q->group, rt_quant_group_bytes(q));
}

static size_t cpu_quant_bytes(uint32_t n, uint32_t k, const rt_quant *q, bool rounds_x)
{
    (void)rounds_x;
    size_t bytes = times(rt_matrix_panels(n), quant_panel_bytes(k, q));
    return plus(rt_pages_bytes(bytes), sizeof(rt_matrix));
}

static rc_code cpu_quant_create(rt_device *d, uint32_t n, uint32_t k, const rt_quant *q, bool rounds_x,
                                rt_matrix **out, rc_msg *msg)
{
    RC_ASSERT(k % q->group == 0);
    return create_matrix((rt_matrix){.n = n, .k = k, .panel_bytes = quant_panel_bytes(k, q),
                                     .kernels = d->kernels, .quant = q, .rounds_x = rounds_x},
                         out, msg);
}

static rc_code cpu_quant_join(rt_device *d, rt_matrix *const *parts, uint32_t count, rt_matrix **out,
                              rc_msg *msg)
{
    RC_ASSERT(count > 0 && count <= RT_JOINED_MAX);
    rt_matrix *m = malloc(sizeof *m);
    if (!m) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a matrix of %u parts", count);
    *m = (rt_matrix){.k = parts[0]->k, .kernels = d->kernels, .quant = parts[0]->quant,
                     .rounds_x = parts[0]->rounds_x, .joined_count = count};
    for (uint32_t i = 0; i < count; i++) {
        RC_ASSERT(parts[i]->quant && parts[i]->k == m->k && parts[i]->rounds_x == m->rounds_x);
        RC_ASSERT(m->n % RT_PANEL == 0);
        m->joined[i] = parts[i];
        m->n += parts[i]->n;
        if (parts[i]->quant->has_min) m->quant = parts[i]->quant;
    }
    *out = m;
    return RC_OK;
}

static void cpu_quant_fill(rt_matrix *m, uint32_t row, const void *blocks)
{
    RC_ASSERT(row < m->n);
    if (m->joined_count) {
        uint32_t part = 0;
        while (row >= m->joined[part]->n) row -= m->joined[part++]->n;
        m = m->joined[part];
    }
    uint8_t *group = (uint8_t *)m->data + row / RT_PANEL * m->panel_bytes;
    const uint8_t *block = blocks;
    rt_quant_group g;
    for (uint32_t k = 0; k < m->k; k += m->quant->group) {
        rt_quant_unpack(m->quant, block, &g);
        rt_quant_put(m->quant, group, row % RT_PANEL, &g);
        block += m->quant->block_bytes;
        group += rt_quant_group_bytes(m->quant);
    }
}

static void cpu_matrix_fill(rt_matrix *m, uint32_t row, uint32_t rows, const void *src, rc_dtype src_type,
                            size_t src_stride)
{
    RC_ASSERT(row <= m->n && rows <= m->n - row);
    rt_fill f = {.src = src, .src_type = src_type, .src_stride = src_stride, .row = row, .rows = rows};
    m->kernels->fill(m, &f);
}

static void cpu_matrix_destroy(rt_device *d, rt_matrix *m)
{
    if (!m) return;
    for (uint32_t i = 0; i < m->joined_count; i++) cpu_matrix_destroy(d, m->joined[i]);
    if (m->data) rt_pages_free(m->data, m->bytes);
    free(m);
}

static rc_code cpu_adapter_attach(rt_device *d, uint32_t slot, const adapter_weights *w, rc_dtype stored,
                                  rc_msg *msg)
{
    const rt_device_options *o = &d->options;
    RC_ASSERT(slot < o->slots_max);
    RC_ASSERT(!d->slots[slot]);
    RC_ASSERT(stored == RC_F32 || stored == RC_BF16);
    if (w->rank_max > o->lora_rank_max)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "rank %u exceeds the device's %u", w->rank_max,
                       o->lora_rank_max);
    size_t bytes = adapter_lora_bytes(w, stored, o->layers, o->linears);
    void *memory = rt_pages_alloc(bytes);
    if (!memory) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for an adapter of %zu bytes", bytes);
    d->slot_memory[slot] = memory;
    d->slot_bytes[slot] = bytes;
    d->slots[slot] = adapter_lora_pack(memory, w, stored, o->layers, o->linears);
    return RC_OK;
}

static void *cpu_kv_buffer(rt_device *d) { return d->kv; }

static const float *cpu_host_rows(rt_device *d, const float *buffer, size_t stride, uint32_t rows)
{
    (void)d;
    (void)stride;
    (void)rows;
    return buffer;
}

static void cpu_all_reduce(rt_device *d, float *x, size_t stride, uint32_t rows, uint32_t width)
{
    rt_group *g = d->options.group;
    if (g) (void)g->ops->all_reduce(g, x, stride, rows, width); /* a failure stays in its status */
}

static void cpu_gather_columns(rt_device *d, float *y, size_t stride, uint32_t rows, uint32_t width)
{
    rt_group *g = d->options.group;
    if (g) (void)g->ops->gather_columns(g, y, stride, rows, width);
}

static rc_code cpu_status(rt_device *d, rc_msg *msg)
{
    rt_group *g = d->options.group;
    return g ? g->ops->status(g, msg) : RC_OK;
}

static void cpu_parallel(rt_device *d, rt_task task, void *arg) { rt_pool_run(d->pool, task, arg); }

static uint32_t cpu_threads(const rt_device *d) { return d->sizes.threads; }

const rt_backend *rt_backend_cpu(void)
{
    static const rt_backend backend = {
        .abi = RT_BACKEND_ABI,
        .name = "cpu",
        .open = cpu_open,
        .close = cpu_close,
        .describe = cpu_describe,
        .bytes = cpu_bytes,
        .buffer_create = cpu_buffer_create,
        .buffer_destroy = cpu_buffer_destroy,
        .buffer_write = cpu_buffer_write,
        .matrix_bytes = cpu_matrix_bytes,
        .matrix_create = cpu_matrix_create,
        .matrix_fill = cpu_matrix_fill,
        .matrix_destroy = cpu_matrix_destroy,
        .quant_bytes = cpu_quant_bytes,
        .quant_create = cpu_quant_create,
        .quant_fill = cpu_quant_fill,
        .quant_join = cpu_quant_join,
        .adapter_attach = cpu_adapter_attach,
        .adapter_detach = cpu_adapter_detach,
        .kv_buffer = cpu_kv_buffer,
        .kv_copy_rows = rt_cpu__kv_copy_rows,
        .embed = rt_cpu__embed,
        .rms_norm = rt_cpu__rms_norm,
        .linear = rt_cpu__linear,
        .feed_forward = rt_cpu__feed_forward,
        .kv_write = rt_cpu__kv_write,
        .attention = rt_cpu__attention,
        .swiglu = rt_cpu__swiglu,
        .add_residual = rt_cpu__add_residual,
        .keep_rows = rt_cpu__keep_rows,
        .divide = rt_cpu__divide,
        .all_reduce = cpu_all_reduce,
        .gather_columns = cpu_gather_columns,
        .host_rows = cpu_host_rows,
        .status = cpu_status,
        .parallel = cpu_parallel,
        .threads = cpu_threads,
    };
    return &backend;
}
