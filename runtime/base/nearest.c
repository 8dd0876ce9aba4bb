#include <string.h>

#include "runtime/base/flags.h"

enum { NAME_MAX_BYTES = 64 }; /* of longer names the beginning decides */

static char folded(char c)
{
    return c == '_' ? '-' : c;
}

static unsigned edit_distance(const char *a, const char *b)
{
    size_t n = strnlen(a, NAME_MAX_BYTES), m = strnlen(b, NAME_MAX_BYTES);
    unsigned row[NAME_MAX_BYTES + 1];
    for (size_t j = 0; j <= m; j++) row[j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= m; j++) {
            unsigned best = diagonal + (folded(a[i - 1]) != folded(b[j - 1]));
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[m];
}

const char *rt_nearest(const char *name, const char *const *candidates, size_t count)
{
    const char *best = NULL;
    unsigned best_distance = 0;
    for (size_t i = 0; i < count; i++) {
        unsigned distance = edit_distance(name, candidates[i]);
        if (best && distance >= best_distance) continue;
        best = candidates[i];
        best_distance = distance;
    }
    return best;
}
