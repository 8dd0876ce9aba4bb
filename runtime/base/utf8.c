#include "runtime/base/utf8.h"

static int is_tail(unsigned char c)
{
    return (c & 0xc0) == 0x80;
}

size_t rt_utf8_character(const char *text, size_t bytes)
{
    const unsigned char *s = (const unsigned char *)text;
    if (!bytes) return 0;
    if (s[0] < 0x80) return 1;
    if (s[0] >= 0xc2 && s[0] <= 0xdf) return bytes >= 2 && is_tail(s[1]) ? 2 : 0;
    if ((s[0] & 0xf0) == 0xe0) {
        if (bytes < 3 || !is_tail(s[1]) || !is_tail(s[2])) return 0;
        if (s[0] == 0xe0 && s[1] < 0xa0) return 0;
        return s[0] == 0xed && s[1] >= 0xa0 ? 0 : 3;
    }
    if (s[0] >= 0xf0 && s[0] <= 0xf4) {
        if (bytes < 4 || !is_tail(s[1]) || !is_tail(s[2]) || !is_tail(s[3])) return 0;
        if (s[0] == 0xf0 && s[1] < 0x90) return 0;
        return s[0] == 0xf4 && s[1] >= 0x90 ? 0 : 4;
    }
    return 0;
}

size_t rt_utf8_valid(const char *text, size_t bytes)
{
    size_t at = 0;
    while (at < bytes) {
        size_t n = rt_utf8_character(text + at, bytes - at);
        if (!n) break;
        at += n;
    }
    return at;
}

size_t rt_utf8_count(const char *text, size_t bytes)
{
    size_t count = 0;
    for (size_t at = 0; at < bytes; count++) {
        size_t n = rt_utf8_character(text + at, bytes - at);
        at += n ? n : 1;
    }
    return count;
}
