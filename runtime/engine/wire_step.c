/* Commands: kind, then three numbers, or a step:
 *
 *     head     rows, spans, groups, segments, adapted rows, logit rows, table words, is_picked
 *     arrays   tokens, positions, spans, groups, segments, row_index, logit_rows, tables
 *
 * Of the block tables only what the spans read is sent, span after span. */
#include "runtime/engine/wire.h"

enum { KIND = 1, HEAD = 8, SPAN = 4, GROUP = 3, SEGMENT = 3 };

_Static_assert(sizeof(kv_span) == SPAN * 4 && sizeof(kv_group) == GROUP * 4 &&
                   sizeof(adapter_segment) == SEGMENT * 4,
               "words");

typedef struct step_head {
    uint32_t rows, spans, groups, segments, adapted, logits, tables, is_picked;
} step_head;

static uint32_t blocks_of(const kv_span *s, uint32_t block_tokens)
{
    return (uint32_t)(((uint64_t)s->position + s->rows + block_tokens - 1) / block_tokens);
}

size_t rt_wire_command_max(const rt_wire_limits *l)
{
    size_t blocks = (l->positions_max + l->block_tokens - 1) / l->block_tokens + 1;
    size_t words = KIND + HEAD + 4 * (size_t)l->rows_max + l->seqs_max * (SPAN + GROUP + blocks) +
                   (size_t)l->slots_max * SEGMENT;
    return words * sizeof(uint32_t);
}

size_t rt_wire_command(const rt_command *c, uint32_t *out)
{
    const uint32_t words[] = {c->kind, c->a, c->b, c->c};
    memcpy(out, words, sizeof words);
    return sizeof words;
}

static uint32_t adapted_rows(const adapter_plan *p)
{
    uint32_t rows = 0;
    for (uint32_t i = 0; i < p->segments_count; i++) rows += p->segments[i].rows;
    return rows;
}

static uint32_t *put(uint32_t *at, const void *from, size_t words)
{
    if (words) memcpy(at, from, words * sizeof *at);
    return at + words;
}

size_t rt_wire_forward(const rt_step *s, uint32_t block_tokens, uint32_t *out)
{
    step_head h = {s->rows, s->kv.spans_count, s->kv.groups_count, s->adapters.segments_count,
                   adapted_rows(&s->adapters), s->logit_rows_count, 0, s->is_picked};
    uint32_t *head = out + KIND, *at = head + HEAD;
    out[0] = RT_COMMAND_FORWARD;
    at = put(at, s->tokens, h.rows);
    at = put(at, s->positions, h.rows);
    for (uint32_t i = 0; i < h.spans; i++) {
        kv_span span = s->kv.spans[i];
        uint32_t blocks = blocks_of(&span, block_tokens);
        span.table = h.tables;
        h.tables += blocks;
        at = put(at, &span, SPAN);
    }
    at = put(at, s->kv.groups, h.groups * GROUP);
    at = put(at, s->adapters.segments, h.segments * SEGMENT);
    at = put(at, s->adapters.row_index, h.adapted);
    at = put(at, s->logit_rows, h.logits);
    for (uint32_t i = 0; i < h.spans; i++) {
        const kv_span *span = &s->kv.spans[i];
        at = put(at, s->kv.tables + span->table, blocks_of(span, block_tokens));
    }
    put(head, &h, HEAD);
    return (size_t)(at - out) * sizeof *out;
}

/* ---- reading ---- */

static rc_code refuse(const char *what, uint32_t value, rc_msg *msg)
{
    return rc_fail(RC_INVALID_ARGUMENT, msg, "a step with a bad %s, %u", what, value);
}

static rc_code check_head(const step_head *h, size_t words, const rt_wire_limits *l, rc_msg *msg)
{
    if (!h->rows || h->rows > l->rows_max) return refuse("number of rows", h->rows, msg);
    if (!h->spans || h->spans > l->seqs_max) return refuse("number of spans", h->spans, msg);
    if (!h->groups || h->groups > h->spans) return refuse("number of groups", h->groups, msg);
    if (h->segments > l->slots_max) return refuse("number of segments", h->segments, msg);
    if (h->adapted > h->rows) return refuse("number of adapted rows", h->adapted, msg);
    if (h->logits > h->rows) return refuse("number of logit rows", h->logits, msg);
    if (h->is_picked > 1) return refuse("way of picking", h->is_picked, msg);
    uint64_t plans = (uint64_t)h->spans * SPAN + (uint64_t)h->groups * GROUP;
    plans += (uint64_t)h->segments * SEGMENT;
    uint64_t expected = HEAD + 2 * (uint64_t)h->rows + plans + h->adapted + h->logits + h->tables;
    return words == expected ? RC_OK : refuse("size", (uint32_t)words, msg);
}

static rc_code check_rows(const rt_step *s, const rt_wire_limits *l, rc_msg *msg)
{
    for (uint32_t i = 0; i < s->rows; i++) {
        if (s->tokens[i] < 0 ? (uint32_t)~s->tokens[i] >= l->rows_max : (uint32_t)s->tokens[i] >= l->vocab)
            return refuse("token", (uint32_t)s->tokens[i], msg);
        if (s->positions[i] >= l->positions_max) return refuse("position", s->positions[i], msg);
    }
    for (uint32_t i = 0; i < s->logit_rows_count; i++)
        if (s->logit_rows[i] >= s->rows || (i && s->logit_rows[i] <= s->logit_rows[i - 1]))
            return refuse("logit row", s->logit_rows[i], msg);
    return RC_OK;
}

/* Spans cover the rows one after the other in some order: each row once. */
static rc_code check_spans(const rt_step *s, uint32_t tables, const rt_wire_limits *l, rc_msg *msg)
{
    uint64_t rows = 0;
    for (uint32_t i = 0; i < s->kv.spans_count; i++) {
        const kv_span *span = &s->kv.spans[i];
        if (!span->rows || span->row >= s->rows || span->rows > s->rows - span->row)
            return refuse("span", i, msg);
        if (span->position >= l->positions_max || span->rows > l->positions_max - span->position)
            return refuse("position of a span", span->position, msg);
        uint32_t blocks = blocks_of(span, l->block_tokens);
        if (span->table > tables || blocks > tables - span->table) return refuse("table", span->table, msg);
        rows += span->rows;
    }
    if (rows != s->rows) return refuse("number of rows in spans", (uint32_t)rows, msg);
    for (uint32_t i = 0; i < tables; i++)
        if (s->kv.tables[i] >= l->blocks_max) return refuse("block", s->kv.tables[i], msg);
    return RC_OK;
}

static rc_code check_groups(const rt_step *s, const rt_wire_limits *l, rc_msg *msg)
{
    uint32_t span = 0;
    for (uint32_t g = 0; g < s->kv.groups_count; g++) {
        const kv_group *group = &s->kv.groups[g];
        bool is_whole = group->shared_tokens % l->block_tokens == 0 && group->shared_tokens % KV_TILE == 0;
        if (group->span != span || !group->spans || group->spans > s->kv.spans_count - span || !is_whole)
            return refuse("group", g, msg);
        for (uint32_t end = span + group->spans; span < end; span++)
            if (s->kv.spans[span].position < group->shared_tokens) return refuse("group", g, msg);
    }
    return span == s->kv.spans_count ? RC_OK : refuse("number of spans in groups", span, msg);
}

static rc_code check_adapters(const rt_step *s, uint32_t adapted, const rt_wire_limits *l, rc_msg *msg)
{
    for (uint32_t i = 0; i < s->adapters.segments_count; i++) {
        const adapter_segment *g = &s->adapters.segments[i];
        if (g->slot >= l->slots_max || g->first > adapted || g->rows > adapted - g->first)
            return refuse("segment", i, msg);
    }
    for (uint32_t i = 0; i < adapted; i++)
        if (s->adapters.row_index[i] >= s->rows) return refuse("adapted row", s->adapters.row_index[i], msg);
    return RC_OK;
}

static const uint32_t *take(const uint32_t **at, size_t words)
{
    const uint32_t *from = *at;
    *at += words;
    return from;
}

static rc_code read_step(const uint32_t *words, size_t count, const rt_wire_limits *l, rt_step *out,
                         rc_msg *msg)
{
    step_head h;
    const uint32_t *at = words + HEAD;
    if (count < HEAD) return refuse("size", (uint32_t)count, msg);
    memcpy(&h, words, sizeof h);
    RC_TRY(check_head(&h, count, l, msg));
    rt_step s = {.rows = h.rows, .logit_rows_count = h.logits, .is_picked = h.is_picked};
    s.tokens = (const int32_t *)take(&at, h.rows);
    s.positions = take(&at, h.rows);
    s.kv.spans = (const kv_span *)take(&at, (size_t)h.spans * SPAN);
    s.kv.spans_count = h.spans;
    s.kv.groups = (const kv_group *)take(&at, (size_t)h.groups * GROUP);
    s.kv.groups_count = h.groups;
    s.adapters.segments = (const adapter_segment *)take(&at, (size_t)h.segments * SEGMENT);
    s.adapters.segments_count = h.segments;
    s.adapters.row_index = take(&at, h.adapted);
    s.logit_rows = take(&at, h.logits);
    s.kv.tables = at;
    RC_TRY(check_rows(&s, l, msg));
    RC_TRY(check_spans(&s, h.tables, l, msg));
    RC_TRY(check_groups(&s, l, msg));
    RC_TRY(check_adapters(&s, h.adapted, l, msg));
    *out = s;
    return RC_OK;
}

rc_code rt_wire_read_command(const uint32_t *words, size_t bytes, const rt_wire_limits *l, rt_command *out,
                             rc_msg *msg)
{
    size_t count = bytes / sizeof *words;
    rt_command c = {0};
    if (bytes % sizeof *words || !count)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "a command of %zu bytes", bytes);
    c.kind = (rt_command_kind)words[0];
    if (words[0] == RT_COMMAND_FORWARD) {
        RC_TRY(read_step(words + KIND, count - KIND, l, &c.step, msg));
    } else {
        if (count != 4 || words[0] < RT_COMMAND_LOGITS || words[0] > RT_COMMAND_END)
            return rc_fail(RC_INVALID_ARGUMENT, msg, "command %u of %zu bytes", words[0], bytes);
        c.a = words[1];
        c.b = words[2];
        c.c = words[3];
    }
    if (c.kind == RT_COMMAND_COPY && (c.a >= l->blocks_max || c.b >= l->blocks_max || c.c > l->block_tokens))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "a copy of %u rows of block %u to %u", c.c, c.a, c.b);
    if (c.kind == RT_COMMAND_LOGITS && (!c.b || c.b > l->logits_max))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%u logit rows at once", c.b);
    *out = c;
    return RC_OK;
}
