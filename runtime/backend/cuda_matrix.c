/* Weights as rows in device memory, and products of whatever they are kept as. */
#include <stdlib.h>

#include "runtime/backend/cuda_device.h"

static size_t row_bytes(uint32_t k, rc_dtype stored)
{
    return rt_cuda_padded(k) * rc_dtype_bytes(stored);
}

size_t rt_cuda__matrix_bytes(uint32_t n, uint32_t k, rc_dtype stored)
{
    return n * row_bytes(k, stored);
}

/* Room for a tile of the widest y so far. */
static rc_code widen_tile(rt_device *d, uint32_t n, rc_msg *msg)
{
    void *wider;
    size_t bytes = (size_t)RT_CUDA_TILE * n * sizeof(float);
    if (!d->options.batch_invariant || n <= d->tile_columns) return RC_OK;
    RC_TRY(rt_cuda__alloc(d, bytes, &wider, "a product's tile", msg));
    cudaFree(d->tile_y);
    d->tile_y = wider;
    d->tile_columns = n;
    return RC_OK;
}

rc_code rt_cuda__matrix_create(rt_device *d, uint32_t n, uint32_t k, rc_dtype stored, rt_matrix **out,
                               rc_msg *msg)
{
    RC_TRY(widen_tile(d, n, msg));
    rt_matrix shape = {.device = d, .n = n, .k = k, .stride = rt_cuda_padded(k), .stored = stored};
    for (int has_bias = 0; has_bias < 2; has_bias++)
        shape.shapes[has_bias] = rt_cuda__shape(d, n, k, stored, has_bias);
    rt_matrix *m = calloc(1, sizeof *m);
    if (!m || !shape.shapes[0] || !shape.shapes[1]) {
        free(m);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a %u x %u matrix", n, k);
    }
    rc_code code = rt_cuda__alloc(d, rt_cuda__matrix_bytes(n, k, stored), &shape.data, "a matrix", msg);
    if (code != RC_OK) {
        free(m);
        return code;
    }
    *m = shape;
    *out = m;
    return RC_OK;
}

void rt_cuda__matrix_destroy(rt_device *d, rt_matrix *m)
{
    if (!m) return;
    rt_cuda__rest(d);
    for (uint32_t i = 0; i < m->parts_count; i++) rt_cuda__matrix_destroy(d, m->parts[i]);
    cudaFree(m->data);
    free(m->packed);
    free(m);
}

/* Behind a staged row's numbers are zeros, and so are x's there. */
static void clear_padding(const rt_matrix *m, char *row)
{
    size_t used = m->k * rc_dtype_bytes(m->stored);
    memset(row + used, 0, row_bytes(m->k, m->stored) - used);
}

void rt_cuda__matrix_fill(rt_matrix *m, uint32_t row, uint32_t rows, const void *src, rc_dtype src_type,
                          size_t src_stride)
{
    size_t each = row_bytes(m->k, m->stored);
    uint32_t most = (uint32_t)(RT_CUDA_STAGE_BYTES / each);
    RC_ASSERT(row <= m->n && rows <= m->n - row && most > 0);
    for (uint32_t done = 0; done < rows; done += most) {
        uint32_t now = rows - done < most ? rows - done : most;
        char *stage = rt_cuda__stage_take(m->device);
        for (uint32_t i = 0; i < now; i++) {
            const char *from = (const char *)src + (done + i) * src_stride * rc_dtype_bytes(src_type);
            rt_cuda__convert(from, src_type, m->k, m->stored, stage + i * each);
            clear_padding(m, stage + i * each);
        }
        cudaError_t error =
            rt_cuda__stage_send(m->device, stage, (char *)m->data + (row + done) * each, now * each);
        rt_cuda__check(m->device, error, "upload");
    }
}

/* Tile after tile through one buffer, so that every product of a shape is the same call, and a row's bits do
 * not depend on how many rows there are. Rows of a tile that nobody wants hold what was there before. */
static cublasStatus_t multiply_tiles(rt_device *d, const rt_linear *l, const void *x, size_t x_stride)
{
    const rt_matrix *w = l->weight;
    size_t each = w->k * rc_dtype_bytes(w->stored), stride = row_bytes(w->k, w->stored);
    rt_linear tile = *l;
    tile.rows = RT_CUDA_TILE;
    tile.y = d->tile_y;
    tile.y_stride = w->n;
    for (uint32_t row = 0; row < l->rows; row += RT_CUDA_TILE) {
        uint32_t rows = l->rows - row < RT_CUDA_TILE ? l->rows - row : RT_CUDA_TILE;
        size_t pitch = x_stride * rc_dtype_bytes(w->stored), n = w->n * sizeof *l->y;
        rt_cuda__pace(d, 3);
        rt_cuda__check(d,
                       cudaMemcpy2DAsync(d->tile_x, stride, (const char *)x + row * pitch, pitch, each, rows,
                                         cudaMemcpyDeviceToDevice, d->stream),
                       "tile");
        cublasStatus_t s = rt_cuda__multiply(d, &tile, d->tile_x, rt_cuda_padded(w->k));
        if (s) return s;
        rt_cuda__check(d,
                       cudaMemcpy2DAsync(l->y + row * l->y_stride, l->y_stride * sizeof *l->y, d->tile_y, n,
                                         n, rows, cudaMemcpyDeviceToDevice, d->stream),
                       "tile");
    }
    return CUBLAS_STATUS_SUCCESS;
}

/* x as bf16, in the device's scratch: there already where the op before left it. */
static const void *rounded(rt_device *d, const rt_linear *l, size_t *stride)
{
    const rt_matrix *w = l->weight;
    *stride = rt_cuda_padded(w->k);
    if (d->rounded != l->x || d->rounded_width != w->k || d->rounded_rows < l->rows) {
        rt_cuda_rows r = {.x = l->x,
                          .x_stride = l->x_stride,
                          .rows = l->rows,
                          .width = w->k,
                          .pairs = (uint16_t *)d->scratch,
                          .pairs_stride = *stride};
        rt_cuda__check(d, rt_cuda_round(&r, d->stream), "round");
    }
    return d->scratch;
}

static void add_deltas(rt_device *d, const rt_linear *l)
{
    const rt_cuda_plans *p = &d->step.plans[0];
    if (l->adapters != p->adapters) p++;
    RC_ASSERT(l->adapters == p->adapters);
    adapter_cuda_run run = {.device_table = d->table,
                            .layers = d->options.layers,
                            .linears = d->options.linears,
                            .layer = l->layer,
                            .linear = l->linear,
                            .rank_max = d->options.lora_rank_max,
                            .out_max = l->weight->n,
                            .device_x = l->x,
                            .x_stride = l->x_stride,
                            .device_y = l->y,
                            .y_stride = l->y_stride,
                            .device_s = d->lora};
    rt_cuda__check(d, adapter_cuda_apply(&run, &p->adapter_parts, d->words + p->adapters_at, d->stream),
                   "adapters");
}

static cublasStatus_t product(rt_device *d, const rt_linear *l, const void *x, size_t x_stride)
{
    const rt_matrix *w = l->weight;
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    if (w->has_codes) return rt_cuda__codes_product(d, l, x, x_stride);
    if (!w->parts_count)
        return (d->options.batch_invariant ? multiply_tiles : rt_cuda__multiply)(d, l, x, x_stride);
    rt_linear part = *l;
    for (uint32_t i = 0; !s && i < w->parts_count; i++) {
        part.weight = w->parts[i];
        s = product(d, &part, x, x_stride);
        part.y += part.weight->n;
        part.bias = l->bias ? part.bias + part.weight->n : NULL;
    }
    return s;
}

void rt_cuda__linear(rt_device *d, const rt_linear *l)
{
    rt_cuda__pace(d, 8); /* with what comes before the next product */
    if (!rt_cuda__launches(d) || !l->rows) return;
    size_t stride = l->x_stride;
    const void *x = l->weight->stored == RC_BF16 ? rounded(d, l, &stride) : l->x;
    d->rounded = NULL;
    cublasStatus_t s = product(d, l, x, stride);
    if (s) {
        char line[200];
        snprintf(line, sizeof line, "cuBLASLt: %s for %u rows of a %u x %u matrix",
                 cublasLtGetStatusString(s), l->rows, l->weight->n, l->weight->k);
        rt_cuda__fail(d, line);
        return;
    }
    if (l->adapters && l->adapters->segments_count) add_deltas(d, l);
}
