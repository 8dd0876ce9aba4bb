#include "runtime/base/flags.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/size.h"

typedef struct parse {
    const rt_flag_set *sets;
    size_t sets_count;
    int argc, at;
    char **argv;
    rc_msg *msg;
} parse;

/* A flag as found: `--no-x` negates, `--x=value` brings its value. */
typedef struct match {
    const rt_flag *flag;
    void *target;
    bool negated;
    const char *value;
} match;

rc_code rt_texts_add(rt_texts *t, const char *text, rc_msg *msg)
{
    const char **items = realloc(t->items, (t->count + 1) * sizeof *items);
    if (!items)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a list of %zu values", t->count + 1);
    t->items = items;
    t->items[t->count++] = text;
    return RC_OK;
}

void rt_texts_deinit(rt_texts *t)
{
    free(t->items);
    *t = (rt_texts){0};
}

bool rt__is_flag_name(const char *name, const char *given, size_t given_bytes)
{
    if (strlen(name) != given_bytes) return false;
    for (size_t i = 0; i < given_bytes; i++)
        if ((name[i] == '_' ? '-' : name[i]) != (given[i] == '_' ? '-' : given[i])) return false;
    return true;
}

static bool is_truth(const rt_flag *f)
{
    return f->kind == RT_FLAG_BOOL || f->kind == RT_FLAG_TRUTH;
}

static bool find(const parse *p, const char *arg, match *m)
{
    bool is_long = arg[0] == '-' && arg[1] == '-';
    const char *name = arg + (is_long ? 2 : 1), *equals = strchr(name, '=');
    size_t bytes = equals ? (size_t)(equals - name) : strlen(name);
    for (size_t s = 0; s < p->sets_count; s++) {
        for (size_t i = 0; i < p->sets[s].count; i++) {
            const rt_flag *f = &p->sets[s].flags[i];
            bool is_named = is_long ? rt__is_flag_name(f->name, name, bytes)
                                    : f->alias && rt__is_flag_name(f->alias, name, bytes);
            bool is_negated = is_long && is_truth(f) && bytes > 3 && !strncmp(name, "no", 2) &&
                              (name[2] == '-' || name[2] == '_') &&
                              rt__is_flag_name(f->name, name + 3, bytes - 3);
            if (!is_named && !is_negated) continue;
            *m = (match){f, p->sets[s].target, is_negated, equals ? equals + 1 : NULL};
            return true;
        }
    }
    return false;
}

static rc_code fail_unknown(const parse *p, const char *arg)
{
    const char *name = arg + strspn(arg, "-"), *nearest = NULL;
    char typed[64];
    snprintf(typed, sizeof typed, "%.*s", (int)strcspn(name, "="), name);
    size_t count = 0, at = 0;
    for (size_t s = 0; s < p->sets_count; s++) count += p->sets[s].count;
    const char **names = malloc((count ? count : 1) * sizeof *names);
    for (size_t s = 0; names && s < p->sets_count; s++)
        for (size_t i = 0; i < p->sets[s].count; i++) names[at++] = p->sets[s].flags[i].name;
    if (names) nearest = rt_nearest(typed, names, count);
    rc_fail(RC_INVALID_ARGUMENT, p->msg, "unknown flag '%.200s'%s%s%s", arg,
            nearest ? "; the nearest is '--" : "", nearest ? nearest : "", nearest ? "'" : "");
    free(names);
    return RC_INVALID_ARGUMENT;
}

static rc_code fail_value(const parse *p, const rt_flag *f, const char *value, const char *expected)
{
    rc_fail(RC_INVALID_ARGUMENT, p->msg, "--%s '%.200s': expected %s", f->name, value, expected);
    return rc_about(RC_INVALID_ARGUMENT, p->msg, f->name);
}

static rc_code set_number(const parse *p, const match *m, const char *value)
{
    const rt_flag *f = m->flag;
    uint64_t type_max = f->kind == RT_FLAG_U32 ? UINT32_MAX : UINT64_MAX, max = f->max ? f->max : type_max,
             number = 0;
    char expected[120];
    bool is_good =
        rt_size_parse(value, &number) && number >= f->min && number <= max && (!f->check || f->check(number));
    if (!is_good) {
        if (f->expected)
            snprintf(expected, sizeof expected, "%s", f->expected);
        else if (f->max)
            snprintf(expected, sizeof expected, "a whole number from %llu to %llu",
                     (unsigned long long)f->min, (unsigned long long)f->max);
        else if (f->kind == RT_FLAG_U32 && number > max)
            snprintf(expected, sizeof expected, "at most %llu", (unsigned long long)max);
        else
            snprintf(expected, sizeof expected, "a whole number of at least %llu (K, M, G are 1024's powers)",
                     (unsigned long long)f->min);
        return fail_value(p, f, value, expected);
    }
    if (f->at == RT_FLAG_IGNORED) return RC_OK;
    if (f->kind == RT_FLAG_U32)
        *(uint32_t *)((char *)m->target + f->at) = (uint32_t)number;
    else
        *(uint64_t *)((char *)m->target + f->at) = number;
    return RC_OK;
}

static rc_code set_double(const parse *p, const match *m, const char *value)
{
    char *end;
    double number = strtod(value, &end);
    if (end == value || *end || !isfinite(number) || number < 0)
        return fail_value(p, m->flag, value, "a number, 0 or more");
    if (m->flag->at != RT_FLAG_IGNORED) *(double *)((char *)m->target + m->flag->at) = number;
    return RC_OK;
}

static bool is_choice(const char *choices, const char *value)
{
    size_t bytes = strlen(value);
    for (const char *c = choices; bytes; c++) {
        size_t n = strcspn(c, "|");
        if (n == bytes && !memcmp(c, value, n)) return true;
        c += n;
        if (!*c) break;
    }
    return false;
}

static rc_code set_truth(const parse *p, const match *m)
{
    bool truth = !m->negated;
    if (m->value) {
        if (m->negated || !is_choice("true|false", m->value))
            return fail_value(p, m->flag, m->value, "no value, true or false");
        truth = !strcmp(m->value, "true");
    }
    if (m->flag->at == RT_FLAG_IGNORED) return RC_OK;
    void *at = (char *)m->target + m->flag->at;
    if (m->flag->kind == RT_FLAG_BOOL)
        *(bool *)at = truth;
    else
        *(const char **)at = truth ? "true" : "false";
    return RC_OK;
}

/* A value that looks like a known flag is a forgotten value. */
static bool is_flag(const parse *p, const char *arg)
{
    match m;
    return arg[0] == '-' && arg[1] && ((arg[1] == '-' && !arg[2]) || find(p, arg, &m));
}

static rc_code set_values(parse *p, const match *m)
{
    rt_texts *list = (rt_texts *)((char *)m->target + m->flag->at);
    if (m->value) return rt_texts_add(list, m->value, p->msg);
    do {
        RC_TRY(rt_texts_add(list, p->argv[p->at++], p->msg));
    } while (p->at < p->argc && p->argv[p->at][0] != '-');
    return RC_OK;
}

static rc_code set(parse *p, const match *m)
{
    const rt_flag *f = m->flag;
    if (is_truth(f)) return set_truth(p, m);
    if (!m->value && (p->at >= p->argc || is_flag(p, p->argv[p->at]))) {
        rc_code code =
            rc_fail(RC_INVALID_ARGUMENT, p->msg, "--%s needs a value: expected %s", f->name, f->value);
        return rc_about(code, p->msg, f->name);
    }
    if (f->kind == RT_FLAG_VALUES) return set_values(p, m);
    const char *value = m->value ? m->value : p->argv[p->at++];
    switch (f->kind) {
    case RT_FLAG_U32:
    case RT_FLAG_U64:
        return set_number(p, m, value);
    case RT_FLAG_F64:
        return set_double(p, m, value);
    case RT_FLAG_EACH:
        return rt_texts_add((rt_texts *)((char *)m->target + f->at), value, p->msg);
    case RT_FLAG_CHOICE:
        if (!is_choice(f->value, value)) return fail_value(p, f, value, f->expected ? f->expected : f->value);
        break;
    default:
        break;
    }
    if (f->at != RT_FLAG_IGNORED) *(const char **)((char *)m->target + f->at) = value;
    return RC_OK;
}

rc_code rt_flags_parse(const rt_flag_set *sets, size_t sets_count, int argc, char **argv, rt_texts *rest,
                       rc_msg *msg)
{
    parse p = {sets, sets_count, argc, 0, argv, msg};
    bool are_flags_over = false;
    while (p.at < argc) {
        const char *arg = argv[p.at];
        match m;
        if (!are_flags_over && !strcmp(arg, "--") && rest) {
            are_flags_over = true;
            p.at++;
        } else if (are_flags_over || arg[0] != '-' || !arg[1]) {
            if (!rest) return rc_fail(RC_INVALID_ARGUMENT, msg, "unexpected '%.200s': expected a flag", arg);
            RC_TRY(rt_texts_add(rest, arg, msg));
            p.at++;
        } else if (find(&p, arg, &m)) {
            p.at++;
            RC_TRY(set(&p, &m));
        } else {
            return fail_unknown(&p, arg);
        }
    }
    return RC_OK;
}
