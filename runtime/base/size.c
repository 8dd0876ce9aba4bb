#include "runtime/base/size.h"

#include <stdio.h>
#include <string.h>

static uint64_t unit_of(char c)
{
    switch (c) {
    case 'K':
        return 1u << 10;
    case 'M':
        return 1u << 20;
    case 'G':
        return 1u << 30;
    case 'k':
        return 1000u;
    case 'm':
        return 1000000u;
    case 'g':
        return 1000000000u;
    default:
        return 0;
    }
}

bool rt_size_parse(const char *text, uint64_t *out)
{
    unsigned __int128 value = 0;
    uint64_t scale = 1; /* ten for every digit behind the point */
    bool behind_point = false, has_digit = false;
    for (; *text; text++) {
        if (*text == '.' && !behind_point) {
            behind_point = true;
            continue;
        }
        if (*text < '0' || *text > '9') break;
        value = value * 10 + (unsigned)(*text - '0');
        if (behind_point) scale *= 10;
        if (value > UINT64_MAX || scale > 1000000000000000000u) return false;
        has_digit = true;
    }
    if (!has_digit) return false;
    if (*text) {
        uint64_t unit = unit_of(*text);
        if (!unit || text[1]) return false;
        value *= unit;
    }
    if (value % scale || value / scale > UINT64_MAX) return false;
    *out = (uint64_t)(value / scale);
    return true;
}

const char *rt_size_text(uint64_t bytes, char *out, size_t max)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < sizeof units / sizeof *units) {
        value /= 1024;
        unit++;
    }
    snprintf(out, max, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return out;
}
