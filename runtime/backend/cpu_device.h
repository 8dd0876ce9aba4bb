/* runtime/backend/cpu_device.h - the CPU as an open device; shared by cpu.c (lifetime) and cpu_ops.c. */
#ifndef RUNTIME_BACKEND_CPU_DEVICE_H
#define RUNTIME_BACKEND_CPU_DEVICE_H

#include "runtime/backend/kernels.h"
#include "runtime/backend/pool.h"

/* Sizes of what open takes; rt_backend.bytes is their sum. */
typedef struct rt_cpu_sizes {
    size_t packed, scratch, lora, attention, attention_part, kv;
    size_t slots; /* the table of slots */
    uint32_t threads;
} rt_cpu_sizes;

/* Depth blocks that a row of K elements has at most once it is packed. */
static inline uint32_t rt_cpu__packed_blocks(uint32_t k) { return k / (RT_X_BYTES / sizeof(float)) + 1; }

/* Of the rows of a product; of two, where together their rows have no more than width_max elements. */
static inline size_t rt_cpu__packed_room(const rt_device_options *o)
{
    return (size_t)rt_cpu__packed_blocks(o->width_max) + 1;
}

struct rt_device {
    rt_device_options options; /* `kernels` is not kept */
    rt_cpu_sizes sizes;
    const rt_kernels *kernels;
    rt_pool *pool;
    void *packed;              /* rt_dense.packed */
    float *scratch;            /* rt_dense.scratch */
    float *lora;               /* adapter_lora_run.s */
    char *attention;           /* [threads][attention_part] */
    void *kv;
    const adapter_lora **slots; /* [slots_max]; what the kernels index */
    void **slot_memory;         /* [slots_max] */
    size_t *slot_bytes;         /* [slots_max] */
    char name[64];
};

void rt_cpu__embed(rt_device *d, const rt_matrix *table, uint32_t first, const int32_t *tokens, uint32_t rows,
                   float scale, float *h, size_t h_stride);
void rt_cpu__rms_norm(rt_device *d, const float *x, size_t x_stride, const float *weight, float epsilon,
                      uint32_t rows, uint32_t width, float *y, size_t y_stride);
void rt_cpu__linear(rt_device *d, const rt_linear *l);
bool rt_cpu__feed_forward(rt_device *d, const rt_linear *gate_up, const rt_linear *down);
void rt_cpu__kv_write(rt_device *d, const rt_rope *rope, const kv_write *w);
void rt_cpu__attention(rt_device *d, const kv_attn *a);
void rt_cpu__swiglu(rt_device *d, const float *gate_up, size_t stride, uint32_t rows, uint32_t width,
                    float *y, size_t y_stride);
void rt_cpu__add_residual(rt_device *d, const rt_residual *r);
void rt_cpu__keep_rows(rt_device *d, float *x, size_t stride, uint32_t width, const uint32_t *rows,
                       uint32_t count);
void rt_cpu__divide(rt_device *d, float *x, size_t stride, uint32_t rows, uint32_t width, float divisor);
void rt_cpu__kv_copy_rows(rt_device *d, uint32_t from_block, uint32_t to_block, uint32_t rows);

#endif
