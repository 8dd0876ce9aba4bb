#include "runtime/cli/console.h"

#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/base/size.h"

void rt__console_init(rt_console *c, const char *command)
{
    *c = (rt_console){.command = command};
    rt_progress_init(&c->progress, STDERR_FILENO);
}

void rt__console_deinit(rt_console *c)
{
    rt_progress_deinit(&c->progress);
}

int rt__console_fail(rt_console *c, const rc_msg *msg)
{
    rt_progress_line(&c->progress, "%s: %s", c->command, msg->text);
    return 1;
}

static void on_log(void *ctx, char level, const char *line)
{
    rt_console *c = ctx;
    if (level == 'I' && c->is_quiet) return;
    if (level == 'I')
        rt_progress_line(&c->progress, "%s", line);
    else
        rt_progress_line(&c->progress, "%s: %s: %s", c->command, level == 'W' ? "warning" : "error", line);
}

static void on_progress(void *ctx, uint64_t done, uint64_t total)
{
    rt_console *c = ctx;
    char done_text[32], total_text[32], text[80];
    snprintf(text, sizeof text, "%s of %s", rt_size_text(done, done_text, sizeof done_text),
             rt_size_text(total, total_text, sizeof total_text));
    rt_progress_draw(&c->progress, rt_now_ns(), "loading", done, total, text);
}

void rt__console_attach(rt_console *c, mica_options *options)
{
    options->log = on_log;
    options->log_ctx = c;
    options->progress = on_progress;
    options->progress_ctx = c;
}

void rt__console_loaded(rt_console *c)
{
    rt_progress_clear(&c->progress);
}
