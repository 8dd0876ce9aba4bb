/* NCCL among threads and processes of one machine. Ranks meet in a piece of shared memory that the
 * communicator's id names; each lays a stretch of its part there, and takes what it needs of all. A sum adds
 * the ranks in their order. */
#include "emu_device.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <linux/futex.h>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <cuda_bf16.h>
#include <nccl.h>
#include <nccl_device.h>

namespace
{

const std::chrono::seconds PATIENCE(60);
const long MOMENT_NS = 1000000;
const size_t STRETCH = 1 << 18; /* bytes */

/* What is shared, and behind it two stretches for each rank, which take turns: who has met a second time has
 * taken what it needed of the first. */
struct Meeting {
    std::atomic<uint32_t> came, round, is_aborted;
};

/* A communicator as one process has it. */
struct Group {
    std::string name;
    int ranks;
    Meeting *meeting = nullptr;
    std::mutex mutex;
    std::vector<cudaStream_t> streams; /* where each of this process's ranks queues its collectives */
    std::vector<int> helpers;          /* threads at that stream, other than the rank's */
    std::condition_variable helped;
    int own = 0;            /* of the ranks, this process's */
    std::vector<void *> memory; /* that each rank is registering */
    std::thread hands;      /* where there are others */
    std::atomic<bool> stops{false};

    Group(const char *id, int n)
        : name(id), ranks(n), streams((size_t)n), helpers((size_t)n), memory((size_t)n)
    {
    }
    ~Group()
    {
        stops = true;
        if (hands.joinable()) hands.join();
        if (meeting) munmap(meeting, bytes());
    }
    size_t bytes() const
    {
        return sizeof(Meeting) + 2 * (size_t)ranks * STRETCH;
    }
    char *stretch(uint32_t round, int rank) const
    {
        return (char *)(meeting + 1) + (round % 2 * (size_t)ranks + (size_t)rank) * STRETCH;
    }
    /* The file starts as zeros. */
    bool map()
    {
        int file = shm_open(name.c_str(), O_RDWR | O_CREAT, 0600);
        if (file < 0 || ftruncate(file, (off_t)bytes())) return false;
        void *p = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        if (p == MAP_FAILED) return false;
        meeting = (Meeting *)p;
        return true;
    }

    /* A GPU's streams go on by themselves; here nobody may be waiting for those of this process's other
     * ranks, so who waits lends them a hand. False: somebody did not come, or the group was aborted. */
    bool meet(int rank)
    {
        uint32_t round = meeting->round;
        if (++meeting->came == (uint32_t)ranks) {
            meeting->came = 0;
            meeting->round++;
            syscall(SYS_futex, &meeting->round, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
            return !meeting->is_aborted;
        }
        auto until = std::chrono::steady_clock::now() + PATIENCE;
        timespec moment = {0, MOMENT_NS / ranks};
        for (int other = 0; meeting->round == round && !meeting->is_aborted; other = (other + 1) % ranks) {
            if (std::chrono::steady_clock::now() > until) meeting->is_aborted = 1;
            syscall(SYS_futex, &meeting->round, FUTEX_WAIT, round, &moment, nullptr, 0);
            if (other != rank) help((size_t)other, round);
        }
        return meeting->round != round;
    }
    /* Another process's ranks wait, and this one's thread may be waiting for something else. */
    void lend_hands()
    {
        while (!stops) {
            std::this_thread::sleep_for(std::chrono::nanoseconds(MOMENT_NS));
            uint32_t round = meeting->round;
            for (size_t r = 0; meeting->came && r < streams.size(); r++) help(r, round);
        }
    }
    void begin_lending()
    {
        std::lock_guard<std::mutex> lock(mutex);
        if (own < ranks && !hands.joinable()) hands = std::thread([this] { lend_hands(); });
    }
    /* Only to come to this round: what is behind it would wait for who helps. */
    void help(size_t rank, uint32_t round)
    {
        std::unique_lock<std::mutex> lock(mutex);
        cudaStream_t stream = streams[rank];
        if (!stream) return;
        helpers[rank]++;
        lock.unlock();
        emu::help(stream, [&] { return meeting->round == round && !meeting->is_aborted; });
        lock.lock();
        if (!--helpers[rank]) helped.notify_all();
    }
    void leave(int rank, bool aborts)
    {
        std::unique_lock<std::mutex> lock(mutex);
        streams[(size_t)rank] = nullptr;
        if (aborts) meeting->is_aborted = 1;
        helped.wait(lock, [&] { return !helpers[(size_t)rank]; });
    }
};

std::mutex windows_lock;
std::set<void *> in_windows;

std::mutex groups_lock;
std::map<std::string, std::shared_ptr<Group>> groups;
int ids;

float load(const void *p, ncclDataType_t type, size_t i)
{
    return type == ncclFloat ? ((const float *)p)[i] : __bfloat162float(((const __nv_bfloat16 *)p)[i]);
}

void store(void *p, ncclDataType_t type, size_t i, float value)
{
    if (type == ncclFloat)
        ((float *)p)[i] = value;
    else
        ((__nv_bfloat16 *)p)[i] = __float2bfloat16(value);
}

size_t bytes_of(ncclDataType_t type)
{
    return type == ncclFloat || type == ncclInt32 ? 4 : type == ncclBfloat16 ? 2 : 0;
}

std::shared_ptr<Group> group_of(const char *id, int ranks)
{
    std::lock_guard<std::mutex> lock(groups_lock);
    std::shared_ptr<Group> &group = groups[id];
    if (!group) {
        group = std::make_shared<Group>(id, ranks);
        if (!group->map()) group.reset();
    }
    return group;
}

} /* namespace */

struct ncclComm {
    std::shared_ptr<Group> group;
    int rank, device = 0;
    cudaStream_t stream = nullptr;                          /* of its collectives */
    std::shared_ptr<bool> graphs = std::make_shared<bool>(); /* held by those in graphs, too */

    ncclComm(const std::shared_ptr<Group> &of, int number) : group(of), rank(number)
    {
        cudaGetDevice(&device);
        emu::occupy(device, true);
    }
    ~ncclComm()
    {
        emu::occupy(device, false);
    }

    /* As NCCL does: until nothing of a graph that holds collectives is left. */
    bool are_graphs_gone() const
    {
        auto until = std::chrono::steady_clock::now() + PATIENCE;
        while (graphs.use_count() > 1 && std::chrono::steady_clock::now() < until)
            emu::help(stream, [] { return true; });
        return graphs.use_count() == 1;
    }
};

extern "C" {

ncclResult_t ncclGetVersion(int *version)
{
    *version = 22809;
    return ncclSuccess;
}
const char *ncclGetErrorString(ncclResult_t result)
{
    return result ? "an emulated NCCL error" : "no error";
}
const char *ncclGetLastError(ncclComm_t)
{
    return "";
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    std::lock_guard<std::mutex> lock(groups_lock);
    memset(id, 0, sizeof *id);
    snprintf((char *)id, sizeof *id, "/mica-emulated-nccl-%d-%d", (int)getpid(), ++ids);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t *out, int ranks, ncclUniqueId id, int rank)
{
    std::shared_ptr<Group> group = group_of((const char *)&id, ranks);
    if (!group) return ncclSystemError;
    if (group->ranks != ranks || rank < 0 || rank >= ranks) return ncclInvalidArgument;
    {
        std::lock_guard<std::mutex> lock(group->mutex);
        group->own++;
    }
    bool have_met = group->meet(rank);
    if (rank == 0) shm_unlink(group->name.c_str()); /* all have it, or never will */
    if (!have_met) return ncclSystemError;
    group->begin_lending();
    *out = new ncclComm(group, rank);
    return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    comm->group->leave(comm->rank, false);
    delete comm;
    return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    comm->group->leave(comm->rank, true);
    if (!comm->are_graphs_gone()) {
        fprintf(stderr, "emulated NCCL: a communicator is given up whose collectives are in graphs\n");
        abort();
    }
    delete comm;
    return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *result)
{
    *result = comm->group->meeting->is_aborted ? ncclRemoteError : ncclSuccess;
    return ncclSuccess;
}

/* ---- symmetric memory, where all ranks are of one process ---- */

ncclResult_t ncclMemAlloc(void **out, size_t bytes)
{
    return cudaMalloc(out, bytes) ? ncclUnhandledCudaError : ncclSuccess;
}
/* What was a window's stays: another rank may be writing there. */
ncclResult_t ncclMemFree(void *p)
{
    std::lock_guard<std::mutex> lock(windows_lock);
    return in_windows.count(p) || !cudaFree(p) ? ncclSuccess : ncclUnhandledCudaError;
}

typedef struct ncclTeam {
    int nRanks, rank, stride;
} ncclTeam_t;

ncclTeam_t ncclTeamLsa(ncclComm_t comm)
{
    bool is_whole = comm->group->own == comm->group->ranks;
    return {is_whole ? comm->group->ranks : 1, is_whole ? comm->rank : 0, 1};
}

ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void *memory, size_t bytes, ncclWindow_t *out, int flags)
{
    Group &group = *comm->group;
    if (flags != NCCL_WIN_COLL_SYMMETRIC || bytes % NCCL_WIN_REQUIRED_ALIGNMENT) return ncclInvalidArgument;
    *out = nullptr;
    if (group.own != group.ranks) return ncclSuccess;
    group.memory[(size_t)comm->rank] = memory;
    {
        std::lock_guard<std::mutex> lock(windows_lock);
        in_windows.insert(memory);
    }
    if (!group.meet(comm->rank)) return ncclRemoteError;
    void *window = nullptr;
    if (cudaMalloc(&window, sizeof **out)) return ncclUnhandledCudaError;
    *out = (ncclWindow_t)window;
    for (size_t r = 0; r < group.memory.size(); r++) (*out)->memory[r] = (char *)group.memory[r];
    return ncclSuccess;
}

/* Bytes [at, at + count) of rank r's part lie at part(r). */
using Parts = std::function<const char *(int rank)>;
using Take = std::function<void(const Parts &part, size_t at, size_t count)>;

/* Meets once: whoever lends a hand from within a meeting must not need another one. */
static void exchange(Group &group, int rank, const char *from, size_t at, size_t count, int device,
                     const Take &take)
{
    uint32_t round = group.meeting->round;
    memcpy(group.stretch(round, rank), from + at, count);
    if (group.meet(rank)) take([&](int r) { return group.stretch(round, r); }, at, count);
    else emu::break_device(device, cudaErrorLaunchTimeout);
}

static ncclResult_t collect(ncclComm_t comm, const void *from, size_t bytes, cudaStream_t stream, Take take)
{
    std::shared_ptr<Group> group = comm->group;
    int rank = comm->rank, device = emu::stream_device(stream);
    std::shared_ptr<bool> graphs = emu::is_captured(stream) ? comm->graphs : nullptr;
    emu::count_launch();
    comm->stream = stream;
    {
        std::lock_guard<std::mutex> lock(group->mutex);
        group->streams[(size_t)rank] = stream;
    }
    for (size_t at = 0; at < bytes; at += STRETCH) {
        size_t count = std::min(STRETCH, bytes - at);
        emu::enqueue(stream, [=] {
            (void)graphs;
            exchange(*group, rank, (const char *)from, at, count, device, take);
        });
    }
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream)
{
    size_t size = bytes_of(type);
    if (op != ncclSum || (type != ncclFloat && type != ncclBfloat16)) return ncclInvalidArgument;
    int ranks = comm->group->ranks;
    return collect(comm, from, count * size, stream, [=](const Parts &part, size_t at, size_t bytes) {
        std::vector<float> sum(bytes / size, 0.0f);
        for (int r = 0; r < ranks; r++)
            for (size_t i = 0; i < sum.size(); i++) sum[i] += load(part(r), type, i);
        for (size_t i = 0; i < sum.size(); i++) store((char *)to + at, type, i, sum[i]);
    });
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream)
{
    if (!bytes_of(type)) return ncclInvalidArgument;
    size_t all = count * bytes_of(type);
    return collect(comm, from, all, stream, [=](const Parts &part, size_t at, size_t bytes) {
        memcpy((char *)to + at, part(root), bytes);
    });
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream)
{
    size_t share = count * bytes_of(type);
    if (!share) return ncclInvalidArgument;
    int ranks = comm->group->ranks;
    return collect(comm, from, share, stream, [=](const Parts &part, size_t at, size_t bytes) {
        for (int r = 0; r < ranks; r++) memcpy((char *)to + (size_t)r * share + at, part(r), bytes);
    });
}

} /* extern "C" */
