/* tests/emulator/fake_cudart.h - within the fake libcudart: devices and their errors. */
#ifndef TESTS_EMULATOR_FAKE_CUDART_H
#define TESTS_EMULATOR_FAKE_CUDART_H

#include <atomic>
#include <cuda_runtime_api.h>

namespace emu
{

enum { DEVICES_MAX = 16 };

int current_device();
cudaError_t device_error(int device);    /* cudaSuccess, or what broke it */
cudaError_t remember(cudaError_t error); /* for cudaGetLastError; gives it back */

/* Over all devices. waits: calls that found work which was not done, and had to stay until it was; left_busy:
 * those of them behind which there was more. */
struct Counts {
    std::atomic<unsigned long long> waits{0}, left_busy{0}, bytes_to_host{0}, copies_to_device{0},
        allocations{0}, launches{0}, graphs{0}, memory_most{0}; /* of any device, at a time */
};
Counts &counts();

} /* namespace emu */
#endif
