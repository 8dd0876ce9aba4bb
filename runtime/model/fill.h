/* runtime/model/fill.h - moves a checkpoint's rows into the backend's matrices, on all threads.
 *
 * Each matrix is cut into chunks of whole 32-row groups, which threads take in order. Rows go to the
 * backend straight from the mapped file wherever a run of them is stored as it is; groups that straddle
 * two tensors of a fused matrix, and paired q/k rows pass through float32, which holds every stored value
 * exactly. Rows of a matrix that is kept quantised go as they are stored, or are rounded on the way.
 *
 * Dummy weights are a hash of (seed, matrix, row, column): the same with any number of threads and ranks.
 */
#ifndef RUNTIME_MODEL_FILL_H
#define RUNTIME_MODEL_FILL_H

#include "runtime/backend/pool.h"
#include "runtime/model/model.h"
#include "runtime/model/names.h"
#include "runtime/model/source.h"

enum { RT_FILL_GROUP = 32 }; /* rows; what rt_backend.matrix_fill asks for */

typedef struct rt_fill {
    rt_matrix *matrix; /* [n][k] */
    rc_dtype stored;
    const rt_quant *quant; /* NULL, or the matrix is kept in this format */
    const rt_quant *joined[RT_PARTS_MAX]; /* what each part is kept in, where they differ; else NULL */
    bool quantises;        /* rows are rounded to it here; else the tensors are stored in it */
    bool rounds_x;
    uint32_t n, k;
    bool is_dummy;         /* no tensors */
    uint32_t parts_count;
    rt_tensor tensors[RT_PARTS_MAX]; /* of the rows and columns that are in the matrix */
    uint32_t part_rows[RT_PARTS_MAX];
    uint32_t dummy_rows[RT_PARTS_MAX]; /* where the part begins in the whole model's matrix */
    uint32_t dummy_column, dummy_k; /* first column, and how many the whole matrix has */
    uint32_t paired_head_dim[RT_PARTS_MAX];
    uint64_t dummy_seed;
    float dummy_bound; /* values are uniform in [-bound, bound] */
} rt_fill;

/* Errors RESOURCE_EXHAUSTED: no memory for the threads' scratch rows. */
RC_MUST_CHECK rc_code rt__fill_all(const rt_fill *fills, uint32_t count, const rt_backend *backend,
                                   rt_pool *pool, rt_progress progress, void *progress_ctx, rc_msg *msg);

/* Bytes of the matrix in the backend. */
size_t rt__fill_bytes(const rt_fill *f, const rt_backend *backend);

/* Columns [first, first + columns) of one dummy row. */
void rt__dummy_row(uint64_t seed, uint32_t row, uint32_t first, uint32_t columns, float bound, float *out);

#endif
