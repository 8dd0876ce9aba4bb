#include "runtime/tokenizer/normalize.h"

#include "runtime/tokenizer/unicode.h"

static bool is_plain(unsigned byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
}

/* Bytes that are visible characters stand for themselves; the others are U+0100 and following, in order. */
uint32_t rt__tok_byte_char(unsigned char byte)
{
    if (is_plain(byte)) return byte;
    if (byte <= ' ') return 0x100u + byte;
    if (byte == 0xad) return 0x143;
    return 0x121u + (byte - 0x7fu);
}

int rt__tok_char_byte(uint32_t c)
{
    if (c < 0x100) return is_plain(c) ? (int)c : -1;
    if (c <= 0x120) return (int)(c - 0x100);
    if (c <= 0x142) return (int)(c - 0x121 + 0x7f);
    return c == 0x143 ? 0xad : -1;
}

void rt__tok_byte_level(const char *text, size_t bytes, rt_bytes *out)
{
    char *to = rt_bytes_reserve(out, bytes * 2);
    if (!to) return;
    char *at = to;
    for (size_t i = 0; i < bytes; i++) at += rt__tok_put(rt__tok_byte_char((unsigned char)text[i]), at);
    out->count += (size_t)(at - to);
}

static void lowercase(const char *text, size_t bytes, rt_bytes *out)
{
    size_t size;
    for (size_t at = 0; at < bytes; at += size) {
        uint32_t lower[2];
        char one[8];
        unsigned count = rt__tok_lower(rt__tok_char(text + at, &size), lower);
        size_t n = rt__tok_put(lower[0], one);
        if (count == 2) n += rt__tok_put(lower[1], one + n);
        rt_bytes_add(out, one, n);
    }
}

static void strip(const rt__tok_normal *step, const char *text, size_t bytes, rt_bytes *out)
{
    size_t from = 0, to = bytes, size;
    while (step->left && from < to && rt__tok_is_space(rt__tok_char(text + from, &size))) from += size;
    while (step->right && to > from) {
        size_t last = rt__tok_last(text, to);
        if (!rt__tok_is_space(rt__tok_char(text + last, &size))) break;
        to = last;
    }
    rt_bytes_add(out, text + from, to - from);
}

static void strip_accents(const char *text, size_t bytes, rt_bytes *out)
{
    size_t size;
    for (size_t at = 0; at < bytes; at += size)
        if (!rt__tok_is_mark(rt__tok_char(text + at, &size))) rt_bytes_add(out, text + at, size);
}

static rc_code replace(const rt__tok_normal *step, rt__tok_search **search, const char *text, size_t bytes,
                       rt_bytes *out, rc_msg *msg)
{
    size_t done = 0, start = 0, end = 0;
    if (!bytes) return RC_OK;
    if (!*search) RC_TRY(rt__tok_search_new(step->pattern, search, msg));
    rt__tok_search_begin(*search, text, bytes);
    for (;;) {
        bool found;
        RC_TRY(rt__tok_search_next(*search, &found, &start, &end, msg));
        if (!found) break;
        rt_bytes_add(out, text + done, start - done);
        rt_bytes_add(out, step->content, step->content_bytes);
        done = end;
    }
    rt_bytes_add(out, text + done, bytes - done);
    return RC_OK;
}

static rc_code apply(const rt__tok_normal *step, rt__tok_normal_work *work, rt__tok_search **search,
                     const char *text, size_t bytes, rt_bytes *out, rc_msg *msg)
{
    switch (step->kind) {
    case RT__TOK_NORMAL_NFC:
        return rt__tok_normal_form(text, bytes, true, false, work, out, msg);
    case RT__TOK_NORMAL_NFD:
        return rt__tok_normal_form(text, bytes, false, false, work, out, msg);
    case RT__TOK_NORMAL_NFKC:
        return rt__tok_normal_form(text, bytes, true, true, work, out, msg);
    case RT__TOK_NORMAL_NFKD:
        return rt__tok_normal_form(text, bytes, false, true, work, out, msg);
    case RT__TOK_NORMAL_LOWERCASE:
        lowercase(text, bytes, out);
        break;
    case RT__TOK_NORMAL_PREPEND:
        if (bytes) rt_bytes_add(out, step->content, step->content_bytes);
        rt_bytes_add(out, text, bytes);
        break;
    case RT__TOK_NORMAL_REPLACE:
        return replace(step, search, text, bytes, out, msg);
    case RT__TOK_NORMAL_STRIP:
        strip(step, text, bytes, out);
        break;
    case RT__TOK_NORMAL_STRIP_ACCENTS:
        strip_accents(text, bytes, out);
        break;
    case RT__TOK_NORMAL_BYTE_LEVEL:
        rt__tok_byte_level(text, bytes, out);
        break;
    }
    return RC_OK;
}

rc_code rt__tok_normalize(const rt__tok_normals *n, rt__tok_normal_work *work, const char *text, size_t bytes,
                          const char **out, size_t *out_bytes, rc_msg *msg)
{
    for (unsigned i = 0; i < n->count; i++) {
        rt_bytes *to = &work->texts[i & 1];
        rt_bytes_clear(to);
        RC_TRY(apply(&n->steps[i], work, &work->searches[i], text, bytes, to, msg));
        if (to->failed) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory to normalize %zu bytes", bytes);
        text = to->data ? to->data : "";
        bytes = to->count;
    }
    *out = text;
    *out_bytes = bytes;
    return RC_OK;
}

void rt__tok_normals_deinit(rt__tok_normals *n)
{
    for (unsigned i = 0; i < n->count; i++) {
        rt__tok_pattern_free(n->steps[i].pattern);
        free(n->steps[i].content);
    }
}

void rt__tok_normal_work_deinit(rt__tok_normal_work *work)
{
    for (size_t i = 0; i < RT__TOK_STEPS_MAX; i++) rt__tok_search_free(work->searches[i]);
    rt_bytes_deinit(&work->texts[0]);
    rt_bytes_deinit(&work->texts[1]);
    free(work->points);
}
