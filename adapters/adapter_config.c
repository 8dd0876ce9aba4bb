/* JSON to a checked struct. What it says about a module is in adapter_match.c. */
#include "adapters/adapter_config_internal.h"

#include <math.h>

/* PEFT's defaults */
enum { RANK_DEFAULT = 8, ALPHA_DEFAULT = 8 };

/* Where a value stands, for messages. */
typedef struct json_at {
    const json_t *root;
    const char *label;
    rc_msg *msg;
} json_at;

static rc_code fail_key(const json_at *at, const char *key, const json_t *value, const char *expected)
{
    char *text = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
    rc_fail(RC_INVALID_ARGUMENT, at->msg, "'%.200s': %s is %.80s, expected %s", at->label, key,
            text ? text : "absent", expected);
    free(text);
    return RC_INVALID_ARGUMENT;
}

static rc_code fail_memory(const json_at *at)
{
    return rc_fail(RC_RESOURCE_EXHAUSTED, at->msg, "'%.300s': no memory", at->label);
}

/* The value of a key; NULL where it is absent or null. */
static const json_t *get(const json_at *at, const char *key)
{
    const json_t *value = json_object_get(at->root, key);
    return json_is_null(value) ? NULL : value;
}

static bool is_off(const json_t *value)
{
    if (!value || json_is_false(value)) return true;
    if (json_is_string(value)) return strcmp(json_string_value(value), "none") == 0;
    if (json_is_array(value)) return json_array_size(value) == 0;
    return json_is_object(value) && json_object_size(value) == 0;
}

static rc_code refuse_features(const json_at *at)
{
    static const char *const keys[] = {
        "use_dora",
        "use_qalora",
        "use_bdlora",
        "arrow_config",
        "kasa_config",
        "monteclora_config",
        "megatron_config",
        "modules_to_save",
        "target_parameters",
        "layer_replication",
        "bias",
        "trainable_token_indices",
        "lora_bias",
        "fan_in_fan_out",
    };
    const json_t *type = get(at, "peft_type");
    if (type && (!json_is_string(type) || strcmp(json_string_value(type), "LORA") != 0))
        return fail_key(at, "peft_type", type, "\"LORA\", the only type that is served");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *value = get(at, keys[i]);
        if (!is_off(value)) return fail_key(at, keys[i], value, "it to be off: this feature is not served");
    }
    return RC_OK;
}

static rc_code read_bool(const json_at *at, const char *key, bool *out)
{
    const json_t *value = get(at, key);
    if (value && !json_is_boolean(value)) return fail_key(at, key, value, "true or false");
    *out = json_is_true(value);
    return RC_OK;
}

/* An integer of [min, max]; booleans and 8.0 are none. */
static bool integer_in(const json_t *value, json_int_t min, json_int_t max, uint32_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < min || json_integer_value(value) > max)
        return false;
    *out = (uint32_t)json_integer_value(value);
    return true;
}

static rc_code read_numbers(const json_at *at, adapter_config *c)
{
    const json_t *rank = get(at, "r"), *alpha = get(at, "lora_alpha");
    c->rank = RANK_DEFAULT;
    c->alpha = ALPHA_DEFAULT;
    if (rank && !integer_in(rank, 1, INT32_MAX, &c->rank))
        return fail_key(at, "r", rank, "a rank of 1 or more");
    if (alpha && !json_is_number(alpha)) return fail_key(at, "lora_alpha", alpha, "a number");
    if (alpha) c->alpha = json_number_value(alpha);
    return read_bool(at, "use_rslora", &c->rslora);
}

/* A list of strings; *items are borrowed from the JSON. */
static rc_code read_strings(const json_at *at, const char *key, const json_t *list, const char ***items,
                            uint32_t *count)
{
    size_t size = json_array_size(list);
    if (size > ADAPTER_PATTERNS_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, at->msg, "'%.200s': %s holds %zu entries, at most %d are read",
                       at->label, key, size, ADAPTER_PATTERNS_MAX);
    *items = calloc(size + 1, sizeof **items);
    if (!*items) return fail_memory(at);
    for (size_t i = 0; i < size; i++) {
        (*items)[i] = json_string_value(json_array_get(list, i));
        if (!(*items)[i]) return fail_key(at, key, json_array_get(list, i), "it to hold strings");
    }
    *count = (uint32_t)size;
    return RC_OK;
}

/* A list of names, or one regular expression. */
static rc_code read_selector(const json_at *at, const char *key, const json_t *value, adapter_selector *s)
{
    if (json_is_array(value)) return read_strings(at, key, value, &s->names, &s->names_count);
    if (!json_is_string(value)) return fail_key(at, key, value, "a list of names or a regular expression");
    return adapter_pattern_compile(ADAPTER_PATTERN_WHOLE, json_string_value(value), key, at->label, &s->regex,
                                   at->msg);
}

static rc_code read_selectors(const json_at *at, adapter_config *c)
{
    const json_t *targets = get(at, "target_modules"), *excluded = get(at, "exclude_modules");
    if (!targets) return fail_key(at, "target_modules", targets, "a list of names or a regular expression");
    if (json_is_string(targets) && strcasecmp(json_string_value(targets), "all-linear") == 0)
        c->all_linear = true;
    else
        RC_TRY(read_selector(at, "target_modules", targets, &c->targets));
    if (json_is_array(targets) && c->targets.names_count == 0)
        return fail_key(at, "target_modules", targets, "at least one name");
    if (!excluded || is_off(excluded)) return RC_OK;
    if (json_is_string(excluded) && json_string_length(excluded) == 0) return RC_OK;
    return read_selector(at, "exclude_modules", excluded, &c->excluded);
}

static rc_code read_layer_list(const json_at *at, const json_t *layers, adapter_config *c)
{
    size_t count = json_is_array(layers) ? json_array_size(layers) : 1;
    if (count > ADAPTER_PATTERNS_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, at->msg,
                       "'%.200s': layers_to_transform holds %zu layers, at most %d "
                       "are read",
                       at->label, count, ADAPTER_PATTERNS_MAX);
    c->layers = calloc(count + 1, sizeof *c->layers);
    if (!c->layers) return fail_memory(at);
    for (size_t i = 0; i < count; i++) {
        const json_t *layer = json_is_array(layers) ? json_array_get(layers, i) : layers;
        if (!integer_in(layer, 0, INT32_MAX, &c->layers[i]))
            return fail_key(at, "layers_to_transform", layer, "layer numbers from 0");
    }
    c->layers_count = (uint32_t)count;
    return RC_OK;
}

static rc_code add_layer_pattern(const json_at *at, adapter_config *c, const char *regex)
{
    adapter_pattern **p = &c->layer_patterns[c->layer_patterns_count];
    RC_TRY(adapter_pattern_compile(ADAPTER_PATTERN_LAYER, regex, "layers_pattern", at->label, p, at->msg));
    c->layer_patterns_count++;
    return RC_OK;
}

static rc_code read_layer_patterns(const json_at *at, const json_t *patterns, adapter_config *c)
{
    const char **list = NULL, *one = json_string_value(patterns);
    uint32_t count = 1;
    if (!one && !json_is_array(patterns))
        return fail_key(at, "layers_pattern", patterns, "a name or a list of names");
    rc_code code = one ? RC_OK : read_strings(at, "layers_pattern", patterns, &list, &count);
    if (code == RC_OK && !(c->layer_patterns = calloc(count + 1, sizeof *c->layer_patterns)))
        code = fail_memory(at);
    for (uint32_t i = 0; i < count && code == RC_OK; i++)
        code = add_layer_pattern(at, c, one ? one : list[i]);
    free(list);
    return code;
}

/* layers_to_transform, layers_pattern: as in PEFT, only beside a list of names. */
static rc_code read_layers(const json_at *at, adapter_config *c)
{
    const json_t *layers = get(at, "layers_to_transform"), *patterns = get(at, "layers_pattern");
    bool patterned = !is_off(patterns) && !(json_is_string(patterns) && json_string_length(patterns) == 0);
    if ((layers || patterned) && !c->targets.names)
        return fail_key(at, layers ? "layers_to_transform" : "layers_pattern", layers ? layers : patterns,
                        "none where target_modules is not a list");
    if (patterned && !layers)
        return fail_key(at, "layers_pattern", patterns, "layers_to_transform beside it");
    if (!layers) return RC_OK;
    RC_TRY(read_layer_list(at, layers, c));
    if (patterned) return read_layer_patterns(at, patterns, c);
    c->layer_patterns = calloc(1, sizeof *c->layer_patterns);
    if (!c->layer_patterns) return fail_memory(at);
    return add_layer_pattern(at, c, "[^.]*");
}

/* rank_pattern or alpha_pattern, in the file's order. */
static rc_code read_overrides(const json_at *at, const char *key, bool ranks, adapter_overrides *o)
{
    const json_t *table = get(at, key);
    const char *regex;
    json_t *value;
    uint32_t rank = 0;
    if (!table) return RC_OK;
    if (!json_is_object(table)) return fail_key(at, key, table, "an object");
    if (json_object_size(table) > ADAPTER_PATTERNS_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, at->msg, "'%.200s': %s holds %zu patterns, at most %d are read",
                       at->label, key, json_object_size(table), ADAPTER_PATTERNS_MAX);
    o->entries = calloc(json_object_size(table) + 1, sizeof *o->entries);
    if (!o->entries) return fail_memory(at);
    json_object_foreach((json_t *)(uintptr_t)table, regex, value)
    {
        adapter_override *entry = &o->entries[o->count];
        if (ranks && !integer_in(value, 1, INT32_MAX, &rank))
            return fail_key(at, key, value, "ranks of 1 or more in it");
        if (!ranks && !json_is_number(value)) return fail_key(at, key, value, "numbers in it");
        entry->value = ranks ? (double)rank : json_number_value(value);
        RC_TRY(
            adapter_pattern_compile(ADAPTER_PATTERN_TAIL, regex, key, at->label, &entry->pattern, at->msg));
        o->count++;
    }
    return RC_OK;
}

static rc_code read_invocation_ids(const json_at *at, const json_t *ids, adapter_config *c)
{
    static const char key[] = "alora_invocation_tokens";
    if (!json_is_array(ids)) return fail_key(at, key, ids, "a list of token ids");
    if (json_array_size(ids) > ADAPTER_INVOCATION_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, at->msg, "'%.200s': %s holds %zu ids, at most %d are read",
                       at->label, key, json_array_size(ids), ADAPTER_INVOCATION_MAX);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        uint32_t id;
        if (!integer_in(json_array_get(ids, i), 0, INT32_MAX, &id))
            return fail_key(at, key, json_array_get(ids, i), "token ids in it");
        c->invocation[i] = (int32_t)id;
    }
    c->invocation_count = (uint32_t)json_array_size(ids);
    return RC_OK;
}

static rc_code read_invocation(const json_at *at, adapter_config *c)
{
    static const char *const legacy[] = {"alora_invocation_string", "invocation_string"};
    const json_t *ids = get(at, "alora_invocation_tokens");
    c->kind = ids ? ADAPTER_ALORA : ADAPTER_LORA;
    if (ids) return read_invocation_ids(at, ids, c);
    for (int i = 0; i < 2; i++) {
        const json_t *text = get(at, legacy[i]);
        if (!text) continue;
        if (!json_is_string(text) || json_string_length(text) == 0)
            return fail_key(at, legacy[i], text, "a text that is not empty");
        c->kind = ADAPTER_ALORA;
        c->invocation_text = json_string_value(text);
        break;
    }
    return RC_OK;
}

static rc_code read_config(const json_at *at, adapter_config *c)
{
    RC_TRY(refuse_features(at));
    RC_TRY(read_numbers(at, c));
    RC_TRY(read_invocation(at, c));
    RC_TRY(adapter_matcher_create(&c->matcher, at->msg));
    RC_TRY(read_selectors(at, c));
    RC_TRY(read_layers(at, c));
    RC_TRY(read_overrides(at, "rank_pattern", true, &c->ranks));
    return read_overrides(at, "alpha_pattern", false, &c->alphas);
}

rc_code adapter_config_parse(const char *json, size_t json_bytes, const char *label, adapter_config **out,
                             rc_msg *msg)
{
    json_error_t error;
    adapter_config *c = calloc(1, sizeof *c);
    if (!c) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "'%.300s': no memory", label);
    c->root = json_loadb(json, json_bytes, JSON_REJECT_DUPLICATES, &error);
    json_at at = {c->root, label, msg};
    rc_code code;
    if (!c->root && !error.text[0])
        code = fail_memory(&at);
    else if (!c->root)
        code = rc_fail(RC_INVALID_ARGUMENT, msg, "'%.200s': not JSON: %.200s (line %d)", label, error.text,
                       error.line);
    else if (!json_is_object(c->root))
        code = rc_fail(RC_INVALID_ARGUMENT, msg, "'%.300s': not a JSON object", label);
    else
        code = read_config(&at, c);
    if (code != RC_OK) {
        adapter_config_free(c);
        return code;
    }
    *out = c;
    return RC_OK;
}

static void free_overrides(adapter_overrides *o)
{
    for (uint32_t i = 0; i < o->count; i++) adapter_pattern_free(o->entries[i].pattern);
    free(o->entries);
}

static void free_selector(adapter_selector *s)
{
    adapter_pattern_free(s->regex);
    free(s->names);
}

void adapter_config_free(adapter_config *c)
{
    if (!c) return;
    for (uint32_t i = 0; i < c->layer_patterns_count; i++) adapter_pattern_free(c->layer_patterns[i]);
    free(c->layer_patterns);
    free(c->layers);
    free_overrides(&c->ranks);
    free_overrides(&c->alphas);
    free_selector(&c->targets);
    free_selector(&c->excluded);
    adapter_matcher_destroy(c->matcher);
    json_decref(c->root);
    free(c);
}

adapter_kind adapter_config_kind(const adapter_config *c)
{
    return c->kind;
}

const int32_t *adapter_config_invocation(const adapter_config *c, uint32_t *count)
{
    *count = c->invocation_count;
    return c->invocation;
}

const char *adapter_config_invocation_text(const adapter_config *c)
{
    return c->invocation_text;
}

const uint32_t *adapter_config_layers(const adapter_config *c, uint32_t *count)
{
    *count = c->layers_count;
    return c->layers;
}

uint32_t adapter_config_targets_count(const adapter_config *c)
{
    return c->targets.names_count;
}

const char *adapter_config_target(const adapter_config *c, uint32_t index)
{
    RC_ASSERT(index < c->targets.names_count);
    return c->targets.names[index];
}
