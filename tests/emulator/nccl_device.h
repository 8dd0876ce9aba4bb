/* tests/emulator/nccl_device.h - what kernels ask of NCCL's symmetric memory, for the emulator's NCCL. */
#ifndef TESTS_EMULATOR_NCCL_DEVICE_H
#define TESTS_EMULATOR_NCCL_DEVICE_H

#include <nccl.h>

/* Of ranks of one process, which address the same memory. */
struct ncclWindow_vidmem {
    char *memory[16];
};

static inline void *ncclGetLsaPointer(ncclWindow_t window, size_t offset, int peer)
{
    return window->memory[peer] + offset;
}

#endif
