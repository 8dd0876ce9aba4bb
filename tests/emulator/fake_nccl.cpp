/* NCCL among the threads of one process. A sum adds the ranks in their order. */
#include "emu_device.h"

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
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

struct Group {
    std::mutex mutex;
    std::condition_variable all_came;
    int ranks, came = 0, round = 0;
    bool is_aborted = false;
    std::vector<const void *> from;

    /* False: somebody did not come, or the group was aborted. */
    bool meet()
    {
        std::unique_lock<std::mutex> lock(mutex);
        int this_round = round;
        if (++came == ranks) {
            came = 0;
            round++;
            all_came.notify_all();
        } else if (!all_came.wait_for(lock, PATIENCE, [&] { return round != this_round || is_aborted; })) {
            is_aborted = true;
            all_came.notify_all();
        }
        return !is_aborted;
    }
    void abort()
    {
        std::lock_guard<std::mutex> lock(mutex);
        is_aborted = true;
        all_came.notify_all();
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
        if (!of_id) {
            of_id = std::make_shared<Group>();
            of_id->ranks = ranks;
            of_id->from.resize((size_t)ranks);
        }
        group = of_id;
    }
    if (group->ranks != ranks || rank < 0 || rank >= ranks) return ncclInvalidArgument;
    if (!group->meet()) return ncclSystemError;
    *out = new ncclComm{group, rank};
    return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    delete comm;
    return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    comm->group->abort();
    delete comm;
    return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *result)
{
    *result = comm->group->is_aborted ? ncclRemoteError : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream)
{
    if (op != ncclSum || (type != ncclFloat && type != ncclBfloat16)) return ncclInvalidArgument;
    std::shared_ptr<Group> group = comm->group;
    int rank = comm->rank;
    emu::enqueue(stream, [=] {
        group->from[(size_t)rank] = from;
        if (!group->meet()) return;
        std::vector<float> sum(count, 0.0f);
        for (const void *x : group->from)
            for (size_t i = 0; i < count; i++) sum[i] += load(x, type, i);
        if (!group->meet()) return;
        for (size_t i = 0; i < count; i++) store(to, type, i, sum[i]);
    });
    return ncclSuccess;
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream)
{
    size_t bytes = count * (type == ncclFloat || type == ncclInt32 ? 4 : type == ncclBfloat16 ? 2 : 0);
    if (!bytes) return ncclInvalidArgument;
    std::shared_ptr<Group> group = comm->group;
    int rank = comm->rank;
    emu::enqueue(stream, [=] {
        group->from[(size_t)rank] = from;
        if (!group->meet()) return;
        std::vector<char> all(bytes * group->from.size());
        for (size_t r = 0; r < group->from.size(); r++) memcpy(&all[r * bytes], group->from[r], bytes);
        if (!group->meet()) return;
        memcpy(to, all.data(), all.size());
    });
    return ncclSuccess;
}

} /* extern "C" */
