#include "runtime/model/wanted_rows.h"

#include <stdlib.h>
#include <string.h>

#define NOWHERE UINT32_MAX

size_t rt__wanted_rows_bytes(uint32_t rows_max)
{
    return rows_max * (sizeof(kv_span) + sizeof(kv_group) + sizeof(adapter_segment) + 2 * sizeof(uint32_t));
}

rc_code rt__wanted_rows_create(uint32_t rows_max, rt_wanted_rows *w, rc_msg *msg)
{
    char *memory = malloc(rt__wanted_rows_bytes(rows_max));
    if (!memory) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory to plan a step of %u rows", rows_max);
    *w = (rt_wanted_rows){.spans = (kv_span *)(void *)memory};
    w->groups = (kv_group *)(w->spans + rows_max);
    w->segments = (adapter_segment *)(w->groups + rows_max);
    w->place = (uint32_t *)(w->segments + rows_max);
    w->row_index = w->place + rows_max;
    return RC_OK;
}

void rt__wanted_rows_destroy(rt_wanted_rows *w) { free(w->spans); }

static void place_rows(rt_wanted_rows *w, const rt_step *step)
{
    memset(w->place, 0xff, step->rows * sizeof *w->place);
    for (uint32_t i = 0; i < step->logit_rows_count; i++) {
        RC_ASSERT(step->logit_rows[i] < step->rows);
        RC_ASSERT(i == 0 || step->logit_rows[i - 1] < step->logit_rows[i]);
        w->place[step->logit_rows[i]] = i;
    }
}

/* A span for each run of wanted rows. */
static void keep_span(rt_wanted_rows *w, const kv_span *s)
{
    const uint32_t *place = w->place + s->row;
    for (uint32_t i = 0, run; i < s->rows; i += run) {
        for (run = 1; i + run < s->rows && (place[i + run] == NOWHERE) == (place[i] == NOWHERE);) run++;
        if (place[i] == NOWHERE) continue;
        w->spans[w->step.kv.spans_count++] = (kv_span){place[i], run, s->position + i, s->table};
    }
}

/* A group keeps what its spans share, however many of them are left. */
static void keep_group(rt_wanted_rows *w, const kv_plan *whole, const kv_group *g)
{
    uint32_t first = w->step.kv.spans_count;
    for (uint32_t i = 0; i < g->spans; i++) keep_span(w, &whole->spans[g->span + i]);
    uint32_t spans = w->step.kv.spans_count - first;
    if (spans) w->groups[w->step.kv.groups_count++] = (kv_group){first, spans, g->shared_tokens};
}

static void keep_segment(rt_wanted_rows *w, const adapter_plan *whole, const adapter_segment *g,
                         uint32_t first)
{
    uint32_t end = first;
    for (uint32_t i = g->first; i < g->first + g->rows; i++) {
        uint32_t place = w->place[whole->row_index[i]];
        if (place != NOWHERE) w->row_index[end++] = place;
    }
    if (end > first)
        w->segments[w->step.adapters.segments_count++] = (adapter_segment){g->slot, first, end - first};
}

const rt_step *rt__wanted_rows_plan(rt_wanted_rows *w, const rt_step *step)
{
    w->step = (rt_step){.rows = step->logit_rows_count,
                        .kv = {.spans = w->spans, .groups = w->groups, .tables = step->kv.tables},
                        .adapters = {.segments = w->segments, .row_index = w->row_index}};
    place_rows(w, step);
    for (uint32_t i = 0; i < step->kv.groups_count; i++) keep_group(w, &step->kv, &step->kv.groups[i]);
    uint32_t adapted = 0;
    for (uint32_t i = 0; i < step->adapters.segments_count; i++) {
        uint32_t before = w->step.adapters.segments_count;
        keep_segment(w, &step->adapters, &step->adapters.segments[i], adapted);
        if (w->step.adapters.segments_count > before) adapted += w->segments[before].rows;
    }
    return &w->step;
}
