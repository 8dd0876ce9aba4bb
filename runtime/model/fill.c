#include "runtime/model/fill.h"

#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* Large enough to amortise a chunk's bookkeeping, small enough to keep all threads busy to the end. */
enum { CHUNK_BYTES = 2 << 20 };

typedef struct fill_run {
    const rt_fill *fills;
    const uint64_t *first_chunk; /* [count + 1] */
    uint32_t count;
    const rt_backend *backend;
    float *scratch; /* [parts][RT_FILL_GROUP][k_max] */
    size_t scratch_floats;
    atomic_uint_fast64_t next_chunk, done_bytes;
    uint64_t total_bytes;
    rt_progress progress;
    void *progress_ctx;
} fill_run;

size_t rt__fill_bytes(const rt_fill *f, const rt_backend *backend)
{
    size_t bytes = 0;
    for (uint32_t i = 0; f->joined[0] && i < f->parts_count; i++)
        bytes += backend->quant_bytes(f->part_rows[i], f->k, f->joined[i], f->rounds_x);
    if (bytes) return bytes;
    if (f->quant) return backend->quant_bytes(f->n, f->k, f->quant, f->rounds_x);
    return backend->matrix_bytes(f->n, f->k, f->stored);
}

/* Of a row as the matrix keeps it (where parts differ, as it keeps the first's). */
static uint64_t row_bytes(const rt_fill *f)
{
    if (f->quant) return (uint64_t)f->k / f->quant->group * f->quant->block_bytes;
    return (uint64_t)f->k * rc_dtype_bytes(f->stored);
}

static uint32_t chunk_rows(const rt_fill *f)
{
    uint64_t rows = CHUNK_BYTES / row_bytes(f) / RT_FILL_GROUP * RT_FILL_GROUP;
    return rows < RT_FILL_GROUP ? RT_FILL_GROUP : rows > f->n ? f->n : (uint32_t)rows;
}

/* Multiply-xorshift, a word each; vectors well. */
static inline uint32_t mix(uint32_t x)
{
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

void rt__dummy_row(uint64_t seed, uint32_t row, uint32_t first, uint32_t columns, float bound, float *out)
{
    uint32_t start = mix((uint32_t)seed ^ mix((uint32_t)(seed >> 32) ^ mix(row)));
    float scale = bound * 0x1p-31f;
    for (uint32_t i = 0; i < columns; i++)
        out[i] = (float)(int32_t)mix(start + (first + i) * 0x9e3779b9u) * scale;
}

/* Which tensor holds a row of the fused matrix. *row becomes the row within it. */
static uint32_t part_of(const rt_fill *f, uint32_t *row)
{
    uint32_t part = 0;
    while (*row >= f->part_rows[part]) *row -= f->part_rows[part++];
    return part;
}

static void stage_row(const rt_fill *f, uint32_t row, float *out)
{
    uint32_t part = part_of(f, &row);
    if (f->is_dummy) {
        rt__dummy_row(f->dummy_seed, f->dummy_rows[part] + row, f->dummy_column, f->k, f->dummy_bound, out);
        return;
    }
    rt_part p = {.paired_head_dim = f->paired_head_dim[part]};
    rt__tensor_row(&f->tensors[part], rt__stored_row(&p, row), out);
}

/* Rows from `row` on that the backend can read from the file itself: whole groups, or all up to the end. */
static uint32_t direct_rows(const rt_fill *f, uint32_t row, uint32_t end, const unsigned char **src,
                            rc_dtype *type, size_t *row_bytes)
{
    if (f->is_dummy) return 0;
    uint32_t within = row, part = part_of(f, &within), rows = f->part_rows[part] - within;
    const rt_tensor *t = &f->tensors[part];
    if (!t->dtype || f->paired_head_dim[part]) return 0;
    if (rows > end - row) rows = end - row;
    if (row + rows != f->n) rows = rows / RT_FILL_GROUP * RT_FILL_GROUP;
    *src = t->data + within * t->row_bytes;
    *type = t->dtype;
    *row_bytes = t->row_bytes;
    return rows;
}

/* Maps the pages in one call; page by page their faults cost as much as the copy. */
static void will_read(const unsigned char *src, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)src & ~(page - 1);
    uintptr_t end = ((uintptr_t)src + bytes + page - 1) & ~(page - 1);
    (void)madvise((void *)first, end - first, MADV_POPULATE_READ);
}

/* Of rows at row_bytes only the columns that are wanted. */
static void read_ahead(const unsigned char *src, uint32_t rows, size_t row_bytes, size_t bytes)
{
    if (bytes == row_bytes) will_read(src, rows * row_bytes);
    else
        for (uint32_t i = 0; i < rows; i++) will_read(src + i * row_bytes, bytes);
}

/* A row as its file stores it. */
static const unsigned char *stored_row(const rt_fill *f, uint32_t row)
{
    uint32_t part = part_of(f, &row);
    rt_part p = {.paired_head_dim = f->paired_head_dim[part]};
    return f->tensors[part].data + rt__stored_row(&p, row) * f->tensors[part].row_bytes;
}

/* scratch: a row, then its blocks. */
static void fill_quantised(const fill_run *r, const rt_fill *f, uint32_t row, uint32_t end, float *scratch)
{
    for (; row < end; row++) {
        if (!f->quantises) {
            r->backend->quant_fill(f->matrix, row, stored_row(f, row));
            continue;
        }
        uint8_t *blocks = (uint8_t *)(scratch + f->k);
        stage_row(f, row, scratch);
        rt_quant_row(f->quant, scratch, f->k, blocks);
        r->backend->quant_fill(f->matrix, row, blocks);
    }
}

static void fill_rows(const fill_run *r, const rt_fill *f, uint32_t row, uint32_t end, float *scratch)
{
    if (f->quant) {
        fill_quantised(r, f, row, end, scratch);
        return;
    }
    while (row < end) {
        const unsigned char *src = NULL;
        rc_dtype type = RC_F32;
        size_t row_bytes = 0;
        uint32_t rows = direct_rows(f, row, end, &src, &type, &row_bytes);
        if (rows) {
            read_ahead(src, rows, row_bytes, f->k * rc_dtype_bytes(type));
            r->backend->matrix_fill(f->matrix, row, rows, src, type, row_bytes / rc_dtype_bytes(type));
        } else {
            rows = end - row < RT_FILL_GROUP ? end - row : RT_FILL_GROUP;
            for (uint32_t i = 0; i < rows; i++) stage_row(f, row + i, scratch + (size_t)i * f->k);
            r->backend->matrix_fill(f->matrix, row, rows, scratch, RC_F32, f->k);
        }
        row += rows;
    }
}

static void fill_chunk(fill_run *r, uint64_t chunk, float *scratch)
{
    uint32_t low = 0, high = r->count; /* first_chunk[low] <= chunk < first_chunk[high] */
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (r->first_chunk[middle] <= chunk)
            low = middle;
        else
            high = middle;
    }
    const rt_fill *f = &r->fills[low];
    uint32_t rows = chunk_rows(f), row = (uint32_t)(chunk - r->first_chunk[low]) * rows;
    uint32_t end = f->n - row < rows ? f->n : row + rows;
    fill_rows(r, f, row, end, scratch);
    atomic_fetch_add_explicit(&r->done_bytes, (end - row) * row_bytes(f),
                              memory_order_relaxed);
}

static void fill_task(void *arg, uint32_t part, uint32_t parts)
{
    fill_run *r = arg;
    float *scratch = r->scratch + part * r->scratch_floats;
    (void)parts;
    for (;;) {
        uint64_t chunk = atomic_fetch_add_explicit(&r->next_chunk, 1, memory_order_relaxed);
        if (chunk >= r->first_chunk[r->count]) return;
        fill_chunk(r, chunk, scratch);
        if (part == 0 && r->progress)
            r->progress(r->progress_ctx, atomic_load_explicit(&r->done_bytes, memory_order_relaxed),
                        r->total_bytes);
    }
}

rc_code rt__fill_all(const rt_fill *fills, uint32_t count, const rt_backend *backend, rt_pool *pool,
                     rt_progress progress, void *progress_ctx, rc_msg *msg)
{
    uint32_t k_max = 0, parts = rt_pool_threads(pool);
    uint64_t *first_chunk = calloc((size_t)count + 1, sizeof *first_chunk);
    fill_run r = {.fills = fills,
                  .first_chunk = first_chunk,
                  .count = count,
                  .backend = backend,
                  .progress = progress,
                  .progress_ctx = progress_ctx};
    for (uint32_t i = 0; first_chunk && i < count; i++) {
        uint32_t rows = chunk_rows(&fills[i]);
        first_chunk[i + 1] = first_chunk[i] + (fills[i].n + rows - 1) / rows;
        r.total_bytes += fills[i].n * row_bytes(&fills[i]);
        if (fills[i].k > k_max) k_max = fills[i].k;
    }
    r.scratch_floats = (size_t)RT_FILL_GROUP * k_max;
    r.scratch = first_chunk ? malloc(parts * r.scratch_floats * sizeof *r.scratch) : NULL;
    if (!r.scratch) {
        free(first_chunk);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for %zu bytes to load weights with",
                       parts * r.scratch_floats * sizeof(float));
    }
    rt_pool_run(pool, fill_task, &r);
    if (progress) progress(progress_ctx, r.total_bytes, r.total_bytes);
    free(r.scratch);
    free(first_chunk);
    return RC_OK;
}
