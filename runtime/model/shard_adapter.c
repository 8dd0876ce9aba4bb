/* A rank's part of an adapter: rows of B where a linear's output is split, columns of A where its input. */
#include "runtime/model/model.h"

#include <stdlib.h>

enum { PIECES_MAX = 2 };

/* Of a delta: rows of B, in one or two runs, columns of A, and where its output lies in the rank's linear. */
typedef struct delta_part {
    rt_range out[PIECES_MAX];
    uint32_t pieces, rows;
    rt_range in;
    uint32_t out_offset;
} delta_part;

static rt_range times(rt_range r, uint32_t factor)
{
    return (rt_range){r.first * factor, r.count * factor};
}

static delta_part one(rt_range out, uint32_t out_offset, const adapter_delta *d)
{
    return (delta_part){
        .out = {out}, .pieces = 1, .rows = out.count, .in = {0, d->in}, .out_offset = out_offset};
}

static delta_part part_of_qkv(const rt_model_config *c, const rt_shard *s, const adapter_delta *d)
{
    uint32_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    rt_range own_q = times(s->heads, c->head_dim), own_kv = times(s->kv_heads, c->head_dim);
    if (d->out_offset < q) return one(own_q, 0, d);
    return one(own_kv, d->out_offset < q + kv ? own_q.count : own_q.count + own_kv.count, d);
}

/* gate, up, or both in one: input_linear. */
static delta_part part_of_gate_up(const rt_model_config *c, const rt_shard *s, const adapter_delta *d)
{
    rt_range up = {c->ffn + s->ffn.first, s->ffn.count};
    if (d->out == c->ffn) return one(s->ffn, d->out_offset ? s->ffn.count : 0, d);
    return (delta_part){.out = {s->ffn, up}, .pieces = 2, .rows = 2 * s->ffn.count, .in = {0, d->in}};
}

static delta_part part_of(const rt_model_config *c, const rt_shard *s, const adapter_delta *d)
{
    delta_part sum = one((rt_range){0, d->out}, d->out_offset, d);
    switch (d->linear) {
    case RT_LINEAR_QKV:
        return part_of_qkv(c, s, d);
    case RT_LINEAR_GATE_UP:
        return part_of_gate_up(c, s, d);
    case RT_LINEAR_O:
        sum.in = times(s->heads, c->head_dim);
        return sum;
    default:
        sum.in = s->ffn;
        return sum;
    }
}

static size_t padded(size_t bytes) { return (bytes + 15) / 16 * 16; }

static size_t a_bytes(const adapter_delta *d, const delta_part *p)
{
    return padded((size_t)d->rank * p->in.count * rc_dtype_bytes(d->dtype));
}

static size_t b_bytes(const adapter_delta *d, const delta_part *p)
{
    return padded((size_t)d->rank * p->rows * rc_dtype_bytes(d->dtype));
}

static void copy_delta(const adapter_delta *d, const delta_part *p, char *at, adapter_delta *out)
{
    size_t element = rc_dtype_bytes(d->dtype), row = d->rank * element;
    char *a = at, *b = at + a_bytes(d, p);
    *out = *d;
    out->in = p->in.count;
    out->out = p->rows;
    out->out_offset = p->out_offset;
    out->a = a;
    out->b = b;
    for (uint32_t r = 0; r < d->rank; r++) {
        const char *from = (const char *)d->a + ((size_t)r * d->in + p->in.first) * element;
        memcpy(a + r * p->in.count * element, from, p->in.count * element);
    }
    for (uint32_t i = 0; i < p->pieces; i++) {
        memcpy(b, (const char *)d->b + p->out[i].first * row, p->out[i].count * row);
        b += p->out[i].count * row;
    }
}

rc_code rt_shard_adapter(const rt_model_config *c, const rt_shard *s, const adapter_weights *w,
                         adapter_weights **out, rc_msg *msg)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < w->deltas_count; i++) {
        delta_part p = part_of(c, s, &w->deltas[i]);
        bytes += a_bytes(&w->deltas[i], &p) + b_bytes(&w->deltas[i], &p);
    }
    adapter_weights *own = malloc(sizeof *own);
    adapter_delta *deltas = malloc((w->deltas_count + 1) * sizeof *deltas);
    char *at = malloc(bytes + 1);
    if (!own || !deltas || !at) {
        free(own);
        free(deltas);
        free(at);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a rank's %zu bytes of an adapter", bytes);
    }
    *own = *w;
    own->deltas = deltas;
    own->storage = at;
    own->bytes = bytes;
    for (uint32_t i = 0; i < w->deltas_count; i++) {
        delta_part p = part_of(c, s, &w->deltas[i]);
        copy_delta(&w->deltas[i], &p, at, &deltas[i]);
        at += a_bytes(&w->deltas[i], &p) + b_bytes(&w->deltas[i], &p);
    }
    *out = own;
    return RC_OK;
}
