/* runtime/base/utf8.h - what is UTF-8 and what is not.
 *
 * Well-formed means RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
 */
#ifndef RUNTIME_BASE_UTF8_H
#define RUNTIME_BASE_UTF8_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of the well-formed character that `text` begins with; 0: it begins with none. */
size_t rt_utf8_character(const char *text, size_t bytes);
/* Bytes of the longest well-formed beginning; equal to `bytes` where all of it is. */
size_t rt_utf8_valid(const char *text, size_t bytes);
/* Characters, where a byte that belongs to none counts as one. */
size_t rt_utf8_count(const char *text, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
