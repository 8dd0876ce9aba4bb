#include "runtime/base/lines.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { READ_BYTES = 1 << 16 };

void rt_lines_init(rt_lines *l, int fd, size_t bytes_max)
{
    *l = (rt_lines){.fd = fd, .bytes_max = bytes_max};
}
void rt_lines_deinit(rt_lines *l)
{
    rt_bytes_deinit(&l->read);
}

static void advance(rt_lines *l, size_t to)
{
    l->offset += to - l->at;
    l->at = to;
    l->searched = to;
}

rt_line_state rt_lines_next(rt_lines *l, const char **line, size_t *bytes)
{
    const char *data = l->read.data;
    size_t left = l->read.count - l->searched;
    const char *feed = left ? memchr(data + l->searched, '\n', left) : NULL;
    size_t end = feed ? (size_t)(feed - data) : l->read.count;
    bool was_skipping = l->is_skipping;
    if (!feed && !l->is_ended) {
        l->searched = end;
        if (end - l->at > l->bytes_max) l->is_skipping = true;
        if (l->is_skipping) advance(l, end);
        return RT_LINE_NEEDS;
    }
    if (!feed && end == l->at && !was_skipping) return RT_LINE_END;
    *line = data ? data + l->at : "";
    *bytes = end - l->at;
    l->is_skipping = false;
    l->number++;
    advance(l, feed ? end + 1 : end);
    if (was_skipping || *bytes > l->bytes_max) return RT_LINE_TOO_LONG;
    return feed ? RT_LINE : RT_LINE_TORN;
}

rc_code rt_lines_fill(rt_lines *l, rc_msg *msg)
{
    rt_bytes_drop(&l->read, l->at);
    l->searched -= l->at;
    l->at = 0;
    char *to = rt_bytes_reserve(&l->read, READ_BYTES);
    if (!to) {
        l->read.failed = false;
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a line of %zu bytes", l->read.count);
    }
    ssize_t n = read(l->fd, to, READ_BYTES);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return rc_fail(RC_UNAVAILABLE, msg, "nothing to read yet");
    if (n < 0) return rc_fail(RC_INTERNAL, msg, "reading failed: %s", strerror(errno));
    if (n == 0) l->is_ended = true;
    l->read.count += (size_t)n;
    l->read.data[l->read.count] = 0;
    return RC_OK;
}
