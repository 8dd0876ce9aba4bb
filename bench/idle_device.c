/* A device that computes nothing and ends a step every 10 ms, as a plugin: what is left of `mica serve` is
 * the server and the engine, at 100 tokens/s for however many requests run (bench/streams).
 *
 * Tokens count up; log probabilities are those of zeros. */
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "runtime/backend/plugin.h"

enum { STEP_NS = 10000000, SECOND_NS = 1000000000, MEMORY = 1 << 30 };
enum { STEPS = RT_STEPS_AHEAD + 1, STRIDE = 1 + RT_TOPS_MAX };

struct rt_device {
    const rt_pick *picks; /* of the step that is being told */
    uint32_t picks_count, vocab, rows_max;
    uint32_t ended, asked; /* steps */
    struct timespec next;  /* when the oldest of them ends */
    mica_top *picked;      /* [STEPS][rows_max][STRIDE] */
    float *zeros;         /* [host_floats] */
};

static rc_code open_device(const rt_device_options *o, rt_device **out, rc_msg *msg)
{
    rt_device *d = calloc(1, sizeof *d);
    if (d) d->picked = calloc(o->rows_max, STEPS * STRIDE * sizeof *d->picked);
    if (d) d->zeros = calloc(o->host_floats + 1, sizeof *d->zeros);
    if (!d || !d->picked || !d->zeros) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a device");
    d->rows_max = o->rows_max;
    clock_gettime(CLOCK_MONOTONIC, &d->next);
    *out = d;
    return RC_OK;
}

static void close_device(rt_device *d)
{
    if (!d) return;
    free(d->picked);
    free(d->zeros);
    free(d);
}

static const char *describe(const rt_device *d)
{
    (void)d;
    return "that computes nothing, a step every 10 ms";
}

static size_t device_bytes(const rt_device_options *o)
{
    /* K/V is counted, as a device's is, though it is never there. */
    size_t kv = kv_block_bytes(&o->kv) * o->kv_blocks;
    return kv + o->rows_max * STEPS * STRIDE * sizeof(mica_top) + o->host_floats * sizeof(float);
}

/* ---- memory that nobody reads ---- */

static float nothing[16];

static rc_code buffer_create(rt_device *d, size_t floats, float **out, rc_msg *msg)
{
    (void)d, (void)floats, (void)msg;
    *out = nothing;
    return RC_OK;
}
static void buffer_destroy(rt_device *d, float *buffer, size_t floats)
{
    (void)d, (void)buffer, (void)floats;
}
static void buffer_write(rt_device *d, float *buffer, const float *src, size_t floats)
{
    (void)d, (void)buffer, (void)src, (void)floats;
}
static size_t matrix_bytes(uint32_t n, uint32_t k, rc_dtype stored)
{
    (void)n, (void)k, (void)stored;
    return 0;
}
static rc_code matrix_create(rt_device *d, uint32_t n, uint32_t k, rc_dtype stored, rt_matrix **out,
                             rc_msg *msg)
{
    (void)d, (void)n, (void)k, (void)stored, (void)msg;
    *out = (rt_matrix *)nothing;
    return RC_OK;
}
static void matrix_fill(rt_matrix *m, uint32_t row, uint32_t rows, const void *src, rc_dtype src_type,
                        size_t src_stride)
{
    (void)m, (void)row, (void)rows, (void)src, (void)src_type, (void)src_stride;
}
static void matrix_destroy(rt_device *d, rt_matrix *m)
{
    (void)d, (void)m;
}
static rc_code adapter_attach(rt_device *d, uint32_t slot, const adapter_weights *w, rc_dtype stored,
                              rc_msg *msg)
{
    (void)d, (void)slot, (void)w, (void)stored, (void)msg;
    return RC_OK;
}
static void adapter_detach(rt_device *d, uint32_t slot)
{
    (void)d, (void)slot;
}
static void *kv_buffer(rt_device *d)
{
    (void)d;
    return nothing;
}
static void kv_copy_rows(rt_device *d, uint32_t from_block, uint32_t to_block, uint32_t rows)
{
    (void)d, (void)from_block, (void)to_block, (void)rows;
}

/* ---- a step ---- */

static uint32_t step_begin(rt_device *d, const rt_step_plan *p)
{
    d->picks = p->picks;
    d->picks_count = p->is_picked ? p->kept_count : 0;
    return p->rows;
}
static void embed(rt_device *d, const rt_matrix *table, uint32_t first, const int32_t *tokens, uint32_t rows,
                  float scale, float *h, size_t h_stride)
{
    (void)d, (void)table, (void)first, (void)tokens, (void)rows, (void)scale, (void)h, (void)h_stride;
}
static void rms_norm(rt_device *d, const float *x, size_t x_stride, const float *weight, float epsilon,
                     uint32_t rows, uint32_t width, float *y, size_t y_stride)
{
    (void)d, (void)x, (void)x_stride, (void)weight, (void)epsilon, (void)rows, (void)width, (void)y;
    (void)y_stride;
}
static void linear(rt_device *d, const rt_linear *l)
{
    (void)d, (void)l;
}
static void write_kv(rt_device *d, const rt_rope *rope, const kv_write *w)
{
    (void)d, (void)rope, (void)w;
}
static void attention(rt_device *d, const kv_attn *a)
{
    (void)d, (void)a;
}
static void swiglu(rt_device *d, const float *gate_up, size_t stride, uint32_t rows, uint32_t width, float *y,
                   size_t y_stride)
{
    (void)d, (void)gate_up, (void)stride, (void)rows, (void)width, (void)y, (void)y_stride;
}
static void add_residual(rt_device *d, const rt_residual *r)
{
    (void)d, (void)r;
}
static void keep_rows(rt_device *d, float *x, size_t stride, uint32_t width, const uint32_t *rows,
                      uint32_t count)
{
    (void)d, (void)x, (void)stride, (void)width, (void)rows, (void)count;
}
static void divide(rt_device *d, float *x, size_t stride, uint32_t rows, uint32_t width, float divisor)
{
    (void)d, (void)x, (void)stride, (void)rows, (void)width, (void)divisor;
}
static void over_ranks(rt_device *d, float *x, size_t stride, uint32_t rows, uint32_t width)
{
    (void)d, (void)x, (void)stride, (void)rows, (void)width;
}
static const float *host_rows(rt_device *d, const float *buffer, size_t stride, uint32_t rows)
{
    (void)buffer, (void)stride, (void)rows;
    return d->zeros;
}
static void pick(rt_device *d, const float *logits, uint32_t vocab, uint32_t first, uint32_t rows)
{
    (void)logits, (void)first, (void)rows;
    d->vocab = vocab;
}
static mica_top *picked_in(const rt_device *d, uint32_t step)
{
    return d->picked + (size_t)(step % STEPS) * d->rows_max * STRIDE;
}
static void step_end(rt_device *d)
{
    mica_top *picked = picked_in(d, d->ended++);
    float logprob = -logf((float)d->vocab);
    for (uint32_t i = 0; i < d->picks_count; i++, picked += STRIDE) {
        const rt_pick *p = &d->picks[i];
        int32_t token = p->sampling ? (int32_t)(p->history.generated_count % d->vocab) : p->token;
        picked[0] = (mica_top){token, logprob, 1};
        for (int32_t n = 0; n < p->tops; n++) picked[1 + n] = (mica_top){n, logprob, 1};
    }
}

/* One that comes late does not shorten the next step. */
static void wait_for_end(rt_device *d)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    d->next.tv_nsec += STEP_NS;
    d->next.tv_sec += d->next.tv_nsec / SECOND_NS;
    d->next.tv_nsec %= SECOND_NS;
    bool is_late = now.tv_sec > d->next.tv_sec ||
                   (now.tv_sec == d->next.tv_sec && now.tv_nsec > d->next.tv_nsec);
    if (is_late)
        d->next = now;
    else
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &d->next, NULL);
}

static const mica_top *picked(rt_device *d, uint32_t *stride)
{
    wait_for_end(d);
    *stride = STRIDE;
    return picked_in(d, d->asked++);
}

static rc_code status(rt_device *d, rc_msg *msg)
{
    (void)d, (void)msg;
    return RC_OK;
}
static void parallel(rt_device *d, rt_task task, void *arg)
{
    (void)d;
    task(arg, 0, 1);
}
static uint32_t threads(const rt_device *d)
{
    (void)d;
    return 1;
}

static const rt_backend idle = {.abi = RT_BACKEND_ABI, .name = "device", .open = open_device,
                                .close = close_device, .describe = describe, .bytes = device_bytes,
                                .buffer_create = buffer_create, .buffer_destroy = buffer_destroy,
                                .buffer_write = buffer_write, .matrix_bytes = matrix_bytes,
                                .matrix_create = matrix_create, .matrix_fill = matrix_fill,
                                .matrix_destroy = matrix_destroy, .adapter_attach = adapter_attach,
                                .adapter_detach = adapter_detach, .kv_buffer = kv_buffer,
                                .kv_copy_rows = kv_copy_rows, .step_begin = step_begin, .embed = embed,
                                .rms_norm = rms_norm, .linear = linear, .kv_write = write_kv,
                                .attention = attention, .swiglu = swiglu, .add_residual = add_residual,
                                .keep_rows = keep_rows, .divide = divide, .all_reduce = over_ranks,
                                .gather_columns = over_ranks, .host_rows = host_rows, .pick = pick,
                                .step_end = step_end, .picked = picked, .status = status,
                                .parallel = parallel, .threads = threads};

/* ---- the plugin ---- */

static rc_code probe(uint32_t *devices, rc_msg *msg)
{
    (void)msg;
    *devices = 1;
    return RC_OK;
}
static rc_code memory(uint32_t ordinal, uint64_t *free_bytes, uint64_t *total_bytes, rc_msg *msg)
{
    (void)ordinal, (void)msg;
    *free_bytes = *total_bytes = MEMORY;
    return RC_OK;
}

__attribute__((visibility("default"))) const rt_plugin *mica_plugin(void);
const rt_plugin *mica_plugin(void)
{
    static const rt_plugin plugin = {RT_BACKEND_ABI, &idle, probe, memory};
    return &plugin;
}
