#include "runtime/load/mix.h"

#include <errno.h>
#include <math.h>

#include "runtime/base/bytes.h"

enum { CHOICES_MAX = 4096, FILE_BYTES_MAX = 8 << 20, TAIL_MAX = 4096 };

typedef struct entry {
    rt_load_mix_kind kind;
    const char *flag;
    size_t number; /* of a file's line; 0: not in a file */
    const char *text;
    size_t bytes;
} entry;

size_t rt_load_mix_find(const rt_load_mix *m, const char *name, size_t bytes)
{
    size_t i = 0;
    while (i < m->count && (strlen(m->choices[i].name) != bytes || memcmp(m->choices[i].name, name, bytes)))
        i++;
    return i;
}

size_t rt_load_mix_draw(const rt_load_mix *m, double unit)
{
    double left = unit * m->weights;
    size_t last = 0;
    for (size_t i = 0; i < m->count; i++) {
        if (m->choices[i].weight <= 0) continue;
        last = i;
        if (left < m->choices[i].weight) break;
        left -= m->choices[i].weight;
    }
    return last;
}

void rt_load_mix_deinit(rt_load_mix *m)
{
    for (size_t i = 0; i < m->count; i++) {
        free(m->choices[i].name);
        free(m->choices[i].key);
        free(m->choices[i].tail);
    }
    free(m->choices);
    *m = (rt_load_mix){0};
}

static rc_code add(rt_load_mix *m, const char *name, size_t name_bytes, const char *key, size_t key_bytes,
                   double weight, rc_msg *msg)
{
    rt_load_choice *choices = realloc(m->choices, (m->count + 1) * sizeof *choices);
    if (choices) m->choices = choices;
    rt_load_choice c = {
        .name = strndup(name, name_bytes), .key = key ? strndup(key, key_bytes) : NULL, .weight = weight};
    if (!choices || !c.name || (key && !c.key)) {
        free(c.name);
        free(c.key);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for %zu names", m->count + 1);
    }
    m->choices[m->count++] = c;
    m->weights += weight;
    return RC_OK;
}

rc_code rt_load_mix_add(rt_load_mix *m, const char *name, double weight, rc_msg *msg)
{
    return add(m, name, strlen(name), NULL, 0, weight, msg);
}

/* Where an entry came from; never its text, which may be a key. */
static const char *place_of(const entry *e, char *out, size_t max)
{
    if (e->number)
        snprintf(out, max, "--%s, line %zu", e->flag, e->number);
    else
        snprintf(out, max, "--%s", e->flag);
    return out;
}

static rc_code fail_entry(const entry *e, rc_msg *msg)
{
    char place[80];
    place_of(e, place, sizeof place);
    if (e->kind == RT_LOAD_KEYS)
        return rc_fail(RC_INVALID_ARGUMENT, msg,
                       "%s: expected NAME=KEY or NAME=KEY:WEIGHT, a key of printable "
                       "ASCII, a weight of at least 0",
                       place);
    return rc_fail(RC_INVALID_ARGUMENT, msg, "%s '%.*s': expected NAME=WEIGHT, a number of at least 0", place,
                   (int)(e->bytes < 100 ? e->bytes : 100), e->text);
}

static bool read_weight(const char *text, size_t bytes, double *out)
{
    char copy[40], *end;
    if (!bytes || bytes >= sizeof copy) return false;
    memcpy(copy, text, bytes);
    copy[bytes] = 0;
    *out = strtod(copy, &end);
    return !*end && isfinite(*out) && *out >= 0;
}

static bool is_printable(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (text[i] < '!' || text[i] > '~') return false;
    return bytes > 0 && bytes < RT_LOAD_KEY_MAX;
}

static rc_code add_entry(rt_load_mix *m, const entry *e, rc_msg *msg)
{
    const char *equals = memchr(e->text, '=', e->bytes), *key = NULL, *value = equals ? equals + 1 : NULL;
    size_t name_bytes = equals ? (size_t)(equals - e->text) : e->bytes, key_bytes = 0;
    size_t value_bytes = equals ? e->bytes - name_bytes - 1 : 0;
    double weight = 1;
    char place[80];
    if (!name_bytes || (!equals && e->kind == RT_LOAD_KEYS)) return fail_entry(e, msg);
    if (e->kind == RT_LOAD_KEYS) {
        const char *colon = memrchr(value, ':', value_bytes);
        key = value;
        key_bytes = colon ? (size_t)(colon - key) : value_bytes;
        if (!is_printable(key, key_bytes)) return fail_entry(e, msg);
        value = colon ? colon + 1 : NULL;
        value_bytes = colon ? value_bytes - key_bytes - 1 : 0;
    }
    if (value && !read_weight(value, value_bytes, &weight)) return fail_entry(e, msg);
    if (rt_load_mix_find(m, e->text, name_bytes) < m->count)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%s: '%.*s' is there twice: expected it once",
                       place_of(e, place, sizeof place), (int)name_bytes, e->text);
    if (m->count == CHOICES_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "--%s: expected at most %d names", e->flag, CHOICES_MAX);
    return add(m, e->text, name_bytes, key, key_bytes, weight, msg);
}

static rc_code read_list(rt_load_mix *m, entry e, const char *list, rc_msg *msg)
{
    for (const char *at = list;; at = e.text + e.bytes + 1) {
        e.text = at;
        e.bytes = strcspn(at, ",");
        RC_TRY(add_entry(m, &e, msg));
        if (!at[e.bytes]) return RC_OK;
    }
}

static rc_code read_lines(rt_load_mix *m, entry e, FILE *f, rc_msg *msg)
{
    char *line = NULL;
    size_t room = 0, total = 0;
    ssize_t n;
    rc_code code = RC_OK;
    while (code == RC_OK && (n = getline(&line, &room, f)) >= 0) {
        e.number++;
        total += (size_t)n;
        while (n && strchr(" \t\r\n", line[n - 1])) line[--n] = 0;
        e.text = line;
        e.bytes = (size_t)n;
        if (total > FILE_BYTES_MAX)
            code = rc_fail(RC_INVALID_ARGUMENT, msg, "--%s: expected a file of at most 8 MiB", e.flag);
        else if (n && line[0] != '#')
            code = add_entry(m, &e, msg);
    }
    free(line);
    return code;
}

static rc_code read_file(rt_load_mix *m, entry e, const char *path, rc_msg *msg)
{
    FILE *f = fopen(path, "re");
    if (!f) return rc_fail(RC_INVALID_ARGUMENT, msg, "--%s '%.400s': %s", e.flag, path, strerror(errno));
    rc_code code = read_lines(m, e, f, msg);
    if (code == RC_OK && ferror(f))
        code = rc_fail(RC_INVALID_ARGUMENT, msg, "--%s '%.400s': cannot be read", e.flag, path);
    fclose(f);
    return code;
}

rc_code rt_load_mix_read(rt_load_mix *m, rt_load_mix_kind kind, const char *flag, const char *value,
                         rc_msg *msg)
{
    entry e = {.kind = kind, .flag = flag};
    rc_code code = value[0] == '@' ? read_file(m, e, value + 1, msg) : read_list(m, e, value, msg);
    if (code == RC_OK && !(m->weights > 0))
        code = rc_fail(RC_INVALID_ARGUMENT, msg, "--%s: expected one weight above 0", flag);
    return rc_about(code, msg, flag);
}

static rc_code fail_tail(const char *flag, const char *value, const char *expected, rc_msg *msg)
{
    return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg, "--%s '%.100s': expected %s", flag, value, expected),
                    msg, flag);
}

/* Ids, which commas separate, into the choice's own. */
static bool read_ids(const char *text, rt_load_choice *c)
{
    rt_bytes ids = {0};
    const char *at = text;
    bool is_good = *at != 0;
    while (is_good && *at) {
        char *end;
        errno = 0;
        unsigned long long id = *at >= '0' && *at <= '9' ? strtoull(at, &end, 10) : UINT64_MAX;
        is_good =
            id <= INT32_MAX && !errno && (*end == ',' || !*end) && ids.count / sizeof(uint32_t) < TAIL_MAX;
        if (!is_good) break;
        rt_bytes_add(&ids, &(uint32_t){(uint32_t)id}, sizeof(uint32_t));
        is_good = *end != ',' || end[1];
        at = end + (*end == ',');
    }
    if (is_good && !ids.failed) {
        free(c->tail);
        c->tail = (uint32_t *)(void *)ids.data;
        c->tail_count = ids.count / sizeof(uint32_t);
        return true;
    }
    rt_bytes_deinit(&ids);
    return false;
}

rc_code rt_load_mix_tail(rt_load_mix *m, const char *flag, const char *value, rc_msg *msg)
{
    const char *equals = strchr(value, '=');
    size_t i = equals ? rt_load_mix_find(m, value, (size_t)(equals - value)) : m->count;
    if (!equals) return fail_tail(flag, value, "NAME=ID,ID,...", msg);
    if (i == m->count) return fail_tail(flag, value, "a name that --lora-weights has", msg);
    return read_ids(equals + 1, &m->choices[i]) ? RC_OK
                                                : fail_tail(flag, value, "token ids after the name", msg);
}
