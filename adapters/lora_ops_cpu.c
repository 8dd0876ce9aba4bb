#include "adapters/lora_ops_cpu.h"

#include "proto/rc.h"

static size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

static size_t a_bytes(const adapter_delta *d, rc_dtype stored)
{
    return round_up(d->rank * adapter_lora_a_stride(d->in) * rc_dtype_bytes(stored), 64);
}

static size_t b_bytes(const adapter_delta *d, rc_dtype stored)
{
    return round_up(round_up(d->out, ADAPTER_LORA_PANEL) * d->rank * rc_dtype_bytes(stored), 64);
}

static size_t index_bytes(uint32_t layers, uint32_t linears)
{
    return round_up(((size_t)layers * linears + 1) * sizeof(uint32_t), 64);
}

size_t adapter_lora_bytes(const adapter_weights *w, rc_dtype stored, uint32_t layers, uint32_t linears)
{
    size_t bytes = round_up(sizeof(adapter_lora), 64) + index_bytes(layers, linears) +
                   round_up(w->deltas_count * sizeof(adapter_lora_delta), 64);
    for (uint32_t i = 0; i < w->deltas_count; i++)
        bytes += a_bytes(&w->deltas[i], stored) + b_bytes(&w->deltas[i], stored);
    return bytes;
}

static void store(void *array, rc_dtype stored, size_t i, float value)
{
    if (stored == RC_F32) ((float *)array)[i] = value;
    else ((uint16_t *)array)[i] = rc_f32_to_bf16(value);
}

static void pack_a(void *to, const adapter_delta *d, rc_dtype stored)
{
    for (uint32_t r = 0; r < d->rank; r++) {
        const char *row = (const char *)d->a + (size_t)r * d->in * rc_dtype_bytes(d->dtype);
        char *out = (char *)to + r * adapter_lora_a_stride(d->in) * rc_dtype_bytes(stored);
        if (d->dtype == stored) memcpy(out, row, d->in * rc_dtype_bytes(stored));
        else
            for (uint32_t k = 0; k < d->in; k++) store(out, stored, k, rc_load_f32(row, d->dtype, k));
    }
}

static void pack_b(void *to, const adapter_delta *d, rc_dtype stored)
{
    for (uint32_t n = 0; n < d->out; n++) {
        const char *row = (const char *)d->b + (size_t)n * d->rank * rc_dtype_bytes(d->dtype);
        size_t at = (size_t)(n / ADAPTER_LORA_PANEL) * d->rank * ADAPTER_LORA_PANEL + n % ADAPTER_LORA_PANEL;
        for (uint32_t r = 0; r < d->rank; r++)
            store(to, stored, at + (size_t)r * ADAPTER_LORA_PANEL, rc_load_f32(row, d->dtype, r));
    }
}

static void check_order(const adapter_weights *w, uint32_t i, uint32_t layers, uint32_t linears)
{
    const adapter_delta *d = &w->deltas[i];
    RC_ASSERT(d->layer < layers && d->linear < linears);
    if (i == 0) return;
    const adapter_delta *before = d - 1;
    if (before->layer != d->layer) RC_ASSERT(before->layer < d->layer);
    else if (before->linear != d->linear) RC_ASSERT(before->linear < d->linear);
    else RC_ASSERT(before->out_offset + before->out <= d->out_offset);
}

const adapter_lora *adapter_lora_pack(void *memory, const adapter_weights *w, rc_dtype stored,
                                      uint32_t layers, uint32_t linears)
{
    char *at = memory;
    adapter_lora *lora = memory;
    at += round_up(sizeof *lora, 64);
    uint32_t *first = (uint32_t *)(void *)at;
    at += index_bytes(layers, linears);
    adapter_lora_delta *deltas = (adapter_lora_delta *)(void *)at;
    at += round_up(w->deltas_count * sizeof *deltas, 64);
    *lora = (adapter_lora){.layers = layers, .linears = linears, .first = first, .deltas = deltas};
    for (uint32_t i = 0; i < w->deltas_count; i++) {
        const adapter_delta *d = &w->deltas[i];
        check_order(w, i, layers, linears);
        first[d->layer * linears + d->linear + 1]++;
        void *a = at, *b = at + a_bytes(d, stored);
        at += a_bytes(d, stored) + b_bytes(d, stored);
        pack_a(a, d, stored);
        pack_b(b, d, stored);
        deltas[i] = (adapter_lora_delta){d->in, d->out, d->out_offset, d->rank, d->scaling, stored, a, b};
    }
    for (uint32_t i = 0; i < layers * linears; i++) first[i + 1] += first[i];
    return lora;
}

uint32_t adapter_lora_waves(const adapter_lora_run *r)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < r->plan->segments_count; i++) {
        const adapter_lora *lora = r->slots[r->plan->segments[i].slot];
        RC_ASSERT(lora);
        const uint32_t *first = lora->first + r->layer * lora->linears + r->linear;
        if (first[1] - first[0] > most) most = first[1] - first[0];
    }
    return (most + ADAPTER_WAVE - 1) / ADAPTER_WAVE;
}
