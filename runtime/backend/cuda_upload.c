#include "runtime/backend/cuda_device.h"

rc_code rt_cuda__stages_create(rt_device *d, rc_msg *msg)
{
    for (uint32_t i = 0; i < RT_CUDA_STAGES; i++) {
        RC_TRY(rt_cuda__code(d, cudaMallocHost(&d->stages[i], RT_CUDA_STAGE_BYTES), "pinned memory", msg));
        d->free_stages |= 1u << i;
    }
    return RC_OK;
}

void rt_cuda__stages_destroy(rt_device *d)
{
    for (uint32_t i = 0; i < RT_CUDA_STAGES; i++) cudaFreeHost(d->stages[i]);
}

void *rt_cuda__stage_take(rt_device *d)
{
    pthread_mutex_lock(&d->lock);
    while (!d->free_stages) pthread_cond_wait(&d->stage_free, &d->lock);
    uint32_t i = (uint32_t)__builtin_ctz(d->free_stages);
    d->free_stages &= ~(1u << i);
    pthread_mutex_unlock(&d->lock);
    return d->stages[i];
}

static void give_back(rt_device *d, const void *stage)
{
    pthread_mutex_lock(&d->lock);
    for (uint32_t i = 0; i < RT_CUDA_STAGES; i++)
        if (d->stages[i] == stage) d->free_stages |= 1u << i;
    pthread_cond_signal(&d->stage_free);
    pthread_mutex_unlock(&d->lock);
}

cudaError_t rt_cuda__stage_send(rt_device *d, void *stage, void *to, size_t bytes)
{
    rt_cuda__enter(d);
    cudaError_t error = cudaMemcpyAsync(to, stage, bytes, cudaMemcpyHostToDevice, d->uploads);
    if (!error) error = cudaStreamSynchronize(d->uploads);
    give_back(d, stage);
    return error;
}

void rt_cuda__convert(const void *from, rc_dtype type, uint32_t k, rc_dtype stored, void *to)
{
    if (type == stored)
        memcpy(to, from, k * rc_dtype_bytes(stored));
    else if (stored == RC_F32)
        for (uint32_t i = 0; i < k; i++) ((float *)to)[i] = rc_load_f32(from, type, i);
    else
        for (uint32_t i = 0; i < k; i++) ((uint16_t *)to)[i] = rc_f32_to_bf16(rc_load_f32(from, type, i));
}

rc_code rt_cuda__buffer_create(rt_device *d, size_t floats, float **out, rc_msg *msg)
{
    void *buffer;
    RC_TRY(rt_cuda__alloc(d, floats * sizeof(float), &buffer, "a buffer", msg));
    cudaError_t error = cudaMemsetAsync(buffer, 0, floats * sizeof(float), d->stream);
    if (!error) error = cudaStreamSynchronize(d->stream);
    if (error)
        cudaFree(buffer);
    else
        *out = buffer;
    return rt_cuda__code(d, error, "a buffer", msg);
}

void rt_cuda__buffer_destroy(rt_device *d, float *buffer, size_t floats)
{
    (void)floats;
    rt_cuda__rest(d);
    cudaFree(buffer);
}

void rt_cuda__buffer_write(rt_device *d, float *buffer, const float *src, size_t floats)
{
    size_t most = RT_CUDA_STAGE_BYTES / sizeof *src;
    for (size_t at = 0; at < floats; at += most) {
        size_t bytes = (floats - at < most ? floats - at : most) * sizeof *src;
        void *stage = rt_cuda__stage_take(d);
        memcpy(stage, src + at, bytes);
        rt_cuda__check(d, rt_cuda__stage_send(d, stage, buffer + at, bytes), "upload");
    }
}
