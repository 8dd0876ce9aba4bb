/* tests/emulator/cuda_emu_ptx.h - the PTX wrappers of proto/cuda_port.cuh in plain C++; they are described
 * there.
 *
 * An asynchronous copy happens when it is waited for, never before, and its target is poisoned until then. */
#ifndef TESTS_EMULATOR_CUDA_EMU_PTX_H
#define TESTS_EMULATOR_CUDA_EMU_PTX_H

namespace emu
{
inline float low_bf16(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}
inline float high_bf16(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}
inline float pair_dot(uint32_t a, uint32_t b)
{
    return low_bf16(a) * low_bf16(b) + high_bf16(a) * high_bf16(b);
}

/* The row addresses that the lanes give. */
inline const uint64_t *matrix_rows(const void *row)
{
    if ((uintptr_t)row & 15) fail("ldmatrix: a row that is not 16-byte aligned");
    return exchange(~0u, (uint64_t)(uintptr_t)row);
}
} /* namespace emu */

static inline void mma_m16n8k16_bf16(float *d, const uint32_t *a, const uint32_t *b)
{
    emu::Fiber *f = emu::block->current;
    emu::Warp &warp = emu::warp_of(f);
    unsigned parity = f->parity ^= 1;
    memcpy(warp.fragment[parity][f->lane], a, 4 * sizeof *a);
    memcpy(warp.fragment[parity][f->lane] + 4, b, 2 * sizeof *b);
    emu::warp_barrier(~0u);
    int g = f->lane >> 2, q = f->lane & 3;
    float sum[4] = {0, 0, 0, 0};
    for (int t = 0; t < 4; t++) { /* the lane of the group that holds k 2t, 2t + 1, 2t + 8, 2t + 9 */
        const uint32_t *rows = warp.fragment[parity][g * 4 + t];
        const uint32_t *left = warp.fragment[parity][q * 2 * 4 + t] + 4;
        const uint32_t *right = warp.fragment[parity][(q * 2 + 1) * 4 + t] + 4;
        for (int half = 0; half < 2; half++) {
            sum[0] += emu::pair_dot(rows[2 * half], left[half]);
            sum[1] += emu::pair_dot(rows[2 * half], right[half]);
            sum[2] += emu::pair_dot(rows[2 * half + 1], left[half]);
            sum[3] += emu::pair_dot(rows[2 * half + 1], right[half]);
        }
    }
    for (int i = 0; i < 4; i++) d[i] += sum[i];
}

static inline void ldmatrix_x4(uint32_t *r, const void *row)
{
    const uint64_t *rows = emu::matrix_rows(row);
    int lane = emu::block->current->lane;
    for (int i = 0; i < 4; i++)
        memcpy(&r[i], (const char *)(uintptr_t)rows[i * 8 + lane / 4] + lane % 4 * 4, sizeof r[i]);
}

static inline void ldmatrix_x4_trans(uint32_t *r, const void *row)
{
    const uint64_t *rows = emu::matrix_rows(row);
    int lane = emu::block->current->lane;
    for (int i = 0; i < 4; i++) {
        uint16_t pair[2];
        for (int j = 0; j < 2; j++)
            memcpy(&pair[j], (const char *)(uintptr_t)rows[i * 8 + lane % 4 * 2 + j] + lane / 4 * 2,
                   sizeof pair[j]);
        memcpy(&r[i], pair, sizeof r[i]);
    }
}

static inline uint4 load_once16(const uint4 *global)
{
    return *global;
}

static inline void cp_async16(void *shared, const void *global)
{
    emu::Fiber *f = emu::block->current;
    if (((uintptr_t)shared | (uintptr_t)global) & 15) emu::fail("cp.async: not 16-byte aligned");
    if (f->copies_count == emu::COPIES_MAX)
        emu::fail("cp.async: more copies under way than the emulator holds");
    memset(shared, 0xff, 16);
    f->copies[f->copies_count++] = {shared, global, f->group};
}

static inline void cp_async_commit()
{
    emu::block->current->group++;
}

template <int N> static inline void cp_async_wait()
{
    emu::Fiber *f = emu::block->current;
    int kept = 0;
    for (int i = 0; i < f->copies_count; i++) {
        if (f->copies[i].group < f->group - N)
            memcpy(f->copies[i].to, f->copies[i].from, 16);
        else
            f->copies[kept++] = f->copies[i];
    }
    f->copies_count = kept;
}

static inline void store_release_system(uint32_t *to, uint32_t value)
{
    __atomic_store_n(to, value, __ATOMIC_RELEASE);
}

static inline void wait_acquire_system(const uint32_t *at, uint32_t turn, const uint32_t *given_up)
{
    while ((int32_t)(__atomic_load_n(at, __ATOMIC_ACQUIRE) - turn) < 0 &&
           !__atomic_load_n(given_up, __ATOMIC_RELAXED))
        emu::pause();
}

#endif
