/* cudart's streams, events and graphs. */
#include "emu_device.h"
#include "fake_cudart.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace emu
{

static void nap()
{
    std::this_thread::sleep_for(std::chrono::microseconds(20));
}

struct Piece {
    Work work;
    bool waits; /* for other devices */
    unsigned microseconds;
};

/* A thread that does a piece of work at a time. */
class Apart
{
    std::mutex mutex;
    std::condition_variable news;
    Work work; /* under way, or none */
    bool stops = false;
    std::thread thread;

    void run()
    {
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            news.wait(lock, [&] { return work || stops; });
            if (!work) return;
            lock.unlock();
            work();
            lock.lock();
            work = nullptr;
        }
    }

  public:
    Apart() : thread([this] { run(); }) {}
    ~Apart()
    {
        {
            std::lock_guard<std::mutex> lock(mutex);
            stops = true;
        }
        news.notify_one();
        thread.join();
    }
    void begin(Work next)
    {
        std::lock_guard<std::mutex> lock(mutex);
        work = std::move(next);
        news.notify_one();
    }
    bool is_busy()
    {
        std::lock_guard<std::mutex> lock(mutex);
        return bool(work);
    }
};

/* While a piece waits for other devices, their streams are helped: on a GPU they go on by themselves, and
 * here their ranks' threads may be at something else. */
class Hands
{
    std::mutex mutex;
    std::condition_variable helped;
    std::set<cudaStream_t> streams; /* that have, or had, such pieces */
    cudaStream_t current = nullptr;
    std::atomic<int> waiting{0};
    bool stops = false;
    std::thread thread;

    void help_all(std::unique_lock<std::mutex> &lock)
    {
        std::vector<cudaStream_t> all(streams.begin(), streams.end());
        for (cudaStream_t s : all) {
            if (!waiting || !streams.count(s)) continue;
            current = s;
            lock.unlock();
            help(s, [] { return true; });
            lock.lock();
            current = nullptr;
            helped.notify_all();
        }
    }
    void run()
    {
        std::unique_lock<std::mutex> lock(mutex);
        while (!stops) {
            help_all(lock);
            lock.unlock();
            nap();
            if (!waiting) std::this_thread::sleep_for(std::chrono::milliseconds(1));
            lock.lock();
        }
    }

  public:
    ~Hands()
    {
        {
            std::lock_guard<std::mutex> lock(mutex);
            stops = true;
        }
        if (thread.joinable()) thread.join();
    }
    void add(cudaStream_t s)
    {
        std::lock_guard<std::mutex> lock(mutex);
        streams.insert(s);
        if (!thread.joinable()) thread = std::thread([this] { run(); });
    }
    void remove(cudaStream_t s)
    {
        std::unique_lock<std::mutex> lock(mutex);
        streams.erase(s);
        helped.wait(lock, [&] { return current != s; });
    }
    void while_it_waits(const Work &work)
    {
        waiting++;
        work();
        waiting--;
    }
};
static Hands hands;

} /* namespace emu */

struct CUstream_st {
    int device;
    std::deque<emu::Piece> queue;
    uint64_t queued = 0, done = 0; /* ever */
    uint64_t microseconds = 0;     /* of what was queued ever */
    bool capturing = false, working = false, is_apart = false, is_helped = false;
    std::vector<emu::Piece> captured;
    std::unique_ptr<emu::Apart> apart;
};
struct CUevent_st {
    CUstream_st *stream = nullptr; /* NULL: never recorded, and so over */
    uint64_t after = 0, microseconds = 0;
};
struct CUgraph_st {
    std::vector<emu::Piece> work;
};
struct CUgraphExec_st {
    std::vector<emu::Piece> work;
};

namespace emu
{

/* About as many launches as a GPU's stream takes before the host has to wait for one to end. */
static const size_t QUEUE_MAX = 1024;

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

static void begin_apart(CUstream_st *s, Work work)
{
    if (!s->apart) s->apart = std::make_unique<Apart>();
    s->is_apart = true;
    s->apart->begin([work] { hands.while_it_waits(work); });
}

/* Does, or begins, the next piece; a broken device drops what was queued. */
static void run_next(CUstream_st *s)
{
    Piece piece = std::move(s->queue.front());
    s->queue.pop_front();
    bool is_broken = device_error(s->device);
    if (piece.waits && !is_broken) return begin_apart(s, std::move(piece.work));
    s->working = true;
    if (!is_broken) piece.work();
    s->working = false;
    s->done++;
}

/* stays: until a piece that waits for other devices is over; else it may be left at work. */
static void run_until(CUstream_st *s, uint64_t done, bool stays = true)
{
    Lock lock(lock_of(s));
    while (s->done < done) {
        if (s->is_apart && s->apart->is_busy()) {
            nap();
            if (!stays) return;
        } else if (s->is_apart) {
            s->is_apart = false;
            s->done++;
        } else if (s->queue.empty()) {
            return;
        } else {
            run_next(s);
        }
    }
}

/* False: there is room. */
static bool wait_for_room(CUstream_st *s)
{
    Lock lock(lock_of(s));
    if (s->capturing || device_error(s->device) || s->queue.size() < QUEUE_MAX) return false;
    run_until(s, s->done + 1, false);
    return true;
}

cudaError_t enqueue(cudaStream_t stream, Work work, bool waits, unsigned microseconds)
{
    CUstream_st *s = own(stream);
    while (wait_for_room(s)) continue;
    Lock lock(lock_of(s));
    if (device_error(s->device)) return remember(device_error(s->device));
    if (s->capturing) {
        s->captured.push_back({std::move(work), waits, microseconds});
        return cudaSuccess;
    }
    if (waits && !s->is_helped) hands.add(s);
    s->is_helped = s->is_helped || waits;
    s->queue.push_back({std::move(work), waits, microseconds});
    s->queued++;
    s->microseconds += microseconds;
    return cudaSuccess;
}

void help(cudaStream_t stream, const std::function<bool()> &is_needed)
{
    std::unique_lock<std::recursive_mutex> lock(lock_of(stream), std::try_to_lock);
    if (lock && !stream->working && is_needed()) run_until(stream, stream->done + 1, false);
}

bool is_captured(cudaStream_t stream)
{
    CUstream_st *s = own(stream);
    Lock lock(lock_of(s));
    return s->capturing;
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
    emu::hands.remove(stream);
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
cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, 0);
}
/* A piece of work takes as long as was said of it, so that what is chosen by time is always the same. */
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    *ms = (float)(end->microseconds - begin->microseconds) * 1e-3f;
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
    event->microseconds = s->microseconds;
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
    emu::run_until(s, s->done + 1, false);
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
    *graph = new CUgraph_st{std::move(stream->captured)};
    stream->captured.clear();
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
    for (const emu::Piece &p : exec->work)
        if (!error) error = emu::enqueue(stream, p.work, p.waits, p.microseconds);
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
