#include "runtime/engine/output.h"

#include <string.h>

enum { CHARACTER_MAX = 4 };

size_t rt_output_held_max(const rt_stops *stops, size_t piece_max)
{
    return stops->longest + CHARACTER_MAX + 2 * piece_max;
}

size_t rt_output_room(const rt_stops *stops, size_t piece_max)
{
    return rt_output_held_max(stops, piece_max);
}

static void give(rt_output *o, size_t bytes, rt_text *out)
{
    RC_ASSERT(out->count + bytes <= out->max);
    memcpy(out->bytes + out->count, o->held, bytes);
    out->count += bytes;
    memmove(o->held, o->held + bytes, o->held_bytes - bytes);
    o->held_bytes -= bytes;
    o->check_from = o->check_from > bytes ? o->check_from - bytes : 0;
}

/* First stop string, in the caller's order, that is in the held text; *at is where. -1: none. */
static int find_stop(const rt_output *o, const rt_stops *stops, size_t *at)
{
    for (uint32_t i = 0; i < stops->count; i++) {
        const mica_text *t = &stops->texts[i];
        if (o->held_bytes < o->check_from + t->count) continue;
        const char *found =
            memmem(o->held + o->check_from, o->held_bytes - o->check_from, t->bytes, t->count);
        if (!found) continue;
        *at = (size_t)(found - o->held);
        return (int)i;
    }
    return -1;
}

/* Bytes that cannot belong to a stop string any more, up to a whole character. */
static size_t settled(const rt_output *o, const rt_stops *stops)
{
    size_t keep = stops->longest ? stops->longest - 1 : 0, bytes;
    if (o->held_bytes <= keep) return 0;
    bytes = o->held_bytes - keep;
    while (bytes > 0 && bytes < o->held_bytes && ((unsigned char)o->held[bytes] & 0xc0) == 0x80) bytes--;
    return bytes;
}

int rt_output_push(rt_output *o, const rt_tokenizer *tokenizer, const rt_stops *stops, int32_t token,
                   bool silent, rt_text *out)
{
    size_t at, piece = 0;
    int stop = -1;
    o->tokens++;
    if (tokenizer && !silent)
        piece =
            rt_detok_push(&o->detok, tokenizer, token, o->held + o->held_bytes, o->held_max - o->held_bytes);
    o->held_bytes += piece;
    o->text_bytes += piece;
    RC_ASSERT(o->held_bytes <= o->held_max);
    if (o->tokens <= stops->min_tokens) o->check_from = o->held_bytes;
    else if (piece) stop = find_stop(o, stops, &at);
    if (stop >= 0) {
        give(o, stops->include_in_output ? at + stops->texts[stop].count : at, out);
        o->held_bytes = 0;
        return stop;
    }
    give(o, settled(o, stops), out);
    return -1;
}

void rt_output_finish(rt_output *o, const rt_tokenizer *tokenizer, rt_text *out)
{
    if (tokenizer) {
        size_t piece =
            rt_detok_finish(&o->detok, tokenizer, o->held + o->held_bytes, o->held_max - o->held_bytes);
        o->held_bytes += piece;
        o->text_bytes += piece;
    }
    give(o, o->held_bytes, out);
}
