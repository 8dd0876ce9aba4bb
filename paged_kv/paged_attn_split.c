#include "paged_kv/paged_attn_split.h"

#include <stdbool.h>

#include "proto/rc.h"

/* Fetching and widening a tile costs about as much as this many queries on it. */
enum { TILE_COST = 8 };

static uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }
static uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

int kv__next_piece(const kv_plan *plan, const kv__unit *unit, uint32_t ratio, kv__piece *piece)
{
    const kv_span *end = plan->spans + unit->group->span + unit->group->spans;
    const kv_span *s = piece->span;
    uint32_t origin = 0;
    if (s) {
        origin = piece->origin + s->rows * ratio;
        s++;
    } else {
        s = plan->spans + unit->group->span;
    }
    for (; s < end && origin < unit->first + unit->count; origin += s->rows * ratio, s++) {
        uint32_t first = max_u32(unit->first, origin);
        uint32_t last = min_u32(unit->first + unit->count, origin + s->rows * ratio);
        if (first >= last) continue;
        *piece = (kv__piece){s, first, last, origin};
        return 1;
    }
    return 0;
}

static uint64_t weight_of(const kv_plan *plan, const kv__unit *unit, uint32_t ratio)
{
    uint64_t shared = unit->group->shared_tokens / KV_TILE;
    uint64_t weight = shared * (unit->count + TILE_COST);
    kv__piece piece = {0};
    while (kv__next_piece(plan, unit, ratio, &piece)) {
        uint32_t first_row = (piece.first - piece.origin) / ratio;
        uint32_t last_row = (piece.end - 1 - piece.origin) / ratio;
        uint64_t fewest = (piece.span->position + first_row) / KV_TILE + 1 - shared;
        uint64_t most = (piece.span->position + last_row) / KV_TILE + 1 - shared;
        weight += (piece.end - piece.first) * (fewest + most) / 2 + TILE_COST * most;
    }
    return weight;
}

static uint32_t group_queries(const kv_plan *plan, const kv_group *group, uint32_t ratio)
{
    uint32_t rows = 0;
    for (uint32_t i = 0; i < group->spans; i++) rows += plan->spans[group->span + i].rows;
    return rows * ratio;
}

/* Smaller units where there would be too few of them to keep all parts busy. */
static uint32_t unit_queries(const kv_attn *a, uint32_t ratio, uint32_t parts)
{
    uint32_t most = KV__UNIT_QUERIES;
    for (; most > KV__UNIT_QUERIES / 4; most /= 2) {
        uint64_t units = 0;
        for (uint32_t i = 0; i < a->plan->groups_count && units < 4 * (uint64_t)parts; i++) {
            uint32_t queries = group_queries(a->plan, &a->plan->groups[i], ratio);
            units += (uint64_t)((queries + most - 1) / most) * a->layout->kv_heads;
        }
        if (units >= 4 * (uint64_t)parts) break;
    }
    return most;
}

typedef struct walk {
    uint64_t total, done; /* weight of all, and of what has been dealt out */
    uint32_t part, parts;
    void (*run)(void *, const kv__unit *);
    void *ctx;
} walk;

static bool is_ours(const walk *w, uint64_t done, uint64_t weight)
{
    return (2 * done + weight) * w->parts / (2 * w->total) == w->part;
}

/* The unit for each of its heads whose middle lies in the part's share, as many together as there is room
 * for. */
static void run_heads(walk *w, kv__unit *unit, uint32_t heads, uint64_t weight)
{
    uint32_t most = KV__UNIT_QUERIES / unit->count;
    unit->kv_heads = 0;
    for (uint32_t head = 0; head < heads; head++, w->done += weight) {
        if (!is_ours(w, w->done, weight)) continue;
        if (unit->kv_heads++ == 0) unit->kv_head = head;
        if (unit->kv_heads < most && head + 1 < heads && is_ours(w, w->done + weight, weight)) continue;
        w->run(w->ctx, unit);
        unit->kv_heads = 0;
    }
}

/* Adds up the weights where w->run is NULL; else runs the part's share. */
static void walk_units(const kv_attn *a, uint32_t ratio, uint32_t most, walk *w)
{
    uint32_t heads = a->layout->kv_heads;
    for (uint32_t i = 0; i < a->plan->groups_count; i++) {
        kv__unit unit = {.group = &a->plan->groups[i]};
        uint32_t queries = group_queries(a->plan, unit.group, ratio);
        uint32_t units = (queries + most - 1) / most;
        for (uint32_t u = 0; u < units; u++) {
            unit.first = (uint32_t)((uint64_t)queries * u / units);
            unit.count = (uint32_t)((uint64_t)queries * (u + 1) / units) - unit.first;
            uint64_t weight = weight_of(a->plan, &unit, ratio);
            if (w->run) run_heads(w, &unit, heads, weight);
            else w->done += heads * weight;
        }
    }
}

void kv__each_unit(const kv_attn *a, uint32_t part, uint32_t parts, void (*run)(void *, const kv__unit *),
                   void *ctx)
{
    RC_DASSERT(a->heads % a->layout->kv_heads == 0);
    uint32_t ratio = a->heads / a->layout->kv_heads;
    uint32_t most = unit_queries(a, ratio, parts);
    walk w = {.part = part, .parts = parts, .ctx = ctx};
    walk_units(a, ratio, most, &w);
    w.total = w.done;
    w.done = 0;
    w.run = run;
    walk_units(a, ratio, most, &w);
}
