/* runtime/server/send_wheel.h - what is to be sent later, by the millisecond in which it is due.
 *
 * A timing wheel of one turn (Varghese & Lauck 1987, scheme 4): adding and taking take the same time
 * however much waits. Items are part of what the caller queues; who is due in the same millisecond comes in
 * any order.
 *
 * Threads: not safe; {0} is an empty one.
 */
#ifndef RUNTIME_SERVER_SEND_WHEEL_H
#define RUNTIME_SERVER_SEND_WHEEL_H

#include <stdint.h>

enum { RT_SEND_WHEEL_MS = 32 }; /* how far ahead; what is due later comes then */

typedef struct rt_send_item {
    struct rt_send_item *next;
} rt_send_item;

typedef struct rt_send_wheel {
    rt_send_item *due[RT_SEND_WHEEL_MS];
    int64_t taken_ms; /* those of this one and before are out */
    uint32_t count;
} rt_send_wheel;

/* An item that is not in a wheel. Times are of one clock that does not go back. */
void rt__send_wheel_add(rt_send_wheel *w, rt_send_item *item, int64_t now_ns, int64_t due_ns);
/* One that is due, which is no longer in the wheel; NULL: none is. */
rt_send_item *rt__send_wheel_take(rt_send_wheel *w, int64_t now_ns);

#endif
