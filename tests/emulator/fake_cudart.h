/* tests/emulator/fake_cudart.h - within the fake libcudart: devices and their errors. */
#ifndef TESTS_EMULATOR_FAKE_CUDART_H
#define TESTS_EMULATOR_FAKE_CUDART_H

#include <cuda_runtime_api.h>

namespace emu
{

enum { DEVICES_MAX = 16 };

int current_device();
cudaError_t device_error(int device);    /* cudaSuccess, or what broke it */
cudaError_t remember(cudaError_t error); /* for cudaGetLastError; gives it back */

} /* namespace emu */
#endif
