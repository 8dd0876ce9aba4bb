/* Sums over processes. Small ones go whole from each to each: one trip. Large ones among more than two are
 * cut: each process sums its own part of the elements and sends that to all. Every element is the same sum,
 * over the processes in their order, either way. */
#include <stdlib.h>
#include <string.h>

#include "runtime/link/mesh_internal.h"

enum { WHOLE_FLOATS = 16384, BLOCK = 256 };

static void part_of(const rt_mesh *m, size_t floats, uint32_t process, size_t *first, size_t *count)
{
    *first = floats * process / m->processes;
    *count = floats * (process + 1) / m->processes - *first;
}

static bool goes_whole(const rt_mesh *m, size_t floats)
{
    return m->processes == 2 || floats <= WHOLE_FLOATS;
}

rc_code rt_mesh_reserve(rt_mesh *m, size_t floats_max, rc_msg *msg)
{
    size_t others = m->processes - 1, whole = floats_max, part = floats_max / m->processes + 1;
    if (m->processes > 2 && whole > WHOLE_FLOATS) whole = WHOLE_FLOATS;
    m->gathered_floats = others * (whole > part ? whole : part);
    m->gathered = malloc(m->gathered_floats * sizeof *m->gathered);
    if (m->gathered) return RC_OK;
    return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for sums of %zu floats over processes", floats_max);
}

/* x += what the others sent, at their places in the order. gathered: [processes - 1][count] */
static void add_in_order(const rt_mesh *m, float *x, size_t count)
{
    float sum[BLOCK];
    for (size_t at = 0; at < count; at += BLOCK) {
        size_t n = count - at < BLOCK ? count - at : BLOCK;
        for (uint32_t p = 0, other = 0; p < m->processes; p++) {
            const float *from = p == m->process ? x + at : m->gathered + other++ * count + at;
            if (p == 0) memcpy(sum, from, n * sizeof *sum);
            else
                for (size_t i = 0; i < n; i++) sum[i] += from[i];
        }
        memcpy(x + at, sum, n * sizeof *sum);
    }
}

static bool sum_whole(rt_mesh *m, float *x, size_t floats)
{
    rt__transfer t[RT_PROCESSES_MAX];
    uint32_t count = 0;
    for (uint32_t p = 0; p < m->processes; p++) {
        if (p == m->process) continue;
        t[count] = (rt__transfer){.peer = p};
        rt__transfer_out(&t[count], RT_FRAME_SUM, x, floats * sizeof *x);
        rt__transfer_in(&t[count], RT_FRAME_SUM, m->gathered + count * floats, floats * sizeof *x);
        count++;
    }
    if (!rt__transfers_run(m, t, count, RT_MESH_SILENCE_MS)) return false;
    add_in_order(m, x, floats);
    return true;
}

/* gathers: others' numbers for my part come in; else everybody's finished parts do. */
static bool trade_parts(rt_mesh *m, float *x, size_t floats, bool gathers)
{
    rt__transfer t[RT_PROCESSES_MAX];
    size_t mine, my_count, first, part;
    uint32_t count = 0;
    part_of(m, floats, m->process, &mine, &my_count);
    for (uint32_t p = 0; p < m->processes; p++) {
        if (p == m->process) continue;
        part_of(m, floats, p, &first, &part);
        rt__transfer *u = &t[count];
        *u = (rt__transfer){.peer = p};
        if (gathers) {
            rt__transfer_out(u, RT_FRAME_SUM, x + first, part * sizeof *x);
            rt__transfer_in(u, RT_FRAME_SUM, m->gathered + count * my_count, my_count * sizeof *x);
        } else {
            rt__transfer_out(u, RT_FRAME_SUM, x + mine, my_count * sizeof *x);
            rt__transfer_in(u, RT_FRAME_SUM, x + first, part * sizeof *x);
        }
        count++;
    }
    return rt__transfers_run(m, t, count, RT_MESH_SILENCE_MS);
}

bool rt_mesh_all_reduce(rt_mesh *m, float *x, size_t floats)
{
    size_t mine, count;
    if (goes_whole(m, floats)) {
        RC_ASSERT((m->processes - 1) * floats <= m->gathered_floats);
        return sum_whole(m, x, floats);
    }
    part_of(m, floats, m->process, &mine, &count);
    RC_ASSERT((m->processes - 1) * count <= m->gathered_floats);
    if (!trade_parts(m, x, floats, true)) return false;
    add_in_order(m, x + mine, count);
    return trade_parts(m, x, floats, false);
}

bool rt_mesh_least(rt_mesh *m, uint64_t *value)
{
    rt__transfer t[RT_PROCESSES_MAX];
    uint64_t theirs[RT_PROCESSES_MAX], own = *value;
    uint32_t count = 0;
    for (uint32_t p = 0; p < m->processes; p++) {
        if (p == m->process) continue;
        t[count] = (rt__transfer){.peer = p};
        rt__transfer_out(&t[count], RT_FRAME_BYTES, &own, sizeof own);
        rt__transfer_in(&t[count], RT_FRAME_BYTES, &theirs[count], sizeof own);
        count++;
    }
    if (!rt__transfers_run(m, t, count, -1)) return false; /* others may load for long */
    for (uint32_t i = 0; i < count; i++)
        if (theirs[i] < *value) *value = theirs[i];
    return true;
}
