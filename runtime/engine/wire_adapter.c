/* An adapter: head, then each delta's fields, then all A and B, each at a multiple of 16 bytes. Its name and
 * invocation are process 0's affair: a device needs the matrices alone. */
#include <stdlib.h>

#include "runtime/engine/wire.h"

enum { ALIGN = 16 };

typedef struct adapter_head {
    uint32_t slot, after, rank_max, deltas;
} adapter_head;

typedef struct delta_head {
    uint32_t layer, linear, in, out, out_offset, rank, dtype;
    float scaling;
} delta_head;

static size_t padded(size_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

static size_t a_bytes(const delta_head *d)
{
    return padded((size_t)d->rank * d->in * rc_dtype_bytes((rc_dtype)d->dtype));
}

static size_t b_bytes(const delta_head *d)
{
    return padded((size_t)d->rank * d->out * rc_dtype_bytes((rc_dtype)d->dtype));
}

static size_t heads_bytes(size_t deltas)
{
    return padded(sizeof(adapter_head) + deltas * sizeof(delta_head));
}

static delta_head head_of(const adapter_delta *d)
{
    return (delta_head){d->layer,      d->linear, d->in,               d->out,
                        d->out_offset, d->rank,   (uint32_t)d->dtype, d->scaling};
}

rc_code rt_wire_adapter(uint32_t slot, uint32_t after, const adapter_weights *w, void **out, size_t *bytes,
                        rc_msg *msg)
{
    size_t total = heads_bytes(w->deltas_count);
    for (uint32_t i = 0; i < w->deltas_count; i++) {
        delta_head d = head_of(&w->deltas[i]);
        total += a_bytes(&d) + b_bytes(&d);
    }
    char *data = calloc(1, total), *matrices;
    if (!data) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory to send an adapter of %zu bytes", total);
    adapter_head head = {slot, after, w->rank_max, w->deltas_count};
    memcpy(data, &head, sizeof head);
    matrices = data + heads_bytes(w->deltas_count);
    for (uint32_t i = 0; i < w->deltas_count; i++) {
        const adapter_delta *from = &w->deltas[i];
        delta_head d = head_of(from);
        memcpy(data + sizeof head + i * sizeof d, &d, sizeof d);
        memcpy(matrices, from->a, (size_t)d.rank * d.in * rc_dtype_bytes(from->dtype));
        matrices += a_bytes(&d);
        memcpy(matrices, from->b, (size_t)d.rank * d.out * rc_dtype_bytes(from->dtype));
        matrices += b_bytes(&d);
    }
    *out = data;
    *bytes = total;
    return RC_OK;
}

size_t rt_wire_adapter_max(const adapter_shape *shape)
{
    size_t bytes = heads_bytes((size_t)shape->layers * shape->modules_count);
    for (uint32_t i = 0; i < shape->modules_count; i++) {
        const adapter_module *m = &shape->modules[i];
        bytes += shape->layers * (padded((size_t)shape->rank_max * m->in * 4) +
                                  padded((size_t)shape->rank_max * m->out * 4));
    }
    return bytes;
}

static bool fits_a_module(const delta_head *d, const adapter_shape *shape)
{
    for (uint32_t i = 0; i < shape->modules_count; i++) {
        const adapter_module *m = &shape->modules[i];
        if (m->linear == d->linear && m->out_offset == d->out_offset && m->in == d->in && m->out == d->out)
            return true;
    }
    return false;
}

/* In the order that a device asks for, each module of a layer once. */
static bool follows(const adapter_delta *before, const delta_head *d)
{
    if (before->layer != d->layer) return before->layer < d->layer;
    if (before->linear != d->linear) return before->linear < d->linear;
    return before->out_offset + before->out <= d->out_offset;
}

static bool is_good(const delta_head *d, const adapter_shape *shape, uint32_t rank_max)
{
    bool dtype = d->dtype == RC_F32 || d->dtype == RC_F16 || d->dtype == RC_BF16;
    return dtype && d->layer < shape->layers && d->rank > 0 && d->rank <= rank_max && fits_a_module(d, shape);
}

/* Fills deltas; false: something is wrong, or the bytes end too early or too late. */
static bool read_deltas(adapter_weights *w, const char *heads, size_t bytes, const adapter_shape *shape)
{
    size_t at = 0;
    for (uint32_t i = 0; i < w->deltas_count; i++) {
        delta_head d;
        memcpy(&d, heads + i * sizeof d, sizeof d);
        if (!is_good(&d, shape, w->rank_max) || (i && !follows(&w->deltas[i - 1], &d))) return false;
        if (bytes - at < a_bytes(&d) + b_bytes(&d)) return false;
        const char *a = (const char *)w->storage + at;
        w->deltas[i] = (adapter_delta){d.layer, d.linear,  d.in,            d.out, d.out_offset,
                                       d.rank,  d.scaling, (rc_dtype)d.dtype, a,     a + a_bytes(&d)};
        at += a_bytes(&d) + b_bytes(&d);
    }
    return at == bytes;
}

rc_code rt_wire_read_adapter(const void *data, size_t bytes, const adapter_shape *shape, uint32_t slots_max,
                             uint32_t *slot, uint32_t *after, adapter_weights **out, rc_msg *msg)
{
    adapter_head head;
    if (bytes < sizeof head) return rc_fail(RC_INVALID_ARGUMENT, msg, "an adapter of %zu bytes", bytes);
    memcpy(&head, data, sizeof head);
    bool fits = head.slot < slots_max && head.rank_max <= shape->rank_max &&
                head.deltas <= (uint64_t)shape->layers * shape->modules_count &&
                heads_bytes(head.deltas) <= bytes;
    if (!fits)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "an adapter that does not fit, for slot %u", head.slot);
    size_t matrices = bytes - heads_bytes(head.deltas);
    adapter_weights *w = calloc(1, sizeof *w);
    adapter_delta *deltas = calloc(head.deltas + 1, sizeof *deltas);
    void *storage = malloc(matrices + 1);
    if (!w || !deltas || !storage) {
        free(w);
        free(deltas);
        free(storage);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for an adapter of %zu bytes", matrices);
    }
    *w = (adapter_weights){.rank_max = head.rank_max, .deltas_count = head.deltas, .deltas = deltas,
                           .bytes = matrices, .storage = storage};
    memcpy(storage, (const char *)data + heads_bytes(head.deltas), matrices);
    if (!read_deltas(w, (const char *)data + sizeof head, matrices, shape)) {
        adapter_weights_free(w);
        return rc_fail(RC_INVALID_ARGUMENT, msg, "an adapter with a matrix that does not fit, for slot %u",
                       head.slot);
    }
    *slot = head.slot;
    *after = head.after;
    *out = w;
    return RC_OK;
}
