#include "runtime/backend/group_local.h"

#include <pthread.h>

#include "runtime/backend/futex.h"
#include "runtime/backend/pool.h"

typedef struct member {
    rt_group group; /* first, so that a group leads to its member */
    rt_group_local *all;
    uint32_t at; /* among this process's */
    _Alignas(64) float *x; /* posted for the collective under way */
    size_t stride;
    void *bytes;
} member;

struct rt_group_local {
    _Alignas(64) _Atomic uint32_t epoch; /* of meetings */
    _Atomic uint32_t sleepers, has_failed;
    _Alignas(64) _Atomic uint32_t arrived;
    uint32_t ranks, spins;
    rt_mesh *mesh; /* NULL: no other processes */
    float *staged; /* what goes over it: [rows][width] */
    size_t floats_max;
    pthread_mutex_t lock; /* of the line */
    rc_msg line;
    member members[];
};

static member *member_of(rt_group *g) { return (member *)g; }

static bool is_whole(rt_group_local *l)
{
    return !atomic_load_explicit(&l->has_failed, memory_order_acquire);
}

static void wake_all(rt_group_local *l)
{
    atomic_fetch_add(&l->epoch, 1);
    if (atomic_load(&l->sleepers)) rt_futex_wake(&l->epoch, INT32_MAX);
}

static void wait_while(rt_group_local *l, uint32_t epoch)
{
    for (uint32_t i = 0; i < l->spins; i++) {
        if (atomic_load_explicit(&l->epoch, memory_order_acquire) != epoch) return;
        rt_futex_relax();
    }
    atomic_fetch_add(&l->sleepers, 1);
    while (atomic_load(&l->epoch) == epoch) rt_futex_wait(&l->epoch, epoch);
    atomic_fetch_sub(&l->sleepers, 1);
}

/* A failure raises the epoch too, after has_failed, so whoever waits sees it. */
static bool meet(rt_group_local *l)
{
    uint32_t epoch = atomic_load(&l->epoch);
    if (!is_whole(l)) return false;
    if (atomic_fetch_add(&l->arrived, 1) + 1 == l->ranks) {
        atomic_store(&l->arrived, 0);
        wake_all(l);
    } else {
        wait_while(l, epoch);
    }
    return is_whole(l);
}

/* Gives ok; where it is not, nobody here shall wait any longer. */
static bool after_mesh(rt_group_local *l, bool ok)
{
    rc_msg why;
    if (!ok && rt_mesh_status(l->mesh, &why) != RC_OK) rt_group_local_fail(l, why.text);
    return ok;
}

/* The first rank does it for all, between two meetings. */
static bool barrier(rt_group *g)
{
    member *m = member_of(g);
    uint64_t none = 0;
    if (!meet(m->all)) return false;
    if (!m->all->mesh) return true;
    if (m->at == 0 && !after_mesh(m->all, rt_mesh_least(m->all->mesh, &none))) return false;
    return meet(m->all);
}

static bool broadcast_mesh(rt_group_local *l, void *bytes, size_t count)
{
    bool ok = true;
    if (rt_mesh_process(l->mesh) > 0) return rt_mesh_receive(l->mesh, 0, RT_FRAME_BYTES, bytes, count);
    for (uint32_t p = 1; ok && p < rt_mesh_processes(l->mesh); p++)
        ok = rt_mesh_send(l->mesh, p, RT_FRAME_BYTES, bytes, count);
    return ok;
}

static bool broadcast(rt_group *g, void *bytes, size_t count)
{
    member *m = member_of(g);
    m->bytes = bytes;
    if (m->at == 0 && m->all->mesh && !after_mesh(m->all, broadcast_mesh(m->all, bytes, count))) return false;
    if (!meet(m->all)) return false;
    if (m->at) memcpy(bytes, m->all->members[0].bytes, count);
    return meet(m->all);
}

/* Columns [first, end) of a row, summed over this process's ranks in order: into all their x, or `to`. */
static void sum_columns(rt_group_local *l, uint32_t row, uint32_t first, uint32_t end, float *to)
{
    enum { COLUMNS = 256 };
    float sum[COLUMNS];
    for (; first < end; first += COLUMNS) {
        uint32_t count = end - first < COLUMNS ? end - first : COLUMNS;
        for (uint32_t r = 0; r < l->ranks; r++) {
            const float *x = l->members[r].x + row * l->members[r].stride + first;
            if (r == 0) memcpy(sum, x, count * sizeof *sum);
            else
                for (uint32_t i = 0; i < count; i++) sum[i] += x[i];
        }
        if (to) memcpy(to + first, sum, count * sizeof *sum);
        for (uint32_t r = 0; !to && r < l->ranks; r++)
            memcpy(l->members[r].x + row * l->members[r].stride + first, sum, count * sizeof *sum);
    }
}

/* A rank's share: whole rows, or some columns of each where there are few rows. */
static void sum_share(const member *m, uint32_t rows, uint32_t width)
{
    rt_group_local *l = m->all;
    uint32_t row = 0, rows_end = rows, first = 0, end = width;
    if (rows >= l->ranks) rt_group_share(rows, m->at, l->ranks, &row, &rows_end);
    else rt_group_share(width, m->at, l->ranks, &first, &end);
    for (; row < rows_end; row++) sum_columns(l, row, first, end, l->mesh ? l->staged + row * width : NULL);
}

/* Through `staged`, unless the one rank's own array will do. */
static bool reduce_mesh(member *m, float *x, size_t stride, uint32_t rows, uint32_t width)
{
    rt_group_local *l = m->all;
    size_t floats = (size_t)rows * width;
    RC_ASSERT(floats <= l->floats_max);
    if (l->ranks == 1 && (rows == 1 || stride == width))
        return after_mesh(l, rt_mesh_all_reduce(l->mesh, x, floats));
    sum_share(m, rows, width);
    if (!meet(l)) return false;
    if (m->at == 0 && !after_mesh(l, rt_mesh_all_reduce(l->mesh, l->staged, floats))) return false;
    if (!meet(l)) return false;
    for (uint32_t row = 0; row < rows; row++)
        memcpy(x + row * stride, l->staged + row * width, width * sizeof *x);
    return true;
}

static bool all_reduce(rt_group *g, float *x, size_t stride, uint32_t rows, uint32_t width)
{
    member *m = member_of(g);
    m->x = x;
    m->stride = stride;
    if (!meet(m->all)) return false;
    if (m->all->mesh) return reduce_mesh(m, x, stride, rows, width);
    sum_share(m, rows, width);
    return meet(m->all);
}

/* Columns of all ranks of a process. */
static void columns_of(const rt_group_local *l, uint32_t process, uint32_t world, uint32_t width,
                       uint32_t *first, uint32_t *end)
{
    uint32_t unused;
    rt_group_share(width, process * l->ranks, world, first, &unused);
    rt_group_share(width, (process + 1) * l->ranks - 1, world, &unused, end);
}

static bool receive_columns(rt_group_local *l, uint32_t world, float *y, size_t stride, uint32_t rows,
                            uint32_t width)
{
    for (uint32_t p = 1; l->mesh && p < rt_mesh_processes(l->mesh); p++) {
        uint32_t first, end;
        columns_of(l, p, world, width, &first, &end);
        size_t count = end - first;
        RC_ASSERT(rows * count <= l->floats_max);
        if (!rt_mesh_receive(l->mesh, p, RT_FRAME_COLUMNS, l->staged, rows * count * sizeof *y)) return false;
        for (uint32_t row = 0; row < rows; row++)
            memcpy(y + row * stride + first, l->staged + row * count, count * sizeof *y);
    }
    return true;
}

/* In process 0 straight to rank 0's y, elsewhere to `staged`, and from there over the mesh. */
static bool gather_columns(rt_group *g, float *y, size_t stride, uint32_t rows, uint32_t width)
{
    member *m = member_of(g);
    rt_group_local *l = m->all;
    uint32_t first, end, process = l->mesh ? rt_mesh_process(l->mesh) : 0, from = 0, to = 0;
    m->x = y;
    m->stride = stride;
    if (!meet(l)) return false;
    rt_group_share(width, g->rank, g->world, &first, &end);
    if (process) columns_of(l, process, g->world, width, &from, &to);
    float *target = process ? l->staged : l->members[0].x;
    size_t target_stride = process ? to - from : l->members[0].stride;
    RC_ASSERT(!process || rows * target_stride <= l->floats_max);
    for (uint32_t row = 0; g->rank && row < rows; row++) {
        const float *columns = y + row * stride + first;
        memcpy(target + row * target_stride + first - from, columns, (end - first) * sizeof *y);
    }
    if (!meet(l)) return false;
    if (m->at == 0 && l->mesh) {
        size_t bytes = rows * target_stride * sizeof *y;
        bool ok = process ? rt_mesh_send(l->mesh, 0, RT_FRAME_COLUMNS, target, bytes)
                          : receive_columns(l, g->world, y, stride, rows, width);
        if (!after_mesh(l, ok)) return false;
    }
    return l->mesh ? meet(l) : true;
}

void rt_group_local_fail(rt_group_local *l, const char *line)
{
    pthread_mutex_lock(&l->lock);
    if (is_whole(l)) {
        rc_fail(RC_UNAVAILABLE, &l->line, "%s", line);
        atomic_store_explicit(&l->has_failed, 1, memory_order_release);
    }
    pthread_mutex_unlock(&l->lock);
    if (l->mesh) rt_mesh_fail(l->mesh, line);
    wake_all(l);
}

static void fail(rt_group *g, const char *line) { rt_group_local_fail(member_of(g)->all, line); }

static rc_code status(rt_group *g, rc_msg *msg)
{
    rt_group_local *l = member_of(g)->all;
    if (is_whole(l)) return l->mesh ? rt_mesh_status(l->mesh, msg) : RC_OK;
    pthread_mutex_lock(&l->lock);
    if (msg) *msg = l->line;
    pthread_mutex_unlock(&l->lock);
    return RC_UNAVAILABLE;
}

static const rt_group_ops local_ops = {barrier, broadcast, all_reduce, gather_columns, fail, status};

rc_code rt_group_local_create(const rt_group_local_options *o, rt_group_local **out, rc_msg *msg)
{
    if (!o->ranks) return rc_fail(RC_INVALID_ARGUMENT, msg, "a group needs at least one rank");
    size_t bytes = sizeof(rt_group_local) + o->ranks * sizeof(member);
    rt_group_local *l = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!l) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a group of %u ranks", o->ranks);
    memset(l, 0, bytes);
    l->ranks = o->ranks;
    l->mesh = o->mesh;
    l->floats_max = o->floats_max;
    l->spins = o->threads <= rt_pool_cores() ? RT_FUTEX_SPINS : 1;
    pthread_mutex_init(&l->lock, NULL);
    uint32_t process = o->mesh ? rt_mesh_process(o->mesh) : 0;
    uint32_t processes = o->mesh ? rt_mesh_processes(o->mesh) : 1;
    for (uint32_t i = 0; i < o->ranks; i++) {
        member *m = &l->members[i];
        m->group.ops = &local_ops;
        m->group.rank = process * o->ranks + i;
        m->group.world = processes * o->ranks;
        m->all = l;
        m->at = i;
    }
    if (o->mesh) l->staged = malloc(o->floats_max * sizeof *l->staged);
    if (o->mesh && !l->staged) {
        rt_group_local_destroy(l);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for sums of %zu floats", o->floats_max);
    }
    *out = l;
    return RC_OK;
}

void rt_group_local_destroy(rt_group_local *l)
{
    if (!l) return;
    pthread_mutex_destroy(&l->lock);
    free(l->staged);
    free(l);
}

rt_group *rt_group_local_rank(rt_group_local *l, uint32_t i)
{
    RC_ASSERT(i < l->ranks);
    return &l->members[i].group;
}
