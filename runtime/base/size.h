/* runtime/base/size.h - counts and sizes as people write them: 4096, 64K, 1.5G.
 *
 * K, M and G are 1024's powers, k, m and g are 1000's, as in vLLM's flags.
 */
#ifndef RUNTIME_BASE_SIZE_H
#define RUNTIME_BASE_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* False: no such number, not whole, or above 2^64 - 1. */
bool rt_size_parse(const char *text, uint64_t *out);
/* "3.2 GiB"; gives `out`. */
const char *rt_size_text(uint64_t bytes, char *out, size_t max);

#ifdef __cplusplus
}
#endif
#endif
