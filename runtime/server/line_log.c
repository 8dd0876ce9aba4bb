#include "runtime/server/line_log.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

#include "runtime/base/bytes.h"

enum { WAITING_BYTES_MAX = 1 << 20, LOOK_MS = 100, LOOKS_AT_END = 10 };

struct rt_line_log {
    int fd;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    rt_bytes waiting;
    uint64_t dropped;
    bool is_ending;
};

static bool is_ending(rt_line_log *l)
{
    pthread_mutex_lock(&l->lock);
    bool ending = l->is_ending;
    pthread_mutex_unlock(&l->lock);
    return ending;
}

/* A pipe that is writable takes PIPE_BUF bytes without waiting. False: the file is gone, or it is the end and
 * nobody reads. */
static bool wait_for_room(rt_line_log *l)
{
    struct pollfd file = {.fd = l->fd, .events = POLLOUT};
    for (int looks = 0; looks < LOOKS_AT_END; looks += is_ending(l)) {
        int n = poll(&file, 1, LOOK_MS);
        if (n > 0) return (file.revents & POLLOUT) != 0;
        if (n < 0 && errno != EINTR) return false;
    }
    return false;
}

/* Bytes of the line that `text` begins with, its end too. */
static size_t line_bytes(const char *text, size_t bytes)
{
    return (size_t)((const char *)memchr(text, '\n', bytes) - text) + 1;
}

static void write_lines(rt_line_log *l, const rt_bytes *lines)
{
    for (size_t at = 0; at < lines->count;) {
        size_t left = line_bytes(lines->data + at, lines->count - at);
        while (left) {
            if (!wait_for_room(l)) return;
            ssize_t n = write(l->fd, lines->data + at, left);
            if (n < 0 && errno != EINTR && errno != EAGAIN) return;
            if (n > 0) at += (size_t)n;
            if (n > 0) left -= (size_t)n;
        }
    }
}

/* What waits, and with it how much did not get to wait. False: it is the end. */
static bool take(rt_line_log *l, rt_bytes *lines)
{
    pthread_mutex_lock(&l->lock);
    while (!l->waiting.count && !l->is_ending) pthread_cond_wait(&l->changed, &l->lock);
    *lines = l->waiting;
    l->waiting = (rt_bytes){0};
    if (l->dropped) rt_bytes_print(lines, "{\"event\":\"dropped\",\"lines\":%" PRIu64 "}\n", l->dropped);
    l->dropped = 0;
    bool any = lines->count || !l->is_ending;
    pthread_mutex_unlock(&l->lock);
    return any;
}

static void *run(void *arg)
{
    rt_line_log *l = arg;
    rt_bytes lines;
    while (take(l, &lines)) {
        write_lines(l, &lines);
        rt_bytes_deinit(&lines);
    }
    return NULL;
}

rc_code rt__line_log_open(int fd, rt_line_log **out, rc_msg *msg)
{
    rt_line_log *l = calloc(1, sizeof *l);
    if (!l) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the log of requests");
    l->fd = fd;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    if (pthread_create(&l->thread, NULL, run, l)) {
        free(l);
        return rc_fail(RC_INTERNAL, msg, "a thread of the server could not be started");
    }
    *out = l;
    return RC_OK;
}

void rt__line_log_add(rt_line_log *l, const char *line, size_t bytes)
{
    pthread_mutex_lock(&l->lock);
    char *to = bytes < PIPE_BUF && l->waiting.count + bytes < WAITING_BYTES_MAX
                   ? rt_bytes_reserve(&l->waiting, bytes + 1)
                   : NULL;
    if (to) {
        memcpy(to, line, bytes);
        to[bytes] = '\n';
        l->waiting.count += bytes + 1;
    } else {
        l->dropped++;
    }
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

void rt__line_log_close(rt_line_log *l)
{
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->is_ending = true;
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->changed);
    free(l);
}
