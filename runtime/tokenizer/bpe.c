#include "runtime/tokenizer/bpe.h"

#include "runtime/tokenizer/unicode.h"

enum { SCAN_MAX = 48 };
static const uint32_t rank_none = UINT32_MAX;

static rc_code no_memory(rc_msg *msg)
{
    return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for merges");
}

static uint32_t pair_slot(const rt__tok_bpe *b, uint32_t left, uint32_t right)
{
    uint64_t key = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    uint32_t mask = b->merges_slots - 1;
    uint32_t slot = (uint32_t)(key >> 32) & mask;
    while (b->merges[slot].rank != rank_none &&
           (b->merges[slot].left != left || b->merges[slot].right != right))
        slot = (slot + 1) & mask;
    return slot;
}

static uint32_t find_merge(const rt__tok_bpe *b, int32_t left, int32_t right, int32_t *merged)
{
    const rt__tok_merge *m = &b->merges[pair_slot(b, (uint32_t)left, (uint32_t)right)];
    *merged = m->merged;
    return m->rank;
}

rc_code rt__tok_bpe_expect(rt__tok_bpe *b, size_t expected, rc_msg *msg)
{
    uint32_t slots = 64;
    if (expected >= 1u << 27) return rc_fail(RC_INVALID_ARGUMENT, msg, "%zu merges are too many", expected);
    while (slots < expected * 2) slots *= 2;
    b->merges = malloc(slots * sizeof *b->merges);
    if (!b->merges) return no_memory(msg);
    for (uint32_t i = 0; i < slots; i++) b->merges[i] = (rt__tok_merge){.rank = rank_none, .merged = -1};
    b->merges_slots = slots;
    return RC_OK;
}

static rc_code not_in_vocab(const char *text, size_t bytes, uint32_t rank, rc_msg *msg)
{
    return rc_fail(RC_INVALID_ARGUMENT, msg, "merge %u: '%.*s' is not in the vocabulary", rank,
                   bytes < 100 ? (int)bytes : 100, text);
}

rc_code rt__tok_bpe_merge(rt__tok_bpe *b, const char *left, size_t left_bytes, const char *right,
                          size_t right_bytes, rc_msg *msg)
{
    char small[256], *both = small;
    int32_t left_id = rt__tok_vocab_find(&b->vocab, left, left_bytes);
    int32_t right_id = rt__tok_vocab_find(&b->vocab, right, right_bytes);
    if (left_id < 0) return not_in_vocab(left, left_bytes, b->merges_count, msg);
    if (right_id < 0) return not_in_vocab(right, right_bytes, b->merges_count, msg);
    if (left_bytes + right_bytes > sizeof small && !(both = malloc(left_bytes + right_bytes)))
        return no_memory(msg);
    memcpy(both, left, left_bytes);
    memcpy(both + left_bytes, right, right_bytes);
    int32_t merged = rt__tok_vocab_find(&b->vocab, both, left_bytes + right_bytes);
    rc_code code = merged < 0 ? not_in_vocab(both, left_bytes + right_bytes, b->merges_count, msg) : RC_OK;
    if (both != small) free(both);
    if (code != RC_OK) return code;
    /* Of a pair that is there twice the last rank counts. */
    b->merges[pair_slot(b, (uint32_t)left_id, (uint32_t)right_id)] = (rt__tok_merge){
        .left = (uint32_t)left_id, .right = (uint32_t)right_id, .rank = b->merges_count++, .merged = merged};
    return RC_OK;
}

rc_code rt__tok_bpe_finish(rt__tok_bpe *b, rc_msg *msg)
{
    RC_TRY(rt__tok_vocab_index(&b->vocab, msg));
    for (uint32_t c = 0; c < 512; c++) {
        char text[4];
        b->low_ids[c] = rt__tok_vocab_find(&b->vocab, text, rt__tok_put(c, text));
    }
    for (unsigned i = 0; i < 256; i++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", i);
        b->byte_ids[i] = rt__tok_vocab_find(&b->vocab, text, 6);
    }
    b->unknown_id = b->unknown ? rt__tok_vocab_find(&b->vocab, b->unknown, strlen(b->unknown)) : -1;
    return RC_OK;
}

void rt__tok_bpe_deinit(rt__tok_bpe *b)
{
    rt__tok_vocab_deinit(&b->vocab);
    free(b->merges);
    free(b->unknown);
}

void rt__tok_bpe_work_deinit(rt__tok_bpe_work *work)
{
    free(work->symbols);
    free(work->heap);
}

static bool all_bytes_known(const rt__tok_bpe *b, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (b->byte_ids[(unsigned char)text[i]] < 0) return false;
    return true;
}

/* Symbols of the piece's characters, one after the other; gives how many. The id of an unknown character
 * waits until a known one follows, and several in a row may become one. */
static rc_code characters(const rt__tok_bpe *b, const char *text, size_t bytes, rt__tok_symbol *symbols,
                          size_t *count, rc_msg *msg)
{
    bool waits = false;
    size_t n = 0, size;
    for (size_t at = 0; at < bytes; at += size) {
        uint32_t c = rt__tok_char(text + at, &size);
        int32_t id = c < 512 ? b->low_ids[c] : rt__tok_vocab_find(&b->vocab, text + at, size);
        if (id >= 0) {
            if (waits) symbols[n++].id = b->unknown_id;
            waits = false;
            symbols[n++].id = id;
        } else if (b->byte_fallback && all_bytes_known(b, text + at, size)) {
            for (size_t i = 0; i < size; i++) symbols[n++].id = b->byte_ids[(unsigned char)text[at + i]];
        } else if (b->unknown) {
            if (b->unknown_id < 0)
                return rc_fail(
                    RC_INVALID_ARGUMENT, msg,
                    "a character of the text has no token, and unk_token '%.100s' is not in the vocabulary",
                    b->unknown);
            if (waits && !b->fuse_unknown) symbols[n++].id = b->unknown_id;
            waits = true;
        }
    }
    if (waits) symbols[n++].id = b->unknown_id;
    *count = n;
    return RC_OK;
}

static void rank_pair(const rt__tok_bpe *b, rt__tok_symbol *symbols, int32_t at)
{
    rt__tok_symbol *s = &symbols[at];
    s->rank = s->next < 0 ? rank_none : find_merge(b, s->id, symbols[s->next].id, &s->merged);
}

/* Joins symbols[at] with the one after it. */
static void join(const rt__tok_bpe *b, rt__tok_symbol *symbols, int32_t at)
{
    rt__tok_symbol *s = &symbols[at];
    rt__tok_symbol *right = &symbols[s->next];
    s->id = s->merged;
    s->next = right->next;
    right->id = -1;
    if (s->next >= 0) symbols[s->next].previous = at;
    rank_pair(b, symbols, at);
    if (s->previous >= 0) rank_pair(b, symbols, s->previous);
}

static void merge_by_scan(const rt__tok_bpe *b, rt__tok_symbol *symbols)
{
    for (;;) {
        int32_t best = 0;
        for (int32_t at = 0; at >= 0; at = symbols[at].next)
            if (symbols[at].rank < symbols[best].rank) best = at;
        if (symbols[best].rank == rank_none) return;
        join(b, symbols, best);
    }
}

static bool is_before(rt__tok_candidate a, rt__tok_candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static rc_code heap_push(rt__tok_bpe_work *work, rt__tok_candidate c, rc_msg *msg)
{
    if (work->heap_count == work->heap_room) {
        size_t room = work->heap_room ? work->heap_room * 2 : 256;
        rt__tok_candidate *heap = realloc(work->heap, room * sizeof *heap);
        if (!heap) return no_memory(msg);
        work->heap = heap;
        work->heap_room = room;
    }
    size_t at = work->heap_count++;
    for (; at && is_before(c, work->heap[(at - 1) / 2]); at = (at - 1) / 2)
        work->heap[at] = work->heap[(at - 1) / 2];
    work->heap[at] = c;
    return RC_OK;
}

static rt__tok_candidate heap_pop(rt__tok_bpe_work *work)
{
    rt__tok_candidate top = work->heap[0], moved = work->heap[--work->heap_count];
    size_t at = 0, count = work->heap_count;
    for (size_t child = 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && is_before(work->heap[child + 1], work->heap[child])) child++;
        if (!is_before(work->heap[child], moved)) break;
        work->heap[at] = work->heap[child];
        at = child;
    }
    if (count) work->heap[at] = moved;
    return top;
}

static rc_code push_symbol(rt__tok_bpe_work *work, int32_t at, rc_msg *msg)
{
    const rt__tok_symbol *s = &work->symbols[at];
    if (s->rank == rank_none) return RC_OK;
    return heap_push(work, (rt__tok_candidate){.rank = s->rank, .at = (uint32_t)at, .merged = s->merged},
                     msg);
}

static rc_code merge_by_heap(const rt__tok_bpe *b, rt__tok_bpe_work *work, size_t count, rc_msg *msg)
{
    rt__tok_symbol *symbols = work->symbols;
    work->heap_count = 0;
    for (size_t i = 0; i < count; i++) RC_TRY(push_symbol(work, (int32_t)i, msg));
    while (work->heap_count) {
        rt__tok_candidate c = heap_pop(work);
        rt__tok_symbol *s = &symbols[c.at];
        /* A candidate is out of date once either of its symbols has changed: then its rank has, too. */
        if (s->id < 0 || s->rank != c.rank) continue;
        join(b, symbols, (int32_t)c.at);
        RC_TRY(push_symbol(work, (int32_t)c.at, msg));
        if (s->previous >= 0) RC_TRY(push_symbol(work, s->previous, msg));
    }
    return RC_OK;
}

static rc_code reserve_symbols(rt__tok_bpe_work *work, size_t count, rc_msg *msg)
{
    if (count <= work->symbols_room) return RC_OK;
    if (count > INT32_MAX)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "a piece of %zu bytes is too long", count);
    size_t room = count < 256 ? 256 : count;
    rt__tok_symbol *symbols = realloc(work->symbols, room * sizeof *symbols);
    if (!symbols) return no_memory(msg);
    work->symbols = symbols;
    work->symbols_room = room;
    return RC_OK;
}

rc_code rt__tok_bpe_piece(const rt__tok_bpe *b, const char *text, size_t bytes, rt__tok_bpe_work *work,
                          int32_t *first, rc_msg *msg)
{
    size_t count = 0;
    *first = -1;
    if (!bytes) return RC_OK;
    RC_TRY(reserve_symbols(work, bytes, msg));
    rt__tok_symbol *symbols = work->symbols;
    int32_t whole = b->ignore_merges ? rt__tok_vocab_find(&b->vocab, text, bytes) : -1;
    if (whole >= 0) {
        symbols[0] = (rt__tok_symbol){.id = whole, .previous = -1, .next = -1};
        *first = 0;
        return RC_OK;
    }
    RC_TRY(characters(b, text, bytes, symbols, &count, msg));
    if (!count) return RC_OK;
    for (size_t i = 0; i < count; i++) {
        symbols[i].previous = (int32_t)i - 1;
        symbols[i].next = i + 1 < count ? (int32_t)i + 1 : -1;
    }
    for (size_t i = 0; i < count; i++) rank_pair(b, symbols, (int32_t)i);
    *first = 0;
    if (count > SCAN_MAX) return merge_by_heap(b, work, count, msg);
    merge_by_scan(b, symbols);
    return RC_OK;
}
