/* runtime/backend/pages.h - large zeroed arrays on huge pages.
 *
 * From 1 MiB on an array is a mapping of its own that starts on a huge page, whose pages the system gives
 * (zeroed) when they are first touched: reserving K/V costs nothing until it is used. Smaller arrays come
 * from the heap. No more than rt_pages_bytes() is ever resident.
 */
#ifndef RUNTIME_BACKEND_PAGES_H
#define RUNTIME_BACKEND_PAGES_H

#include <stddef.h>

size_t rt_pages_bytes(size_t bytes); /* what an array of `bytes` takes */
void *rt_pages_alloc(size_t bytes); /* 64-byte aligned, zeroed; NULL: no memory. 0 bytes give an array too. */
void rt_pages_free(void *array, size_t bytes); /* `bytes` as given to alloc; NULL is allowed */

#endif
