/* cudart's streams, events and graphs. */
#include "emu_device.h"
#include "fake_cudart.h"

#include <deque>
#include <mutex>
#include <vector>

struct CUstream_st {
    int device;
    std::deque<emu::Work> queue;
    uint64_t queued = 0, done = 0; /* ever */
    bool capturing = false, working = false;
    std::vector<emu::Work> captured;
};
struct CUevent_st {
    CUstream_st *stream = nullptr; /* NULL: never recorded, and so over */
    uint64_t after = 0;
};
struct CUgraph_st {
    std::vector<emu::Work> work;
};
struct CUgraphExec_st {
    std::vector<emu::Work> work;
};

namespace emu
{

/* One lock for all streams of a device: work of one may wait for another's, from any thread. It is recursive,
 * since work that waits runs what it waits for. Devices wait for each other (NCCL) under locks of their own.
 */
static std::recursive_mutex &lock_of(const CUstream_st *s)
{
    static std::recursive_mutex locks[DEVICES_MAX];
    return locks[s->device];
}
using Lock = std::lock_guard<std::recursive_mutex>;

static CUstream_st *own(cudaStream_t stream)
{
    static thread_local CUstream_st legacy;
    if (stream) return stream;
    legacy.device = current_device();
    return &legacy;
}

static void run_until(CUstream_st *s, uint64_t done)
{
    Lock lock(lock_of(s));
    while (s->done < done && !s->queue.empty()) {
        Work work = std::move(s->queue.front());
        s->queue.pop_front();
        s->working = true;
        if (!device_error(s->device)) work(); /* a broken device drops what was queued */
        s->working = false;
        s->done++;
    }
}

cudaError_t enqueue(cudaStream_t stream, Work work)
{
    CUstream_st *s = own(stream);
    Lock lock(lock_of(s));
    if (device_error(s->device)) return remember(device_error(s->device));
    if (s->capturing) {
        s->captured.push_back(std::move(work));
        return cudaSuccess;
    }
    s->queue.push_back(std::move(work));
    s->queued++;
    return cudaSuccess;
}

void help(cudaStream_t stream, const std::function<bool()> &is_needed)
{
    std::unique_lock<std::recursive_mutex> lock(lock_of(stream), std::try_to_lock);
    if (lock && !stream->working && is_needed()) run_until(stream, stream->done + 1);
}

int stream_device(cudaStream_t stream)
{
    return own(stream)->device;
}

} /* namespace emu */

using emu::remember;

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    *stream = new CUstream_st;
    (*stream)->device = emu::current_device();
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, 0);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    CUstream_st *s = emu::own(stream);
    emu::Lock lock(emu::lock_of(s));
    if (s->capturing) return remember(cudaErrorStreamCaptureUnsupported);
    if (s->done < s->queued) emu::counts().waits++;
    emu::run_until(s, s->queued);
    return remember(emu::device_error(s->device));
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    emu::run_until(stream, stream->queued);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    return cudaStreamSynchronize(nullptr);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    CUevent_st at = *event;
    if (!at.stream) return cudaSuccess;
    return emu::enqueue(stream, [at] { emu::run_until(at.stream, at.after); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = new CUevent_st;
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    CUstream_st *s = emu::own(stream);
    emu::Lock lock(emu::lock_of(s));
    event->stream = s;
    event->after = s->queued;
    return remember(emu::device_error(s->device));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    if (!event->stream) return cudaSuccess;
    bool waits = event->stream->done < event->after;
    emu::run_until(event->stream, event->after);
    emu::counts().waits += waits;
    emu::counts().left_busy += waits && event->stream->done < event->stream->queued;
    return remember(emu::device_error(event->stream->device));
}

/* Each question lets the stream do one more piece of its work. */
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    CUstream_st *s = event->stream;
    if (!s) return cudaSuccess;
    emu::Lock lock(emu::lock_of(s));
    if (s->done >= event->after) return remember(emu::device_error(s->device));
    emu::run_until(s, s->done + 1);
    return cudaErrorNotReady;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
    emu::Lock lock(emu::lock_of(stream));
    if (stream->capturing) return remember(cudaErrorIllegalState);
    stream->capturing = true;
    stream->captured.clear();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    emu::Lock lock(emu::lock_of(stream));
    if (!stream->capturing) return remember(cudaErrorIllegalState);
    stream->capturing = false;
    *graph = new CUgraph_st{stream->captured};
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    *exec = new CUgraphExec_st{graph->work};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    emu::counts().graphs++;
    cudaError_t error = cudaSuccess;
    for (const emu::Work &w : exec->work)
        if (!error) error = emu::enqueue(stream, w);
    return error;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

} /* extern "C" */
