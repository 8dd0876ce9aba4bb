/* `mica bench serve`: flags, then runtime/load. */
#include <math.h>

#include "runtime/base/flags.h"
#include "runtime/cli/bench.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/out_file.h"
#include "runtime/load/load.h"
#include "runtime/mica.h"

enum { PORT_MAX = 65535, PROMPTS = 100, LENGTH_MAX = 1 << 24, TARGET_MAX = 300 };

typedef struct load_flags {
    const char *host, *ca_file, *request_rate, *trace, *lora_weights, *tenant_keys, *output_json, *plot;
    uint32_t grpc_port, num_prompts, input_len, output_len, prefix_len, num_prefixes, turns, max_concurrency,
        vocab;
    uint64_t seed;
    double ramp_seconds;
    rt_texts tails, goodput;
    bool help;
} load_flags;

/* What the flags become. */
typedef struct work {
    rt_load_mix loras, tenants;
    rt_load_plan plan;
    rt_load_options options;
    rt_load load;
    char target[TARGET_MAX];
} work;

#define AT(member) offsetof(load_flags, member)
#define TEXT(name, member, value, help)                                                                      \
    {                                                                                                        \
        name, NULL, RT_FLAG_TEXT, AT(member), value, help, 0, 0, NULL, NULL                                  \
    }
#define NUMBER(name, member, min, max, help)                                                                 \
    {                                                                                                        \
        name, NULL, RT_FLAG_U32, AT(member), "N", help, min, max, NULL, NULL                                 \
    }

static const rt_flag flags[] = {
    TEXT("host", host, "ADDRESS", "where it listens (127.0.0.1)"),
    NUMBER("grpc-port", grpc_port, 1, PORT_MAX, "(50051)"),
    TEXT("ssl-ca-certs", ca_file, "FILE", "who signs its certificate (no TLS)"),
    TEXT("request-rate", request_rate, "R", "Poisson arrivals a second; inf: all at once"),
    {"ramp-seconds", NULL, RT_FLAG_F64, AT(ramp_seconds), "S", "until that rate is reached, from 0 (0)", 0, 0,
     NULL, NULL},
    TEXT("trace", trace, "FILE", "instead: a line an arrival, {\"at\": S, ...}"),
    NUMBER("num-prompts", num_prompts, 1, 0, "arrivals (100; a trace's: all)"),
    NUMBER("input-len", input_len, 1, LENGTH_MAX, "fresh tokens of a prompt (32)"),
    NUMBER("output-len", output_len, 1, LENGTH_MAX, "tokens of an answer (128)"),
    NUMBER("prefix-len", prefix_len, 0, LENGTH_MAX, "tokens before them that prompts share (0)"),
    NUMBER("num-prefixes", num_prefixes, 1, LENGTH_MAX, "different ones (1)"),
    NUMBER("turns", turns, 1, 4096, "requests of an arrival: a conversation (1)"),
    TEXT("lora-weights", lora_weights, "A=2,base=1", "who answers what share (base)"),
    {"alora-invocations", NULL, RT_FLAG_VALUES, AT(tails), "A=ID,ID", "ids that end prompts of an adapter", 0,
     0, NULL, NULL},
    TEXT("tenant-keys", tenant_keys, "T=KEY:2,...", "whose keys, by what share; @FILE: a line each"),
    NUMBER("max-concurrency", max_concurrency, 1, 0, "in flight; more wait (no bound)"),
    NUMBER("vocab-size", vocab, 1, INT32_MAX, "ids are below it (the server says)"),
    {"seed", NULL, RT_FLAG_U64, AT(seed), "N", "the same one: the same arrivals and tokens (0)", 0, 0, NULL,
     NULL},
    {"goodput", NULL, RT_FLAG_VALUES, AT(goodput), "ttft:MS itl:MS",
     "what a good request keeps; tpot, e2el too", 0, 0, NULL, NULL},
    TEXT("output-json", output_json, "FILE", "write the figures too"),
    TEXT("plot", plot, "FILE", "and draw them, as SVG"),
    {"help", "h", RT_FLAG_BOOL, AT(help), NULL, "this text", 0, 0, NULL, NULL},
};

static rc_code fail_flag(const char *flag, const char *value, const char *expected, rc_msg *msg)
{
    return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg, "--%s '%.100s': expected %s", flag, value, expected),
                    msg, flag);
}

static rc_code read_rate(const load_flags *f, double *rate, rc_msg *msg)
{
    char *end;
    if (f->trace) {
        *rate = NAN;
        if (f->request_rate) return fail_flag("request-rate", f->request_rate, "no rate beside --trace", msg);
        if (f->ramp_seconds > 0)
            return rc_fail(RC_INVALID_ARGUMENT, msg, "--ramp-seconds: expected none beside --trace");
        return RC_OK;
    }
    *rate = INFINITY;
    if (f->request_rate && strcmp(f->request_rate, "inf")) {
        *rate = strtod(f->request_rate, &end);
        if (!*f->request_rate || *end || !isfinite(*rate) || *rate <= 0)
            return fail_flag("request-rate", f->request_rate, "a number above 0, or inf", msg);
    }
    if (isinf(*rate) && f->ramp_seconds > 0)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "--ramp-seconds needs a --request-rate that is a number");
    return RC_OK;
}

static rc_code read_mixes(work *w, const load_flags *f, rc_msg *msg)
{
    if (f->lora_weights)
        RC_TRY(rt_load_mix_read(&w->loras, RT_LOAD_WEIGHTS, "lora-weights", f->lora_weights, msg));
    else
        RC_TRY(rt_load_mix_add(&w->loras, "base", 1, msg));
    if (f->tenant_keys)
        return rt_load_mix_read(&w->tenants, RT_LOAD_KEYS, "tenant-keys", f->tenant_keys, msg);
    return rt_load_mix_add(&w->tenants, "", 1, msg);
}

static rc_code make_plan(work *w, const load_flags *f, rc_msg *msg)
{
    rt_load_plan_options o = {.rate = w->options.rate,
                              .ramp_s = f->ramp_seconds,
                              .count = f->num_prompts || f->trace ? f->num_prompts : PROMPTS,
                              .input_len = f->input_len,
                              .output_len = f->output_len,
                              .prefixes = f->num_prefixes,
                              .seed = f->seed,
                              .loras = &w->loras,
                              .tenants = &w->tenants};
    if (f->trace) return rt_load_plan_read(&w->plan, f->trace, &w->loras, &o, msg);
    return rt_load_plan_make(&w->plan, &o, msg);
}

static rc_code prepare(work *w, const load_flags *f, rt_console *console, rc_msg *msg)
{
    const char *format = strchr(f->host, ':') ? "[%s]:%u" : "%s:%u";
    rt_load_options *o = &w->options;
    if (snprintf(w->target, sizeof w->target, format, f->host, f->grpc_port) >= (int)sizeof w->target)
        return fail_flag("host", f->host, "an address", msg);
    *o = (rt_load_options){.target = w->target,
                           .ca_file = f->ca_file,
                           .loras = &w->loras,
                           .tenants = &w->tenants,
                           .plan = &w->plan,
                           .ramp_s = f->ramp_seconds,
                           .turns = f->turns,
                           .prefix_len = f->prefix_len,
                           .vocab = f->vocab,
                           .max_concurrency = f->max_concurrency,
                           .seed = f->seed,
                           .progress = &console->progress,
                           .stopped = rt__interrupt_signal,
                           .version = MICA_VERSION};
    RC_TRY(read_rate(f, &o->rate, msg));
    for (size_t i = 0; i < f->goodput.count; i++) RC_TRY(rt_load_slo_add(&o->slo, f->goodput.items[i], msg));
    RC_TRY(read_mixes(w, f, msg));
    RC_TRY(make_plan(w, f, msg));
    for (size_t i = 0; i < f->tails.count; i++)
        RC_TRY(rt_load_mix_tail(&w->loras, "alora-invocations", f->tails.items[i], msg));
    RC_TRY(rt__out_file_check(f->output_json, msg));
    return rt__out_file_check(f->plot, msg);
}

static rc_code write_files(const work *w, const load_flags *f, rc_msg *msg)
{
    rt_bytes json = {0}, svg = {0};
    rc_code code = RC_OK;
    if (f->output_json) {
        code = rt_load_write(&w->load, &json, msg);
        if (code == RC_OK) code = rt__out_file_write(f->output_json, &json, msg);
    }
    if (f->plot && code == RC_OK) {
        code = rt_load_plot(&w->load, &svg, msg);
        if (code == RC_OK) code = rt__out_file_write(f->plot, &svg, msg);
    }
    rt_bytes_deinit(&json);
    rt_bytes_deinit(&svg);
    return code;
}

static rc_code run(work *w, const load_flags *f, rt_console *console, rc_msg *msg)
{
    RC_TRY(prepare(w, f, console, msg));
    rt__interrupt_watch();
    RC_TRY(rt_load_open(&w->load, &w->options, msg));
    RC_TRY(rt_load_run(&w->load, msg));
    RC_TRY(rt_load_print(&w->load, msg));
    return write_files(w, f, msg);
}

static int measure(const load_flags *f, rt_console *console)
{
    work w = {0};
    rc_msg msg;
    rc_code code = run(&w, f, console, &msg);
    int signal_number = rt__interrupt_signal();
    rt_load_close(&w.load);
    rt__interrupt_unwatch();
    rt_load_plan_deinit(&w.plan);
    rt_load_mix_deinit(&w.loras);
    rt_load_mix_deinit(&w.tenants);
    if (code == RC_OK) return 0;
    rt__console_fail(console, &msg);
    return code == RC_CANCELLED ? 128 + signal_number : 1;
}

int rt__bench_serve(int argc, char **argv)
{
    load_flags f = {.host = "127.0.0.1",
                    .grpc_port = 50051,
                    .input_len = 32,
                    .output_len = 128,
                    .num_prefixes = 1,
                    .turns = 1};
    rt_flag_set set = {NULL, flags, sizeof flags / sizeof *flags, &f};
    rt_console console;
    rc_msg msg;
    int status = 0;
    rt__console_init(&console, "mica bench serve");
    rc_code code = rt_flags_parse(&set, 1, argc, argv, NULL, &msg);
    if (code == RC_OK && f.help) {
        printf("usage: mica bench serve [flags]\n\n"
               "Open-loop load on a running `mica serve`: prompts of random tokens are sent when\n"
               "they are due, whatever still runs. Greedy, end of text ignored.\n\n");
        rt_flags_help(&set, 1, stdout);
    } else {
        status = code == RC_OK ? measure(&f, &console) : rt__console_fail(&console, &msg);
    }
    rt_texts_deinit(&f.tails);
    rt_texts_deinit(&f.goodput);
    rt__console_deinit(&console);
    return status;
}
