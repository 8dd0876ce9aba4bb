/* NFC, NFD, NFKC and NFKD over utf8proc's character data. utf8proc orders combining marks with a bubble sort;
 * here a run of any length is sorted in O(n log n). */
#include <utf8proc.h>

#include "runtime/tokenizer/normalize.h"
#include "runtime/tokenizer/unicode.h"

enum { ONE_MAX = 32 }; /* no character decomposes into more than 18 */

/* Characters that the library's crate, of an older Unicode, knows no decomposition and no combining class of.
 * It never composes them either. */
static bool is_newer(uint32_t c)
{
    static const rt__tok_range newer[] = {
        {0x7fd, 0x7fd},     {0x897, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xc3c, 0xc3c},
        {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0xece, 0xece},     {0x1715, 0x1715},   {0x1abf, 0x1ace},
        {0x1df6, 0x1dfa},   {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},   {0xa82c, 0xa82c},   {0xab69, 0xab69},
        {0x105c0, 0x105ff}, {0x10781, 0x107ba}, {0x10d24, 0x10d27}, {0x10d40, 0x10d8f}, {0x10eab, 0x10eac},
        {0x10efa, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b},
        {0x11380, 0x113ff}, {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11930, 0x11943}, {0x119e0, 0x119e0},
        {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d45}, {0x11d97, 0x11d97},
        {0x11f41, 0x11f42}, {0x16100, 0x1613f}, {0x16d40, 0x16d7f}, {0x16ff0, 0x16ff1}, {0x1ccd6, 0x1ccf9},
        {0x1e030, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
        {0x1e5ee, 0x1e5ef}, {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9},
    };
    if (c < newer[0].first) return false;
    for (size_t i = 0; i < sizeof newer / sizeof newer[0] && newer[i].first <= c; i++)
        if (c <= newer[i].last) return true;
    return false;
}

static uint32_t combining_class(uint32_t c)
{
    if (c < 0x300 || is_newer(c)) return 0;
    return (uint32_t)utf8proc_get_property((utf8proc_int32_t)c)->combining_class;
}

/* Room for `count` characters and as many again to sort with. */
static rc_code reserve(rt__tok_normal_work *work, size_t count, rc_msg *msg)
{
    if (count * 2 <= work->points_room) return RC_OK;
    size_t room = count * 3 < 512 ? 512 : count * 3;
    uint32_t *points = realloc(work->points, room * sizeof *points);
    if (!points) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory to normalize %zu characters", count);
    work->points = points;
    work->points_room = room;
    return RC_OK;
}

static rc_code decompose(const char *text, size_t bytes, bool is_compatible, rt__tok_normal_work *work,
                         size_t *count, rc_msg *msg)
{
    utf8proc_option_t option = UTF8PROC_DECOMPOSE | (is_compatible ? UTF8PROC_COMPAT : 0);
    size_t n = 0, size;
    for (size_t at = 0; at < bytes; at += size) {
        uint32_t c = rt__tok_char(text + at, &size);
        RC_TRY(reserve(work, n + ONE_MAX, msg));
        if (c < 0x80 || is_newer(c)) {
            work->points[n++] = c;
            continue;
        }
        int boundary = 0;
        utf8proc_ssize_t got = utf8proc_decompose_char(
            (utf8proc_int32_t)c, (utf8proc_int32_t *)work->points + n, ONE_MAX, option, &boundary);
        if (got < 0 || got > ONE_MAX) return rc_fail(RC_INTERNAL, msg, "U+%04X does not decompose", c);
        n += (size_t)got;
    }
    *count = n;
    return RC_OK;
}

/* Stable, by combining class. */
static void sort_marks(uint32_t *marks, size_t count, uint32_t *spare)
{
    if (count <= 16) {
        for (size_t i = 1; i < count; i++) {
            uint32_t c = marks[i], class = combining_class(c);
            size_t at = i;
            for (; at && combining_class(marks[at - 1]) > class; at--) marks[at] = marks[at - 1];
            marks[at] = c;
        }
        return;
    }
    size_t half = count / 2, a = 0, b = half;
    sort_marks(marks, half, spare);
    sort_marks(marks + half, count - half, spare);
    memcpy(spare, marks, count * sizeof *marks);
    for (size_t i = 0; i < count; i++) {
        bool takes_left = b == count || (a < half && combining_class(spare[a]) <= combining_class(spare[b]));
        marks[i] = spare[takes_left ? a++ : b++];
    }
}

static void order(uint32_t *points, size_t count, uint32_t *spare)
{
    for (size_t at = 0; at < count;) {
        size_t end = at;
        while (end < count && combining_class(points[end])) end++;
        if (end - at > 1) sort_marks(points + at, end - at, spare);
        at = end > at ? end : at + 1;
    }
}

/* utf8proc composes one stretch between newer characters at a time. */
static size_t compose(uint32_t *points, size_t count)
{
    size_t kept = 0;
    for (size_t at = 0; at < count;) {
        size_t end = at;
        while (end < count && !is_newer(points[end])) end++;
        utf8proc_ssize_t got =
            utf8proc_normalize_utf32((utf8proc_int32_t *)points + at, (utf8proc_ssize_t)(end - at),
                                     UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        memmove(points + kept, points + at, (size_t)got * sizeof *points);
        kept += (size_t)got;
        for (at = end; at < count && is_newer(points[at]); at++) points[kept++] = points[at];
    }
    return kept;
}

rc_code rt__tok_normal_form(const char *text, size_t bytes, bool composes, bool is_compatible,
                            rt__tok_normal_work *work, rt_bytes *out, rc_msg *msg)
{
    size_t count = 0;
    RC_TRY(decompose(text, bytes, is_compatible, work, &count, msg));
    order(work->points, count, work->points + count);
    if (composes) count = compose(work->points, count);
    for (size_t i = 0; i < count; i++) {
        char one[4];
        rt_bytes_add(out, one, rt__tok_put(work->points[i], one));
    }
    return RC_OK;
}
