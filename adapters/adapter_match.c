/* Which modules PEFT would adapt, with which rank and scaling. */
#include <math.h>

#include "adapters/adapter_config_internal.h"

/* PEFT's rule for names: the whole path, or the path after a dot. */
static bool names_path(const char *name, const char *path, bool *whole)
{
    size_t name_bytes = strlen(name), path_bytes = strlen(path);
    *whole = strcmp(name, path) == 0;
    if (*whole) return true;
    return path_bytes > name_bytes && path[path_bytes - name_bytes - 1] == '.' &&
           memcmp(path + path_bytes - name_bytes, name, name_bytes) == 0;
}

/* *whole: one of the names is the path itself. */
static bool any_names_path(const adapter_selector *s, const char *path, bool *whole)
{
    bool found = false, is_whole;
    *whole = false;
    for (uint32_t i = 0; i < s->names_count && !*whole; i++) {
        found |= names_path(s->names[i], path, &is_whole);
        *whole |= is_whole;
    }
    return found;
}

static rc_code selects(const adapter_config *c, const adapter_selector *s, const char *path, bool *selected,
                       bool *whole, rc_msg *msg)
{
    uint64_t unused;
    *whole = true;
    if (s->regex) return adapter_pattern_match(s->regex, c->matcher, path, selected, &unused, msg);
    *selected = any_names_path(s, path, whole);
    return RC_OK;
}

/* Whether the path's layer is one of layers_to_transform. */
static rc_code in_layers(const adapter_config *c, const char *path, bool *in, rc_msg *msg)
{
    uint64_t layer = 0;
    bool found = false;
    *in = false;
    for (uint32_t i = 0; i < c->layer_patterns_count && !found; i++)
        RC_TRY(adapter_pattern_match(c->layer_patterns[i], c->matcher, path, &found, &layer, msg));
    for (uint32_t i = 0; i < c->layers_count && found && !*in; i++) *in = c->layers[i] == layer;
    return RC_OK;
}

/* As PEFT: a module that is named in full is adapted whatever the layers say. */
static rc_code is_targeted(const adapter_config *c, const char *path, bool *targeted, rc_msg *msg)
{
    bool excluded, whole;
    *targeted = false;
    RC_TRY(selects(c, &c->excluded, path, &excluded, &whole, msg));
    if (excluded) return RC_OK;
    *targeted = c->all_linear;
    if (c->all_linear) return RC_OK;
    RC_TRY(selects(c, &c->targets, path, targeted, &whole, msg));
    if (!*targeted || whole || c->layers_count == 0) return RC_OK;
    return in_layers(c, path, targeted, msg);
}

static rc_code override(const adapter_config *c, const adapter_overrides *o, const char *path, double *value,
                        rc_msg *msg)
{
    bool matched = false;
    uint64_t unused;
    for (uint32_t i = 0; i < o->count && !matched; i++) {
        RC_TRY(adapter_pattern_match(o->entries[i].pattern, c->matcher, path, &matched, &unused, msg));
        if (matched) *value = o->entries[i].value;
    }
    return RC_OK;
}

rc_code adapter_config_match(const adapter_config *c, const char *path, adapter_match *out, rc_msg *msg)
{
    adapter_match m = {0};
    double rank = c->rank, alpha = c->alpha;
    RC_TRY(is_targeted(c, path, &m.targeted, msg));
    if (m.targeted) {
        RC_TRY(override(c, &c->ranks, path, &rank, msg));
        RC_TRY(override(c, &c->alphas, path, &alpha, msg));
        m.rank = (uint32_t)rank;
        m.scaling = (float)(c->rslora ? alpha / sqrt(rank) : alpha / rank);
        if (!isfinite(m.scaling))
            return rc_fail(RC_INVALID_ARGUMENT, msg,
                           "lora_alpha %g with rank %u gives no finite scaling for '%.200s'", alpha, m.rank,
                           path);
    }
    *out = m;
    return RC_OK;
}

bool adapter_config_target_names(const adapter_config *c, uint32_t index, const char *path)
{
    bool whole;
    return names_path(adapter_config_target(c, index), path, &whole);
}
