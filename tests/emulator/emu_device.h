/* tests/emulator/emu_device.h - what the fake libraries share: streams as queues of work, and a device's
 * error.
 *
 * A stream's work runs where somebody waits for it (a synchronisation, an event, a query), in order and on
 * the thread that waits, never earlier: what a program forgot to wait for has not happened. A kernel that
 * waits for other devices runs on a thread of its stream, so that its host can go on, and lets the streams of
 * those devices go on, too, where nobody waits for them.
 */
#ifndef TESTS_EMULATOR_EMU_DEVICE_H
#define TESTS_EMULATOR_EMU_DEVICE_H

#include <cuda_runtime_api.h>
#include <functional>

namespace emu
{

using Work = std::function<void()>;

/* Queues work, or records it where the stream is being captured. waits: for work of other devices.
 * microseconds: that it takes by events. */
cudaError_t enqueue(cudaStream_t stream, Work work, bool waits = false, unsigned microseconds = 1);

/* Runs the next piece of a stream's work, if there is one, nobody else is at that device and, now that nobody
 * can be, it is still needed. */
void help(cudaStream_t stream, const std::function<bool()> &is_needed);

/* A device that failed fails every later call, as a real one does. */
void break_device(int device, cudaError_t error);
void count_launch(); /* of a kernel, also one of a library's */
/* What a library keeps on a device for itself, as much as EMU_LIBRARIES says; false: it is given back. */
void occupy(int device, bool is_taken);
int stream_device(cudaStream_t stream);
bool is_captured(cudaStream_t stream);

/* The number that environment variable `name` holds, or `otherwise`. */
unsigned long long setting(const char *name, unsigned long long otherwise);

} /* namespace emu */
#endif
