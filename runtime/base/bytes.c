#include "runtime/base/bytes.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

char *rt_bytes_reserve(rt_bytes *b, size_t count)
{
    if (b->failed) return NULL;
    if (count >= SIZE_MAX / 2 - b->count) {
        b->failed = true;
        return NULL;
    }
    size_t needed = b->count + count + 1;
    if (needed > b->room) {
        size_t room = b->room < 64 ? 64 : b->room + b->room / 2;
        if (room < needed) room = needed;
        char *data = realloc(b->data, room);
        if (!data) {
            b->failed = true;
            return NULL;
        }
        b->data = data;
        b->room = room;
    }
    return b->data + b->count;
}

void rt_bytes_add(rt_bytes *b, const void *data, size_t count)
{
    char *to = rt_bytes_reserve(b, count);
    if (!to) return;
    if (count) memcpy(to, data, count);
    b->count += count;
    b->data[b->count] = 0;
}

void rt_bytes_add_text(rt_bytes *b, const char *text)
{
    rt_bytes_add(b, text, strlen(text));
}
void rt_bytes_add_byte(rt_bytes *b, char c)
{
    rt_bytes_add(b, &c, 1);
}

void rt_bytes_print(rt_bytes *b, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int count = vsnprintf(NULL, 0, format, args);
    char *to = count < 0 ? NULL : rt_bytes_reserve(b, (size_t)count);
    if (to) {
        vsnprintf(to, (size_t)count + 1, format, again);
        b->count += (size_t)count;
    } else {
        b->failed = true;
    }
    va_end(again);
    va_end(args);
}

void rt_bytes_drop(rt_bytes *b, size_t count)
{
    RC_ASSERT(count <= b->count);
    if (!count) return;
    b->count -= count;
    memmove(b->data, b->data + count, b->count);
    b->data[b->count] = 0;
}

void rt_bytes_clear(rt_bytes *b)
{
    b->count = 0;
    if (b->data) b->data[0] = 0;
}

void rt_bytes_deinit(rt_bytes *b)
{
    free(b->data);
    *b = (rt_bytes){0};
}
