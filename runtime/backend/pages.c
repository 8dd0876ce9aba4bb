#include "runtime/backend/pages.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SMALL ((size_t)4096)
#define HUGE_PAGE ((size_t)2 << 20)
#define MAPPED_FROM ((size_t)1 << 20)

static size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

size_t rt_pages_bytes(size_t bytes)
{
    if (bytes > SIZE_MAX - 2 * HUGE_PAGE) return SIZE_MAX;
    return bytes < MAPPED_FROM ? round_up(bytes ? bytes : 1, 64) : round_up(bytes, SMALL);
}

void *rt_pages_alloc(size_t bytes)
{
    size_t size = rt_pages_bytes(bytes);
    if (size == SIZE_MAX) return NULL;
    if (bytes < MAPPED_FROM) {
        void *p = aligned_alloc(64, size);
        return p ? memset(p, 0, size) : NULL;
    }
    size_t reserved = size + HUGE_PAGE;
    char *map =
        mmap(NULL, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return NULL;
    char *start = (char *)round_up((uintptr_t)map, HUGE_PAGE);
    if (start > map) munmap(map, (size_t)(start - map));
    char *end = map + reserved;
    if (end > start + size) munmap(start + size, (size_t)(end - start) - size);
    /* Refused where huge pages are off; then small ones do. */
    (void)madvise(start, size, MADV_HUGEPAGE);
    return start;
}

void rt_pages_free(void *array, size_t bytes)
{
    if (!array) return;
    if (bytes < MAPPED_FROM) free(array);
    else munmap(array, rt_pages_bytes(bytes));
}
