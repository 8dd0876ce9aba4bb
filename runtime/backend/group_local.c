#include "runtime/backend/group_local.h"

#include <pthread.h>

#include "runtime/backend/futex.h"
#include "runtime/backend/pool.h"

typedef struct member {
    rt_group group; /* first, so that a group leads to its member */
    rt_group_local *all;
    _Alignas(64) float *x; /* posted for the collective under way */
    size_t stride;
    void *bytes;
} member;

struct rt_group_local {
    _Alignas(64) _Atomic uint32_t epoch; /* of meetings */
    _Atomic uint32_t sleepers, has_failed;
    _Alignas(64) _Atomic uint32_t arrived;
    uint32_t ranks, spins;
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

static bool barrier(rt_group *g) { return meet(member_of(g)->all); }

static bool broadcast(rt_group *g, void *bytes, size_t count)
{
    member *m = member_of(g);
    m->bytes = bytes;
    if (!meet(m->all)) return false;
    if (g->rank) memcpy(bytes, m->all->members[0].bytes, count);
    return meet(m->all);
}

/* Element i of every row's part [first, end), of all ranks, in their order. */
static void sum_columns(rt_group_local *l, uint32_t row, uint32_t first, uint32_t end)
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
        for (uint32_t r = 0; r < l->ranks; r++)
            memcpy(l->members[r].x + row * l->members[r].stride + first, sum, count * sizeof *sum);
    }
}

/* A rank sums its share of the rows, or of the columns where there are few rows, and writes it to all. */
static bool all_reduce(rt_group *g, float *x, size_t stride, uint32_t rows, uint32_t width)
{
    member *m = member_of(g);
    uint32_t first, end;
    m->x = x;
    m->stride = stride;
    if (!meet(m->all)) return false;
    if (rows >= g->world) {
        rt_group_share(rows, g->rank, g->world, &first, &end);
        for (uint32_t row = first; row < end; row++) sum_columns(m->all, row, 0, width);
    } else {
        rt_group_share(width, g->rank, g->world, &first, &end);
        for (uint32_t row = 0; row < rows; row++) sum_columns(m->all, row, first, end);
    }
    return meet(m->all);
}

static bool gather_columns(rt_group *g, float *y, size_t stride, uint32_t rows, uint32_t width)
{
    member *m = member_of(g);
    const member *to = &m->all->members[0];
    uint32_t first, end;
    m->x = y;
    m->stride = stride;
    if (!meet(m->all)) return false;
    rt_group_share(width, g->rank, g->world, &first, &end);
    for (uint32_t row = 0; g->rank && row < rows; row++)
        memcpy(to->x + row * to->stride + first, y + row * stride + first, (end - first) * sizeof *y);
    return meet(m->all);
}

static void fail(rt_group *g, const char *line)
{
    rt_group_local *l = member_of(g)->all;
    pthread_mutex_lock(&l->lock);
    if (is_whole(l)) {
        rc_fail(RC_UNAVAILABLE, &l->line, "%s", line);
        atomic_store_explicit(&l->has_failed, 1, memory_order_release);
    }
    pthread_mutex_unlock(&l->lock);
    wake_all(l);
}

static rc_code status(rt_group *g, rc_msg *msg)
{
    rt_group_local *l = member_of(g)->all;
    if (is_whole(l)) return RC_OK;
    pthread_mutex_lock(&l->lock);
    if (msg) *msg = l->line;
    pthread_mutex_unlock(&l->lock);
    return RC_UNAVAILABLE;
}

static const rt_group_ops local_ops = {barrier, broadcast, all_reduce, gather_columns, fail, status};

rc_code rt_group_local_create(uint32_t ranks, uint32_t threads, rt_group_local **out, rc_msg *msg)
{
    if (!ranks) return rc_fail(RC_INVALID_ARGUMENT, msg, "a group needs at least one rank");
    size_t bytes = sizeof(rt_group_local) + ranks * sizeof(member);
    rt_group_local *l = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!l) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a group of %u ranks", ranks);
    memset(l, 0, bytes);
    l->ranks = ranks;
    l->spins = threads <= rt_pool_cores() ? RT_FUTEX_SPINS : 1;
    pthread_mutex_init(&l->lock, NULL);
    for (uint32_t r = 0; r < ranks; r++) {
        l->members[r].group = (rt_group){.ops = &local_ops, .rank = r, .world = ranks};
        l->members[r].all = l;
    }
    *out = l;
    return RC_OK;
}

void rt_group_local_destroy(rt_group_local *l)
{
    if (!l) return;
    pthread_mutex_destroy(&l->lock);
    free(l);
}

rt_group *rt_group_local_rank(rt_group_local *l, uint32_t rank)
{
    RC_ASSERT(rank < l->ranks);
    return &l->members[rank].group;
}
