#include "runtime/tokenizer/tokenizer_internal.h"
#include "runtime/tokenizer/unicode.h"

const char rt__tok_gpt2_regex[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* Puts together the stretches that match and those that do not, as SplitDelimiterBehavior says, and hands
 * every piece on to the next level. At most one piece waits for what follows it. */
typedef struct splitter {
    rt__tok_run *run;
    unsigned level;
    const char *text;
    rt__tok_behavior behavior;
    bool invert;
    bool waits, was_match;
    size_t start, end; /* of the piece that waits */
} splitter;

static rc_code splitter_piece(splitter *s, size_t start, size_t end)
{
    if (start == end) return RC_OK;
    return rt__tok_pre_tokenize(s->run, s->level + 1, s->text + start, end - start);
}

static rc_code splitter_flush(splitter *s)
{
    if (!s->waits) return RC_OK;
    s->waits = false;
    return splitter_piece(s, s->start, s->end);
}

static rc_code splitter_wait(splitter *s, size_t start, size_t end)
{
    RC_TRY(splitter_flush(s));
    s->waits = true;
    s->start = start;
    s->end = end;
    return RC_OK;
}

static rc_code merge_with_next(splitter *s, size_t start, size_t end, bool is_match)
{
    if (is_match) return splitter_wait(s, start, end);
    if (s->waits) start = s->start;
    s->waits = false;
    return splitter_piece(s, start, end);
}

static rc_code splitter_add(splitter *s, size_t start, size_t end, bool is_match)
{
    is_match = is_match != s->invert;
    bool was_match = s->was_match, extends = false;
    s->was_match = is_match;
    switch (s->behavior) {
    case RT__TOK_ISOLATED:
        return splitter_piece(s, start, end);
    case RT__TOK_REMOVED:
        return is_match ? RC_OK : splitter_piece(s, start, end);
    case RT__TOK_MERGED_WITH_NEXT:
        return merge_with_next(s, start, end, is_match);
    case RT__TOK_MERGED_WITH_PREVIOUS:
        extends = is_match && !was_match;
        break;
    case RT__TOK_CONTIGUOUS:
        extends = is_match == was_match;
        break;
    }
    if (!extends || !s->waits) return splitter_wait(s, start, end);
    s->end = end;
    return RC_OK;
}

static rc_code split_by_pattern(splitter *s, const rt__tok_pre *pre, size_t bytes)
{
    rt__tok_search **search = &s->run->searches[s->level];
    size_t done = 0, start = 0, end = 0;
    if (!*search) RC_TRY(rt__tok_search_new(pre->pattern, search, s->run->msg));
    rt__tok_search_begin(*search, s->text, bytes);
    for (;;) {
        bool found;
        RC_TRY(rt__tok_search_next(*search, &found, &start, &end, s->run->msg));
        if (!found) break;
        if (start > done) RC_TRY(splitter_add(s, done, start, false));
        RC_TRY(splitter_add(s, start, end, true));
        done = end;
    }
    if (done < bytes) RC_TRY(splitter_add(s, done, bytes, false));
    return splitter_flush(s);
}

/* Every character of the set is a match of its own. */
static rc_code split_by_characters(splitter *s, bool (*is_in)(uint32_t), size_t bytes)
{
    size_t done = 0, size;
    for (size_t at = 0; at < bytes; at += size) {
        if (!is_in(rt__tok_char(s->text + at, &size))) continue;
        if (at > done) RC_TRY(splitter_add(s, done, at, false));
        done = at + size;
        RC_TRY(splitter_add(s, at, done, true));
    }
    if (done < bytes) RC_TRY(splitter_add(s, done, bytes, false));
    return splitter_flush(s);
}

static int word_kind(uint32_t c)
{
    return rt__tok_is_word(c) ? 0 : rt__tok_is_space(c) ? 2 : 1;
}

/* \w+|[^\w\s]+, and nothing of what is between. */
static rc_code split_by_words(splitter *s, size_t bytes)
{
    size_t from = 0, size;
    int kind = 2;
    for (size_t at = 0; at < bytes; at += size) {
        int next = word_kind(rt__tok_char(s->text + at, &size));
        if (next == kind) continue;
        if (kind != 2) RC_TRY(splitter_piece(s, from, at));
        from = at;
        kind = next;
    }
    return kind != 2 ? splitter_piece(s, from, bytes) : RC_OK;
}

/* Splits as the GPT-2 regex does, then hands on the bytes of every piece as characters. */
static rc_code byte_level(rt__tok_run *run, unsigned level, const char *text, size_t bytes)
{
    const rt__tok_pre *pre = &run->t->pres[level];
    rt_bytes *prefixed = &run->prefixed[level];
    if (pre->add_prefix_space && text[0] != ' ') {
        rt_bytes_clear(prefixed);
        rt_bytes_add_byte(prefixed, ' ');
        rt_bytes_add(prefixed, text, bytes);
        if (prefixed->failed)
            return rc_fail(RC_RESOURCE_EXHAUSTED, run->msg, "no memory for %zu bytes of text", bytes);
        text = prefixed->data;
        bytes = prefixed->count;
    }
    if (!pre->pattern) return rt__tok_pre_tokenize(run, level + 1, text, bytes);
    splitter s = {.run = run, .level = level, .text = text};
    return split_by_pattern(&s, pre, bytes);
}

static rc_code encode_piece(rt__tok_run *run, const char *text, size_t bytes)
{
    int32_t at;
    RC_TRY(rt__tok_bpe_piece(&run->t->bpe, text, bytes, &run->bpe, &at, run->msg));
    for (; at >= 0; at = run->bpe.symbols[at].next) RC_TRY(rt__tok_run_push(run, run->bpe.symbols[at].id));
    return RC_OK;
}

/* The level before was ByteLevel: its pieces go on in byte-level characters. */
static rc_code map_bytes(rt__tok_run *run, unsigned level, const char **text, size_t *bytes)
{
    rt_bytes *mapped = &run->mapped[level - 1];
    rt_bytes_clear(mapped);
    rt__tok_byte_level(*text, *bytes, mapped);
    if (mapped->failed)
        return rc_fail(RC_RESOURCE_EXHAUSTED, run->msg, "no memory for %zu bytes of text", *bytes);
    *text = mapped->data;
    *bytes = mapped->count;
    return RC_OK;
}

rc_code rt__tok_pre_tokenize(rt__tok_run *run, unsigned level, const char *text, size_t bytes)
{
    if (!bytes) return RC_OK;
    if (level && run->t->pres[level - 1].kind == RT__TOK_PRE_BYTE_LEVEL)
        RC_TRY(map_bytes(run, level, &text, &bytes));
    if (level == run->t->pres_count) return encode_piece(run, text, bytes);
    const rt__tok_pre *pre = &run->t->pres[level];
    splitter s = {.run = run, .level = level, .text = text, .behavior = pre->behavior, .invert = pre->invert};
    switch (pre->kind) {
    case RT__TOK_PRE_BYTE_LEVEL:
        return byte_level(run, level, text, bytes);
    case RT__TOK_PRE_SPLIT:
        return split_by_pattern(&s, pre, bytes);
    case RT__TOK_PRE_DIGITS:
        return split_by_characters(&s, rt__tok_is_numeric, bytes);
    case RT__TOK_PRE_PUNCTUATION:
        return split_by_characters(&s, rt__tok_is_punctuation, bytes);
    case RT__TOK_PRE_WHITESPACE_SPLIT:
        return split_by_characters(&s, rt__tok_is_space, bytes);
    case RT__TOK_PRE_WHITESPACE:
        return split_by_words(&s, bytes);
    }
    return RC_OK;
}
