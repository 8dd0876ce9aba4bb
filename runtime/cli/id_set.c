#include "runtime/cli/id_set.h"

#include <stdbool.h>
#include <stdlib.h>

/* The hash alone is needed, so it is compiled in rather than linked. */
#define XXH_INLINE_ALL
#include <xxhash.h>

static rt_id_entry *place_of(const rt_id_set *s, uint64_t low, uint64_t high)
{
    size_t at = low & (s->room - 1);
    while (s->entries[at].marks && (s->entries[at].low != low || s->entries[at].high != high))
        at = (at + 1) & (s->room - 1);
    return &s->entries[at];
}

static bool grow(rt_id_set *s)
{
    rt_id_set bigger = {.count = s->count, .room = s->room ? 2 * s->room : 1024};
    bigger.entries = calloc(bigger.room, sizeof *bigger.entries);
    if (!bigger.entries) return false;
    for (size_t i = 0; i < s->room; i++)
        if (s->entries[i].marks) *place_of(&bigger, s->entries[i].low, s->entries[i].high) = s->entries[i];
    free(s->entries);
    *s = bigger;
    return true;
}

rc_code rt__id_set_mark(rt_id_set *s, const char *id, size_t bytes, uint32_t mark, uint32_t *before,
                        rc_msg *msg)
{
    if (s->count >= s->room / 4 * 3 && !grow(s))
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for more than %zu custom_ids", s->count);
    XXH128_hash_t hash = XXH3_128bits(id, bytes);
    rt_id_entry *e = place_of(s, hash.low64, hash.high64);
    *before = e->marks;
    if (!e->marks) s->count++;
    *e = (rt_id_entry){hash.low64, hash.high64, e->marks | mark};
    return RC_OK;
}

void rt__id_set_deinit(rt_id_set *s)
{
    free(s->entries);
    *s = (rt_id_set){0};
}
