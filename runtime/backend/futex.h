/* runtime/backend/futex.h - waiting for a word to change: a short spin, then sleep in the kernel. */
#ifndef RUNTIME_BACKEND_FUTEX_H
#define RUNTIME_BACKEND_FUTEX_H

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* About 30 to 100 microseconds of rt_futex_relax, by CPU. */
enum { RT_FUTEX_SPINS = 2000 };

static inline void rt_futex_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Sleeps while *word == value; may also return for nothing. */
static inline void rt_futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static inline void rt_futex_wake(_Atomic uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

#endif
