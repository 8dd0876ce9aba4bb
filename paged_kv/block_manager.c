#include "paged_kv/block_manager.h"

#include "paged_kv/block_pool.h"
#include "paged_kv/prefix_index.h"
#include "paged_kv/salt_table.h"

/* Offsets of the parts of the one piece of memory that a manager takes. */
typedef struct kv_parts {
    size_t nodes, tokens, index, seqs, tables, salts, salt_index, bytes;
    uint32_t table_blocks, table_stride;
} kv_parts;

static size_t part(size_t *end, size_t count, size_t element_bytes)
{
    size_t at = *end;
    *end = (at + count * element_bytes + 63) & ~(size_t)63;
    return at;
}

static kv_options with_defaults(kv_options o)
{
    if (o.salts_max == 0) o.salts_max = o.seqs_max + KV_SALTS_SPARE;
    return o;
}

/* No sum overflows: validate() has bounded all counts. */
static kv_parts plan_parts(const kv_options *o)
{
    kv_parts p = {.bytes = 0};
    size_t end = (sizeof(struct kv) + 63) & ~(size_t)63;
    uint64_t table_blocks = ((uint64_t)o->seq_tokens_max + o->block_tokens - 1) / o->block_tokens;
    p.table_blocks = (uint32_t)(table_blocks < o->blocks_max ? table_blocks : o->blocks_max);
    /* An odd number of cache lines: at a power of two the places where sequences of like length are
     * written would all fall into the same few cache sets. */
    p.table_stride = ((p.table_blocks + 15) & ~15u) | 16;
    p.nodes = part(&end, (size_t)o->blocks_max + o->salts_max, sizeof(kv_node));
    p.tokens = part(&end, (size_t)o->blocks_max * o->block_tokens, sizeof(int32_t));
    p.index = part(&end, kv__id_slots(o->blocks_max), sizeof(kv_id_slot));
    p.seqs = part(&end, o->seqs_max, sizeof(kv_sequence));
    p.tables = part(&end, (size_t)o->seqs_max * p.table_stride, sizeof(uint32_t));
    p.salts = part(&end, o->salts_max, sizeof(kv_salt));
    p.salt_index = part(&end, kv__id_slots(o->salts_max), sizeof(kv_id_slot));
    p.bytes = end;
    return p;
}

static rc_code validate(const kv_options *o, rc_msg *msg)
{
    if (o->block_tokens < 8 || o->block_tokens > 256 || (o->block_tokens & (o->block_tokens - 1)) != 0)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "block size %u is not a power of two from 8 to 256",
                       o->block_tokens);
    if (o->blocks_max < 1 || o->blocks_max > KV_BLOCKS_LIMIT)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%u blocks of K/V; from 1 to %d are possible",
                       o->blocks_max, KV_BLOCKS_LIMIT);
    if (o->seqs_max < 1 || o->seqs_max > KV_SEQS_LIMIT)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%u sequences at once; from 1 to %d are possible",
                       o->seqs_max, KV_SEQS_LIMIT);
    if (o->seq_tokens_max < 1 || o->seq_tokens_max > KV_SEQ_TOKENS_LIMIT)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%u positions a sequence; from 1 to %d are possible",
                       o->seq_tokens_max, KV_SEQ_TOKENS_LIMIT);
    uint64_t entries = (uint64_t)o->seqs_max * (o->seq_tokens_max / o->block_tokens + 32);
    if (entries > UINT32_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%u sequences of %u positions each are too many",
                       o->seqs_max, o->seq_tokens_max);
    if (o->salts_max > KV_SALTS_LIMIT)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%u cache salts; at most %d are possible", o->salts_max,
                       KV_SALTS_LIMIT);
    return RC_OK;
}

size_t kv_bytes(const kv_options *options)
{
    if (validate(options, NULL) != RC_OK) return 0;
    kv_options o = with_defaults(*options);
    return plan_parts(&o).bytes;
}

static void init_seqs(kv *m)
{
    m->free_seq = KV_NONE;
    for (uint32_t i = m->options.seqs_max; i-- > 0;) {
        m->seqs[i] = (kv_sequence){.copy_from = KV_NONE, .next_free = m->free_seq};
        m->free_seq = i;
    }
}

rc_code kv_create(const kv_options *options, kv **out, rc_msg *msg)
{
    RC_TRY(validate(options, msg));
    kv_options o = with_defaults(*options);
    kv_parts p = plan_parts(&o);
    char *memory = aligned_alloc(64, p.bytes);
    if (!memory)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg,
                       "no memory for the bookkeeping of %u K/V blocks: %zu bytes", o.blocks_max, p.bytes);
    kv *m = (kv *)memory;
    *m = (kv){.options = o, .table_blocks = p.table_blocks, .table_stride = p.table_stride};
    m->shift = (uint32_t)__builtin_ctz(o.block_tokens);
    m->nodes = (kv_node *)(memory + p.nodes);
    m->tokens = (int32_t *)(memory + p.tokens);
    m->seqs = (kv_sequence *)(memory + p.seqs);
    m->tables = (uint32_t *)(memory + p.tables);
    m->salts = (kv_salt *)(memory + p.salts);
    kv__id_init(&m->index, (kv_id_slot *)(memory + p.index), kv__id_slots(o.blocks_max));
    kv__id_init(&m->salt_index, (kv_id_slot *)(memory + p.salt_index), kv__id_slots(o.salts_max));
    kv__pool_init(m);
    kv__salts_init(m);
    init_seqs(m);
    *out = m;
    return RC_OK;
}

void kv_destroy(kv *m) { free(m); }

uint32_t kv_find(const kv *m, const int32_t *tokens, uint32_t tokens_count, kv_identity identity)
{
    kv__salt_assert(m, identity.salt);
    if (!m->options.enable_prefix_cache || tokens_count == 0) return 0;
    kv_match match;
    kv__match(m, tokens, tokens_count - 1, kv__normal(identity), NULL, &match);
    return (match.blocks << m->shift) + match.rows;
}

kv_stats kv_get_stats(const kv *m)
{
    const uint32_t *counts = m->counts;
    return (kv_stats){counts[KV_FREE], counts[KV_CACHED], counts[KV_LIVE], m->seqs_open, m->evictions};
}
