/* The CUDA plugin: libmica_cuda.so. Source of what is called: CUDA Runtime API 13, cuBLASLt 13, NCCL 2.28. */
#include "runtime/backend/cuda_device.h"

#include "runtime/backend/plugin.h"

enum {
    CAPABILITY_MIN = 80, /* 8.0: bf16 on tensor cores, asynchronous copies to shared memory */
    GRID_MAX = 65535     /* of a grid's y, which rows are for ops on elements */
};

void rt_cuda__enter(rt_device *d)
{
    rt_cuda__check(d, cudaSetDevice((int)d->options.ordinal), "device");
}

void rt_cuda__lost(rt_device *d, const rc_msg *why)
{
    pthread_mutex_lock(&d->lock);
    if (!d->has_failed) d->why = *why;
    d->has_failed = true;
    pthread_mutex_unlock(&d->lock);
}

void rt_cuda__fail(rt_device *d, const char *line)
{
    rt_group *g = d->options.group;
    rc_msg why;
    rc_fail(RC_UNAVAILABLE, &why, "CUDA device %u: %s", d->options.ordinal, line);
    rt_cuda__lost(d, &why);
    if (g) g->ops->fail(g, why.text);
}

void rt_cuda__check(rt_device *d, cudaError_t error, const char *what)
{
    char line[300];
    if (!error) return;
    snprintf(line, sizeof line, "%s: %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error));
    rt_cuda__fail(d, line);
}

rc_code rt_cuda__code(const rt_device *d, cudaError_t error, const char *what, rc_msg *msg)
{
    size_t unused = 0, total = 0;
    if (!error) return RC_OK;
    (void)cudaGetLastError(); /* a refusal must not be found by the next call */
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaMemGetInfo(&unused, &total);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg,
                       "CUDA device %u has no memory for %s: %zu of %zu bytes are free", d->options.ordinal,
                       what, unused, total);
    }
    return rc_fail(RC_INTERNAL, msg, "CUDA device %u: %s: %s (%s)", d->options.ordinal, what,
                   cudaGetErrorString(error), cudaGetErrorName(error));
}

rc_code rt_cuda__alloc(rt_device *d, size_t bytes, void **out, const char *what, rc_msg *msg)
{
    char text[96];
    snprintf(text, sizeof text, "%zu bytes of %s", bytes, what);
    rt_cuda__enter(d);
    *out = NULL;
    return bytes ? rt_cuda__code(d, cudaMalloc(out, bytes), text, msg) : RC_OK;
}

/* ---- what can be used ---- */

static rc_code check_driver(rc_msg *msg)
{
    int driver = 0, runtime = 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    if (!driver) return rc_fail(RC_UNAVAILABLE, msg, "there is no NVIDIA driver");
    if (driver >= runtime) return RC_OK;
    return rc_fail(RC_UNAVAILABLE, msg,
                   "the NVIDIA driver is for CUDA %d.%d, this build needs %d.%d or later", driver / 1000,
                   driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
}

static rc_code probe(uint32_t *devices, rc_msg *msg)
{
    int count = 0;
    RC_TRY(check_driver(msg));
    cudaError_t error = cudaGetDeviceCount(&count);
    (void)cudaGetLastError();
    if (error && error != cudaErrorNoDevice)
        return rc_fail(RC_UNAVAILABLE, msg, "CUDA: %s (%s)", cudaGetErrorString(error),
                       cudaGetErrorName(error));
    if (error || count < 1) return rc_fail(RC_UNAVAILABLE, msg, "there is no CUDA device");
    *devices = (uint32_t)count;
    return RC_OK;
}

static rc_code look_at(uint32_t ordinal, struct cudaDeviceProp *p, rc_msg *msg)
{
    uint32_t devices;
    RC_TRY(probe(&devices, msg));
    if (ordinal >= devices)
        return rc_fail(RC_UNAVAILABLE, msg,
                       "CUDA device %u is wanted, and there %s %u (a rank needs one of its own)", ordinal,
                       devices == 1 ? "is" : "are", devices);
    cudaError_t error = cudaSetDevice((int)ordinal);
    if (!error) error = cudaGetDeviceProperties(p, (int)ordinal);
    if (error) return rc_fail(RC_UNAVAILABLE, msg, "CUDA device %u: %s", ordinal, cudaGetErrorString(error));
    if (p->major * 10 + p->minor < CAPABILITY_MIN)
        return rc_fail(RC_UNAVAILABLE, msg, "CUDA device %u, %s, has compute capability %d.%d; 8.0 is needed",
                       ordinal, p->name, p->major, p->minor);
    return RC_OK;
}

static rc_code memory(uint32_t ordinal, uint64_t *free_bytes, uint64_t *total_bytes, rc_msg *msg)
{
    struct cudaDeviceProp p;
    size_t unused, total;
    RC_TRY(look_at(ordinal, &p, msg));
    cudaError_t error = cudaMemGetInfo(&unused, &total);
    if (error) return rc_fail(RC_UNAVAILABLE, msg, "CUDA device %u: %s", ordinal, cudaGetErrorString(error));
    *free_bytes = unused;
    *total_bytes = total;
    return RC_OK;
}

/* ---- open and close ---- */

typedef struct cuda_sizes {
    size_t kv, scratch, attention, lora, words, table, tile, sums, summed, weights, picked, drawn;
} cuda_sizes;

static kv_cuda_limits limits_of(const rt_device_options *o)
{
    return (kv_cuda_limits){.rows_max = o->rows_max,
                            .table_words_max = o->table_words_max,
                            .heads = o->heads,
                            .kv_heads = o->kv.kv_heads,
                            .head_dim = o->kv.head_dim};
}

static cuda_sizes sizes_of(const rt_device_options *o)
{
    kv_cuda_limits l = limits_of(o);
    size_t tile_row = (o->width_max + RT_CUDA_ALIGN) * sizeof(float);
    size_t lora = o->slots_max ? adapter_cuda_scratch_floats(o->rows_max, o->lora_rank_max) : 0;
    return (cuda_sizes){.kv = kv_block_bytes(&o->kv) * o->kv_blocks,
                        .scratch = (size_t)o->rows_max * (o->width_max + RT_CUDA_ALIGN) * sizeof(float),
                        .attention = kv_cuda_scratch_bytes(&l),
                        .lora = lora * sizeof(float),
                        .words = rt_cuda__descriptor_words(o, &l) * sizeof(uint32_t),
                        .table = (size_t)o->slots_max * o->layers * o->linears * sizeof(adapter_cuda_linear),
                        .tile = o->batch_invariant ? RT_CUDA_TILE * tile_row : 0,
                        .sums = rt_cuda__sums_bytes(o),
                        .summed = o->world > 1 ? (size_t)o->rows_max * o->sums_width * sizeof(float) : 0,
                        .weights = rt_cuda__picks(o) ? 2 * o->host_floats * sizeof(float) : 0,
                        .picked = rt_cuda__picked_bytes(o),
                        .drawn = o->rows_max * sizeof(int32_t)};
}

static size_t cuda_bytes(const rt_device_options *o)
{
    cuda_sizes s = sizes_of(o);
    /* y of a tile, whose widest is the logits' */
    size_t tile_y = o->batch_invariant ? o->host_floats * sizeof(float) : 0;
    return s.kv + s.scratch + s.attention + s.lora + s.words + s.table + s.tile + tile_y + s.sums +
           s.summed + rt_cuda__window_bytes(o) + s.weights + s.picked + 2 * s.drawn + RT_CUDA_WORKSPACE +
           RT_CUDA_EXPANDED;
}

static rc_code take_device_memory(rt_device *d, rc_msg *msg)
{
    cuda_sizes s = sizes_of(&d->options);
    RC_TRY(rt_cuda__alloc(d, s.scratch, (void **)&d->scratch, "scratch", msg));
    RC_TRY(rt_cuda__alloc(d, s.attention, &d->attention, "attention's partial results", msg));
    RC_TRY(rt_cuda__alloc(d, s.lora, (void **)&d->lora, "the adapters' scratch", msg));
    RC_TRY(rt_cuda__alloc(d, s.words, (void **)&d->words, "a step's plan", msg));
    RC_TRY(rt_cuda__alloc(d, s.table, (void **)&d->table, "the adapters' table", msg));
    RC_TRY(rt_cuda__alloc(d, s.tile, &d->tile_x, "a product's tile", msg));
    RC_TRY(rt_cuda__alloc(d, s.sums, (void **)&d->sums, "the ranks' logits", msg));
    RC_TRY(rt_cuda__alloc(d, s.summed, (void **)&d->summed, "the ranks' sums", msg));
    RC_TRY(rt_cuda__alloc(d, s.weights, (void **)&d->weights, "sampling's weights", msg));
    RC_TRY(rt_cuda__alloc(d, s.picked, (void **)&d->picked, "tokens", msg));
    RC_TRY(rt_cuda__alloc(d, s.drawn, (void **)&d->drawn, "tokens", msg));
    RC_TRY(rt_cuda__alloc(d, s.drawn, (void **)&d->before, "tokens", msg));
    RC_TRY(rt_cuda__alloc(d, RT_CUDA_WORKSPACE, &d->workspace, "cuBLASLt's workspace", msg));
    RC_TRY(rt_cuda__alloc(d, RT_CUDA_EXPANDED, (void **)&d->expanded, "codes made numbers", msg));
    return rt_cuda__alloc(d, s.kv, &d->kv, "K/V", msg);
}

static rc_code take_host_memory(rt_device *d, rc_msg *msg)
{
    size_t words = sizes_of(&d->options).words, picked = sizes_of(&d->options).picked;
    d->slots = calloc(d->options.slots_max + 1, sizeof *d->slots);
    if (!d->slots) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for %u slots", d->options.slots_max);
    RC_TRY(rt_cuda__stages_create(d, msg));
    cudaError_t error = cudaMallocHost((void **)&d->host, (d->options.host_floats + 1) * sizeof *d->host);
    for (uint32_t i = 0; !error && i < RT_CUDA_PICKED; i++) {
        if (picked) error = cudaMallocHost((void **)&d->given[i].picked, picked);
        if (!error) error = cudaEventCreateWithFlags(&d->given[i].there, cudaEventDisableTiming);
    }
    for (uint32_t i = 0; !error && i < RT_CUDA_DESCRIPTORS; i++) {
        error = cudaMallocHost((void **)&d->descriptors[i], words);
        if (!error) error = cudaEventCreateWithFlags(&d->sent[i], cudaEventDisableTiming);
    }
    for (uint32_t i = 0; !error && i < RT_CUDA_MARKS; i++)
        error = cudaEventCreateWithFlags(&d->marks[i], cudaEventDisableTiming);
    if (!error) error = cudaEventCreateWithFlags(&d->done, cudaEventDisableTiming);
    return rt_cuda__code(d, error, "pinned memory", msg);
}

/* Freed adapters stay in the pool, for the next ones. */
static cudaError_t keep_pool(int ordinal)
{
    cudaMemPool_t pool;
    uint64_t all = UINT64_MAX;
    cudaError_t error = cudaDeviceGetDefaultMemPool(&pool, ordinal);
    return error ? error : cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all);
}

/* All kernels, as KREGISTER names them; the linker says where they begin and end. */
extern const void *const __start_mica_kernels[], *const __stop_mica_kernels[];

/* CUDA loads a kernel when it is launched first, for which it may wait for the device: in vain, if a kernel
 * there waits for a rank that this thread has still to serve. */
static cudaError_t load_kernels(void)
{
    struct cudaFuncAttributes unused;
    cudaError_t error = cudaSuccess;
    for (const void *const *k = __start_mica_kernels; !error && k < __stop_mica_kernels; k++)
        error = cudaFuncGetAttributes(&unused, *k);
    return error;
}

static rc_code open_parts(rt_device *d, rc_msg *msg)
{
    cudaError_t error = load_kernels();
    if (!error) error = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    if (!error) error = cudaStreamCreateWithFlags(&d->uploads, cudaStreamNonBlocking);
    if (!error) error = kv_cuda_prepare();
    if (!error) error = keep_pool((int)d->options.ordinal);
    RC_TRY(rt_cuda__code(d, error, "open", msg));
    cublasStatus_t s = cublasLtCreate(&d->blas);
    if (s) return rc_fail(RC_UNAVAILABLE, msg, "cuBLASLt: %s", cublasLtGetStatusString(s));
    RC_TRY(rt_pool_create(d->options.threads ? d->options.threads : rt_pool_cores(), &d->pool, msg));
    RC_TRY(take_host_memory(d, msg));
    return take_device_memory(d, msg);
}

void rt_cuda__rest(rt_device *d)
{
    rt_cuda__enter(d);
    rt_cuda__leave(d);
    if (d->stream) cudaStreamSynchronize(d->stream);
}

static void cuda_close(rt_device *d)
{
    if (!d) return;
    rt_cuda__rest(d);
    for (uint32_t i = 0; d->slots && i < d->options.slots_max; i++) rt_cuda__adapter_detach(d, i);
    if (d->uploads) cudaStreamSynchronize(d->uploads);
    void *on_device[] = {d->scratch, d->attention, d->lora, d->words,     d->table,
                         d->tile_x,  d->tile_y,    d->sums, d->workspace, d->kv,
                         d->weights, d->picked,    d->drawn, d->before,
                         d->expanded, d->summed};
    for (size_t i = 0; i < sizeof on_device / sizeof *on_device; i++) cudaFree(on_device[i]);
    for (uint32_t i = 0; i < RT_CUDA_DESCRIPTORS; i++) {
        cudaFreeHost(d->descriptors[i]);
        if (d->sent[i]) cudaEventDestroy(d->sent[i]);
    }
    for (uint32_t i = 0; i < RT_CUDA_PICKED; i++) {
        cudaFreeHost(d->given[i].picked);
        if (d->given[i].there) cudaEventDestroy(d->given[i].there);
    }
    for (uint32_t i = 0; i < RT_CUDA_MARKS; i++)
        if (d->marks[i]) cudaEventDestroy(d->marks[i]);
    if (d->done) cudaEventDestroy(d->done);
    cudaFreeHost(d->host);
    rt_cuda__sums_close(d);
    rt_cuda__stages_destroy(d);
    rt_cuda__shapes_destroy(d);
    rt_pool_destroy(d->pool);
    if (d->blas) cublasLtDestroy(d->blas);
    if (d->uploads) cudaStreamDestroy(d->uploads);
    if (d->stream) cudaStreamDestroy(d->stream);
    pthread_mutex_destroy(&d->lock);
    pthread_mutex_destroy(&d->capture);
    pthread_cond_destroy(&d->stage_free);
    free(d->slots);
    free(d);
}

static rc_code cuda_open(const rt_device_options *o, rt_device **out, rc_msg *msg)
{
    struct cudaDeviceProp p;
    RC_TRY(look_at(o->ordinal, &p, msg));
    if (o->rows_max > GRID_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "a CUDA device takes at most %d rows a step, not %u",
                       GRID_MAX, o->rows_max);
    rt_device *d = calloc(1, sizeof *d);
    if (!d) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a device");
    d->options = *o;
    d->options.kernels = NULL;
    d->limits = limits_of(o);
    pthread_mutex_init(&d->lock, NULL);
    pthread_mutex_init(&d->capture, NULL);
    pthread_cond_init(&d->stage_free, NULL);
    snprintf(d->name, sizeof d->name, "%s (sm_%d%d)", p.name, p.major, p.minor);
    rc_code code = open_parts(d, msg);
    if (code == RC_OK)
        *out = d;
    else
        cuda_close(d);
    return code;
}

static const char *cuda_describe(const rt_device *d)
{
    return d->name;
}
static rc_code cuda_kv_create(rt_device *d, uint32_t blocks, rc_msg *msg)
{
    RC_ASSERT(!d->kv);
    return rt_cuda__alloc(d, kv_block_bytes(&d->options.kv) * blocks, &d->kv, "K/V", msg);
}
static void *cuda_kv_buffer(rt_device *d)
{
    return d->kv;
}
static void cuda_parallel(rt_device *d, rt_task task, void *arg)
{
    rt_pool_run(d->pool, task, arg);
}
static uint32_t cuda_threads(const rt_device *d)
{
    return rt_pool_threads(d->pool);
}

static const rt_backend backend = {
    .abi = RT_BACKEND_ABI,
    .name = "cuda",
    .open = cuda_open,
    .close = cuda_close,
    .describe = cuda_describe,
    .bytes = cuda_bytes,
    .buffer_create = rt_cuda__buffer_create,
    .buffer_destroy = rt_cuda__buffer_destroy,
    .buffer_write = rt_cuda__buffer_write,
    .matrix_bytes = rt_cuda__matrix_bytes,
    .matrix_create = rt_cuda__matrix_create,
    .matrix_fill = rt_cuda__matrix_fill,
    .matrix_destroy = rt_cuda__matrix_destroy,
    .quant_bytes = rt_cuda__quant_bytes,
    .quant_create = rt_cuda__quant_create,
    .quant_fill = rt_cuda__quant_fill,
    .quant_join = rt_cuda__quant_join,
    .adapter_attach = rt_cuda__adapter_attach,
    .adapter_detach = rt_cuda__adapter_detach,
    .kv_create = cuda_kv_create,
    .kv_buffer = cuda_kv_buffer,
    .kv_copy_rows = rt_cuda__kv_copy_rows,
    .step_begin = rt_cuda__step_begin,
    .embed = rt_cuda__embed,
    .rms_norm = rt_cuda__norm,
    .linear = rt_cuda__linear,
    .kv_write = rt_cuda__kv_write,
    .attention = rt_cuda__attention,
    .swiglu = rt_cuda__gated,
    .add_residual = rt_cuda__add_residual,
    .keep_rows = rt_cuda__keep_rows,
    .divide = rt_cuda__divided,
    .join = rt_cuda__join,
    .tune = rt_cuda__tune,
    .all_reduce = rt_cuda__all_reduce,
    .gather_columns = rt_cuda__gather_columns,
    .host_rows = rt_cuda__host_rows,
    .pick = rt_cuda__pick,
    .step_end = rt_cuda__step_end,
    .picked = rt_cuda__picked,
    .status = rt_cuda__status,
    .parallel = cuda_parallel,
    .threads = cuda_threads,
};

__attribute__((visibility("default"))) const rt_plugin *mica_plugin(void);

const rt_plugin *mica_plugin(void)
{
    static const rt_plugin plugin = {RT_BACKEND_ABI, &backend, probe, memory};
    return &plugin;
}
