/* proto/cuda_port.cuh - what CUDA kernels are written with, and the only CUDA header that they include.
 *
 * Under nvcc these are thin wrappers of PTX. With -DCUDA_EMU a C++ compiler takes the same kernel source, and
 * tests/emulator runs it on the CPU, one fiber per CUDA thread. So kernels keep to what both can do:
 *
 *     launches     kl(kernel, grid, block, shared_bytes, stream, arguments...): no <<<>>>
 *     shared       `__shared__ T name[N]` at a kernel's scope, or KSMEM_DYN(T, name), once a kernel
 *     names        KREGISTER(kernel) once at file scope; a kernel's name is unique in the program.
 *                  KREGISTER_WAITS(kernel): it waits for other devices
 *     PTX          in this header alone
 *     not          cooperative groups, cuda::pipeline, __activemask, waiting for other blocks of the launch,
 *                  code that counts on the lanes of a warp running together
 *
 * Source  PTX ISA 9.0: "mma.m16n8k16", "ldmatrix", "cp.async", "Memory Consistency Model".
 */
#ifndef PROTO_CUDA_PORT_CUH
#define PROTO_CUDA_PORT_CUH

#include <stdint.h>

#ifdef CUDA_EMU
#include <cuda_emu.h>
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define KSMEM_DYN(T, name)                                                                                   \
    extern __shared__ __align__(1024) unsigned char ksmem_dyn_[];                                            \
    T *name = (T *)ksmem_dyn_
/* In a section of pointers, by which all kernels can be loaded before the first is launched. */
#define KREGISTER(kernel)                                                                                    \
    __attribute__((used, section("mica_kernels"))) static const void *const kernel_##kernel =                \
        (const void *)&kernel
#define KREGISTER_WAITS(kernel) KREGISTER(kernel)

/* d [16][8] float32 += a [16][16] bf16 * b [16][8] bf16, over a warp. With g = lane / 4, q = lane % 4:
 *     a  {row g, k 2q}, {row g + 8, k 2q}, {row g, k 2q + 8}, {row g + 8, k 2q + 8}   pairs of k, lower first
 *     b  {k 2q, column g}, {k 2q + 8, column g}                                       pairs of k
 *     d  {row g, column 2q}, {g, 2q + 1}, {g + 8, 2q}, {g + 8, 2q + 1} */
__device__ __forceinline__ void mma_m16n8k16_bf16(float *d, const uint32_t *a, const uint32_t *b)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8 x 8 matrices of 16-bit elements from shared memory. Lane l gives the address, 16-byte aligned, of
 * row l % 8 of matrix l / 8, and gets of each matrix the pair {row l / 4, columns 2 (l % 4), + 1}. */
__device__ __forceinline__ void ldmatrix_x4(uint32_t *r, const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* The same, each matrix transposed: lane l gets {rows 2 (l % 4), + 1, column l / 4}. */
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t *r, const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* 16 bytes, 16-byte aligned, that nobody writes meanwhile and this block does not read again. */
__device__ __forceinline__ uint4 load_once16(const uint4 *global)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(global));
    return v;
}

/* 16 bytes from global to shared memory, both 16-byte aligned; there once its group has been waited for. */
__device__ __forceinline__ void cp_async16(void *shared, const void *global)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(at), "l"(global) : "memory");
}

/* Ends the group of the copies since the last one. */
__device__ __forceinline__ void cp_async_commit()
{
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/* Until at most N of this thread's latest groups are under way. */
template <int N> __device__ __forceinline__ void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
}

/* What the thread has written, and what others of its block wrote before a barrier, is seen on all devices by
 * who acquires the value. */
__device__ __forceinline__ void store_release_system(uint32_t *to, uint32_t value)
{
    asm volatile("st.release.sys.global.u32 [%0], %1;\n" ::"l"(to), "r"(value) : "memory");
}

/* Until *at has come to `turn`, in numbers that may wrap, or the host has set *given_up. The host's memory is
 * far, and looked at now and then. */
__device__ __forceinline__ void wait_acquire_system(const uint32_t *at, uint32_t turn,
                                                    const uint32_t *given_up)
{
    uint32_t value, over;
    for (uint32_t tries = 1;; tries++) {
        asm volatile("ld.acquire.sys.global.u32 %0, [%1];\n" : "=r"(value) : "l"(at) : "memory");
        if ((int32_t)(value - turn) >= 0) return;
        if (tries % 1024) continue;
        asm volatile("ld.relaxed.sys.global.u32 %0, [%1];\n" : "=r"(over) : "l"(given_up) : "memory");
        if (over) return;
    }
}
#endif

/* cudaLaunchKernel with arguments converted to, and counted against, the kernel's. */
template <class... P, class... A>
static inline cudaError_t kl(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                             cudaStream_t stream, A... arguments)
{
    static_assert(sizeof...(P) == sizeof...(A), "a kernel's number of arguments");
    auto launch = [&](P... p) {
        void *pointers[] = {(void *)&p..., nullptr};
        return cudaLaunchKernel((const void *)kernel, grid, block, pointers, shared_bytes, stream);
    };
    return launch(arguments...);
}

#endif
