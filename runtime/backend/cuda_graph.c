/* Steps whose launches are alike, as graphs: the first such step runs as it comes, the second is captured,
 * and later ones are one launch each. What varies between them is read from the descriptor, on the device. */
#include "runtime/backend/cuda_device.h"

/* Few sizes, so that a graph is met again. */
uint32_t rt_cuda__padded_rows(const rt_device *d, uint32_t rows)
{
    uint32_t padded = rows <= 2 ? rows : rows <= 4 ? 4 : (rows + 7) / 8 * 8;
    return padded <= d->options.rows_max ? padded : rows;
}

bool rt_cuda__has_graph(const rt_device *d, const rt_step_plan *p)
{
    bool is_decode = p->kept_count == p->rows && p->kept_kv == p->kv;
    return p->is_picked && is_decode && p->rows <= RT_CUDA_GRAPH_ROWS && !d->options.eager;
}

/* The graph of these launches, or where it shall be: in place of the one that was used least recently. */
static rt_cuda_graph *graph_of(rt_device *d, const rt_cuda_launches *launches)
{
    rt_cuda_graph *oldest = &d->graphs[0];
    for (uint32_t i = 0; i < RT_CUDA_GRAPHS; i++) {
        rt_cuda_graph *g = &d->graphs[i];
        if (g->used && !memcmp(&g->launches, launches, sizeof *launches)) return g;
        if (g->used < oldest->used) oldest = g;
    }
    if (oldest->exec) cudaGraphExecDestroy(oldest->exec);
    *oldest = (rt_cuda_graph){.launches = *launches};
    return oldest;
}

void rt_cuda__graph_begin(rt_device *d)
{
    const rt_cuda_step *s = &d->step;
    rt_cuda_launches launches = {.rows = s->rows,
                                 .kv_items = s->plans[0].kv_parts.items,
                                 .kv_merges = s->plans[0].kv_parts.merges,
                                 .adapter_items = s->plans[0].adapter_parts.items};
    rt_cuda_graph *g = graph_of(d, &launches);
    bool is_new = !g->used;
    g->used = d->turn;
    if (is_new) return;
    d->graph = g;
    d->replays = g->exec != NULL;
    if (d->replays) return;
    pthread_mutex_lock(&d->capture);
    d->captures = true;
    rt_cuda__check(d, cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal), "capture");
}

static void end_capture(rt_device *d)
{
    cudaGraph_t graph = NULL;
    cudaError_t error = cudaStreamEndCapture(d->stream, &graph);
    d->captures = false;
    pthread_mutex_unlock(&d->capture);
    if (!error && !d->has_failed) error = cudaGraphInstantiate(&d->graph->exec, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    rt_cuda__check(d, error, "graph");
}

void rt_cuda__graph_end(rt_device *d)
{
    if (!d->graph) return;
    if (d->captures) end_capture(d);
    if (!d->has_failed) rt_cuda__check(d, cudaGraphLaunch(d->graph->exec, d->stream), "graph");
    d->graph = NULL;
    d->replays = false;
}

void rt_cuda__graphs_destroy(rt_device *d)
{
    for (uint32_t i = 0; i < RT_CUDA_GRAPHS; i++)
        if (d->graphs[i].exec) cudaGraphExecDestroy(d->graphs[i].exec);
    memset(d->graphs, 0, sizeof d->graphs);
}
