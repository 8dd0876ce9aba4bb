#include "runtime/base/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BAR_CELLS = 24 };
static const int64_t redraw_ns = 100000000; /* faster than the eye reads only costs terminal output */
static const char erase[] = "\r\033[K";

static void write_all(int fd, const char *text, size_t bytes)
{
    while (bytes) {
        ssize_t n = write(fd, text, bytes);
        if (n <= 0) return; /* nobody can be told that stderr is gone */
        text += n;
        bytes -= (size_t)n;
    }
}

void rt_progress_init(rt_progress *p, int fd)
{
    *p = (rt_progress){.fd = fd, .is_terminal = isatty(fd) == 1};
    pthread_mutex_init(&p->lock, NULL);
}

static void erase_bar(rt_progress *p)
{
    if (p->is_drawn) write_all(p->fd, erase, sizeof erase - 1);
    p->is_drawn = false;
}

void rt_progress_clear(rt_progress *p)
{
    pthread_mutex_lock(&p->lock);
    erase_bar(p);
    pthread_mutex_unlock(&p->lock);
}

void rt_progress_deinit(rt_progress *p)
{
    rt_progress_clear(p);
    pthread_mutex_destroy(&p->lock);
}

void rt_progress_draw(rt_progress *p, int64_t now_ns, const char *label, uint64_t done, uint64_t total,
                      const char *text)
{
    char line[200], bar[BAR_CELLS + 1];
    if (!p->is_terminal) return;
    pthread_mutex_lock(&p->lock);
    if (!p->is_drawn || now_ns - p->drawn_ns >= redraw_ns) {
        double share = total ? (double)(done < total ? done : total) / (double)total : 0;
        for (int i = 0; i < BAR_CELLS; i++) bar[i] = i < share * BAR_CELLS ? '#' : ' ';
        bar[BAR_CELLS] = 0;
        if (total)
            snprintf(line, sizeof line, "%s%s [%s] %3.0f%% %s", erase, label, bar, share * 100, text);
        else
            snprintf(line, sizeof line, "%s%s %s", erase, label, text);
        write_all(p->fd, line, strlen(line));
        p->is_drawn = true;
        p->drawn_ns = now_ns;
    }
    pthread_mutex_unlock(&p->lock);
}

void rt_progress_line(rt_progress *p, const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    if (n < 0) return;
    size_t bytes = strlen(line);
    line[bytes++] = '\n';
    pthread_mutex_lock(&p->lock);
    erase_bar(p);
    write_all(p->fd, line, bytes);
    pthread_mutex_unlock(&p->lock);
}
