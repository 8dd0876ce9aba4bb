#include "runtime/model/shard.h"

#include "runtime/backend/group.h"

static rt_range share(uint32_t count, uint32_t part, uint32_t parts)
{
    uint32_t first, end;
    rt_group_share(count, part, parts, &first, &end);
    return (rt_range){first, end - first};
}

/* Cuts fall where groups of quantised columns end, if there are enough of those. */
static rt_range share_groups(uint32_t count, uint32_t part, uint32_t parts)
{
    uint32_t unit = 256;
    while (unit > 1 && (count % unit || count / unit < parts)) unit = unit > 32 ? 32 : 1;
    rt_range r = share(count / unit, part, parts);
    return (rt_range){r.first * unit, r.count * unit};
}

static void share_heads(const rt_model_config *c, rt_shard *s)
{
    uint32_t queries = c->heads / c->kv_heads;
    if (s->world <= c->kv_heads) {
        s->kv_heads = share(c->kv_heads, s->rank, s->world);
        s->heads = (rt_range){s->kv_heads.first * queries, s->kv_heads.count * queries};
        return;
    }
    uint32_t head = 0;
    rt_range ranks = share(s->world, head, c->kv_heads);
    while (s->rank >= ranks.first + ranks.count) ranks = share(s->world, ++head, c->kv_heads);
    s->kv_heads = (rt_range){head, 1};
    s->heads = share(queries, s->rank - ranks.first, ranks.count);
    s->heads.first += head * queries;
}

static rc_code refuse(uint32_t world, const char *what, uint32_t count, rc_msg *msg)
{
    return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg,
                            "--tensor-parallel-size %u: the model has %u %s, which can't be split further",
                            world, count, what),
                    msg, "--tensor-parallel-size");
}

rc_code rt_shard_make(const rt_model_config *c, uint32_t rank, uint32_t world, rt_shard *out, rc_msg *msg)
{
    if (!world) world = 1;
    RC_ASSERT(world <= RT_WORLD_MAX);
    if (world > c->heads) return refuse(world, "attention heads", c->heads, msg);
    if (world > c->ffn) return refuse(world, "columns of the feed-forward layer", c->ffn, msg);
    if (world > c->vocab) return refuse(world, "token ids", c->vocab, msg);
    RC_ASSERT(rank < world);
    *out = (rt_shard){.rank = rank, .world = world};
    share_heads(c, out);
    out->ffn = share_groups(c->ffn, rank, world);
    out->vocab = share(c->vocab, rank, world);
    return RC_OK;
}

rt_model_config rt_shard_config(const rt_model_config *c, const rt_shard *s)
{
    rt_model_config own = *c;
    own.heads = s->heads.count;
    own.kv_heads = s->kv_heads.count;
    own.ffn = s->ffn.count;
    return own;
}
