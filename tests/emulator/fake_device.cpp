/* cudart's devices, memory and copies. Device memory is host memory that starts as NaN. */
#include "emu_device.h"
#include "fake_cudart.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

static const unsigned long long MEMORY = 8ull << 30;

namespace emu
{

static thread_local int device;
static thread_local cudaError_t last;
static std::atomic<cudaError_t> broken[emu::DEVICES_MAX];

unsigned long long setting(const char *name, unsigned long long otherwise)
{
    const char *text = getenv(name);
    return text ? strtoull(text, nullptr, 0) : otherwise;
}

int current_device()
{
    return device;
}
cudaError_t device_error(int which)
{
    return broken[which];
}
void break_device(int which, cudaError_t error)
{
    broken[which] = error;
}
cudaError_t remember(cudaError_t error)
{
    if (error) last = error;
    return error;
}

struct Allocation {
    size_t bytes;
    int device; /* -1: pinned on the host */
};
static std::mutex memory_lock;
static std::map<uintptr_t, Allocation> allocations;
static size_t used[emu::DEVICES_MAX];
static unsigned long long allocations_ever;

/* Under the lock. */
static void use(int where, long long bytes)
{
    used[where] += (size_t)bytes;
    if (used[where] > counts().memory_most) counts().memory_most = used[where];
}

void occupy(int where, bool is_taken)
{
    long long bytes = (long long)setting("EMU_LIBRARIES", 0);
    std::lock_guard<std::mutex> lock(memory_lock);
    use(where, is_taken ? bytes : -bytes);
}

static bool is_pinned(const void *p)
{
    std::lock_guard<std::mutex> lock(memory_lock);
    auto after = allocations.upper_bound((uintptr_t)p);
    if (after == allocations.begin()) return false;
    const auto &[start, a] = *--after;
    return a.device < 0 && (uintptr_t)p < start + a.bytes;
}

static cudaError_t allocate(void **out, size_t bytes, int where)
{
    std::lock_guard<std::mutex> lock(memory_lock);
    counts().allocations++;
    if (++allocations_ever == setting("EMU_FAIL_ALLOC", 0)) return remember(cudaErrorMemoryAllocation);
    if (where >= 0 && used[where] + bytes > setting("EMU_MEMORY", MEMORY))
        return remember(cudaErrorMemoryAllocation);
    void *p = aligned_alloc(256, (bytes + 255) & ~(size_t)255);
    if (!p) return remember(cudaErrorMemoryAllocation);
    memset(p, 0xff, bytes);
    allocations[(uintptr_t)p] = {bytes, where};
    if (where >= 0) use(where, (long long)bytes);
    *out = p;
    return cudaSuccess;
}

static cudaError_t release(void *p, bool pinned)
{
    if (!p) return cudaSuccess;
    std::lock_guard<std::mutex> lock(memory_lock);
    auto found = allocations.find((uintptr_t)p);
    if (found == allocations.end() || (found->second.device < 0) != pinned)
        return remember(cudaErrorInvalidValue);
    if (!pinned) use(found->second.device, -(long long)found->second.bytes);
    allocations.erase(found);
    free(p);
    return cudaSuccess;
}

static int devices()
{
    return (int)setting("EMU_DEVICES", 1);
}

} /* namespace emu */

using emu::remember;

extern "C" {

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = emu::devices();
    return *count ? cudaSuccess : remember(cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int which)
{
    if (which < 0 || which >= emu::devices() || which >= emu::DEVICES_MAX)
        return remember(cudaErrorInvalidDevice);
    emu::device = which;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *which)
{
    *which = emu::device;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version)
{
    *version = (int)emu::setting("EMU_DRIVER", 13000);
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int)
{
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
        *value = 132;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = 9;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = 0;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = 48 << 10;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = 227 << 10;
        break;
    case cudaDevAttrWarpSize:
        *value = 32;
        break;
    default:
        return remember(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated CUDA");
    p->major = 9;
    p->multiProcessorCount = 132;
    p->totalGlobalMem = emu::setting("EMU_MEMORY", MEMORY);
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = 227 << 10;
    p->warpSize = 32;
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = emu::last;
    emu::last = cudaSuccess;
    return error;
}
cudaError_t cudaPeekAtLastError(void)
{
    return emu::last;
}
const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorLaunchFailure:
        return "cudaErrorLaunchFailure";
    case cudaErrorNoDevice:
        return "cudaErrorNoDevice";
    default:
        return "cudaErrorEmulated";
    }
}
const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorLaunchFailure:
        return "unspecified launch failure";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    default:
        return "an emulated error";
    }
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    if (emu::device_error(emu::device)) return remember(emu::device_error(emu::device));
    return emu::allocate(p, bytes, emu::device);
}
cudaError_t cudaFree(void *p)
{
    return emu::release(p, false);
}
/* What is taken can be used at once here; it is given back when the stream gets there. */
cudaError_t cudaMallocAsync(void **p, size_t bytes, cudaStream_t stream)
{
    return emu::allocate(p, bytes, emu::stream_device(stream));
}
cudaError_t cudaFreeAsync(void *p, cudaStream_t stream)
{
    return emu::enqueue(stream, [=] { emu::release(p, false); });
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int)
{
    *pool = nullptr;
    return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void *)
{
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    return emu::allocate(p, bytes, -1);
}
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned)
{
    return emu::allocate(p, bytes, -1);
}
cudaError_t cudaFreeHost(void *p)
{
    return emu::release(p, true);
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    std::lock_guard<std::mutex> lock(emu::memory_lock);
    *total = emu::setting("EMU_MEMORY", MEMORY);
    *free_bytes = *total - emu::used[emu::device];
    return cudaSuccess;
}

/* Pageable host memory is read at once, as cudart may do; pinned memory when the copy runs. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    if (kind == cudaMemcpyDeviceToHost) emu::counts().bytes_to_host += bytes;
    if (kind == cudaMemcpyHostToDevice) emu::counts().copies_to_device++;
    if (kind != cudaMemcpyHostToDevice || emu::is_pinned(from))
        return emu::enqueue(stream, [=] { memcpy(to, from, bytes); });
    std::shared_ptr<char> staged(new char[bytes ? bytes : 1], std::default_delete<char[]>());
    memcpy(staged.get(), from, bytes);
    return emu::enqueue(stream, [=] { memcpy(to, staged.get(), bytes); });
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t bytes,
                              size_t rows, cudaMemcpyKind, cudaStream_t stream)
{
    return emu::enqueue(stream, [=] {
        for (size_t row = 0; row < rows; row++)
            memcpy((char *)to + row * to_pitch, (const char *)from + row * from_pitch, bytes);
    });
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    if (kind == cudaMemcpyDeviceToHost) emu::counts().bytes_to_host += bytes;
    cudaError_t error = cudaStreamSynchronize(nullptr);
    if (!error) memcpy(to, from, bytes);
    return error;
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    return emu::enqueue(stream, [=] { memset(to, value, bytes); });
}

} /* extern "C" */
