/* Reads a plan from a trace's lines. */
#include <errno.h>
#include <jansson.h>

#include "runtime/base/json_in.h"
#include "runtime/base/random.h"
#include "runtime/load/plan.h"

enum { LENGTH_MAX = 1 << 24 };
static const double at_max_s = 1e7;

typedef struct trace {
    rt_load_plan *plan;
    rt_load_mix *loras;
    const rt_load_plan_options *o;
    const char *path;
    size_t number;
    uint64_t random;
    rc_msg *msg;
} trace;

static rc_code fail_line(const trace *t, const char *what)
{
    return rc_fail(RC_INVALID_ARGUMENT, t->msg, "--trace '%.400s', line %zu: %s", t->path, t->number, what);
}

static rc_code fail_field(const trace *t, const char *key, const json_t *value, const char *expected)
{
    char quoted[60], what[200];
    snprintf(what, sizeof what, "\"%s\" %s: expected %s", key, rt_json_quote(value, quoted, sizeof quoted),
             expected);
    return fail_line(t, what);
}

static bool is_given(const json_t *value)
{
    return value && !json_is_null(value);
}

static rc_code read_at(const trace *t, const json_t *line, double *out)
{
    const json_t *value = json_object_get(line, "at");
    size_t count = t->plan->count;
    double last = count ? t->plan->arrivals[count - 1].at_s : 0;
    if (!value) return fail_line(t, "\"at\" is missing: expected seconds after the start");
    if (!json_is_number(value) || json_number_value(value) < 0 || json_number_value(value) > at_max_s)
        return fail_field(t, "at", value, "seconds after the start, at least 0");
    if (json_number_value(value) < last)
        return fail_field(t, "at", value, "no earlier time than the line above has");
    *out = json_number_value(value);
    return RC_OK;
}

static rc_code read_length(const trace *t, const json_t *line, const char *key, uint32_t *out)
{
    const json_t *value = json_object_get(line, key);
    if (!is_given(value)) return RC_OK;
    if (!json_is_integer(value) || json_integer_value(value) < 1 || json_integer_value(value) > LENGTH_MAX)
        return fail_field(t, key, value, "a whole number of at least 1");
    *out = (uint32_t)json_integer_value(value);
    return RC_OK;
}

static rc_code read_lora(trace *t, const json_t *line, uint32_t *out)
{
    const json_t *value = json_object_get(line, "lora");
    double unit =
        rt_random_unit(&t->random); /* drawn where it is not needed too: lines do not change others */
    *out = (uint32_t)rt_load_mix_draw(t->loras, unit);
    if (!is_given(value)) return RC_OK;
    const char *name = json_string_value(value);
    size_t bytes = json_string_length(value);
    if (!name || !bytes || strlen(name) != bytes)
        return fail_field(t, "lora", value, "an adapter's name, or \"base\"");
    size_t found = rt_load_mix_find(t->loras, name, bytes);
    if (found == t->loras->count) RC_TRY(rt_load_mix_add(t->loras, name, 0, t->msg));
    *out = (uint32_t)found;
    return RC_OK;
}

static rc_code read_tenant(trace *t, const json_t *line, uint32_t *out)
{
    const json_t *value = json_object_get(line, "tenant");
    *out = (uint32_t)rt_load_mix_draw(t->o->tenants, rt_random_unit(&t->random));
    if (!is_given(value)) return RC_OK;
    const char *name = json_string_value(value);
    size_t found = name ? rt_load_mix_find(t->o->tenants, name, json_string_length(value)) : SIZE_MAX;
    if (found >= t->o->tenants->count || !t->o->tenants->choices[found].key)
        return fail_field(t, "tenant", value, "a name that --tenant-keys has");
    *out = (uint32_t)found;
    return RC_OK;
}

static rc_code check_keys(const trace *t, json_t *line)
{
    static const char *const known[] = {"at", "input_len", "output_len", "lora", "tenant"};
    const char *key;
    json_t *value;
    char what[120];
    json_object_foreach(line, key, value)
    {
        size_t i = 0;
        while (i < sizeof known / sizeof *known && strcmp(key, known[i])) i++;
        if (i < sizeof known / sizeof *known) continue;
        snprintf(what, sizeof what, "unknown key '%.40s': expected at, input_len, output_len, lora, tenant",
                 key);
        return fail_line(t, what);
    }
    return RC_OK;
}

static rc_code read_arrival(trace *t, json_t *line, rt_load_arrival *a)
{
    if (!json_is_object(line)) return fail_line(t, "expected a JSON object");
    RC_TRY(check_keys(t, line));
    RC_TRY(read_at(t, line, &a->at_s));
    RC_TRY(read_length(t, line, "input_len", &a->input_len));
    RC_TRY(read_length(t, line, "output_len", &a->output_len));
    RC_TRY(read_lora(t, line, &a->lora));
    RC_TRY(read_tenant(t, line, &a->tenant));
    a->prefix = (uint32_t)(rt_random_next(&t->random) % t->o->prefixes);
    return rt_load_plan_add(t->plan, a, t->msg);
}

static rc_code read_line(trace *t, const char *text, size_t bytes)
{
    rt_load_arrival a = {.input_len = t->o->input_len, .output_len = t->o->output_len};
    json_t *line = NULL;
    rc_msg why;
    char what[200];
    if (rt_json_read(text, bytes, &line, &why) != RC_OK) {
        snprintf(what, sizeof what, "not JSON: %.150s", why.text);
        return fail_line(t, what);
    }
    rc_code code = read_arrival(t, line, &a);
    json_decref(line);
    return code;
}

static rc_code read_lines(trace *t, FILE *f)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    rc_code code = RC_OK;
    while (code == RC_OK && (!t->o->count || t->plan->count < t->o->count) &&
           (n = getline(&line, &room, f)) >= 0) {
        t->number++;
        while (n && strchr(" \t\r\n", line[n - 1]) && line[n - 1]) n--;
        if (n) code = read_line(t, line, (size_t)n);
    }
    free(line);
    return code;
}

rc_code rt_load_plan_read(rt_load_plan *p, const char *path, rt_load_mix *loras,
                          const rt_load_plan_options *o, rc_msg *msg)
{
    trace t = {.plan = p, .loras = loras, .o = o, .path = path, .random = o->seed, .msg = msg};
    FILE *f = fopen(path, "re");
    if (!f) return rc_fail(RC_INVALID_ARGUMENT, msg, "--trace '%.400s': %s", path, strerror(errno));
    rc_code code = read_lines(&t, f);
    if (code == RC_OK && ferror(f))
        code = rc_fail(RC_INVALID_ARGUMENT, msg, "--trace '%.400s': %s", path, strerror(errno));
    if (code == RC_OK && !p->count)
        code = rc_fail(RC_INVALID_ARGUMENT, msg, "--trace '%.400s': expected at least one line", path);
    fclose(f);
    return rc_about(code, msg, "trace");
}
