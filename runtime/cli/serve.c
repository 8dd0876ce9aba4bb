/* `mica serve`: an engine behind gRPC, until a signal ends it. */
#include <signal.h>
#include <sys/resource.h>
#include <time.h>

#include "runtime/cli/commands.h"
#include "runtime/cli/console.h"
#include "runtime/cli/engine_flags.h"
#include "runtime/cli/follow.h"
#include "runtime/cli/interrupt.h"
#include "runtime/server/server.h"

enum { SIGNAL_LOOK_MS = 50, PORT_MAX = 65535, NO_PORT = 65536, DRAIN_MAX = 86400 };

typedef struct serve_flags {
    rt_engine_flags engine;
    rt_server_options server;
    const char *kv_events_config;
    rt_texts pinned;
} serve_flags;

#define SERVER(member) offsetof(serve_flags, server.member)
#define TEXT(name, member, value, help)                                                                      \
    {                                                                                                        \
        name, NULL, RT_FLAG_TEXT, SERVER(member), value, help, 0, 0, NULL, NULL                              \
    }

static const rt_flag own[] = {
    TEXT("host", host, "ADDRESS", "where to listen (127.0.0.1)"),
    {"grpc-port", NULL, RT_FLAG_U32, SERVER(grpc_port), "N", "0: any free one (50051)", 0, PORT_MAX, NULL,
     NULL},
    {"port", NULL, RT_FLAG_U32, SERVER(http_port), "N", "of HTTP; 0: any free one (8000)", 0, PORT_MAX, NULL,
     NULL},
    {"admin-port", NULL, RT_FLAG_U32, SERVER(admin_port), "N",
     "(un)loading adapters moves there; 0: any free", 0, PORT_MAX, NULL, NULL},
    TEXT("tenants", tenants, "FILE", "keys, limits; read again on SIGHUP (none)"),
    TEXT("lora-root", lora_root, "DIR", "LoadLora reads below it (nothing is loaded)"),
    {"lora-lazy-load", NULL, RT_FLAG_BOOL, SERVER(lora_lazy_load), NULL,
     "requests may name adapters there, too", 0, 0, NULL, NULL},
    {"lora-pin", NULL, RT_FLAG_VALUES, offsetof(serve_flags, pinned), "NAME ...",
     "of --lora-modules: never leave their slots", 0, 0, NULL, NULL},
    {"shutdown-delay-seconds", NULL, RT_FLAG_U32, SERVER(shutdown_delay_seconds), "N",
     "after SIGTERM, until work is refused (0)", 0, DRAIN_MAX, NULL, NULL},
    {"drain-seconds", NULL, RT_FLAG_U32, SERVER(drain_seconds), "N", "for what runs then (30)", 0,
     DRAIN_MAX, NULL, NULL},
    {"enable-log-requests", NULL, RT_FLAG_BOOL, SERVER(logs_requests), "[no-]",
     "a line of JSON on stderr for each (off)", 0, 0, NULL, NULL},
    {"kv-events-config", NULL, RT_FLAG_TEXT, offsetof(serve_flags, kv_events_config), "JSON",
     "vLLM's; blocks over ZeroMQ (off)", 0, 0, NULL, NULL},
    TEXT("ssl-keyfile", ssl_key_file, "FILE", "PEM; read again when it changes (no TLS)"),
    TEXT("ssl-certfile", ssl_cert_file, "FILE", "PEM, with its chain"),
    TEXT("ssl-ca-certs", ssl_ca_certs, "FILE", "clients must show a certificate of it"),
};
enum { OWN = sizeof own / sizeof *own };

static void print_help(const rt_flag_set *sets, size_t count)
{
    printf("usage: mica serve MODEL [flags]\n\n"
           "Serves a model and its adapters over gRPC: vllm.Inference and vllm.Control;\n"
           "/metrics, /health and /version over HTTP.\n"
           "Says on stderr when it is ready; SIGTERM drains it.\n\n");
    rt_flags_help(sets, count, stdout);
}

static rc_code refuse(const char *flag, const char *what, rc_msg *msg)
{
    return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg, "--%s %s", flag, what), msg, flag);
}

static rc_code finish_kv_events(serve_flags *f, rc_msg *msg)
{
    if (!f->kv_events_config) return RC_OK;
    RC_TRY(rt__kv_config_parse(f->kv_events_config, &f->server.kv_events, msg));
    if (!f->server.kv_events.is_on) return RC_OK;
    if (!f->engine.enable_prefix_caching)
        return refuse("kv-events-config", "needs prefix caching, which is turned off", msg);
    f->engine.options.kv_changes_max = f->server.kv_events.max_queue_size;
    return RC_OK;
}

/* Before the model is opened, so that what is wrong with the names is said at once. */
static rc_code check_pins(const serve_flags *f, rc_msg *msg)
{
    const mica_options *o = &f->engine.options;
    for (size_t i = 0; i < f->pinned.count; i++) {
        const char *name = f->pinned.items[i];
        bool is_known = false;
        for (size_t k = 0; k < o->adapters_count; k++)
            is_known = is_known || !strcmp(o->adapters[k].name, name);
        if (is_known) continue;
        return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg,
                                "--lora-pin '%.200s': expected a name of --lora-modules", name),
                        msg, "lora-pin");
    }
    if (f->pinned.count < (o->max_loras ? o->max_loras : MICA_MAX_LORAS_DEFAULT)) return RC_OK;
    return refuse("lora-pin", "must leave one of --max-loras slots for others", msg);
}

static rc_code finish_flags(serve_flags *f, const rt_texts *rest, rc_msg *msg)
{
    const rt_server_options *s = &f->server;
    if (rest->count > 1)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "'%.400s': expected one model", rest->items[1]);
    if (rest->count && f->engine.options.model)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "'%.400s': the model is given by --model already",
                       rest->items[0]);
    if (rest->count) f->engine.options.model = rest->items[0];
    if (s->ssl_key_file && !s->ssl_cert_file) return refuse("ssl-keyfile", "needs --ssl-certfile", msg);
    if (s->ssl_cert_file && !s->ssl_key_file) return refuse("ssl-certfile", "needs --ssl-keyfile", msg);
    if (s->ssl_ca_certs && !s->ssl_key_file) return refuse("ssl-ca-certs", "needs --ssl-keyfile", msg);
    if (s->lora_lazy_load && !s->lora_root) return refuse("lora-lazy-load", "needs --lora-root", msg);
    f->server.has_admin_port = s->admin_port != NO_PORT;
    RC_TRY(finish_kv_events(f, msg));
    RC_TRY(rt_server_check(s, msg));
    RC_TRY(rt__engine_flags_finish(&f->engine, msg));
    return check_pins(f, msg);
}

static void reload(rt_server *s, rt_progress *out)
{
    rc_msg msg;
    bool ok = rt_server_reload(s, &msg) == RC_OK;
    rt_progress_line(out, "%s%s",
                     ok ? "tenants: read again" : "tenants: nothing has changed: ", ok ? "" : msg.text);
}

/* Errors UNAVAILABLE: the engine is lost. */
static rc_code wait_for_signal(const mica *m, rt_server *s, rt_progress *out, rc_msg *msg)
{
    const struct timespec pause = {0, SIGNAL_LOOK_MS * 1000000};
    while (!rt__interrupt_signal()) {
        RC_TRY(mica_status(m, msg));
        if (rt__interrupt_hangup()) reload(s, out);
        nanosleep(&pause, NULL);
    }
    return RC_OK;
}

/* Each connection is an open file, and gRPC core takes no connection ever again once one found no room. */
static void raise_files_limit(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files)) return;
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files); /* may fail: then it is as it was */
}

static rc_code pin(const serve_flags *f, mica *m, rc_msg *msg)
{
    for (size_t i = 0; i < f->pinned.count; i++) {
        rc_msg why;
        rc_code code = mica_adapter_pin(m, f->pinned.items[i], &why);
        if (code != RC_OK)
            return rc_about(rc_fail(code, msg, "--lora-pin: %.500s", why.text), msg, "lora-pin");
    }
    return RC_OK;
}

/* While the model loads a signal ends the process at once; from `ready` on it drains, and a second one ends
 * the process at once. */
static rc_code serve(serve_flags *f, rt_console *console, mica **m, rc_msg *msg)
{
    rt_server *s;
    bool follows;
    RC_TRY(rt__follow(&f->engine, &follows, msg));
    if (follows) return RC_OK;
    raise_files_limit();
    rt__console_attach(console, &f->engine.options);
    RC_TRY(mica_open(&f->engine.options, m, msg));
    rt__console_loaded(console);
    RC_TRY(pin(f, *m, msg));
    RC_TRY(rt_server_open(&f->server, *m, &s, msg));
    rt__interrupt_watch();
    if (f->server.tenants) rt__interrupt_watch_hangup();
    const char *host = f->server.host;
    bool is_v6 = strchr(host, ':') != NULL;
    char admin[300] = "";
    if (f->server.has_admin_port)
        snprintf(admin, sizeof admin, is_v6 ? " admin=[%s]:%u" : " admin=%s:%u", host,
                 rt_server_admin_port(s));
    rt_progress_line(&console->progress,
                     is_v6 ? "ready grpc=[%s]:%u http=[%s]:%u%s" : "ready grpc=%s:%u http=%s:%u%s", host,
                     rt_server_grpc_port(s), host, rt_server_http_port(s), admin);
    rc_code code = wait_for_signal(*m, s, &console->progress, msg);
    if (code == RC_OK) {
        rt_progress_line(&console->progress, "draining for at most %u s",
                         f->server.shutdown_delay_seconds + f->server.drain_seconds);
        rt_server_drain(s);
    }
    rt_server_close(s);
    return code;
}

static int work(serve_flags *f, rt_console *console)
{
    mica *m = NULL;
    rc_msg msg;
    rc_code code = serve(f, console, &m, &msg);
    mica_close(m);
    return code == RC_OK ? 0 : rt__console_fail(console, &msg);
}

int rt_command_serve(int argc, char **argv)
{
    serve_flags f = {.server = {.host = "127.0.0.1",
                                .grpc_port = 50051,
                                .http_port = 8000,
                                .admin_port = NO_PORT,
                                .drain_seconds = 30}};
    rt_flag_set sets[1 + RT_ENGINE_SETS] = {{NULL, own, OWN, &f}};
    rt_texts rest = {0};
    rt_console console;
    rc_msg msg;
    int status = 0;
    rt__engine_flags_init(&f.engine);
    rt__engine_flag_sets(&f.engine, sets + 1);
    rt__console_init(&console, "mica serve");
    rc_code code = rt_flags_parse(sets, 1 + RT_ENGINE_SETS, argc, argv, &rest, &msg);
    if (code == RC_OK && f.engine.help) {
        print_help(sets, 1 + RT_ENGINE_SETS);
    } else {
        if (code == RC_OK) code = finish_flags(&f, &rest, &msg);
        status = code == RC_OK ? work(&f, &console) : rt__console_fail(&console, &msg);
    }
    rt_texts_deinit(&rest);
    rt_texts_deinit(&f.pinned);
    rt__engine_flags_deinit(&f.engine);
    rt__console_deinit(&console);
    return status;
}
