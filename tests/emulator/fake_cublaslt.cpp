/* cuBLASLt's products, as plain loops: column-major D = alpha op(A) op(B) + beta C, summed in float32, in
 * parts as on a GPU, where no sum is one long chain. As the real one has other kernels for other sizes, a sum
 * begins elsewhere when D has another number of columns, or by another algorithm. */
#include "emu_device.h"
#include "fake_cublaslt.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace
{

struct Layout {
    cudaDataType type;
    uint64_t rows, columns;
    int64_t stride;
};
struct Product {
    cublasComputeType_t compute;
    cudaDataType scale;
    int32_t transposes_a, transposes_b, epilogue;
    const void *bias;
};
static_assert(sizeof(Layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "the caller's memory");
static_assert(sizeof(Product) <= sizeof(cublasLtMatmulDescOpaque_t), "the caller's memory");

struct Alignments { /* of A, B, C and D, in bytes; 0: not told */
    uint32_t told[4];
};
static_assert(sizeof(emu_algo) <= sizeof(cublasLtMatmulAlgo_t), "the caller's memory");

/* Up to 16 bytes, of an address and of the columns behind it. */
uint32_t alignment_of(const void *p, const Layout &l)
{
    uint64_t bits = (uint64_t)p | (uint64_t)l.stride * (l.type == CUDA_R_32F ? 4 : 2) | 16;
    return (uint32_t)(bits & -bits);
}

float load(const void *p, cudaDataType type, uint64_t at)
{
    if (type == CUDA_R_16BF) return __bfloat162float(((const __nv_bfloat16 *)p)[at]);
    if (type == CUDA_R_16F) return __half2float(((const __half *)p)[at]);
    return ((const float *)p)[at];
}

void store(void *p, cudaDataType type, uint64_t at, float value)
{
    if (type == CUDA_R_16BF)
        ((__nv_bfloat16 *)p)[at] = __float2bfloat16(value);
    else if (type == CUDA_R_16F)
        ((__half *)p)[at] = __float2half(value);
    else
        ((float *)p)[at] = value;
}

float dot(const float *x, const float *y, uint64_t k, uint64_t end)
{
    enum { PARTS = 16 };
    float parts[PARTS] = {0}, sum = 0;
    for (; k + PARTS <= end; k += PARTS)
        for (int i = 0; i < PARTS; i++) parts[i] += x[k + i] * y[k + i];
    for (; k < end; k++) sum += x[k] * y[k];
    for (float part : parts) sum += part;
    return sum;
}

/* A matrix as rows of the summed dimension. */
std::vector<float> gather(const void *p, const Layout &l, bool sum_is_row, uint64_t outer, uint64_t depth)
{
    std::vector<float> values(outer * depth);
    for (uint64_t i = 0; i < outer; i++)
        for (uint64_t k = 0; k < depth; k++) {
            uint64_t row = sum_is_row ? k : i, column = sum_is_row ? i : k;
            values[i * depth + k] = load(p, l.type, column * (uint64_t)l.stride + row);
        }
    return values;
}

uint32_t algos_count()
{
    return (uint32_t)emu::setting("EMU_ALGOS", 1);
}

/* The first product on a device takes what the library keeps there. */
void load(int device)
{
    static std::atomic<bool> is_loaded[64];
    if (!is_loaded[device].exchange(true)) emu::occupy(device, true);
}

bool holds(const Layout &l)
{
    return l.stride >= (int64_t)l.rows && l.rows && l.columns;
}

} /* namespace */

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = (cublasLtHandle_t)malloc(16);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion(void)
{
    return 130100;
}
const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status ? "an emulated error" : "no error";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType scale)
{
    *out = (cublasLtMatmulDesc_t)calloc(1, sizeof **out);
    *(Product *)*out = {compute, scale, 0, 0, CUBLASLT_EPILOGUE_DEFAULT, nullptr};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t desc, size_t, cublasComputeType_t compute,
                                               cudaDataType scale)
{
    *(Product *)desc = {compute, scale, 0, 0, CUBLASLT_EPILOGUE_DEFAULT, nullptr};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    free(desc);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute, const void *value,
                                              size_t bytes)
{
    Product *p = (Product *)desc;
    if (attribute == CUBLASLT_MATMUL_DESC_BIAS_POINTER)
        memcpy(&p->bias, value, sizeof p->bias);
    else if (bytes != sizeof(int32_t))
        return CUBLAS_STATUS_INVALID_VALUE;
    else if (attribute == CUBLASLT_MATMUL_DESC_TRANSA)
        memcpy(&p->transposes_a, value, bytes);
    else if (attribute == CUBLASLT_MATMUL_DESC_TRANSB)
        memcpy(&p->transposes_b, value, bytes);
    else if (attribute == CUBLASLT_MATMUL_DESC_EPILOGUE)
        memcpy(&p->epilogue, value, bytes);
    else
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t stride)
{
    *out = (cublasLtMatrixLayout_t)calloc(1, sizeof **out);
    *(Layout *)*out = {type, rows, columns, stride};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t, cudaDataType type,
                                                 uint64_t rows, uint64_t columns, int64_t stride)
{
    *(Layout *)layout = {type, rows, columns, stride};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    free(layout);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    *out = (cublasLtMatmulPreference_t)calloc(1, sizeof **out);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    free(preference);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes)
{
    int i = attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
    if (i < 0 || i >= 4) return CUBLAS_STATUS_SUCCESS;
    if (bytes != sizeof(uint32_t)) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&((Alignments *)preference)->told[i], value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}
/* What is found may count on 16 bytes, and on no more than it was told of a matrix and its rows. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results, int *found)
{
    cublasLtMatrixLayout_t layouts[4] = {a, b, c, d};
    if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
    *found = std::min(wanted, (int)algos_count());
    memset(results, 0, (size_t)*found * sizeof *results);
    for (int number = 0; number < *found; number++) {
        emu_algo *algo = (emu_algo *)&results[number].algo;
        algo->number = (uint32_t)number;
        for (int i = 0; i < 4; i++) {
            uint32_t told = ((Alignments *)preference)->told[i];
            algo->alignments[i] = std::min(alignment_of(nullptr, *(Layout *)layouts[i]), told ? told : 256);
        }
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha_at,
                              const void *a, cublasLtMatrixLayout_t a_at, const void *b,
                              cublasLtMatrixLayout_t b_at, const void *beta_at, const void *c,
                              cublasLtMatrixLayout_t c_at, void *d, cublasLtMatrixLayout_t d_at,
                              const cublasLtMatmulAlgo_t *chosen, void *, size_t, cudaStream_t stream)
{
    const emu_algo algo = *(const emu_algo *)chosen;
    const uint32_t have[4] = {alignment_of(a, *(Layout *)a_at), alignment_of(b, *(Layout *)b_at),
                              alignment_of(c, *(Layout *)c_at), alignment_of(d, *(Layout *)d_at)};
    for (int i = 0; i < 4; i++)
        if (have[i] < algo.alignments[i]) return CUBLAS_STATUS_INVALID_VALUE;
    if (algo.number == EMU_ALGO_FAILS) return CUBLAS_STATUS_NOT_SUPPORTED;
    Product p = *(Product *)desc;
    Layout la = *(Layout *)a_at, lb = *(Layout *)b_at, lc = *(Layout *)c_at, ld = *(Layout *)d_at;
    uint64_t m = ld.rows, n = ld.columns, depth = p.transposes_a ? la.rows : la.columns;
    if (!holds(la) || !holds(lb) || !holds(ld) || p.scale != CUDA_R_32F || la.type != lb.type ||
        (p.transposes_a ? la.columns : la.rows) != m || (p.transposes_b ? lb.rows : lb.columns) != n ||
        (p.transposes_b ? lb.columns : lb.rows) != depth || p.compute != CUBLAS_COMPUTE_32F)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (p.epilogue != CUBLASLT_EPILOGUE_DEFAULT && p.epilogue != CUBLASLT_EPILOGUE_BIAS)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    float alpha = *(const float *)alpha_at, beta = *(const float *)beta_at;
    uint64_t begin = (n + 5 * algo.number) % depth;
    load(emu::stream_device(stream));
    cudaError_t error = emu::enqueue(stream, [=] {
        std::vector<float> rows = gather(a, la, p.transposes_a, m, depth);
        std::vector<float> columns = gather(b, lb, !p.transposes_b, n, depth);
        for (uint64_t j = 0; j < n; j++)
            for (uint64_t i = 0; i < m; i++) {
                const float *x = &rows[i * depth], *y = &columns[j * depth];
                float sum = alpha * (dot(x, y, begin, depth) + dot(x, y, 0, begin));
                if (beta != 0) sum += beta * load(c, lc.type, j * (uint64_t)lc.stride + i);
                if (p.epilogue == CUBLASLT_EPILOGUE_BIAS) sum += load(p.bias, ld.type, i);
                store(d, ld.type, j * (uint64_t)ld.stride + i, sum);
            }
    }, false, emu_algo_microseconds(algo.number, algos_count(), n));
    return error ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

} /* extern "C" */
