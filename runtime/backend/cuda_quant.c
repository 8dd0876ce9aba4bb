/* Quantised matrices: codes where x is rounded to bf16, else numbers, as they come. */
#include <stdlib.h>

#include "runtime/backend/cuda_device.h"

size_t rt_cuda__quant_bytes(uint32_t n, uint32_t k, const rt_quant *format, bool rounds_x)
{
    rt_cuda_codes c = rt_cuda_codes_of(format, n, k);
    return rounds_x ? rt_cuda_codes_bytes(&c) : rt_cuda__matrix_bytes(n, k, RC_F32);
}

/* Rows that are made numbers at a time: whole panels. */
static uint32_t rows_at_once(const rt_matrix *m)
{
    uint32_t most = RT_CUDA_EXPANDED / sizeof(uint16_t) / m->k / RT_CUDA_PANEL * RT_CUDA_PANEL;
    return m->n < most ? m->n : most;
}

static rc_code create_codes(rt_device *d, rt_matrix *m, rc_msg *msg)
{
    uint32_t most = rows_at_once(m), rest = m->n % most;
    RC_ASSERT(most > 0);
    for (int has_bias = 0; has_bias < 2; has_bias++) {
        m->shapes[has_bias] = rt_cuda__shape(d, most, m->k, RC_BF16, has_bias);
        if (rest) m->rest_shapes[has_bias] = rt_cuda__shape(d, rest, m->k, RC_BF16, has_bias);
        if (!m->shapes[has_bias] || (rest && !m->rest_shapes[has_bias]))
            return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a %u x %u matrix", m->n, m->k);
    }
    m->packed = calloc(1, rt_cuda_codes_bytes(&m->codes));
    if (!m->packed) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a %u x %u matrix", m->n, m->k);
    return rt_cuda__alloc(d, rt_cuda_codes_bytes(&m->codes), &m->data, "a matrix", msg);
}

rc_code rt_cuda__quant_create(rt_device *d, uint32_t n, uint32_t k, const rt_quant *format, bool rounds_x,
                              rt_matrix **out, rc_msg *msg)
{
    RC_ASSERT(k % format->group == 0);
    if (!rounds_x) {
        RC_TRY(rt_cuda__matrix_create(d, n, k, RC_F32, out, msg));
        (*out)->quant = format;
        return RC_OK;
    }
    rt_matrix *m = calloc(1, sizeof *m);
    if (!m) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a %u x %u matrix", n, k);
    *m = (rt_matrix){.device = d,
                     .n = n,
                     .k = k,
                     .stride = k,
                     .stored = RC_BF16,
                     .quant = format,
                     .has_codes = true,
                     .codes = rt_cuda_codes_of(format, n, k)};
    rc_code code = create_codes(d, m, msg);
    m->codes.panels = m->data;
    if (code == RC_OK)
        *out = m;
    else
        rt_cuda__matrix_destroy(d, m);
    return code;
}

rc_code rt_cuda__quant_join(rt_device *d, rt_matrix *const *parts, uint32_t count, rt_matrix **out,
                            rc_msg *msg)
{
    rt_matrix *m = calloc(1, sizeof *m);
    RC_ASSERT(count <= RT_CUDA_PARTS);
    if (!m) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a matrix of %u parts", count);
    *m = (rt_matrix){.device = d, .k = parts[0]->k, .stored = parts[0]->stored, .parts_count = count};
    for (uint32_t i = 0; i < count; i++) {
        m->parts[i] = parts[i];
        m->n += parts[i]->n;
    }
    *out = m;
    return RC_OK;
}

static void send_panels(rt_matrix *m)
{
    size_t bytes = rt_cuda_codes_bytes(&m->codes);
    for (size_t at = 0; at < bytes; at += RT_CUDA_STAGE_BYTES) {
        size_t now = bytes - at < RT_CUDA_STAGE_BYTES ? bytes - at : RT_CUDA_STAGE_BYTES;
        void *stage = rt_cuda__stage_take(m->device);
        memcpy(stage, m->packed + at, now);
        rt_cuda__check(m->device, rt_cuda__stage_send(m->device, stage, (char *)m->data + at, now), "upload");
    }
    free(m->packed);
    m->packed = NULL;
}

/* A row as numbers, with zeros behind them. */
static void fill_numbers(rt_matrix *m, uint32_t row, const uint8_t *block)
{
    const rt_quant *q = m->quant;
    float *stage = rt_cuda__stage_take(m->device);
    for (uint32_t k = 0; k < m->k; k += q->group, block += q->block_bytes) {
        rt_quant_group g;
        rt_quant_unpack(q, block, &g);
        rt_quant_values(q, &g, stage + k);
    }
    memset(stage + m->k, 0, (m->stride - m->k) * sizeof *stage);
    size_t each = m->stride * sizeof *stage;
    rt_cuda__check(m->device, rt_cuda__stage_send(m->device, stage, (char *)m->data + row * each, each),
                   "upload");
}

/* Panels go to the device when the last row is there. */
void rt_cuda__quant_fill(rt_matrix *m, uint32_t row, const void *blocks)
{
    uint32_t part = 0;
    if (m->parts_count) {
        for (; row >= m->parts[part]->n; part++) row -= m->parts[part]->n;
        m = m->parts[part];
    }
    if (!m->has_codes) {
        fill_numbers(m, row, blocks);
        return;
    }
    rt_cuda_codes_put(&m->codes, m->quant, row, blocks, m->packed);
    if (atomic_fetch_add(&m->filled, 1) + 1 == m->n) send_panels(m);
}

/* Few rows: the codes are read once for each RT_CUDA_CODES_ROWS of them. */
static void multiply_codes(rt_device *d, const rt_linear *l, const uint16_t *x, size_t x_stride)
{
    for (uint32_t row = 0; row < l->rows; row += RT_CUDA_CODES_ROWS) {
        uint32_t rows = l->rows - row < RT_CUDA_CODES_ROWS ? l->rows - row : RT_CUDA_CODES_ROWS;
        rt_cuda_codes_product p = {.x = x + row * x_stride,
                                   .x_stride = x_stride,
                                   .bias = l->bias,
                                   .y = l->y + row * l->y_stride,
                                   .y_stride = l->y_stride,
                                   .rows = rows};
        rt_cuda__pace(d, 1);
        rt_cuda__check(d, rt_cuda_codes_multiply(&l->weight->codes, &p, d->stream), "codes");
    }
}

rt_linear rt_cuda__codes_piece(rt_device *d, const rt_linear *l, uint32_t n, rt_matrix *some)
{
    const rt_matrix *w = l->weight;
    uint32_t most = rows_at_once(w);
    rt_linear piece = *l;
    *some = *w;
    some->n = w->n - n < most ? w->n - n : most;
    some->data = d->expanded;
    some->has_codes = false;
    if (some->n < most) memcpy(some->shapes, w->rest_shapes, sizeof some->shapes);
    piece.weight = some;
    piece.bias = l->bias ? l->bias + n : NULL;
    piece.y = l->y + n;
    return piece;
}

/* Many rows: some rows of W after the other become bf16, once for all of x. */
static cublasStatus_t multiply_numbers(rt_device *d, const rt_linear *l, const void *x, size_t x_stride)
{
    const rt_matrix *w = l->weight;
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    rt_matrix some;
    for (uint32_t n = 0; !s && n < w->n; n += some.n) {
        rt_linear piece = rt_cuda__codes_piece(d, l, n, &some);
        rt_cuda__pace(d, 2);
        rt_cuda__check(d, rt_cuda_codes_expand(&w->codes, n, some.n, d->expanded, d->stream), "codes");
        s = rt_cuda__multiply(d, &piece, x, x_stride);
    }
    return s;
}

cublasStatus_t rt_cuda__codes_product(rt_device *d, const rt_linear *l, const void *x, size_t x_stride)
{
    if (l->rows > RT_CUDA_CODES_MOST && !d->options.batch_invariant)
        return multiply_numbers(d, l, x, x_stride);
    multiply_codes(d, l, x, x_stride);
    return CUBLAS_STATUS_SUCCESS;
}
