#include "runtime/tokenizer/unicode.h"

#include <utf8proc.h>

static bool contains(const rt__tok_range *ranges, size_t count, uint32_t c)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c > ranges[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && c >= ranges[low].first;
}

bool rt__tok_is_space(uint32_t c)
{
    if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool rt__tok_is_numeric(uint32_t c)
{
    if (c < 0x80) return c >= '0' && c <= '9';
    return contains(rt__tok_numeric, rt__tok_numeric_count, c);
}

bool rt__tok_is_punctuation(uint32_t c)
{
    return contains(rt__tok_punctuation, rt__tok_punctuation_count, c);
}

bool rt__tok_is_word(uint32_t c)
{
    if (c < 0x80) return c == '_' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
    return contains(rt__tok_word, rt__tok_word_count, c);
}

bool rt__tok_is_mark(uint32_t c)
{
    return c >= 0x300 && contains(rt__tok_mark, rt__tok_mark_count, c);
}

/* Pairs that came after Unicode 15, which utf8proc may not know. */
static uint32_t lower_newer(uint32_t c)
{
    static const uint32_t pairs[][2] = {
        {0x1c89, 0x1c8a}, {0xa7cb, 0x264},  {0xa7cc, 0xa7cd}, {0xa7ce, 0xa7cf}, //
        {0xa7d2, 0xa7d3}, {0xa7d4, 0xa7d5}, {0xa7da, 0xa7db}, {0xa7dc, 0x19b}};
    if (c >= 0x10d50 && c <= 0x10d65) return c + 0x20;
    if (c >= 0x16ea0 && c <= 0x16eb8) return c + 0x1b;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        if (pairs[i][0] == c) return pairs[i][1];
    return 0;
}

unsigned rt__tok_lower(uint32_t c, uint32_t out[2])
{
    if (c < 0x80) {
        out[0] = c >= 'A' && c <= 'Z' ? c + 32 : c;
        return 1;
    }
    if (c == 0x130) {
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    uint32_t newer = lower_newer(c);
    out[0] = newer ? newer : (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    return 1;
}
