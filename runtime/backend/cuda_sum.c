/* Sums over ranks, together with what follows them in one launch where ranks can write each other's memory,
 * else by NCCL and a launch behind it. Which of the two is quicker, up to how many rows, is measured once. */
#include "runtime/backend/cuda_device.h"

/* As nccl_device/core.h has them, with functions of C++ beside. */
typedef struct ncclTeam {
    int nRanks, rank, stride;
} ncclTeam_t;
ncclTeam_t ncclTeamLsa(ncclComm_t comm);

enum { WARM = 2, ROUNDS = 8, SIZES = 4, WINDOW_ALIGN = 2 << 20 };

static bool has_window(const rt_device_options *o)
{
    return o->world > 1 && o->world <= RT_CUDA_SUM_RANKS && !o->plain_sums;
}

size_t rt_cuda__window_bytes(const rt_device_options *o)
{
    size_t bytes = rt_cuda_sum_bytes(o->rows_max, o->sums_width, o->world);
    return has_window(o) ? (bytes + WINDOW_ALIGN - 1) / WINDOW_ALIGN * WINDOW_ALIGN : 0;
}

/* Of r the rows [first, first + count). */
static rt_cuda_residual piece_of(const rt_cuda_residual *r, uint32_t first, uint32_t count)
{
    rt_cuda_residual p = *r;
    p.rows.rows = count;
    p.rows.x += first * r->rows.x_stride;
    p.h += first * r->h_stride;
    if (r->weight) p.rows.y += first * r->rows.y_stride;
    if (r->rows.pairs) p.rows.pairs += first * r->rows.pairs_stride;
    return p;
}

static void sum_plainly(rt_device *d, const rt_cuda_residual *r)
{
    rt_cuda_residual summed = *r;
    rt_cuda__sum(d, r->rows.x, r->rows.x_stride, r->rows.rows, r->rows.width);
    summed.rows.x = d->summed;
    summed.rows.x_stride = r->rows.width;
    if (!d->has_failed) rt_cuda__check(d, rt_cuda_add_residual(&summed, d->stream), "residual");
}

static void sum_fused(rt_device *d, const rt_cuda_residual *r)
{
    for (uint32_t first = 0, count; first < r->rows.rows; first += count) {
        count = r->rows.rows - first < d->peers.rows_most ? r->rows.rows - first : d->peers.rows_most;
        rt_cuda_residual piece = piece_of(r, first, count);
        rt_cuda__pace(d, 1);
        if (!d->has_failed)
            rt_cuda__check(d, rt_cuda_sum_residual(&d->peers, &piece, d->stream), "sum of ranks");
    }
}

/* With batch_invariant the number of rows decides nothing. */
void rt_cuda__sum_residual(rt_device *d, const rt_cuda_residual *r)
{
    bool fits = r->rows.rows <= d->fused_rows || d->options.batch_invariant;
    if (d->fused_rows && fits)
        sum_fused(d, r);
    else
        sum_plainly(d, r);
}

/* ---- when the ranks meet ---- */

/* False where one says no, or the group has failed. */
static bool all_say(const rt_device *d, bool yes)
{
    rt_group *g = d->options.group;
    float count = yes;
    return g->ops->all_reduce(g, &count, 1, 1, 1) && count == (float)g->world;
}

/* NULL, or why ranks can't write each other's memory, or not by what this was built with: the layout of a
 * window differs between versions of NCCL. */
static const char *why_not(const rt_device *d)
{
    const rt_device_options *o = &d->options;
    int version = 0, blocks = 0;
    if (o->plain_sums) return "as asked";
    if (!has_window(o)) return "so many ranks";
    if (ncclGetVersion(&version) || version != NCCL_VERSION_CODE)
        return "another version than this was built with";
    cudaError_t error = cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, (int)o->ordinal);
    if (error || blocks * RT_CUDA_SUM_BLOCKS < RT_CUDA_SUM_ROWS) return "too few multiprocessors";
    ncclTeam_t team = ncclTeamLsa(d->comm);
    bool is_whole = team.nRanks == (int)o->world && team.rank == (int)o->group->rank;
    return is_whole ? NULL : "no memory that all ranks can write";
}

static bool take_window(rt_device *d)
{
    size_t bytes = rt_cuda__window_bytes(&d->options);
    bool ok = !ncclMemAlloc(&d->window_memory, bytes) &&
              !cudaMallocHost((void **)&d->given_up, sizeof *d->given_up);
    if (ok) *d->given_up = 0;
    if (!all_say(d, ok)) return false;
    ok = !ncclCommWindowRegister(d->comm, d->window_memory, bytes, &d->window, NCCL_WIN_COLL_SYMMETRIC) &&
         d->window;
    return all_say(d, ok);
}

/* Nobody writes into a window before all have heard that it is empty. */
static bool find_windows(rt_device *d)
{
    const rt_device_options *o = &d->options;
    void **found = d->workspace;
    cudaError_t error = cudaMemsetAsync(d->window_memory, 0, rt_cuda__window_bytes(o), d->stream);
    if (!error) error = rt_cuda_find_windows(d->window, o->world, found, d->stream);
    if (!error)
        error = cudaMemcpyAsync(d->peers.windows, found, o->world * sizeof *found, cudaMemcpyDeviceToHost,
                                d->stream);
    if (!error) error = cudaStreamSynchronize(d->stream);
    d->peers.given_up = d->given_up;
    d->peers.rank = o->group->rank;
    d->peers.world = o->world;
    d->peers.rows_most = rt_cuda_sum_rows_most(o->rows_max, o->sums_width);
    d->peers.stride = rt_cuda_sum_stride(o->sums_width);
    return all_say(d, !error);
}

static float milliseconds_of(rt_device *d, uint32_t rows, bool is_fused, const cudaEvent_t events[2])
{
    size_t width = d->options.sums_width;
    rt_cuda_residual r = {.rows = {d->summed, width, d->scratch, width, rows, (uint32_t)width, NULL, 0},
                          .h = d->scratch,
                          .h_stride = width,
                          .weight = d->summed};
    float ms = 0;
    for (int i = 0; i < WARM + ROUNDS; i++) {
        if (i == WARM) rt_cuda__check(d, cudaEventRecord(events[0], d->stream), "sum of ranks");
        (is_fused ? sum_fused : sum_plainly)(d, &r);
    }
    rt_cuda__check(d, cudaEventRecord(events[1], d->stream), "sum of ranks");
    rt_cuda__wait(d, events[1]);
    if (!d->has_failed) rt_cuda__check(d, cudaEventElapsedTime(&ms, events[0], events[1]), "sum of ranks");
    return ms;
}

/* As rank 0 finds it. */
static void measure(rt_device *d)
{
    rt_group *g = d->options.group;
    cudaEvent_t events[2] = {NULL, NULL};
    uint32_t fused_rows = 0, most = d->peers.rows_most;
    bool wins = true;
    for (int i = 0; i < 2; i++) rt_cuda__check(d, cudaEventCreate(&events[i]), "event");
    for (int size = SIZES - 1; size >= 0 && !d->has_failed; size--) {
        uint32_t rows = most >> 2 * size ? most >> 2 * size : 1;
        float plain = milliseconds_of(d, rows, false, events);
        wins = milliseconds_of(d, rows, true, events) < plain && wins;
        if (wins) fused_rows = rows;
    }
    for (int i = 0; i < 2; i++)
        if (events[i]) cudaEventDestroy(events[i]);
    if (g->ops->broadcast(g, &fused_rows, sizeof fused_rows)) d->fused_rows = fused_rows;
}

/* What is told of the device says it, too. */
static void say(rt_device *d, const char *why)
{
    size_t at = strlen(d->name);
    if (d->fused_rows && d->options.batch_invariant)
        snprintf(d->name + at, sizeof d->name - at, ", fused sums");
    else if (d->fused_rows)
        snprintf(d->name + at, sizeof d->name - at, ", fused sums of up to %u rows", d->fused_rows);
    else
        snprintf(d->name + at, sizeof d->name - at, ", sums by NCCL (%s)", why);
}

rc_code rt_cuda__sums_prepare(rt_device *d, rc_msg *msg)
{
    const char *why = why_not(d);
    bool has_windows = all_say(d, !why) && take_window(d) && find_windows(d);
    if (has_windows && d->options.batch_invariant)
        d->fused_rows = d->peers.rows_most;
    else if (has_windows)
        measure(d);
    (void)cudaGetLastError(); /* a refusal must not be found by the next call */
    say(d, has_windows ? "quicker" : why ? why : "no memory that all ranks can write");
    return rt_cuda__status(d, msg);
}

void rt_cuda__sums_close(rt_device *d)
{
    if (d->window_memory) ncclMemFree(d->window_memory);
    cudaFreeHost(d->given_up);
}
