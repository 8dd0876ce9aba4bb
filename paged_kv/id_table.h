/* paged_kv/id_table.h - ids by 32-bit hash: open addressing, several ids may have one hash.
 *
 * A lookup gives candidates; the caller compares. Slots are a power of two and at most half full,
 * and removal moves later entries back, so that probes stay short for ever.
 */
#ifndef PAGED_KV_ID_TABLE_H
#define PAGED_KV_ID_TABLE_H

#include <stdint.h>

#include "proto/rc.h"

typedef struct kv_id_slot {
    uint32_t hash;
    uint32_t id; /* UINT32_MAX: empty */
} kv_id_slot;

typedef struct kv_id_table {
    kv_id_slot *slots;
    uint32_t mask;
    uint32_t count;
} kv_id_table;

/* Slots for at most ids_max ids. */
static inline uint32_t kv__id_slots(uint32_t ids_max)
{
    uint32_t slots = 2;
    while (slots / 2 < ids_max) slots *= 2;
    return slots;
}

static inline void kv__id_init(kv_id_table *t, kv_id_slot *slots, uint32_t slots_count)
{
    t->slots = slots;
    t->mask = slots_count - 1;
    t->count = 0;
    for (uint32_t i = 0; i < slots_count; i++) slots[i].id = UINT32_MAX;
}

/* The next id of this hash from slot *at on, or UINT32_MAX. Start with *at = hash. */
static inline uint32_t kv__id_next(const kv_id_table *t, uint32_t hash, uint32_t *at)
{
    for (;;) {
        const kv_id_slot *slot = &t->slots[(*at)++ & t->mask];
        if (slot->id == UINT32_MAX || slot->hash == hash) return slot->id;
    }
}

static inline void kv__id_insert(kv_id_table *t, uint32_t hash, uint32_t id)
{
    RC_ASSERT(t->count < t->mask);
    uint32_t at = hash & t->mask;
    while (t->slots[at].id != UINT32_MAX) at = (at + 1) & t->mask;
    t->slots[at] = (kv_id_slot){hash, id};
    t->count++;
}

static inline void kv__id_remove(kv_id_table *t, uint32_t hash, uint32_t id)
{
    uint32_t hole = hash & t->mask;
    while (t->slots[hole].id != id) {
        RC_ASSERT(t->slots[hole].id != UINT32_MAX);
        hole = (hole + 1) & t->mask;
    }
    /* An entry may move into the hole if its home is not between the hole and itself. */
    for (uint32_t at = (hole + 1) & t->mask; t->slots[at].id != UINT32_MAX; at = (at + 1) & t->mask) {
        uint32_t distance = (at - t->slots[at].hash) & t->mask;
        if (distance < ((at - hole) & t->mask)) continue;
        t->slots[hole] = t->slots[at];
        hole = at;
    }
    t->slots[hole].id = UINT32_MAX;
    t->count--;
}

#endif
