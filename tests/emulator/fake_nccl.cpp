/* NCCL among the threads of one process. A sum adds the ranks in their order. */
#include "emu_device.h"

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <cuda_bf16.h>
#include <nccl.h>

namespace
{

const std::chrono::seconds PATIENCE(60);
const std::chrono::milliseconds MOMENT(1);

/* One rank's part of a collective. */
struct Part {
    const void *from;
    void *to;
};

struct Group {
    using Finish = std::function<void(const std::vector<Part> &)>;
    std::mutex mutex;
    std::condition_variable over;
    int ranks, came = 0, round = 0;
    bool is_aborted = false;
    std::vector<Part> parts;
    std::vector<cudaStream_t> streams; /* where each rank's collectives are queued */

    explicit Group(int n) : ranks(n), parts((size_t)n), streams((size_t)n) {}

    /* The last rank to come does the work of all. A GPU's streams go on by themselves; here nobody may be
     * waiting for those of the others, so who waits lends them a hand. False: somebody did not come, or the
     * group was aborted. */
    bool meet(int rank, Part part, const Finish &finish)
    {
        std::unique_lock<std::mutex> lock(mutex);
        int this_round = round;
        parts[(size_t)rank] = part;
        if (++came == ranks && !is_aborted) {
            finish(parts);
            came = 0;
            round++;
            over.notify_all();
        }
        auto until = std::chrono::steady_clock::now() + PATIENCE;
        for (int other = 0; round == this_round && !is_aborted; other = (other + 1) % ranks) {
            is_aborted = std::chrono::steady_clock::now() > until;
            over.wait_for(lock, MOMENT / ranks);
            cudaStream_t stream = streams[(size_t)other];
            if (round != this_round || other == rank || !stream) continue;
            lock.unlock();
            emu::help(stream);
            lock.lock();
        }
        return round != this_round;
    }
    void leave(int rank, bool aborts)
    {
        std::lock_guard<std::mutex> lock(mutex);
        streams[(size_t)rank] = nullptr;
        is_aborted = is_aborted || aborts;
        over.notify_all();
    }
};

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

} /* namespace */

struct ncclComm {
    std::shared_ptr<Group> group;
    int rank;
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
    snprintf((char *)id, sizeof *id, "emulated %d", ++ids);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t *out, int ranks, ncclUniqueId id, int rank)
{
    std::shared_ptr<Group> group;
    {
        std::lock_guard<std::mutex> lock(groups_lock);
        std::shared_ptr<Group> &of_id = groups[(const char *)&id];
        if (!of_id) of_id = std::make_shared<Group>(ranks);
        group = of_id;
    }
    if (group->ranks != ranks || rank < 0 || rank >= ranks) return ncclInvalidArgument;
    if (!group->meet(rank, {nullptr, nullptr}, [](const std::vector<Part> &) {})) return ncclSystemError;
    *out = new ncclComm{group, rank};
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
    delete comm;
    return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *result)
{
    *result = comm->group->is_aborted ? ncclRemoteError : ncclSuccess;
    return ncclSuccess;
}

static ncclResult_t collect(ncclComm_t comm, Part part, cudaStream_t stream, Group::Finish finish)
{
    std::shared_ptr<Group> group = comm->group;
    int rank = comm->rank;
    {
        std::lock_guard<std::mutex> lock(group->mutex);
        group->streams[(size_t)rank] = stream;
    }
    int device = emu::stream_device(stream);
    emu::enqueue(stream, [=] {
        if (!group->meet(rank, part, finish)) emu::break_device(device, cudaErrorLaunchTimeout);
    });
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream)
{
    if (op != ncclSum || (type != ncclFloat && type != ncclBfloat16)) return ncclInvalidArgument;
    return collect(comm, {from, to}, stream, [=](const std::vector<Part> &parts) {
        std::vector<float> sum(count, 0.0f);
        for (const Part &p : parts)
            for (size_t i = 0; i < count; i++) sum[i] += load(p.from, type, i);
        for (const Part &p : parts)
            for (size_t i = 0; i < count; i++) store(p.to, type, i, sum[i]);
    });
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream)
{
    if (type != ncclInt32) return ncclInvalidArgument;
    return collect(comm, {from, to}, stream, [=](const std::vector<Part> &parts) {
        for (const Part &p : parts) memmove(p.to, parts[(size_t)root].from, count * sizeof(int32_t));
    });
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream)
{
    size_t bytes = count * (type == ncclFloat || type == ncclInt32 ? 4 : type == ncclBfloat16 ? 2 : 0);
    if (!bytes) return ncclInvalidArgument;
    return collect(comm, {from, to}, stream, [=](const std::vector<Part> &parts) {
        std::vector<char> all(bytes * parts.size());
        for (size_t r = 0; r < parts.size(); r++) memcpy(&all[r * bytes], parts[r].from, bytes);
        for (const Part &p : parts) memcpy(p.to, all.data(), all.size());
    });
}

} /* extern "C" */
