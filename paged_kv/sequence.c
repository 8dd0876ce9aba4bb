#include "paged_kv/block_pool.h"
#include "paged_kv/prefix_index.h"
#include "paged_kv/salt_table.h"
#include "paged_kv/siblings.h"

static kv_sequence *sequence(const kv *m, kv_seq seq)
{
    RC_ASSERT(seq < m->options.seqs_max);
    RC_ASSERT(m->seqs[seq].is_open);
    return &m->seqs[seq];
}

/* Says whose rows the block at this place of the table holds. */
static void name_block(kv *m, kv_seq seq, uint32_t block, uint32_t place)
{
    kv_identity identity = m->seqs[seq].identity;
    kv_node *n = &m->nodes[block];
    n->parent = place == 0 ? kv__root(m, identity.salt) : kv__table(m, seq)[place - 1];
    n->first_adapted = (uint16_t)kv__first_adapted(m, identity, place << m->shift);
    n->adapter = n->first_adapted < m->options.block_tokens ? identity.adapter : 0;
}

/* Puts a fresh block at this place of the table, whose first rows will be copied from `source`. The
 * caller's reference to source is now the sequence's, until kv_seq_copied(). */
static void begin_copy(kv *m, kv_seq seq, uint32_t place, uint32_t source, uint32_t rows, kv_hit *hit)
{
    uint32_t block = kv__block_take(m);
    name_block(m, seq, block, place);
    memcpy(kv__tokens(m, block), kv__tokens(m, source), rows * sizeof(int32_t));
    m->nodes[block].rows = (uint16_t)rows;
    kv__table(m, seq)[place] = block;
    m->seqs[seq].copy_from = source;
    hit->copy_from = source;
    hit->copy_to = block;
    hit->copy_rows = rows;
}

/* Makes a findable block that nobody else holds the sequence's half-filled last one; its rows from
 * `rows` on are forgotten. */
static void take_over(kv *m, kv_seq seq, uint32_t place, uint32_t block, uint32_t rows)
{
    kv_node *n = &m->nodes[block];
    RC_ASSERT(n->refs == 1);
    if (n->place == KV_TREE) kv__index_remove(m, block);
    if (n->place == KV_TAIL) kv__tail_remove(m, block);
    name_block(m, seq, block, place);
    n->rows = (uint16_t)rows;
    if (m->options.enable_prefix_cache) kv__tail_insert(m, block);
    kv__table(m, seq)[place] = block;
}

rc_code kv_seq_open(kv *m, const int32_t *tokens, uint32_t tokens_count, kv_identity identity,
                    uint32_t reuse_max, kv_seq *seq, kv_hit *hit)
{
    RC_ASSERT(tokens_count <= m->options.seq_tokens_max);
    kv__salt_assert(m, identity.salt);
    kv_seq opened = m->free_seq;
    if (opened == KV_NONE) return RC_RESOURCE_EXHAUSTED;
    uint32_t *table = kv__table(m, opened), limit = tokens_count > 0 ? tokens_count - 1 : 0;
    if (reuse_max < limit) limit = reuse_max;
    if (!m->options.enable_prefix_cache) limit = 0;
    identity = kv__normal(identity);
    kv_match match;
    kv__match(m, tokens, limit, identity, table, &match);

    bool is_cached = match.rows > 0 && m->nodes[match.source].state == KV_CACHED;
    uint32_t available = kv__available(m) - match.cached - is_cached;
    /* Where all of a cached block's rows are wanted it goes on as it is. Where no block can be had for
     * a copy the rows that are not wanted go, as if evicted. */
    bool takes_over = is_cached && (m->nodes[match.source].rows == match.rows || available == 0);
    if (match.rows > 0 && !takes_over && available == 0) return RC_RESOURCE_EXHAUSTED;

    kv__salt_ref(m, identity.salt);
    kv_sequence *s = &m->seqs[opened];
    m->free_seq = s->next_free;
    m->seqs_open++;
    *s = (kv_sequence){.identity = identity, .copy_from = KV_NONE, .next_free = KV_NONE, .is_open = true};
    s->length = (match.blocks << m->shift) + match.rows;
    s->blocks = match.blocks + (match.rows > 0);
    for (uint32_t i = 0; i < match.blocks; i++) kv__block_ref(m, table[i]);
    *hit = (kv_hit){.tokens = s->length};
    if (match.rows > 0) {
        kv__block_ref(m, match.source);
        if (takes_over)
            take_over(m, opened, match.blocks, match.source, match.rows);
        else
            begin_copy(m, opened, match.blocks, match.source, match.rows, hit);
    }
    *seq = opened;
    return RC_OK;
}

void kv_seq_copied(kv *m, kv_seq seq)
{
    kv_sequence *s = sequence(m, seq);
    RC_ASSERT(s->copy_from != KV_NONE);
    uint32_t source = s->copy_from;
    s->copy_from = KV_NONE;
    if (m->options.enable_prefix_cache) kv__tail_insert(m, kv__table(m, seq)[s->length >> m->shift]);
    kv__block_unref(m, source);
}

rc_code kv_seq_reserve(kv *m, kv_seq seq, uint32_t length)
{
    kv_sequence *s = sequence(m, seq);
    RC_ASSERT(length <= m->options.seq_tokens_max);
    if (length <= s->blocks << m->shift) return RC_OK;
    uint32_t blocks = ((length - 1) >> m->shift) + 1;
    if (blocks - s->blocks > kv__available(m)) return RC_RESOURCE_EXHAUSTED;
    uint32_t *table = kv__table(m, seq);
    while (s->blocks < blocks) table[s->blocks++] = kv__block_take(m);
    return RC_OK;
}

/* The block at this place has got its last row: it becomes findable for good, or gives way to the
 * block that holds the same already. */
static void complete_block(kv *m, kv_seq seq, uint32_t place)
{
    uint32_t *entry = &kv__table(m, seq)[place], block = *entry;
    if (m->nodes[block].place == KV_TAIL) kv__tail_remove(m, block);
    uint32_t twin = kv__index_twin(m, block);
    if (twin == KV_NONE) {
        kv__block_publish(m, block);
        return;
    }
    kv__block_ref(m, twin);
    *entry = twin;
    kv__block_unref(m, block);
}

void kv_seq_commit(kv *m, kv_seq seq, const int32_t *tokens, uint32_t count)
{
    kv_sequence *s = sequence(m, seq);
    RC_ASSERT(s->copy_from == KV_NONE);
    RC_ASSERT(count <= (s->blocks << m->shift) - s->length);
    uint32_t block_tokens = m->options.block_tokens;
    while (count > 0) {
        uint32_t place = s->length >> m->shift, row = s->length & (block_tokens - 1);
        uint32_t rows = count < block_tokens - row ? count : block_tokens - row;
        uint32_t block = kv__table(m, seq)[place];
        kv_node *n = &m->nodes[block];
        for (uint32_t i = 0; i < rows; i++) kv__tokens(m, block)[row + i] = tokens[i];
        if (row == 0) name_block(m, seq, block, place);
        n->rows = (uint16_t)(row + rows);
        s->length += rows;
        tokens += rows;
        count -= rows;
        if (!m->options.enable_prefix_cache) continue;
        if (n->rows == block_tokens)
            complete_block(m, seq, place);
        else if (row == 0)
            kv__tail_insert(m, block);
    }
}

/* Whether a block of this sequence, which a cut inside would shorten, is left as it is and copied:
 * because others read it, or to keep its rows findable where there is room for that.
 * Errors  RESOURCE_EXHAUSTED: others read it, and no block can be had for the copy. */
static rc_code plan_cut(const kv *m, kv_seq seq, uint32_t place, bool *copies)
{
    const uint32_t *table = kv__table(m, seq);
    const kv_node *n = &m->nodes[table[place]];
    bool is_shared = n->refs > 1;
    bool is_worth_it = m->options.enable_prefix_cache &&
                       (n->place == KV_TREE || !kv__siblings_cover(m, table[place]));
    *copies = false;
    if (!is_shared && !is_worth_it) return RC_OK;
    uint32_t available = kv__available(m);
    for (uint32_t i = place + 1; i < m->seqs[seq].blocks; i++) available += m->nodes[table[i]].refs == 1;
    if (available == 0) return is_shared ? RC_RESOURCE_EXHAUSTED : RC_OK;
    *copies = true;
    return RC_OK;
}

static bool is_same_before(kv_identity a, kv_identity b, uint32_t length)
{
    if (a.salt != b.salt) return false;
    if (a.adapter == b.adapter && a.adapted_from == b.adapted_from) return true;
    return a.adapted_from >= length && b.adapted_from >= length;
}

rc_code kv_seq_cut(kv *m, kv_seq seq, uint32_t length, kv_identity identity, kv_hit *hit)
{
    kv_sequence *s = sequence(m, seq);
    identity = kv__normal(identity);
    RC_ASSERT(length <= s->length);
    RC_ASSERT(s->copy_from == KV_NONE);
    RC_ASSERT(is_same_before(s->identity, identity, length));
    uint32_t *table = kv__table(m, seq), rows = length & (m->options.block_tokens - 1);
    uint32_t blocks = (length >> m->shift) + (rows > 0);
    bool copies = false, loses_rows = rows > 0 && m->nodes[table[blocks - 1]].rows > rows;
    if (loses_rows) RC_TRY(plan_cut(m, seq, blocks - 1, &copies));

    while (s->blocks > blocks) kv__block_unref(m, table[--s->blocks]);
    s->length = length;
    s->identity = identity;
    *hit = (kv_hit){.tokens = length};
    if (copies)
        begin_copy(m, seq, blocks - 1, table[blocks - 1], rows, hit);
    else if (loses_rows)
        take_over(m, seq, blocks - 1, table[blocks - 1], rows);
    else if (rows > 0)
        name_block(m, seq, table[blocks - 1], blocks - 1);
    return RC_OK;
}

void kv_seq_close(kv *m, kv_seq seq)
{
    kv_sequence *s = sequence(m, seq);
    if (s->copy_from != KV_NONE) kv__block_unref(m, s->copy_from);
    uint32_t *table = kv__table(m, seq);
    while (s->blocks > 0) kv__block_unref(m, table[--s->blocks]);
    kv__salt_unref(m, s->identity.salt);
    s->is_open = false;
    s->next_free = m->free_seq;
    m->free_seq = seq;
    m->seqs_open--;
}

uint32_t kv_seq_length(const kv *m, kv_seq seq) { return sequence(m, seq)->length; }

const uint32_t *kv_seq_blocks(const kv *m, kv_seq seq, uint32_t *count)
{
    *count = sequence(m, seq)->blocks;
    return kv__table(m, seq);
}

const uint32_t *kv_tables(const kv *m) { return m->tables; }
