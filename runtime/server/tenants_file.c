/* The tenants file as JSON. Every key is known or refused, so that a misspelt limit is not no limit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/json_in.h"
#include "runtime/server/tenants.h"

enum { FILE_BYTES_MAX = 8 << 20, GROUP_BYTES_MAX = 256, PATTERN_BYTES_MAX = 256, PATTERNS_MAX = 4096 };
enum { QUOTE_BYTES = 64, PLACE_BYTES = 160 };

/* "tenants[3].weight must be ..., got ..." */
static rc_code refuse(const char *place, const char *key, const char *expected, const json_t *got,
                      rc_msg *msg)
{
    char quoted[QUOTE_BYTES];
    return rc_fail(RC_INVALID_ARGUMENT, msg, "%s%s must be %s, got %s", place, key, expected,
                   got ? rt_json_quote(got, quoted, sizeof quoted) : "nothing");
}

static bool is_there(const json_t *v)
{
    return v && !json_is_null(v);
}

/* A string of 1 to max bytes that can be shown. */
static bool is_plain(const json_t *v, size_t max)
{
    if (!json_is_string(v) || !json_string_length(v) || json_string_length(v) > max) return false;
    const unsigned char *at = (const unsigned char *)json_string_value(v);
    for (size_t i = 0; i < json_string_length(v); i++)
        if (at[i] < 0x20 || at[i] == 0x7f) return false;
    return true;
}

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c | 0x20) : NULL;
    return at ? (int)(at - digits) : -1;
}

static rc_code take_hash(const json_t *v, const char *place, const char *key, unsigned char *out, rc_msg *msg)
{
    const char *text = json_is_string(v) ? json_string_value(v) : "";
    bool ok = strlen(text) == 2 * RT_KEY_HASH_BYTES && json_string_length(v) == strlen(text);
    for (size_t i = 0; ok && i < RT_KEY_HASH_BYTES; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        ok = high >= 0 && low >= 0;
        out[i] = (unsigned char)(high << 4 | low);
    }
    return ok ? RC_OK : refuse(place, key, "a SHA-256 as 64 hex digits", v, msg);
}

static rc_code take_limit(const json_t *object, const char *place, const char *key, uint32_t least,
                          uint32_t *out, rc_msg *msg)
{
    const json_t *v = json_object_get(object, key);
    *out = RT_NO_LIMIT;
    if (!is_there(v)) return RC_OK;
    json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;
    if (n < least || n >= RT_NO_LIMIT) {
        char expected[64];
        snprintf(expected, sizeof expected, "a whole number from %u to %u", least, RT_NO_LIMIT - 1);
        return refuse(place, key, expected, v, msg);
    }
    *out = (uint32_t)n;
    return RC_OK;
}

static rc_code take_weight(const json_t *object, const char *place, uint32_t *out, rc_msg *msg)
{
    const json_t *v = json_object_get(object, "weight");
    double weight = is_there(v) ? json_number_value(v) : 1;
    *out = 1000;
    if (!(weight >= 0.001 && weight <= 1e6))
        return refuse(place, "weight", "a number from 0.001 to 1000000", v, msg);
    *out = (uint32_t)(weight * 1000 + 0.5);
    return RC_OK;
}

static rc_code take_adapters(const json_t *object, const char *place, rt_tenant *t, rc_msg *msg)
{
    const json_t *v = json_object_get(object, "adapters"), *each;
    size_t i;
    if (!is_there(v)) return RC_OK;
    if (!json_is_array(v) || json_array_size(v) > PATTERNS_MAX)
        return refuse(place, "adapters", "a list of at most 4096 names", v, msg);
    t->adapters = calloc(json_array_size(v) + 1, sizeof *t->adapters);
    if (!t->adapters) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the tenants");
    json_array_foreach(v, i, each)
    {
        if (!is_plain(each, PATTERN_BYTES_MAX))
            return refuse(place, "adapters", "names of 1 to 256 plain bytes", each, msg);
        t->adapters[i] = strdup(json_string_value(each));
        if (!t->adapters[i]) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the tenants");
        t->adapters_count++;
    }
    return RC_OK;
}

static rc_code take_group(const json_t *object, const char *place, rt_tenant *t, rc_msg *msg)
{
    const json_t *v = json_object_get(object, "cache_group");
    if (!is_there(v)) return RC_OK;
    if (!is_plain(v, GROUP_BYTES_MAX)) return refuse(place, "cache_group", "1 to 256 plain bytes", v, msg);
    t->cache_group = strdup(json_string_value(v));
    return t->cache_group ? RC_OK : rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the tenants");
}

static rc_code take_may_load(const json_t *object, const char *place, rt_tenant *t, rc_msg *msg)
{
    const json_t *v = json_object_get(object, "may_load");
    if (is_there(v) && !json_is_boolean(v)) return refuse(place, "may_load", "true or false", v, msg);
    t->may_load = json_is_true(v);
    return RC_OK;
}

static rc_code check_keys(const json_t *object, const char *place, const char *const *known, rc_msg *msg)
{
    json_t *all = (json_t *)object;
    for (void *at = json_object_iter(all); at; at = json_object_iter_next(all, at)) {
        const char *const *k = known;
        while (*k && strcmp(*k, json_object_iter_key(at))) k++;
        if (!*k)
            return rc_fail(RC_INVALID_ARGUMENT, msg, "%s'%.64s' is no known key", place,
                           json_object_iter_key(at));
    }
    return RC_OK;
}

static rc_code take_tenant(const json_t *object, const char *place, rt_tenant *t, rc_msg *msg)
{
    static const char *const known[] = {"name",
                                        "key_sha256",
                                        "weight",
                                        "adapters",
                                        "may_load",
                                        "max_concurrency",
                                        "max_queue",
                                        "requests_per_minute",
                                        "tokens_per_minute",
                                        "cache_group",
                                        NULL};
    rt_share_limits *l = &t->limits;
    const json_t *name = json_object_get(object, "name");
    RC_TRY(check_keys(object, place, known, msg));
    if (!is_plain(name, RT_SHARE_NAME_BYTES_MAX))
        return refuse(place, "name", "a name of 1 to 128 plain bytes", name, msg);
    snprintf(t->name, sizeof t->name, "%s", json_string_value(name));
    RC_TRY(take_hash(json_object_get(object, "key_sha256"), place, "key_sha256", t->key, msg));
    RC_TRY(take_weight(object, place, &l->weight, msg));
    RC_TRY(take_adapters(object, place, t, msg));
    RC_TRY(take_may_load(object, place, t, msg));
    RC_TRY(take_limit(object, place, "max_concurrency", 1, &l->max_concurrency, msg));
    RC_TRY(take_limit(object, place, "max_queue", 0, &l->max_queue, msg));
    RC_TRY(take_limit(object, place, "requests_per_minute", 1, &l->requests_per_minute, msg));
    RC_TRY(take_limit(object, place, "tokens_per_minute", 1, &l->tokens_per_minute, msg));
    return take_group(object, place, t, msg);
}

/* Two tenants with one name or one key would be one tenant, or nobody knows which. */
static rc_code check_distinct(const rt_tenants *t, const rt_tenant *x, rc_msg *msg)
{
    if (t->has_admin && !memcmp(t->admin_key, x->key, sizeof x->key))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "tenant '%s' has the admin's key: expected another",
                       x->name);
    for (const rt_tenant *other = t->list; other < x; other++) {
        if (!strcmp(other->name, x->name))
            return rc_fail(RC_INVALID_ARGUMENT, msg, "tenant '%s' is there twice: expected it once", x->name);
        if (!memcmp(other->key, x->key, sizeof x->key))
            return rc_fail(RC_INVALID_ARGUMENT, msg, "tenants '%s' and '%s' have the same key_sha256",
                           other->name, x->name);
    }
    return RC_OK;
}

static rc_code take_list(const json_t *list, rt_tenants *t, rc_msg *msg)
{
    char place[PLACE_BYTES];
    if (!json_is_array(list) || json_array_size(list) > RT_SHARES_MAX)
        return refuse("", "tenants", "a list of at most 4096 tenants", list, msg);
    t->list = calloc(json_array_size(list) + 1, sizeof *t->list);
    if (!t->list) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the tenants");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *object = json_array_get(list, i);
        snprintf(place, sizeof place, "tenants[%zu]", i);
        if (!json_is_object(object)) return refuse(place, "", "an object", object, msg);
        snprintf(place, sizeof place, "tenants[%zu].", i);
        t->count++;
        RC_TRY(take_tenant(object, place, &t->list[i], msg));
        RC_TRY(check_distinct(t, &t->list[i], msg));
    }
    return RC_OK;
}

static rc_code take(const json_t *root, rt_tenants *t, rc_msg *msg)
{
    static const char *const known[] = {"admin_key_sha256", "tenants", NULL};
    const json_t *admin = json_object_get(root, "admin_key_sha256");
    if (!json_is_object(root)) return refuse("", "the file", "a JSON object", root, msg);
    RC_TRY(check_keys(root, "", known, msg));
    t->has_admin = is_there(admin);
    if (t->has_admin) RC_TRY(take_hash(admin, "", "admin_key_sha256", t->admin_key, msg));
    return take_list(json_object_get(root, "tenants"), t, msg);
}

rc_code rt__tenants_parse(const char *text, size_t bytes, rt_tenants **out, rc_msg *msg)
{
    json_t *root;
    RC_TRY(rt_json_read(text, bytes, &root, msg));
    rt_tenants *t = calloc(1, sizeof *t);
    rc_code code = t ? take(root, t, msg) : rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the tenants");
    json_decref(root);
    if (code == RC_OK)
        *out = t;
    else
        rt__tenants_free(t);
    return code;
}

rc_code rt__tenants_read(const char *path, rt_tenants **out, rc_msg *msg)
{
    FILE *f = fopen(path, "rbe");
    char *text = f ? malloc(FILE_BYTES_MAX + 1) : NULL;
    size_t bytes = text ? fread(text, 1, FILE_BYTES_MAX + 1, f) : 0;
    bool ok = text && !ferror(f) && bytes <= FILE_BYTES_MAX;
    rc_code code = RC_INVALID_ARGUMENT;
    rc_msg why;
    if (f) fclose(f);
    if (!ok)
        rc_fail(code, msg, "--tenants %.255s: expected a readable file of at most 8 MiB", path);
    else if ((code = rt__tenants_parse(text, bytes, out, &why)) != RC_OK)
        rc_fail(code, msg, "--tenants %.200s: %.390s", path, why.text);
    free(text);
    return rc_about(code, msg, "tenants");
}
