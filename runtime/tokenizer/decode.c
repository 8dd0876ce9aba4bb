#include "runtime/base/utf8.h"
#include "runtime/tokenizer/tokenizer_internal.h"
#include "runtime/tokenizer/unicode.h"

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */

/* A token whose characters all stand for bytes is those bytes, any other is its text. */
static void add_decoded(rt_bytes *out, rt__tok_decoder decoder, const char *text, size_t bytes)
{
    size_t from = out->count, size;
    for (size_t at = 0; decoder == RT__TOK_DECODE_BYTE_LEVEL && at < bytes; at += size) {
        int byte = rt__tok_char_byte(rt__tok_char(text + at, &size));
        if (byte < 0) {
            out->count = from;
            decoder = RT__TOK_DECODE_JOINED;
            break;
        }
        rt_bytes_add_byte(out, (char)byte);
    }
    if (decoder != RT__TOK_DECODE_BYTE_LEVEL) rt_bytes_add(out, text, bytes);
}

static const char *token_text(const rt_tokenizer *t, int32_t id, size_t *bytes)
{
    const rt__tok_added *added = rt__tok_added_by_id(&t->added, id);
    return added ? rt__tok_added_text(added, bytes) : rt__tok_vocab_text(&t->bpe.vocab, id, bytes);
}

rc_code rt__tok_decode_finish(rt_tokenizer *t, rc_msg *msg)
{
    t->ids = t->bpe.vocab.ids;
    for (uint32_t i = 0; i < t->added.count; i++)
        if ((uint32_t)t->added.tokens[i].id >= t->ids) t->ids = (uint32_t)t->added.tokens[i].id + 1;
    t->decoded_at = calloc((size_t)t->ids + 1, sizeof *t->decoded_at);
    t->flags = calloc((size_t)t->ids + 1, 1);
    if (!t->decoded_at || !t->flags)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for %u tokens", t->ids);
    for (uint32_t id = 0; id < t->ids; id++) {
        size_t bytes = 0;
        const char *text = token_text(t, (int32_t)id, &bytes);
        if (text) {
            t->flags[id] = RT__TOK_EXISTS;
            if (rt__tok_added_is_special(&t->added, text, bytes)) t->flags[id] |= RT__TOK_SPECIAL;
            add_decoded(&t->decoded, t->decoder, text, bytes);
        }
        if (t->decoded.failed || t->decoded.count > UINT32_MAX)
            return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the texts of %u tokens", t->ids);
        t->decoded_at[id + 1] = (uint32_t)t->decoded.count;
        bytes = t->decoded_at[id + 1] - t->decoded_at[id];
        if (bytes > t->decoded_max) t->decoded_max = bytes;
    }
    return RC_OK;
}

uint32_t rt_tokenizer_vocab(const rt_tokenizer *t)
{
    return t->ids;
}

static bool exists(const rt_tokenizer *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->ids && (t->flags[id] & RT__TOK_EXISTS);
}

bool rt_tokenizer_is_special(const rt_tokenizer *t, int32_t id)
{
    return exists(t, id) && (t->flags[id] & RT__TOK_SPECIAL);
}

int32_t rt_tokenizer_id(const rt_tokenizer *t, const char *token, size_t bytes)
{
    int32_t id = rt__tok_vocab_find(&t->added.by_content, token, bytes);
    return id >= 0 ? id : rt__tok_vocab_find(&t->bpe.vocab, token, bytes);
}

const char *rt_tokenizer_bytes(const rt_tokenizer *t, int32_t id, size_t *bytes)
{
    *bytes = 0;
    if (!exists(t, id) || !t->decoded.data) return "";
    *bytes = t->decoded_at[id + 1] - t->decoded_at[id];
    return t->decoded.data + t->decoded_at[id];
}

void rt_detok_init(rt_detok *d, bool skip_special)
{
    *d = (rt_detok){.skip_special = skip_special};
}

/* Whether some character begins with these bytes and goes on. */
static bool is_beginning(const unsigned char *s, size_t bytes)
{
    if (bytes == 1) return s[0] >= 0xc2 && s[0] <= 0xf4;
    if ((s[1] & 0xc0) != 0x80) return false;
    if (s[0] == 0xe0 && s[1] < 0xa0) return false;
    if (s[0] == 0xed && s[1] >= 0xa0) return false;
    if (s[0] == 0xf0 && s[1] < 0x90) return false;
    if (s[0] == 0xf4 && s[1] >= 0x90) return false;
    if (bytes == 2) return s[0] >= 0xe0;
    return bytes == 3 && s[0] >= 0xf0 && (s[2] & 0xc0) == 0x80;
}

static size_t put(char *out, size_t at, const void *bytes, size_t count)
{
    memcpy(out + at, bytes, count);
    return at + count;
}

/* One byte more; gives the length of out. What is held is always the beginning of a character, and becomes
 * U+FFFD where the byte does not continue it, as in String::from_utf8_lossy. */
static size_t push_byte(rt_detok *d, unsigned char byte, char *out, size_t at)
{
    d->held[d->held_bytes++] = byte;
    if (rt_utf8_character((const char *)d->held, d->held_bytes) == d->held_bytes) {
        at = put(out, at, d->held, d->held_bytes);
        d->held_bytes = 0;
        return at;
    }
    if (is_beginning(d->held, d->held_bytes)) return at;
    bool was_held = d->held_bytes > 1;
    d->held_bytes = 0;
    at = put(out, at, replacement, 3);
    return was_held ? push_byte(d, byte, out, at) : at;
}

size_t rt_tokenizer_piece_max(const rt_tokenizer *t)
{
    return 3 * (t->decoded_max + 2); /* each byte, the one that waited and a space can be U+FFFD */
}

size_t rt_detok_push(rt_detok *d, const rt_tokenizer *t, int32_t id, char *out, size_t out_max)
{
    size_t bytes, at = 0;
    const char *text = rt_tokenizer_bytes(t, id, &bytes);
    RC_ASSERT(out_max >= 3 * (bytes + 2));
    if (!exists(t, id) || (d->skip_special && (t->flags[id] & RT__TOK_SPECIAL))) return 0;
    if (t->decoder == RT__TOK_DECODE_SPACED && d->started) at = push_byte(d, ' ', out, at);
    d->started = true;
    for (size_t i = 0; i < bytes; i++) at = push_byte(d, (unsigned char)text[i], out, at);
    return at;
}

size_t rt_detok_finish(rt_detok *d, const rt_tokenizer *t, char *out, size_t out_max)
{
    (void)t;
    if (!d->held_bytes) return 0;
    RC_ASSERT(out_max >= 3);
    d->held_bytes = 0;
    return put(out, 0, replacement, 3);
}
