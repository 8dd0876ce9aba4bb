#include "runtime/server/request_log.h"

#include <inttypes.h>
#include <time.h>

#include "runtime/base/json_out.h"

enum { ECHO_BYTES_MAX = 256, TRACEPARENT_BYTES = 55 };

static void add_time(rt_bytes *out, int64_t unix_ns)
{
    char text[48];
    time_t seconds = (time_t)(unix_ns / 1000000000);
    struct tm t;
    gmtime_r(&seconds, &t);
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &t);
    snprintf(text + n, sizeof text - n, ".%03" PRId64 "Z", unix_ns / 1000000 % 1000);
    rt_json_add_text(out, "time", text);
}

static void add_bytes(rt_bytes *out, const char *key, mica_text text)
{
    rt_json_key(out, key);
    if (text.count)
        rt_json_string(out, text.bytes, text.count);
    else
        rt_json_null(out);
}

/* To the microsecond. */
static void add_span(rt_bytes *out, const char *key, int64_t from, int64_t to)
{
    char text[32];
    int n = snprintf(text, sizeof text, "%.3f", (double)(to - from) * 1e-6);
    rt_json_key(out, key);
    if (from && to)
        rt_json_raw(out, text, (size_t)n);
    else
        rt_json_null(out);
}

static const char *status_of(rc_code code)
{
    switch (code) {
#define NAME(name, number, text)                                                                             \
    case RC_##name:                                                                                          \
        return #name;
        RC_CODES(NAME)
#undef NAME
    }
    return "UNKNOWN";
}

static const char *finish_of(mica_finish finish)
{
    return finish == MICA_RUNNING ? NULL : rt__metrics_reason(finish);
}

void rt__request_log_add(rt_bytes *out, const rt_request_record *r)
{
    const rt_request_times *t = &r->facts->times;
    rt_json_open(out, '{');
    add_time(out, r->unix_ns);
    rt_json_add_text(out, "event", "request");
    rt_json_add_text(out, "request_id", r->request_id);
    add_bytes(out, "x_request_id", r->x_request_id);
    add_bytes(out, "traceparent", r->traceparent);
    rt_json_add_text(out, "tenant", r->tenant);
    rt_json_add_text(out, "model", r->model);
    rt_json_add_text(out, "adapter", r->adapter);
    rt_json_add_text(out, "status", status_of(r->code));
    rt_json_add_text(out, "finish", finish_of(r->facts->finish));
    rt_json_add_u64(out, "prompt_tokens", r->facts->prompt_tokens);
    rt_json_add_u64(out, "cached_tokens", r->cached_tokens);
    rt_json_add_u64(out, "generated_tokens", r->facts->generated_tokens);
    add_span(out, "queue_ms", t->arrived, t->admitted);
    add_span(out, "ttft_ms", t->arrived, t->first_token);
    add_span(out, "total_ms", t->arrived, t->ended ? t->ended : r->now_ns);
    rt_json_close(out, '}');
}

bool rt__is_echoable(const char *id, size_t bytes)
{
    if (!bytes || bytes > ECHO_BYTES_MAX) return false;
    for (size_t i = 0; i < bytes; i++)
        if (id[i] < 0x20 || id[i] > 0x7e) return false;
    return true;
}

/* Lower-case hexadecimal digits, not all 0 unless they may be. */
static bool is_hex(const char *text, size_t digits, bool may_be_zero)
{
    bool is_zero = true;
    for (size_t i = 0; i < digits; i++) {
        if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f'))) return false;
        is_zero = is_zero && text[i] == '0';
    }
    return may_be_zero || !is_zero;
}

bool rt__is_traceparent(const char *text, size_t bytes)
{
    return bytes == TRACEPARENT_BYTES && !memcmp(text, "00-", 3) && is_hex(text + 3, 32, false) &&
           text[35] == '-' && is_hex(text + 36, 16, false) && text[52] == '-' && is_hex(text + 53, 2, true);
}
