/* runtime/base/bytes.h - a growing run of bytes that remembers whether it ever ran out of memory.
 *
 * Appending cannot be refused one call at a time: after a failure the bytes stay as they are, `failed`
 * is set and the caller asks once, at the end. {0} is an empty one; free with rt_bytes_deinit().
 */
#ifndef RUNTIME_BASE_BYTES_H
#define RUNTIME_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/rc.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rt_bytes {
    char *data; /* [count], then a NUL where anything was ever added */
    size_t count;
    size_t room;
    bool failed;
} rt_bytes;

void rt_bytes_add(rt_bytes *b, const void *data, size_t count);
void rt_bytes_add_text(rt_bytes *b, const char *text);
void rt_bytes_add_byte(rt_bytes *b, char c);
RC_PRINTF(2, 3) void rt_bytes_print(rt_bytes *b, const char *format, ...);
/* Room for `count` more bytes, to be written at data + count; NULL where there is no memory. */
char *rt_bytes_reserve(rt_bytes *b, size_t count);
/* Drops the first `count` bytes. */
void rt_bytes_drop(rt_bytes *b, size_t count);
void rt_bytes_clear(rt_bytes *b);  /* keeps the memory; a failure stays one */
void rt_bytes_deinit(rt_bytes *b); /* forgets a failure too */

#ifdef __cplusplus
}
#endif
#endif
