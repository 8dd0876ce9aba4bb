/* tests/emulator/cuda_emu.h - CUDA's kernel language for a C++ compiler: one fiber per CUDA thread.
 *
 * proto/cuda_port.cuh includes it under -DCUDA_EMU. A block runs on one OS thread: its threads are fibers
 * that switch where they wait (__syncthreads, shuffles, __syncwarp), so a block is deterministic given the
 * order in which ready fibers are picked (EMU_ORDER: 0 ascending, 1 descending, 2 random).
 *
 * What it finds: missing and divergent barriers, asynchronous copies read too early, accesses beyond dynamic
 * shared memory (a guard page), uninitialised shared and global memory (NaN), misaligned copies; with ASan
 * also every out-of-bounds access to global memory. What it cannot know: fragment layouts of the hardware,
 * bank conflicts, occupancy, races between blocks.
 */
#ifndef TESTS_EMULATOR_CUDA_EMU_H
#define TESTS_EMULATOR_CUDA_EMU_H

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

/* Before the macros below: its prototypes have parameters of these names. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <vector_functions.h>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __launch_bounds__
#undef __forceinline__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __grid_constant__
/* A block has an OS thread to itself while it runs, and thread_local at block scope implies static. */
#define __shared__ thread_local

namespace emu
{

enum { LANES = 32, COPIES_MAX = 256, GROUPS_MAX = 4 };

struct Copy { /* an asynchronous copy that nobody has waited for */
    void *to;
    const void *from;
    int group;
};

struct Fiber {
    void *stack_pointer;
    uint3 thread;
    int lane, warp;
    unsigned parity; /* which of a warp's two sets of slots its next exchange uses */
    Copy copies[COPIES_MAX];
    int copies_count, group;
};

struct Arrival { /* lanes of `mask` meet; `arrived` of them wait */
    uint32_t mask, arrived;
};

struct alignas(64) Warp {
    uint64_t slot[2][LANES];
    uint32_t fragment[2][LANES][6];
    uint32_t live; /* lanes that have not returned */
    Arrival arrivals[GROUPS_MAX];
};

struct Block { /* the one that this OS thread runs */
    Fiber *current;
    dim3 grid, size;
    uint3 index;
    Fiber *fibers;
    Warp *warps;
    uint32_t *ready; /* [warps]: lanes that can run */
    int threads, warps_count, live, waiting;
    int any, any_of_last;   /* __syncthreads_or */
    unsigned char *dynamic; /* shared memory */
};

extern __thread Block *block __attribute__((tls_model("initial-exec")));

/* The thread waits for another device: lets others go on. */
void pause();
void warp_barrier(uint32_t mask);
int block_barrier(int predicate);
[[noreturn]] void fail(const char *why); /* ends the launch with cudaErrorLaunchFailure */

/* A kernel by name, with what a launch needs to call it. */
struct Kernel {
    const char *name;
    void (*call)(const void *function, void **arguments);
    const void *function;
    int arguments_count;
    const size_t *argument_bytes;
    bool waits; /* for kernels of other devices */
    Kernel *next;
};
void add_kernel(Kernel *kernel);

/* Runs all blocks; NULL, or why it failed. */
const char *launch(const Kernel *kernel, dim3 grid, dim3 size, size_t dynamic_bytes, void **arguments);

template <class T> struct Caller;
template <class... P> struct Caller<void (*)(P...)> {
    template <size_t... I> static void spread(const void *function, void **a, std::index_sequence<I...>)
    {
        ((void (*)(P...))function)(*(std::remove_reference_t<P> *)a[I]...);
    }
    static void call(const void *function, void **a) { spread(function, a, std::index_sequence_for<P...>()); }
    static constexpr int count = sizeof...(P);
    static const size_t *bytes()
    {
        static const size_t sizes[] = {sizeof(P)..., 0};
        return sizes;
    }
};
struct Registration {
    Kernel kernel;
    Registration(const Kernel &k) : kernel(k) { add_kernel(&kernel); }
};

inline Warp &warp_of(const Fiber *f)
{
    return block->warps[f->warp];
}

/* Gives the slots into which all lanes of mask have put `value`. */
template <class T> inline const uint64_t *exchange(uint32_t mask, T value)
{
    static_assert(sizeof(T) <= sizeof(uint64_t), "an exchanged value");
    Fiber *f = block->current;
    unsigned parity = f->parity ^= 1;
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    warp_of(f).slot[parity][f->lane] = bits;
    warp_barrier(mask);
    return warp_of(f).slot[parity];
}

template <class T> inline T shuffle(uint32_t mask, T value, int from_lane)
{
    T result;
    memcpy(&result, &exchange(mask, value)[from_lane & (LANES - 1)], sizeof result);
    return result;
}

} /* namespace emu */

#define EMU_REGISTER(kernel, waits)                                                                          \
    static emu::Registration emu_registered_##kernel(                                                        \
        {#kernel, emu::Caller<decltype(&kernel)>::call, (const void *)&kernel,                               \
         emu::Caller<decltype(&kernel)>::count, emu::Caller<decltype(&kernel)>::bytes(), waits, nullptr})
#define KREGISTER(kernel) EMU_REGISTER(kernel, false)
#define KREGISTER_WAITS(kernel) EMU_REGISTER(kernel, true)
#define KSMEM_DYN(T, name) T *name = (T *)emu::block->dynamic

#define threadIdx (emu::block->current->thread)
#define blockIdx (emu::block->index)
#define blockDim (emu::block->size)
#define gridDim (emu::block->grid)
#define warpSize 32

static inline void __syncthreads()
{
    emu::block_barrier(0);
}
static inline int __syncthreads_or(int p)
{
    return emu::block_barrier(p != 0);
}
static inline void __syncwarp(unsigned mask = ~0u)
{
    emu::warp_barrier(mask);
}
static inline void __threadfence()
{
    __sync_synchronize();
}
static inline void __threadfence_block() {}

template <class T> static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32)
{
    int lane = emu::block->current->lane;
    return emu::shuffle(mask, value, (lane & ~(width - 1)) | (source & (width - 1)));
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T value, int x, int width = 32)
{
    int lane = emu::block->current->lane, from = lane ^ x;
    return emu::shuffle(mask, value, from / width == lane / width ? from : lane);
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T value, int delta, int width = 32)
{
    int lane = emu::block->current->lane;
    return emu::shuffle(mask, value, (lane & (width - 1)) + delta < width ? lane + delta : lane);
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T value, int delta, int width = 32)
{
    int lane = emu::block->current->lane;
    return emu::shuffle(mask, value, (lane & (width - 1)) >= delta ? lane - delta : lane);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    const uint64_t *said = emu::exchange(mask, (uint64_t)(predicate != 0));
    unsigned bits = 0;
    for (int lane = 0; lane < emu::LANES; lane++)
        if (mask >> lane & 1) bits |= (unsigned)said[lane] << lane;
    return bits;
}
static inline int __any_sync(unsigned mask, int p)
{
    return __ballot_sync(mask, p) != 0;
}
static inline int __all_sync(unsigned mask, int p)
{
    return __ballot_sync(mask, p) == mask;
}

template <class T> static inline T atomicAdd(T *at, T value)
{
    T old, sum;
    __atomic_load(at, &old, __ATOMIC_RELAXED);
    do sum = old + value;
    while (!__atomic_compare_exchange(at, &old, &sum, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
template <class T> static inline T atomicOr(T *at, T value)
{
    return __atomic_fetch_or(at, value, __ATOMIC_RELAXED);
}
template <class T> static inline T atomicMax(T *at, T value)
{
    T old;
    __atomic_load(at, &old, __ATOMIC_RELAXED);
    while (old < value &&
           !__atomic_compare_exchange(at, &old, &value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}
template <class T> static inline T atomicCAS(T *at, T expected, T value)
{
    __atomic_compare_exchange(at, &expected, &value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

template <class T> static inline T __ldg(const T *p)
{
    return *p;
}
static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
/* glibc declares functions of these names. */
#define __expf(x) expf(x)
#define __logf(x) logf(x)
static inline float __fdividef(float a, float b)
{
    return a / b;
}
/* Never contracted, here because the compiler is told so for every operation. */
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline int __float2int_rn(float x)
{
    return (int)rintf(x);
}
static inline unsigned __float_as_uint(float f)
{
    unsigned bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}
static inline float __uint_as_float(unsigned bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static inline int __float_as_int(float f)
{
    return (int)__float_as_uint(f);
}
static inline float __int_as_float(int bits)
{
    return __uint_as_float((unsigned)bits);
}
static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline size_t __cvta_generic_to_shared(const void *p)
{
    return (size_t)p;
}
using std::max;
using std::min;

#include "cuda_emu_ptx.h"

#endif
