#include "runtime/cli/batch_run.h"

#include <poll.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/cli/batch_line.h"
#include "runtime/cli/interrupt.h"

enum {
    EVENTS_A_ROUND = 256, /* before the input is looked at again, however fast the engine is */
    WAIT_MS = 250         /* a signal that came just before poll(2) is seen this much later */
};

static bool is_blocking(const rt_batch *b)
{
    struct pollfd p = {.fd = b->input.fd, .events = POLLIN};
    return !b->is_input_regular && poll(&p, 1, 0) <= 0;
}

static rc_code refuse_long(rt_batch *b, rc_msg *msg)
{
    rc_msg why;
    rc_fail(RC_INVALID_ARGUMENT, &why, "line %llu is too long; expected at most %zu bytes",
            (unsigned long long)b->input.number, b->input.bytes_max);
    return rt__batch_refuse_line(b, &why, msg);
}

/* After a failed read what is in the engine still gets its answers. */
static void fill(rt_batch *b, bool *moved)
{
    if (is_blocking(b)) return;
    rc_code code = rt_lines_fill(&b->input, &b->input_why);
    *moved = code == RC_OK;
    if (code == RC_OK || code == RC_UNAVAILABLE) return;
    b->input_code = code;
    b->is_input_over = true;
}

/* Takes one step with the input: a read, a line, or a part of one to the engine. */
static rc_code admit(rt_batch *b, bool *moved, rc_msg *msg)
{
    const char *text;
    size_t bytes;
    *moved = false;
    if (b->next) return rt__batch_submit(b, moved, msg);
    if (b->is_input_over || b->inside >= b->window) return RC_OK;
    switch (rt_lines_next(&b->input, &text, &bytes)) {
    case RT_LINE_NEEDS:
        fill(b, moved);
        return RC_OK;
    case RT_LINE_END:
        b->is_input_over = true;
        return RC_OK;
    case RT_LINE_TOO_LONG:
        *moved = true;
        return refuse_long(b, msg);
    default:
        break;
    }
    *moved = true;
    if (b->input.number == 1 && bytes >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) {
        text += 3; /* a byte order mark, as some editors write it */
        bytes -= 3;
    }
    return rt__batch_line_is_blank(text, bytes) ? RC_OK : rt__batch_take_line(b, text, bytes, msg);
}

static rc_code collect(rt_batch *b, bool *moved, rc_msg *msg)
{
    mica_event e;
    for (int i = 0; i < EVENTS_A_ROUND && b->inside && mica_poll(b->m, 0, &e); i++) {
        *moved = true;
        RC_TRY(rt__batch_on_event(b, &e, msg));
    }
    return RC_OK;
}

static void wait_for_news(const rt_batch *b)
{
    bool wants_input = !b->next && !b->is_input_over && b->inside < b->window;
    struct pollfd p[2] = {
        {.fd = b->inside ? mica_fd(b->m) : -1, .events = POLLIN},
        {.fd = wants_input ? b->input.fd : -1, .events = POLLIN},
    };
    poll(p, 2, WAIT_MS);
}

rc_code rt__batch_run(rt_batch *b, rc_msg *msg)
{
    while (!rt__interrupt_signal()) {
        bool moved;
        RC_TRY(admit(b, &moved, msg));
        RC_TRY(collect(b, &moved, msg));
        if (b->console->progress.is_terminal) rt__batch_tell(b, rt_now_ns());
        if (b->is_input_over && !b->jobs) break;
        if (!moved) wait_for_news(b);
    }
    if (b->input_code != RC_OK && msg) *msg = b->input_why;
    return b->input_code;
}

void rt__batch_deinit(rt_batch *b)
{
    while (b->first) rt__batch_job_destroy(b, b->first);
    rt_lines_deinit(&b->input);
    rt_bytes_deinit(&b->line);
}
