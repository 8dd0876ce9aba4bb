#include "runtime/server/send_wheel.h"

#include <stddef.h>

enum { MS = 1000000 };

static rt_send_item **slot(rt_send_wheel *w, int64_t ms)
{
    return &w->due[ms % RT_SEND_WHEEL_MS];
}

void rt__send_wheel_add(rt_send_wheel *w, rt_send_item *item, int64_t now_ns, int64_t due_ns)
{
    if (!w->count) w->taken_ms = now_ns / MS;
    int64_t first = w->taken_ms + 1, last = w->taken_ms + RT_SEND_WHEEL_MS, ms = due_ns / MS + 1;
    if (ms < first) ms = first;
    if (ms > last) ms = last;
    item->next = *slot(w, ms);
    *slot(w, ms) = item;
    w->count++;
}

rt_send_item *rt__send_wheel_take(rt_send_wheel *w, int64_t now_ns)
{
    for (; w->count && w->taken_ms < now_ns / MS; w->taken_ms++) {
        rt_send_item **first = slot(w, w->taken_ms + 1), *item = *first;
        if (!item) continue;
        *first = item->next;
        w->count--;
        return item;
    }
    return NULL;
}
