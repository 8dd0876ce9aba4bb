/* Adapters in slots. A slot's matrices come from the driver's stream-ordered pool, in the stream of uploads:
 * it keeps what is freed for the next ones, and taking from it does not stop the step. */
#include <stdlib.h>

#include "runtime/backend/cuda_device.h"

enum { MATRIX_ALIGN = 256 };

static size_t aligned(size_t bytes)
{
    return (bytes + MATRIX_ALIGN - 1) / MATRIX_ALIGN * MATRIX_ALIGN;
}

static size_t a_bytes(const adapter_delta *t, rc_dtype stored)
{
    return aligned((size_t)t->rank * t->in * rc_dtype_bytes(stored));
}

static size_t b_bytes(const adapter_delta *t, rc_dtype stored)
{
    return aligned((size_t)t->out * t->rank * rc_dtype_bytes(stored));
}

static cudaError_t send(rt_device *d, const void *from, rc_dtype type, size_t elements, rc_dtype stored,
                        char *to)
{
    size_t most = RT_CUDA_STAGE_BYTES / rc_dtype_bytes(stored);
    cudaError_t error = cudaSuccess;
    for (size_t at = 0; !error && at < elements; at += most) {
        uint32_t now = (uint32_t)(elements - at < most ? elements - at : most);
        void *stage = rt_cuda__stage_take(d);
        rt_cuda__convert((const char *)from + at * rc_dtype_bytes(type), type, now, stored, stage);
        error = rt_cuda__stage_send(d, stage, to + at * rc_dtype_bytes(stored), now * rc_dtype_bytes(stored));
    }
    return error;
}

/* The deltas one behind the other in memory; their addresses into table [layers][linears]. */
static cudaError_t send_deltas(rt_device *d, const adapter_weights *w, rc_dtype stored, char *memory,
                               adapter_cuda_linear *table)
{
    cudaError_t error = cudaSuccess;
    for (uint32_t i = 0; !error && i < w->deltas_count; i++) {
        const adapter_delta *t = &w->deltas[i];
        char *a = memory, *b = a + a_bytes(t, stored);
        adapter_cuda_linear *l = &table[t->layer * d->options.linears + t->linear];
        memory = b + b_bytes(t, stored);
        RC_ASSERT(l->count < ADAPTER_CUDA_DELTAS);
        l->deltas[l->count++] = (adapter_cuda_delta){.a = a,
                                                     .b = b,
                                                     .in = t->in,
                                                     .out = t->out,
                                                     .out_offset = t->out_offset,
                                                     .rank = t->rank,
                                                     .scaling = t->scaling,
                                                     .is_bf16 = stored == RC_BF16};
        error = send(d, t->a, t->dtype, (size_t)t->rank * t->in, stored, a);
        if (!error) error = send(d, t->b, t->dtype, (size_t)t->out * t->rank, stored, b);
    }
    return error;
}

static cudaError_t attach(rt_device *d, uint32_t slot, const adapter_weights *w, rc_dtype stored,
                          void *memory)
{
    size_t entries = (size_t)d->options.layers * d->options.linears;
    adapter_cuda_linear *table = calloc(entries, sizeof *table);
    if (!table) return cudaErrorMemoryAllocation;
    cudaError_t error = send_deltas(d, w, stored, memory, table);
    if (!error)
        error = cudaMemcpyAsync(d->table + slot * entries, table, entries * sizeof *table,
                                cudaMemcpyHostToDevice, d->uploads);
    if (!error) error = cudaStreamSynchronize(d->uploads);
    free(table);
    return error;
}

rc_code rt_cuda__adapter_attach(rt_device *d, uint32_t slot, const adapter_weights *w, rc_dtype stored,
                                rc_msg *msg)
{
    RC_ASSERT(slot < d->options.slots_max && !d->slots[slot]);
    if (w->rank_max > d->options.lora_rank_max)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "rank %u exceeds the device's %u", w->rank_max,
                       d->options.lora_rank_max);
    size_t bytes = MATRIX_ALIGN; /* a shard may have no delta at all */
    void *memory = NULL;
    for (uint32_t i = 0; i < w->deltas_count; i++)
        bytes += a_bytes(&w->deltas[i], stored) + b_bytes(&w->deltas[i], stored);
    rt_cuda__enter(d);
    cudaError_t error = cudaMallocAsync(&memory, bytes, d->uploads);
    if (!error) error = attach(d, slot, w, stored, memory);
    if (!error)
        d->slots[slot] = memory;
    else if (memory)
        cudaFreeAsync(memory, d->uploads);
    char what[64];
    snprintf(what, sizeof what, "%zu bytes of an adapter", bytes);
    return rt_cuda__code(d, error, what, msg);
}

/* The memory goes back once the steps that were begun have read it. */
void rt_cuda__adapter_detach(rt_device *d, uint32_t slot)
{
    RC_ASSERT(slot < d->options.slots_max);
    if (!d->slots[slot]) return;
    rt_cuda__enter(d);
    pthread_mutex_lock(&d->capture);
    cudaError_t error = cudaEventRecord(d->done, d->stream);
    pthread_mutex_unlock(&d->capture);
    if (!error) error = cudaStreamWaitEvent(d->uploads, d->done, 0);
    if (!error) error = cudaFreeAsync(d->slots[slot], d->uploads);
    rt_cuda__check(d, error, "detach");
    d->slots[slot] = NULL;
}
