#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/cli/batch_run.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/engine_flags.h"
#include "runtime/cli/follow.h"
#include "runtime/cli/interrupt.h"

enum {
    LINE_BYTES_MAX = 64 << 20,
    WINDOW_MORE = 64, /* beyond four times max_num_seqs, so that none ever waits for the reader */
    WINDOW_MORE_PRIORITY =
        4096 /* with priorities, a request can only overtake those it is in the window with */
};

typedef struct batch_flags {
    rt_engine_flags engine;
    const char *input, *output;
    bool resume;
} batch_flags;

static const rt_flag own[] = {
    {"input-file", "i", RT_FLAG_TEXT, offsetof(batch_flags, input), "FILE", "requests, - is stdin (required)",
     0, 0, NULL, NULL},
    {"output-file", "o", RT_FLAG_TEXT, offsetof(batch_flags, output), "FILE",
     "answers, - is stdout (required)", 0, 0, NULL, NULL},
    {"resume", NULL, RT_FLAG_BOOL, offsetof(batch_flags, resume), NULL,
     "keep the answers that FILE has already", 0, 0, NULL, NULL},
};

static void print_help(const rt_flag_set *sets, size_t count)
{
    printf("usage: mica run-batch -i in.jsonl -o out.jsonl --model PATH [flags]\n\n"
           "Answers a file of OpenAI completion requests, one JSON line each:\n"
           "  {\"custom_id\": \"a\", \"method\": \"POST\", \"url\": \"/v1/completions\",\n"
           "   \"body\": {\"model\": NAME, \"prompt\": \"...\", \"max_tokens\": 16}}\n\n");
    rt_flags_help(sets, count, stdout);
}

static rc_code finish_flags(batch_flags *f, rc_msg *msg)
{
    const char *missing = !f->input ? "input-file" : !f->output ? "output-file" : NULL;
    if (missing) {
        rc_code code = rc_fail(RC_INVALID_ARGUMENT, msg, "--%s is missing: expected a file, or - for %s",
                               missing, f->input ? "stdout" : "stdin");
        return rc_about(code, msg, missing);
    }
    return rt__engine_flags_finish(&f->engine, msg);
}

static rc_code open_input(const char *path, rt_batch *b, rc_msg *msg)
{
    struct stat s;
    bool is_stdin = !strcmp(path, "-");
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return rc_fail(RC_INTERNAL, msg, "cannot read '%.400s': %s", path, strerror(errno));
    rt_lines_init(&b->input, fd, LINE_BYTES_MAX);
    if (fstat(fd, &s) != 0)
        return rc_fail(RC_INTERNAL, msg, "cannot read '%.400s': %s", path, strerror(errno));
    if (S_ISDIR(s.st_mode))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "cannot read '%.400s': it is a directory", path);
    b->is_input_regular = S_ISREG(s.st_mode);
    if (b->is_input_regular) b->input_bytes = (uint64_t)s.st_size;
    return RC_OK;
}

static void start(rt_batch *b, const mica_options *options)
{
    b->info = mica_get_info(b->m);
    uint64_t window =
        4ull * b->info.max_num_seqs + (options->priority_scheduling ? WINDOW_MORE_PRIORITY : WINDOW_MORE);
    b->window = window < UINT32_MAX ? (uint32_t)window : UINT32_MAX;
    if (getrandom(&b->nonce, sizeof b->nonce, 0) != (ssize_t)sizeof b->nonce)
        b->nonce = (uint64_t)rt_now_ns();
    b->started_ns = b->told_ns = rt_now_ns();
}

/* Everything is checked before the output is touched: a run that cannot start changes nothing. */
static rc_code run(batch_flags *f, rt_batch *b, rc_msg *msg)
{
    bool follows;
    RC_TRY(rt__follow(&f->engine, &follows, msg));
    if (follows) return RC_OK;
    RC_TRY(open_input(f->input, b, msg));
    RC_TRY(rt__batch_output_check(b->output, f->output, f->resume, b->input.fd, b->ids, msg));
    rt__console_attach(b->console, &f->engine.options);
    f->engine.options.admit_in_order = true;
    RC_TRY(mica_open(&f->engine.options, &b->m, msg));
    rt__console_loaded(b->console);
    RC_TRY(rt__batch_output_open(b->output, msg));
    start(b, &f->engine.options);
    rt__interrupt_watch();
    rc_code code = rt__batch_run(b, msg);
    if (code == RC_OK && b->is_engine_lost)
        code = rc_fail(RC_INTERNAL, msg, "the engine failed; see the answers' errors");
    return code;
}

static int work(batch_flags *f, rt_console *console)
{
    rt_batch_output output = {.fd = -1};
    rt_id_set ids = {0};
    rt_batch b = {.console = console, .output = &output, .ids = &ids, .input = {.fd = -1}};
    rc_msg msg;
    int status = 0;
    rc_code code = run(f, &b, &msg);
    int signal_number = rt__interrupt_signal(), input_fd = b.input.fd;
    if (code != RC_OK) {
        status = rt__console_fail(console, &msg);
    } else if (signal_number) {
        status = 128 + signal_number;
        rt_progress_line(&console->progress, "%s: interrupted; --resume does the rest", console->command);
    }
    if (b.m && output.fd >= 0) rt__batch_tell_end(&b, rt_now_ns());
    mica_close(b.m);
    rt__interrupt_unwatch();
    rt__batch_deinit(&b);
    rt__batch_output_close(&output);
    rt__id_set_deinit(&ids);
    if (input_fd > STDIN_FILENO) close(input_fd);
    return status;
}

int rt_command_run_batch(int argc, char **argv)
{
    batch_flags f = {0};
    rt_flag_set sets[1 + RT_ENGINE_SETS] = {{NULL, own, sizeof own / sizeof *own, &f}};
    rt_console console;
    rc_msg msg;
    int status = 0;
    rt__engine_flags_init(&f.engine);
    rt__engine_flag_sets(&f.engine, sets + 1);
    rt__console_init(&console, "mica run-batch");
    rc_code code = rt_flags_parse(sets, 1 + RT_ENGINE_SETS, argc, argv, NULL, &msg);
    if (code == RC_OK && f.engine.help) {
        print_help(sets, 1 + RT_ENGINE_SETS);
    } else {
        if (code == RC_OK) code = finish_flags(&f, &msg);
        status = code == RC_OK ? work(&f, &console) : rt__console_fail(&console, &msg);
    }
    rt__engine_flags_deinit(&f.engine);
    rt__console_deinit(&console);
    return status;
}
