/* y = x W^T by cuBLASLt: column-major, W^T is its A and x its B. By which algorithm is kept for each shape
 * and number of rows: what was quickest at start (cuda_tune.c), else what the heuristic says first. */
#include <stdlib.h>

#include "runtime/backend/cuda_device.h"

enum { MATRIX_ALIGN = 16 }; /* at which weights and x begin, and their rows */

rt_cuda_shape *rt_cuda__shape(rt_device *d, uint32_t n, uint32_t k, rc_dtype stored, bool has_bias)
{
    for (rt_cuda_shape *s = d->shapes; s; s = s->next)
        if (s->n == n && s->k == k && s->stored == stored && s->has_bias == has_bias) return s;
    rt_cuda_shape *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    *s = (rt_cuda_shape){.next = d->shapes, .n = n, .k = k, .stored = stored, .has_bias = has_bias};
    size_t rows = d->options.rows_max > RT_CUDA_TILE ? d->options.rows_max : RT_CUDA_TILE;
    s->alignments = calloc(rows + 1, sizeof *s->alignments);
    s->algos = calloc(rows + 1, sizeof *s->algos);
    d->shapes = s;
    return s->alignments && s->algos ? s : NULL;
}

void rt_cuda__shapes_destroy(rt_device *d)
{
    for (rt_cuda_shape *s = d->shapes, *next; s; s = next) {
        next = s->next;
        free(s->alignments);
        free(s->algos);
        free(s);
    }
}

/* A product as cuBLASLt has it. Its structs are the caller's, so nothing is allocated. */
typedef struct blas_product {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t w, x, y;
} blas_product;

static cublasStatus_t describe(const rt_linear *l, size_t x_stride, blas_product *p)
{
    const rt_matrix *w = l->weight;
    cudaDataType type = w->stored == RC_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = l->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    cublasStatus_t s = cublasLtMatmulDescInit(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (!s)
        s = cublasLtMatmulDescSetAttribute(&p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                           sizeof transposed);
    if (!s)
        s = cublasLtMatmulDescSetAttribute(&p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                           sizeof epilogue);
    if (!s && l->bias)
        s = cublasLtMatmulDescSetAttribute(&p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &l->bias,
                                           sizeof l->bias);
    if (!s) s = cublasLtMatrixLayoutInit(&p->w, type, w->k, w->n, (int64_t)w->stride);
    if (!s) s = cublasLtMatrixLayoutInit(&p->x, type, w->k, l->rows, (int64_t)x_stride);
    if (!s) s = cublasLtMatrixLayoutInit(&p->y, CUDA_R_32F, w->n, l->rows, (int64_t)l->y_stride);
    return s;
}

/* Of y's rows, as far as any algorithm cares: a rank's logits, and parts of a row, begin anywhere. */
static uint8_t alignment_of(const rt_linear *l)
{
    size_t bits = (size_t)l->y | l->y_stride * sizeof *l->y | MATRIX_ALIGN;
    return (uint8_t)(bits & -bits);
}

/* Unless it is told, cuBLASLt takes all matrices to begin at multiples of 256 bytes. */
static cublasStatus_t set_preferences(cublasLtMatmulPreference_t preference, uint32_t alignment_of_y)
{
    const size_t workspace = RT_CUDA_WORKSPACE;
    const uint32_t alignment = MATRIX_ALIGN;
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t bytes;
    } all[] = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &alignment, sizeof alignment},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &alignment, sizeof alignment},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &alignment_of_y, sizeof alignment_of_y},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &alignment_of_y, sizeof alignment_of_y}};
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0; !s && i < sizeof all / sizeof *all; i++)
        s = cublasLtMatmulPreferenceSetAttribute(preference, all[i].name, all[i].value, all[i].bytes);
    return s;
}

cublasStatus_t rt_cuda__algos(rt_device *d, const rt_linear *l, size_t x_stride, uint32_t most,
                              cublasLtMatmulAlgo_t *out, uint32_t *count)
{
    cublasLtMatmulHeuristicResult_t results[RT_CUDA_ALGOS];
    cublasLtMatmulPreference_t preference;
    blas_product p;
    int found = 0;
    RC_ASSERT(most <= RT_CUDA_ALGOS);
    *count = 0;
    cublasStatus_t s = describe(l, x_stride, &p);
    if (!s) s = cublasLtMatmulPreferenceCreate(&preference);
    if (s) return s;
    s = set_preferences(preference, alignment_of(l));
    if (!s)
        s = cublasLtMatmulAlgoGetHeuristic(d->blas, &p.desc, &p.w, &p.x, &p.y, &p.y, preference, (int)most,
                                           results, &found);
    cublasLtMatmulPreferenceDestroy(preference);
    for (int i = 0; !s && i < found; i++)
        if (!results[i].state) out[(*count)++] = results[i].algo;
    return s || *count ? s : CUBLAS_STATUS_NOT_SUPPORTED;
}

void rt_cuda__keep_algo(const rt_linear *l, const cublasLtMatmulAlgo_t *algo)
{
    rt_cuda_shape *shape = l->weight->shapes[l->bias != NULL];
    if (l->rows <= RT_CUDA_FEW_ROWS) shape->takes_few[l->rows] = !algo;
    if (algo) shape->algos[l->rows] = *algo;
    shape->alignments[l->rows] = alignment_of(l);
}

static void multiply_few(rt_device *d, const rt_linear *l, const void *x, size_t x_stride)
{
    const rt_matrix *w = l->weight;
    rt_cuda_few p = {.w = w->data,
                     .w_stride = w->stride,
                     .x = x,
                     .x_stride = x_stride,
                     .bias = l->bias,
                     .y = l->y,
                     .y_stride = l->y_stride,
                     .n = w->n,
                     .k = w->k};
    rt_cuda__check(d, rt_cuda_few_multiply(&p, l->rows, w->stored == RC_BF16, d->stream), "product");
}

cublasStatus_t rt_cuda__multiply_by(rt_device *d, const rt_linear *l, const void *x, size_t x_stride,
                                    const cublasLtMatmulAlgo_t *algo)
{
    const float one = 1, zero = 0;
    blas_product p;
    if (!algo) {
        multiply_few(d, l, x, x_stride);
        return CUBLAS_STATUS_SUCCESS;
    }
    cublasStatus_t s = describe(l, x_stride, &p);
    if (s) return s;
    return cublasLtMatmul(d->blas, &p.desc, &one, l->weight->data, &p.w, x, &p.x, &zero, l->y, &p.y, l->y,
                          &p.y, algo, d->workspace, RT_CUDA_WORKSPACE, d->stream);
}

cublasStatus_t rt_cuda__multiply(rt_device *d, const rt_linear *l, const void *x, size_t x_stride)
{
    const rt_cuda_shape *shape = l->weight->shapes[l->bias != NULL];
    uint8_t known = shape->alignments[l->rows];
    if (l->rows <= RT_CUDA_FEW_ROWS && shape->takes_few[l->rows])
        return rt_cuda__multiply_by(d, l, x, x_stride, NULL);
    if (!known || alignment_of(l) < known) {
        cublasLtMatmulAlgo_t algo;
        uint32_t count;
        cublasStatus_t s = rt_cuda__algos(d, l, x_stride, 1, &algo, &count);
        if (s) return s;
        rt_cuda__keep_algo(l, &algo);
    }
    return rt_cuda__multiply_by(d, l, x, x_stride, &shape->algos[l->rows]);
}
