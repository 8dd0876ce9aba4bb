#include <stdlib.h>
#include <string.h>

#include "runtime/base/json_in.h"
#include "runtime/cli/engine_flags.h"

static rc_code fail_module(const char *value, rc_msg *msg)
{
    rc_code code =
        rc_fail(RC_INVALID_ARGUMENT, msg,
                "--lora-modules '%.200s': expected NAME=PATH, or JSON with \"name\" and \"path\"", value);
    return rc_about(code, msg, "lora-modules");
}

/* Takes copies of name and path, both in one allocation. */
static rc_code add(rt_engine_flags *f, const char *name, size_t name_bytes, const char *path, rc_msg *msg)
{
    for (size_t i = 0; i < f->adapters_count; i++) {
        const char *other = f->adapters[i].name;
        if (strlen(other) != name_bytes || memcmp(other, name, name_bytes)) continue;
        rc_code code = rc_fail(RC_INVALID_ARGUMENT, msg,
                               "--lora-modules has the name '%.200s' twice: expected it once", other);
        return rc_about(code, msg, "lora-modules");
    }
    size_t path_bytes = strlen(path);
    mica_adapter_ref *adapters = realloc(f->adapters, (f->adapters_count + 1) * sizeof *adapters);
    if (adapters) f->adapters = adapters;
    void **owned = realloc(f->adapters_owned, (f->adapters_count + 1) * sizeof *owned);
    if (owned) f->adapters_owned = owned;
    char *copy = malloc(name_bytes + path_bytes + 2);
    if (!adapters || !owned || !copy) {
        free(copy);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for %zu adapters", f->adapters_count + 1);
    }
    memcpy(copy, name, name_bytes);
    copy[name_bytes] = 0;
    memcpy(copy + name_bytes + 1, path, path_bytes + 1);
    f->adapters[f->adapters_count] = (mica_adapter_ref){copy, copy + name_bytes + 1};
    f->adapters_owned[f->adapters_count++] = copy;
    return RC_OK;
}

static bool is_name(const json_t *v)
{
    return json_is_string(v) && json_string_length(v) == strlen(json_string_value(v));
}

static rc_code add_object(rt_engine_flags *f, const json_t *module, const char *value, rc_msg *msg)
{
    const json_t *name = json_object_get(module, "name"), *path = json_object_get(module, "path");
    const json_t *base = json_object_get(module, "base_model_name");
    if (!is_name(name) || !json_string_length(name) || !is_name(path) || !json_string_length(path) ||
        (base && !json_is_null(base) && !json_is_string(base)))
        return fail_module(value, msg);
    return add(f, json_string_value(name), json_string_length(name), json_string_value(path), msg);
}

static rc_code add_json(rt_engine_flags *f, const char *value, rc_msg *msg)
{
    json_t *root = NULL, *item;
    size_t i;
    rc_code code = rt_json_read(value, strlen(value), &root, NULL);
    if (code != RC_OK) return fail_module(value, msg);
    if (!json_is_array(root)) code = add_object(f, root, value, msg);
    json_array_foreach(root, i, item)
    {
        if (code == RC_OK) code = add_object(f, item, value, msg);
    }
    json_decref(root);
    return code;
}

rc_code rt__lora_modules_decode(rt_engine_flags *f, rc_msg *msg)
{
    for (size_t i = 0; i < f->lora_modules.count; i++) {
        const char *value = f->lora_modules.items[i], *equals = strchr(value, '=');
        if (value[0] == '{' || value[0] == '[') {
            RC_TRY(add_json(f, value, msg));
        } else if (!equals || equals == value || !equals[1]) {
            return fail_module(value, msg);
        } else {
            RC_TRY(add(f, value, (size_t)(equals - value), equals + 1, msg));
        }
    }
    return RC_OK;
}
