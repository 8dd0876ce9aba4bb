/* cudart's launches. Kernels compiled here are found by address; those of a library that nvcc built by the
 * name under which it registers them. */
#include "cuda_emu.h"
#include "emu_device.h"
#include "fake_cudart.h"

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace emu
{

Kernel *first_kernel();

static std::mutex lock;
static std::map<const void *, std::string> names; /* of nvcc's host stubs */
static std::map<const void *, int> shared_max;    /* cudaFuncSetAttribute's */

/* "_Z9rms_norm_k..." -> "rms_norm_k"; other names stay. */
static std::string plain_name(const std::string &mangled)
{
    if (mangled.compare(0, 2, "_Z")) return mangled;
    size_t at = 2, length = 0;
    while (at < mangled.size() && isdigit(mangled[at])) length = length * 10 + (size_t)(mangled[at++] - '0');
    return mangled.substr(at, length);
}

static const Kernel *find(const void *function)
{
    std::lock_guard<std::mutex> guard(lock);
    auto named = names.find(function);
    for (const Kernel *k = first_kernel(); k; k = k->next)
        if (k->function == function || (named != names.end() && named->second == k->name)) return k;
    fprintf(stderr, "emulated CUDA: no kernel %s; is it KREGISTERed?\n",
            named == names.end() ? "at this address" : named->second.c_str());
    return nullptr;
}

static bool fits(const void *function, dim3 grid, dim3 size, size_t dynamic_bytes)
{
    std::lock_guard<std::mutex> guard(lock);
    auto raised = shared_max.find(function);
    size_t most = raised == shared_max.end() ? 48 << 10 : (size_t)raised->second;
    return grid.x && grid.y && grid.z && grid.y <= 65535 && grid.z <= 65535 && size.x && size.y && size.z &&
           size.x * size.y * size.z <= 1024 && size.z <= 64 && dynamic_bytes <= most;
}

/* Arguments outlive the call that gave them. */
struct Arguments {
    std::vector<std::unique_ptr<char[]>> values;
    std::vector<void *> pointers;
    Arguments(const Kernel *k, void **from)
    {
        for (int i = 0; i < k->arguments_count; i++) {
            values.emplace_back(new char[k->argument_bytes[i]]);
            memcpy(values.back().get(), from[i], k->argument_bytes[i]);
            pointers.push_back(values.back().get());
        }
    }
};

} /* namespace emu */

extern "C" {

cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 size, void **arguments,
                             size_t dynamic_bytes, cudaStream_t stream)
{
    static std::atomic<unsigned long long> launches;
    const emu::Kernel *kernel = emu::find(function);
    int device = emu::stream_device(stream);
    if (!kernel) return emu::remember(cudaErrorInvalidDeviceFunction);
    if (device != emu::current_device()) return emu::remember(cudaErrorInvalidResourceHandle);
    if (!emu::fits(function, grid, size, dynamic_bytes)) return emu::remember(cudaErrorInvalidConfiguration);
    emu::count_launch();
    bool fails = ++launches == emu::setting("EMU_FAIL_LAUNCH", 0);
    auto kept = std::make_shared<emu::Arguments>(kernel, arguments);
    return emu::enqueue(stream, [=] {
        if (emu::device_error(device)) return;
        if (fails || emu::launch(kernel, grid, size, dynamic_bytes, kept->pointers.data()))
            emu::break_device(device, cudaErrorLaunchFailure);
    }, kernel->waits);
}

cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attribute, int value)
{
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value > 227 << 10)
        return emu::remember(cudaErrorInvalidValue);
    std::lock_guard<std::mutex> guard(emu::lock);
    emu::shared_max[function] = value;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *out, const void *function)
{
    memset(out, 0, sizeof *out);
    return emu::find(function) ? cudaSuccess : emu::remember(cudaErrorInvalidDeviceFunction);
}

/* What nvcc's host code calls. */
void **__cudaRegisterFatBinary(void *)
{
    static void *handle[1];
    return handle;
}
void __cudaRegisterFatBinaryEnd(void **) {}
void __cudaUnregisterFatBinary(void **) {}
void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int) {}
void __cudaRegisterFunction(void **, const char *stub, char *, const char *name, int, uint3 *, uint3 *,
                            dim3 *, dim3 *, int *)
{
    std::lock_guard<std::mutex> guard(emu::lock);
    emu::names[stub] = emu::plain_name(name);
}
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *stub)
{
    *kernel = (cudaKernel_t)stub;
    return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 size, void **arguments,
                               size_t dynamic_bytes, cudaStream_t stream)
{
    return cudaLaunchKernel((const void *)kernel, grid, size, arguments, dynamic_bytes, stream);
}
static thread_local struct {
    dim3 grid, size;
    size_t dynamic_bytes;
    cudaStream_t stream;
} pushed;
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 size, size_t dynamic_bytes, cudaStream_t stream)
{
    pushed = {grid, size, dynamic_bytes, stream};
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *size, size_t *dynamic_bytes, void *stream)
{
    *grid = pushed.grid;
    *size = pushed.size;
    *dynamic_bytes = pushed.dynamic_bytes;
    *(cudaStream_t *)stream = pushed.stream;
    return cudaSuccess;
}

} /* extern "C" */
