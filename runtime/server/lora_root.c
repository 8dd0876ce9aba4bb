#include "runtime/server/lora_root.h"

#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>

static bool is_inside(const char *root, const char *path)
{
    size_t n = strlen(root);
    if (n == 1) return path[1] != 0; /* the root of all */
    return !strncmp(root, path, n) && path[n] == '/' && path[n + 1];
}

/* The resolved path of `name` in `folder`, if it is inside the root. */
static char *resolve(const char *root, const char *folder, const char *name)
{
    char joined[PATH_MAX];
    int n = snprintf(joined, sizeof joined, "%s/%s", folder, name);
    char *path = n > 0 && (size_t)n < sizeof joined ? realpath(joined, NULL) : NULL;
    if (path && is_inside(root, path)) return path;
    free(path);
    return NULL;
}

static bool has_file(const char *root, const char *folder, const char *name)
{
    char *path = resolve(root, folder, name);
    free(path);
    return path != NULL;
}

rc_code rt__lora_root_resolve(const char *root, const char *path, char **out, rc_msg *msg)
{
    char *real_root = realpath(root, NULL), *real = NULL;
    if (real_root) real = resolve(real_root, path[0] == '/' ? "" : real_root, path);
    bool is_adapter = real && has_file(real_root, real, "adapter_config.json") &&
                      has_file(real_root, real, "adapter_model.safetensors");
    free(real_root);
    if (is_adapter) {
        *out = real;
        return RC_OK;
    }
    free(real);
    rc_fail(RC_INVALID_ARGUMENT, msg,
            "source_path: '%.300s' is no adapter inside --lora-root (adapter_config.json and "
            "adapter_model.safetensors, no link that leads out)",
            path);
    return rc_about(RC_INVALID_ARGUMENT, msg, "source_path");
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

static bool is_name(const char *name)
{
    for (const char *at = name, *part = name;; at++) {
        if (*at && *at != '/' && !is_letter(*at) && (*at != '.' || at == part)) return false;
        if (*at && *at != '/') continue;
        if (at == part) return false;
        if (!*at) return true;
        part = at + 1;
    }
}

rc_code rt__lora_root_find(const char *root, const char *name, char **out, rc_msg *msg)
{
    if (is_name(name) && rt__lora_root_resolve(root, name, out, NULL) == RC_OK) return RC_OK;
    return rc_fail(RC_NOT_FOUND, msg, "lora_name: no adapter '%.300s' is loaded", name);
}
