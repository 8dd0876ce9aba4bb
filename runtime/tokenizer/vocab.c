#include "runtime/tokenizer/vocab.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { SLOTS_MIN = 64 };

static rc_code no_memory(rc_msg *msg)
{
    return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the vocabulary");
}

static const char *text_of(const rt__tok_vocab *v, const rt__tok_text *t)
{
    return v->arena.data ? v->arena.data + t->at : "";
}

/* The slot that holds `text`, or the empty one where it belongs. */
static uint32_t find_slot(const rt__tok_vocab *v, const char *text, size_t bytes)
{
    uint32_t mask = v->slots_count - 1;
    uint32_t slot = (uint32_t)XXH3_64bits(text, bytes) & mask;
    for (; v->slots[slot]; slot = (slot + 1) & mask) {
        const rt__tok_text *t = &v->texts[v->slots[slot] - 1];
        if (t->bytes == bytes && !memcmp(text_of(v, t), text, bytes)) break;
    }
    return slot;
}

static rc_code grow_slots(rt__tok_vocab *v, rc_msg *msg)
{
    uint32_t count = v->slots_count ? v->slots_count * 2 : SLOTS_MIN;
    uint32_t *slots = calloc(count, sizeof *slots);
    if (!slots) return no_memory(msg);
    free(v->slots);
    v->slots = slots;
    v->slots_count = count;
    for (uint32_t i = 0; i < v->count; i++)
        slots[find_slot(v, text_of(v, &v->texts[i]), v->texts[i].bytes)] = i + 1;
    return RC_OK;
}

static rc_code grow_texts(rt__tok_vocab *v, rc_msg *msg)
{
    uint32_t room = v->room ? v->room * 2 : SLOTS_MIN;
    rt__tok_text *texts = realloc(v->texts, room * sizeof *texts);
    if (!texts) return no_memory(msg);
    v->texts = texts;
    v->room = room;
    return RC_OK;
}

rc_code rt__tok_vocab_put(rt__tok_vocab *v, const char *text, size_t bytes, int32_t id, rc_msg *msg)
{
    if (v->count * 2 >= v->slots_count) RC_TRY(grow_slots(v, msg));
    if (v->count == v->room) RC_TRY(grow_texts(v, msg));
    uint32_t slot = find_slot(v, text, bytes);
    if (!v->slots[slot]) {
        if (bytes > UINT32_MAX / 2 - v->arena.count) return no_memory(msg);
        v->texts[v->count] = (rt__tok_text){.at = (uint32_t)v->arena.count, .bytes = (uint32_t)bytes};
        rt_bytes_add(&v->arena, text, bytes);
        if (v->arena.failed) return no_memory(msg);
        v->slots[slot] = ++v->count;
    }
    v->texts[v->slots[slot] - 1].id = id;
    if ((uint32_t)id >= v->ids) v->ids = (uint32_t)id + 1;
    return RC_OK;
}

rc_code rt__tok_vocab_index(rt__tok_vocab *v, rc_msg *msg)
{
    uint32_t *by_id = calloc(v->ids ? v->ids : 1, sizeof *by_id);
    if (!by_id) return no_memory(msg);
    for (uint32_t i = 0; i < v->count; i++) {
        const rt__tok_text *t = &v->texts[i];
        uint32_t other = by_id[t->id];
        if (other) {
            const rt__tok_text *o = &v->texts[other - 1];
            rc_fail(RC_INVALID_ARGUMENT, msg, "vocab: '%.*s' and '%.*s' both have the id %d",
                    o->bytes < 80 ? (int)o->bytes : 80, text_of(v, o), t->bytes < 80 ? (int)t->bytes : 80,
                    text_of(v, t), t->id);
            free(by_id);
            return RC_INVALID_ARGUMENT;
        }
        by_id[t->id] = i + 1;
    }
    v->by_id = by_id;
    return RC_OK;
}

int32_t rt__tok_vocab_find(const rt__tok_vocab *v, const char *text, size_t bytes)
{
    if (!v->slots_count) return -1;
    uint32_t index = v->slots[find_slot(v, text, bytes)];
    return index ? v->texts[index - 1].id : -1;
}

const char *rt__tok_vocab_text(const rt__tok_vocab *v, int32_t id, size_t *bytes)
{
    if (id < 0 || (uint32_t)id >= v->ids || !v->by_id || !v->by_id[id]) return NULL;
    const rt__tok_text *t = &v->texts[v->by_id[id] - 1];
    *bytes = t->bytes;
    return text_of(v, t);
}

void rt__tok_vocab_deinit(rt__tok_vocab *v)
{
    rt_bytes_deinit(&v->arena);
    free(v->texts);
    free(v->slots);
    free(v->by_id);
    *v = (rt__tok_vocab){0};
}
