/* The rope part of config.json, in the spellings of transformers 4 (rope_theta, rope_scaling) and 5
 * (rope_parameters). Precedence as in RotaryEmbeddingConfigMixin.convert_rope_params_to_dict. */
#include "runtime/model/config_internal.h"

enum { LABEL_BYTES_MAX = 288 };

static const json_t *rope_object(const rt__fields *f, const char **name, rc_code *code)
{
    static const char *const names[] = {"rope_scaling", "rope_parameters"};
    *code = RC_OK;
    for (size_t i = 0; i < 2; i++) {
        const json_t *v = rt__field(f, names[i]);
        if (!v) continue;
        *name = names[i];
        if (!json_is_object(v)) {
            *code = rt__field_fail(f, names[i], v, "an object or null");
            return NULL;
        }
        if (json_object_size(v)) return v;
    }
    return NULL;
}

/* Only the whole head is rotated, and every layer by the same angles. */
static rc_code check_partial(const rt__fields *f)
{
    double partial;
    RC_TRY(rt__field_f64(f, "partial_rotary_factor", 1.0, &partial));
    if (partial != 1.0)
        return rt__field_fail(f, "partial_rotary_factor", rt__field(f, "partial_rotary_factor"),
                              "1 (partial rotation is not supported)");
    return RC_OK;
}

static rc_code check_flat(const rt__fields *rope)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)rope->object, key, v)
    {
        if (json_is_object(v) || json_is_array(v))
            return rt__field_fail(rope, key, v, "a number (parameters per layer type are not supported)");
    }
    return RC_OK;
}

static rc_code positive(const rt__fields *f, const char *key, double *out)
{
    const json_t *v = rt__field(f, key);
    if (!v) return rt__field_fail(f, key, v, "a number above 0");
    RC_TRY(rt__field_f64(f, key, 0, out));
    return *out > 0 ? RC_OK : rt__field_fail(f, key, v, "a number above 0");
}

static rc_code parse_llama3(const rt__fields *config, const rt__fields *rope, rt_model_config *c)
{
    bool outside = rt__field(config, "original_max_position_embeddings") != NULL;
    RC_TRY(positive(rope, "factor", &c->rope_factor));
    RC_TRY(positive(rope, "low_freq_factor", &c->rope_low_freq_factor));
    RC_TRY(positive(rope, "high_freq_factor", &c->rope_high_freq_factor));
    RC_TRY(rt__field_u32(outside ? config : rope, "original_max_position_embeddings", c->positions_max, 1,
                         RT_POSITIONS_MAX, &c->rope_original_positions));
    if (c->rope_high_freq_factor == c->rope_low_freq_factor)
        return rt__field_fail(rope, "high_freq_factor", rt__field(rope, "high_freq_factor"),
                              "another number than low_freq_factor");
    return RC_OK;
}

static rc_code parse_kind(const rt__fields *config, const rt__fields *rope, rt_model_config *c)
{
    const char *kind = NULL;
    RC_TRY(rt__field_text(rope, "rope_type", &kind));
    if (!kind) RC_TRY(rt__field_text(rope, "type", &kind));
    if (!kind || strcmp(kind, "default") == 0) {
        c->rope_kind = RT_ROPE_DEFAULT;
        return RC_OK;
    }
    if (strcmp(kind, "linear") == 0) {
        c->rope_kind = RT_ROPE_LINEAR;
        return positive(rope, "factor", &c->rope_factor);
    }
    if (strcmp(kind, "llama3") == 0) {
        c->rope_kind = RT_ROPE_LLAMA3;
        return parse_llama3(config, rope, c);
    }
    return rc_fail(RC_INVALID_ARGUMENT, rope->msg,
                   "%.255s: rope_type \"%.64s\" is not supported, expected default, linear or llama3",
                   rope->label, kind);
}

rc_code rt__config_rope(const rt__fields *f, rt_model_config *c)
{
    rc_code code;
    const char *name = NULL;
    char label[LABEL_BYTES_MAX];
    const json_t *object = rope_object(f, &name, &code);
    RC_TRY(code);
    snprintf(label, sizeof label, "%.255s: %s", f->label, object ? name : "rope");
    rt__fields rope = {object, label, f->msg};

    c->rope_factor = 1;
    RC_TRY(check_partial(f));
    if (object) RC_TRY(check_flat(&rope));
    if (object) RC_TRY(check_partial(&rope));
    c->rope_kind = RT_ROPE_DEFAULT;
    const rt__fields *theta_at = object && rt__field(&rope, "rope_theta") ? &rope : f;
    RC_TRY(rt__field_f64(theta_at, "rope_theta", 10000.0, &c->rope_theta));
    if (c->rope_theta <= 0)
        return rt__field_fail(theta_at, "rope_theta", rt__field(theta_at, "rope_theta"), "a number above 0");
    return object ? parse_kind(f, &rope, c) : RC_OK;
}
