#include "runtime/cli/token_log.h"

#include <string.h>

#include "runtime/base/json_out.h"
#include "runtime/base/utf8.h"

enum { NAMES_MAX = 64 }; /* candidates shown for one token; vLLM's limit is 20 and the token itself */

void rt__token_log_add(rt_token_log *log, const mica_token *tokens, size_t count)
{
    rt_bytes_add(&log->tokens, tokens, count * sizeof *tokens);
    for (size_t i = 0; i < count; i++)
        rt_bytes_add(&log->tops, tokens[i].top, tokens[i].top_count * sizeof(mica_top));
}

void rt__token_log_deinit(rt_token_log *log)
{
    rt_bytes_deinit(&log->tokens);
    rt_bytes_deinit(&log->tops);
}

size_t rt__token_log_count(const rt_token_log *log)
{
    return log->tokens.count / sizeof(mica_token);
}

size_t rt__offsets_characters(rt_offsets *o, size_t byte)
{
    if (byte > o->bytes) byte = o->bytes; /* a stop string cut the text after this token had come */
    while (byte && byte < o->bytes && ((unsigned char)o->text[byte] & 0xc0) == 0x80)
        byte--; /* inside a character */
    if (byte < o->at) o->at = o->characters = 0;
    o->characters += rt_utf8_count(o->text + o->at, byte - o->at);
    o->at = byte;
    return o->characters;
}

static void add_token_text(const mica *m, int32_t id, rt_bytes *out)
{
    size_t room = 64;
    for (int attempt = 0; attempt < 2; attempt++) {
        char *to = rt_bytes_reserve(out, room);
        size_t needed = to ? mica_token_text(m, id, to, room) : 0;
        if (to && needed <= room) {
            out->count += needed;
            out->data[out->count] = 0;
        }
        if (!to || needed <= room) return;
        room = needed;
    }
}

static void add_name(const rt_logprobs_style *style, int32_t id, rt_bytes *out)
{
    if (style->as_token_ids)
        rt_bytes_print(out, "token_id:%d", id);
    else
        add_token_text(style->m, id, out);
}

/* The names of one token's candidates so far: two ids may have one text, and an object has a key once. */
typedef struct names {
    rt_bytes text;
    size_t ends[NAMES_MAX];
    size_t count;
} names;

/* Adds the name of id; false if it is there already. */
static bool names_add(names *n, const rt_logprobs_style *style, int32_t id)
{
    size_t start = n->text.count;
    if (n->count == NAMES_MAX) return false;
    add_name(style, id, &n->text);
    size_t bytes = n->text.count - start;
    for (size_t i = 0; i < n->count; i++) {
        size_t from = i ? n->ends[i - 1] : 0;
        if (n->ends[i] - from != bytes || (bytes && memcmp(n->text.data + from, n->text.data + start, bytes)))
            continue;
        n->text.count = start;
        return false;
    }
    n->ends[n->count++] = n->text.count;
    return true;
}

static void names_write_last(const names *n, rt_bytes *out)
{
    size_t from = n->count > 1 ? n->ends[n->count - 2] : 0;
    rt_json_key_n(out, n->text.data ? n->text.data + from : "", n->ends[n->count - 1] - from);
}

static void write_candidates(const mica_token *t, const mica_top *top, const rt_logprobs_style *style,
                             names *n, rt_bytes *out)
{
    rt_bytes_clear(&n->text);
    n->count = 0;
    names_add(n, style, t->id);
    rt_json_open(out, '{');
    names_write_last(n, out);
    rt_json_f32(out, t->logprob);
    for (uint32_t k = 0; k < t->top_count && k < style->best; k++) {
        if (top[k].token == t->id || !names_add(n, style, top[k].token)) continue;
        names_write_last(n, out);
        rt_json_f32(out, top[k].logprob);
    }
    rt_json_close(out, '}');
    if (n->text.failed) out->failed = true;
}

void rt__logprobs_columns_add(rt_logprobs_columns *c, const rt_token_log *log, const rt_logprobs_style *style,
                              bool is_first_unknown, const size_t *byte_offsets, size_t base,
                              rt_offsets *offsets)
{
    const mica_token *tokens = (const mica_token *)(const void *)log->tokens.data;
    const mica_top *top = (const mica_top *)(const void *)log->tops.data;
    names n = {0};
    for (size_t i = 0; i < rt__token_log_count(log); i++) {
        size_t start = n.text.count;
        add_name(style, tokens[i].id, &n.text);
        rt_json_string(&c->tokens, n.text.data ? n.text.data + start : "", n.text.count - start);
        if (i == 0 && is_first_unknown) {
            rt_json_null(&c->token_logprobs);
            rt_json_null(&c->top_logprobs);
        } else {
            rt_json_f32(&c->token_logprobs, tokens[i].logprob);
            write_candidates(&tokens[i], top, style, &n, &c->top_logprobs);
        }
        size_t place = byte_offsets ? byte_offsets[i] : tokens[i].text_offset;
        rt_json_u64(&c->text_offset, base + rt__offsets_characters(offsets, place));
        if (top) top += tokens[i].top_count;
        rt_bytes_clear(&n.text);
    }
    rt_bytes_deinit(&n.text);
}

static void write_column(const char *name, const rt_bytes *column, rt_bytes *out)
{
    rt_json_key(out, name);
    rt_json_open(out, '[');
    if (column->count) rt_bytes_add(out, column->data, column->count);
    rt_json_close(out, ']');
}

void rt__logprobs_columns_write(const rt_logprobs_columns *c, rt_bytes *out)
{
    rt_json_open(out, '{');
    write_column("tokens", &c->tokens, out);
    write_column("token_logprobs", &c->token_logprobs, out);
    write_column("top_logprobs", &c->top_logprobs, out);
    write_column("text_offset", &c->text_offset, out);
    rt_json_close(out, '}');
}

bool rt__logprobs_columns_failed(const rt_logprobs_columns *c)
{
    return c->tokens.failed || c->token_logprobs.failed || c->top_logprobs.failed || c->text_offset.failed;
}

void rt__logprobs_columns_deinit(rt_logprobs_columns *c)
{
    rt_bytes_deinit(&c->tokens);
    rt_bytes_deinit(&c->token_logprobs);
    rt_bytes_deinit(&c->top_logprobs);
    rt_bytes_deinit(&c->text_offset);
}

static void write_logprob(const mica *m, int32_t id, float logprob, uint32_t rank, rt_bytes *text,
                          rt_bytes *out)
{
    char key[16];
    snprintf(key, sizeof key, "%d", id);
    rt_json_key(out, key);
    rt_json_open(out, '{');
    rt_json_key(out, "logprob");
    rt_json_f32(out, logprob);
    rt_json_key(out, "rank");
    rt_json_u64(out, rank);
    rt_json_key(out, "decoded_token");
    rt_bytes_clear(text);
    add_token_text(m, id, text);
    rt_json_string(out, text->data ? text->data : "", text->count);
    rt_json_close(out, '}');
    if (text->failed) out->failed = true;
}

void rt__prompt_logprobs_write(const rt_token_log *log, const rt_logprobs_style *style, rt_bytes *out)
{
    const mica_token *tokens = (const mica_token *)(const void *)log->tokens.data;
    const mica_top *top = (const mica_top *)(const void *)log->tops.data;
    rt_bytes text = {0};
    rt_json_open(out, '[');
    for (size_t i = 0; i < rt__token_log_count(log); i++) {
        const mica_token *t = &tokens[i];
        if (i == 0) {
            rt_json_null(out);
        } else {
            rt_json_open(out, '{');
            write_logprob(style->m, t->id, t->logprob, t->rank, &text, out);
            for (uint32_t k = 0; k < t->top_count && k < style->best; k++)
                if (top[k].token != t->id)
                    write_logprob(style->m, top[k].token, top[k].logprob, top[k].rank, &text, out);
            rt_json_close(out, '}');
        }
        if (top) top += t->top_count;
    }
    rt_json_close(out, ']');
    rt_bytes_deinit(&text);
}
