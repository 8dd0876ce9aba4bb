/* `mica generate`: one prompt, its text on stdout and nothing else.
 *
 * Request fields are flags of the same names: they become the JSON body that a batch line would hold, and
 * are decoded by the same table.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/bytes.h"
#include "runtime/base/json_in.h"
#include "runtime/base/utf8.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/completion_request.h"
#include "runtime/cli/console.h"
#include "runtime/cli/engine_flags.h"
#include "runtime/cli/follow.h"
#include "runtime/cli/interrupt.h"

enum { FIELDS_MAX = 64, PROMPT_BYTES_MAX = 64 << 20, POLL_MS = 250 };

typedef struct generate_flags {
    rt_engine_flags engine;
    const char *prompt, *adapter;
    bool verbose;
    rt_flag fields[FIELDS_MAX]; /* made from the request's table */
    rt_completion_shape shapes[FIELDS_MAX];
    rt_texts values[FIELDS_MAX];
    const char *truths[FIELDS_MAX];
    size_t fields_count;
} generate_flags;

static const rt_flag own[] = {
    {"prompt", "p", RT_FLAG_TEXT, offsetof(generate_flags, prompt), "TEXT", "the prompt; - is stdin", 0, 0,
     NULL, NULL},
    {"adapter", NULL, RT_FLAG_TEXT, offsetof(generate_flags, adapter), "NAME", "one of --lora-modules (base)",
     0, 0, NULL, NULL},
    {"verbose", NULL, RT_FLAG_BOOL, offsetof(generate_flags, verbose), NULL,
     "what the engine says, on stderr", 0, 0, NULL, NULL},
};

/* It is the engine's already, and means the same for one request. --seed is the request's, as in a batch. */
static bool is_engine_flag(const char *name)
{
    return !strcmp(name, "require_activation");
}

static const char *value_of(rt_completion_shape shape)
{
    switch (shape) {
    case RT_SHAPE_NUMBER:
        return "X";
    case RT_SHAPE_STRING:
    case RT_SHAPE_STRINGS:
        return "TEXT";
    case RT_SHAPE_IDS:
        return "ID ...";
    case RT_SHAPE_OBJECT:
        return "JSON";
    default:
        return "[no-]";
    }
}

static void make_fields(generate_flags *f)
{
    rt_completion_shape shape;
    const char *name;
    for (size_t i = 0; (name = rt_completion_field(i, &shape)); i++) {
        if (is_engine_flag(name)) continue;
        size_t at = f->fields_count++;
        RC_ASSERT(at < FIELDS_MAX);
        f->shapes[at] = shape;
        f->fields[at] = (rt_flag){.name = name,
                                  .kind = RT_FLAG_EACH,
                                  .value = value_of(shape),
                                  .help = "",
                                  .at = offsetof(generate_flags, values) + at * sizeof f->values[0]};
        if (shape == RT_SHAPE_IDS) f->fields[at].kind = RT_FLAG_VALUES;
        if (shape != RT_SHAPE_TRUTH) continue;
        f->fields[at].kind = RT_FLAG_TRUTH;
        f->fields[at].at = offsetof(generate_flags, truths) + at * sizeof f->truths[0];
    }
}

/* A number as it is written; what is none stays a string, which the decoder refuses by name. */
static json_t *json_of(const char *text)
{
    json_t *value = NULL;
    return rt_json_read(text, strlen(text), &value, NULL) == RC_OK ? value : json_string(text);
}

static json_t *strings_of(const rt_texts *values)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < values->count; i++)
        json_array_append_new(list, json_string(values->items[i]));
    return list;
}

/* 1 2 3, or 1,2,3. */
static json_t *ids_of(const rt_texts *values)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < values->count; i++) {
        const char *at = values->items[i];
        while (*at) {
            char id[32];
            size_t n = strcspn(at, ",");
            snprintf(id, sizeof id, "%.*s", (int)(n < 31 ? n : 31), at);
            json_array_append_new(list, json_of(id));
            at += n + (at[n] == ',');
        }
    }
    return list;
}

static json_t *field_value(const generate_flags *f, size_t i)
{
    const rt_texts *values = &f->values[i];
    const char *last = values->count ? values->items[values->count - 1] : NULL;
    if (f->shapes[i] == RT_SHAPE_TRUTH)
        return f->truths[i] ? json_boolean(!strcmp(f->truths[i], "true")) : NULL;
    if (!last) return NULL;
    switch (f->shapes[i]) {
    case RT_SHAPE_STRINGS:
        return strings_of(values);
    case RT_SHAPE_IDS:
        return ids_of(values);
    case RT_SHAPE_STRING:
        return json_string(last);
    default:
        return json_of(last);
    }
}

static rc_code make_body(const generate_flags *f, const char *prompt, size_t prompt_bytes, json_t **out,
                         rc_msg *msg)
{
    json_t *body = json_object();
    bool failed = json_object_set_new(body, "prompt", json_stringn(prompt, prompt_bytes)) != 0;
    if (f->adapter) failed = json_object_set_new(body, "model", json_string(f->adapter)) != 0 || failed;
    for (size_t i = 0; i < f->fields_count; i++) {
        json_t *value = field_value(f, i);
        if (value && json_object_set_new(body, f->fields[i].name, value) != 0) failed = true;
    }
    if (failed) {
        json_decref(body);
        return rc_fail(RC_INVALID_ARGUMENT, msg, "a flag's value is not UTF-8, or memory is short");
    }
    *out = body;
    return RC_OK;
}

static rc_code read_prompt(const generate_flags *f, rt_bytes *prompt, rc_msg *msg)
{
    if (strcmp(f->prompt, "-")) {
        rt_bytes_add_text(prompt, f->prompt);
    } else {
        ssize_t n = 1;
        while (n > 0 && prompt->count <= PROMPT_BYTES_MAX) {
            char *to = rt_bytes_reserve(prompt, 1 << 16);
            n = to ? read(STDIN_FILENO, to, 1 << 16) : 0;
            if (n > 0) prompt->count += (size_t)n;
        }
        if (n < 0) return rc_fail(RC_INTERNAL, msg, "cannot read stdin: %s", strerror(errno));
    }
    if (prompt->failed) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the prompt");
    if (prompt->count > PROMPT_BYTES_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "the prompt is too long: expected at most %d bytes",
                       PROMPT_BYTES_MAX);
    size_t valid = rt_utf8_valid(prompt->data, prompt->count);
    if (valid == prompt->count) return RC_OK;
    return rc_fail(RC_INVALID_ARGUMENT, msg, "the prompt is not UTF-8 at byte %zu", valid);
}

static rc_code print(const char *text, size_t bytes, rc_msg *msg)
{
    while (bytes) {
        ssize_t n = write(STDOUT_FILENO, text, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return rc_fail(RC_INTERNAL, msg, "cannot write to stdout: %s", strerror(errno));
        text += n;
        bytes -= (size_t)n;
    }
    return RC_OK;
}

/* The first choice streams; the others wait for their turn, a line each. */
static rc_code stream(mica *m, const rt_completion_request *r, rt_bytes *later, rc_msg *msg)
{
    mica_event e;
    bool is_over = false;
    while (!is_over && !rt__interrupt_signal()) {
        if (!mica_poll(m, POLL_MS, &e)) continue;
        if (e.finish == MICA_FAILED) {
            *msg = e.error ? *e.error : (rc_msg){.text = "the engine failed"};
            return RC_INTERNAL;
        }
        if (e.choice == 0)
            RC_TRY(print(e.text, e.text_bytes, msg));
        else
            rt_bytes_add(&later[e.choice], e.text, e.text_bytes);
        is_over = e.request_done;
    }
    for (uint32_t i = 1; i < r->common.n && !rt__interrupt_signal(); i++) {
        RC_TRY(print("\n", 1, msg));
        if (r->echo) RC_TRY(print(r->prompts[0].text, r->prompts[0].text_bytes, msg));
        RC_TRY(print(later[i].data, later[i].count, msg));
        if (later[i].failed) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the answer");
    }
    return RC_OK;
}

static rc_code answer(mica *m, json_t *body, rc_msg *msg)
{
    rt_completion_request *r = NULL;
    uint64_t id;
    RC_TRY(rt_completion_request_decode(body, mica_get_info(m).vocab, &r, msg));
    mica_request request = rt_completion_request_of(r, 0);
    request.key = "generate";
    rt_bytes *later = calloc(r->common.n, sizeof *later);
    rc_code code =
        later ? mica_submit(m, &request, &id, msg) : rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory");
    if (code == RC_OK && r->echo) code = print(r->prompts[0].text, r->prompts[0].text_bytes, msg);
    if (code == RC_OK) code = stream(m, r, later, msg);
    if (code == RC_OK && isatty(STDOUT_FILENO)) code = print("\n", 1, msg);
    for (uint32_t i = 0; later && i < r->common.n; i++) rt_bytes_deinit(&later[i]);
    free(later);
    rt_completion_request_destroy(r);
    return code;
}

static rc_code run(generate_flags *f, rt_console *console, mica **m, rc_msg *msg)
{
    rt_bytes prompt = {0};
    json_t *body = NULL;
    bool follows;
    RC_TRY(rt__follow(&f->engine, &follows, msg));
    if (follows) return RC_OK;
    rc_code code = read_prompt(f, &prompt, msg);
    if (code == RC_OK) code = make_body(f, prompt.data ? prompt.data : "", prompt.count, &body, msg);
    if (code == RC_OK) {
        console->is_quiet = !f->verbose;
        rt__console_attach(console, &f->engine.options);
        code = mica_open(&f->engine.options, m, msg);
    }
    if (code == RC_OK) {
        rt__console_loaded(console);
        rt__interrupt_watch();
        code = answer(*m, body, msg);
    }
    json_decref(body);
    rt_bytes_deinit(&prompt);
    return code;
}

static int work(generate_flags *f, rt_console *console)
{
    rc_msg msg;
    mica *m = NULL;
    rc_code code = run(f, console, &m, &msg);
    int signal_number = rt__interrupt_signal();
    mica_close(m);
    rt__interrupt_unwatch();
    if (code != RC_OK) return rt__console_fail(console, &msg);
    return signal_number ? 128 + signal_number : 0;
}

static rc_code finish_flags(generate_flags *f, const rt_texts *rest, rc_msg *msg)
{
    if (rest->count && (f->prompt || rest->count > 1 || strcmp(rest->items[0], "-")))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "unexpected '%.200s': expected -p TEXT, or - for stdin",
                       rest->items[0]);
    if (rest->count) f->prompt = "-";
    if (!f->prompt)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "the prompt is missing: expected -p TEXT, or - for stdin");
    return rt__engine_flags_finish(&f->engine, msg);
}

static void print_help(const rt_flag_set *sets)
{
    printf("usage: mica generate --model PATH [flags] [-p TEXT | -]\n\n"
           "Answers one prompt; its text streams to stdout, and nothing else does.\n\n");
    rt_flags_help(sets, 1, stdout);
    rt_flags_help_short(&sets[1], 2, stdout);
}

int rt_command_generate(int argc, char **argv)
{
    enum { SETS = 2 + RT_ENGINE_SETS };
    generate_flags f = {0};
    rt_texts rest = {0};
    rt_console console;
    rc_msg msg;
    int status = 0;
    make_fields(&f);
    rt_flag_set sets[SETS] = {{NULL, own, sizeof own / sizeof *own, &f},
                              {"Request fields (as in run-batch)", f.fields, f.fields_count, &f}};
    rt__engine_flags_init(&f.engine);
    rt__engine_flag_sets(&f.engine, sets + 2);
    rt__console_init(&console, "mica generate");
    rc_code code = rt_flags_parse(sets, SETS, argc, argv, &rest, &msg);
    if (code == RC_OK && f.engine.help) {
        print_help(sets);
    } else {
        if (code == RC_OK) code = finish_flags(&f, &rest, &msg);
        status = code == RC_OK ? work(&f, &console) : rt__console_fail(&console, &msg);
    }
    for (size_t i = 0; i < f.fields_count; i++) rt_texts_deinit(&f.values[i]);
    rt_texts_deinit(&rest);
    rt__engine_flags_deinit(&f.engine);
    rt__console_deinit(&console);
    return status;
}
