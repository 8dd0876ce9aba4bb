#include "runtime/model/model_config.h"

#include <inttypes.h>
#include <math.h>

#include "runtime/model/config_internal.h"

enum { PATH_BYTES_MAX = 256 };

typedef enum config_family { GRANITE = 1, LLAMA, HYBRID } config_family;

static const struct {
    const char *architecture, *model_type;
    config_family family;
} families[] = {{"GraniteForCausalLM", "granite", GRANITE},
                {"LlamaForCausalLM", "llama", LLAMA},
                {"GraniteMoeHybridForCausalLM", "granitemoehybrid", HYBRID}};
enum { FAMILIES = sizeof families / sizeof *families };

/* Keys that change the result of some model and that nothing here computes. */
static const char *const refused[] = {"quantization_config",
                                      "compression_config",
                                      "attn_logit_softcapping",
                                      "final_logit_softcapping",
                                      "qk_norm",
                                      "use_qk_norm",
                                      "no_rope_layers",
                                      "num_experts",
                                      "layer_rope_theta"};

bool rt__field_off(const rt__fields *f, const char *key)
{
    const json_t *v = rt__field(f, key);
    if (!v || json_is_false(v)) return true;
    if (json_is_number(v)) return json_number_value(v) == 0;
    return (json_is_object(v) && !json_object_size(v)) || (json_is_array(v) && !json_array_size(v));
}

static rc_code check_refused(const rt__fields *f)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (!rt__field_off(f, refused[i]))
            return rc_fail(RC_INVALID_ARGUMENT, f->msg, "%.255s: %s is set, which is not supported", f->label,
                           refused[i]);
    return RC_OK;
}

static rc_code find_family(const rt__fields *f, config_family *family, const char **architecture)
{
    const char *type = NULL, *name = NULL;
    const json_t *list = rt__field(f, "architectures");
    if (list && !json_is_array(list)) return rt__field_fail(f, "architectures", list, "a list of one name");
    if (list && json_array_size(list)) {
        name = json_string_value(json_array_get(list, 0));
        if (!name || json_array_size(list) > 1)
            return rt__field_fail(f, "architectures", list, "a list of one name");
    }
    RC_TRY(rt__field_text(f, "model_type", &type));
    for (size_t i = 0; i < FAMILIES; i++) {
        bool named = name && strcmp(name, families[i].architecture) == 0;
        bool typed = type && strcmp(type, families[i].model_type) == 0;
        if ((named && (typed || !type)) || (typed && !name)) {
            *family = families[i].family;
            *architecture = families[i].architecture;
            return RC_OK;
        }
    }
    return rc_fail(RC_INVALID_ARGUMENT, f->msg,
                   "%.255s: architecture \"%.64s\" with model_type \"%.64s\" is not supported, expected "
                   "GraniteForCausalLM, LlamaForCausalLM or GraniteMoeHybridForCausalLM",
                   f->label, name ? name : "", type ? type : "");
}

static rc_code parse_sizes(const rt__fields *f, config_family family, rt_model_config *c)
{
    RC_TRY(rt__field_u32(f, "vocab_size", 32000, 1, RT_VOCAB_MAX, &c->vocab));
    RC_TRY(rt__field_u32(f, "hidden_size", 4096, 1, RT_HIDDEN_MAX, &c->hidden));
    RC_TRY(rt__field_u32(f, "num_hidden_layers", 32, 1, RT_LAYERS_MAX, &c->layers));
    RC_TRY(rt__field_u32(f, "num_attention_heads", 32, 1, RT_HEADS_MAX, &c->heads));
    RC_TRY(rt__field_u32(f, "num_key_value_heads", c->heads, 1, RT_HEADS_MAX, &c->kv_heads));
    RC_TRY(rt__field_u32(f, "head_dim", c->hidden / c->heads, 1, RT_HEAD_DIM_MAX, &c->head_dim));
    RC_TRY(rt__field_u32(f, "max_position_embeddings", 2048, 1, RT_POSITIONS_MAX, &c->positions_max));
    if (family == HYBRID) return rt__field_u32(f, "shared_intermediate_size", 1024, 1, RT_FFN_MAX, &c->ffn);
    return rt__field_u32(f, "intermediate_size", 11008, 1, RT_FFN_MAX, &c->ffn);
}

static rc_code parse_multipliers(const rt__fields *f, config_family family, rt_model_config *c)
{
    c->embedding_multiplier = c->residual_multiplier = c->logits_scaling = 1;
    c->attention_multiplier = (float)(1.0 / sqrt(c->head_dim));
    if (family == LLAMA) return RC_OK;
    RC_TRY(rt__field_f32(f, "embedding_multiplier", 1, &c->embedding_multiplier));
    RC_TRY(rt__field_f32(f, "attention_multiplier", 1, &c->attention_multiplier));
    RC_TRY(rt__field_f32(f, "residual_multiplier", 1, &c->residual_multiplier));
    RC_TRY(rt__field_f32(f, "logits_scaling", 1, &c->logits_scaling));
    if (c->logits_scaling == 0)
        return rt__field_fail(f, "logits_scaling", rt__field(f, "logits_scaling"), "a number other than 0");
    return RC_OK;
}

static rc_code parse_dtype(const rt__fields *f, rt_model_config *c)
{
    static const struct {
        const char *name;
        rc_dtype dtype;
    } names[] = {
        {"float32", RC_F32}, {"float", RC_F32}, {"float16", RC_F16}, {"half", RC_F16}, {"bfloat16", RC_BF16}};
    const char *key = rt__field(f, "dtype") ? "dtype" : "torch_dtype", *text = NULL;
    RC_TRY(rt__field_text(f, key, &text));
    c->checkpoint_dtype = RC_BF16;
    c->dtype_said = text != NULL;
    if (!text) return RC_OK;
    if (strncmp(text, "torch.", 6) == 0) text += 6;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(text, names[i].name) != 0) continue;
        c->checkpoint_dtype = names[i].dtype;
        return RC_OK;
    }
    return rt__field_fail(f, key, rt__field(f, key), "float32, float16 or bfloat16");
}

static rc_code check_activation(const rt__fields *f)
{
    const char *act = NULL;
    RC_TRY(rt__field_text(f, "hidden_act", &act));
    if (!act || strcmp(act, "silu") == 0 || strcmp(act, "swish") == 0) return RC_OK;
    return rc_fail(RC_INVALID_ARGUMENT, f->msg,
                   "%.255s: hidden_act \"%.64s\" is not supported, expected silu", f->label, act);
}

/* A window as long as the context, or one that is switched off, changes nothing. */
static rc_code check_window(const rt__fields *f, const rt_model_config *c)
{
    const json_t *use = rt__field(f, "use_sliding_window"), *v = rt__field(f, "sliding_window");
    if (rt__field_off(f, "sliding_window") || (use && json_is_false(use))) return RC_OK;
    if (json_is_integer(v) && json_integer_value(v) >= (json_int_t)c->positions_max) return RC_OK;
    return rt__field_fail(f, "sliding_window", v, "null or at least max_position_embeddings");
}

/* Every layer must be full attention; the hybrid class makes an absent list all mamba. */
static rc_code check_layer_types(const rt__fields *f, config_family family, const rt_model_config *c)
{
    const char *key = rt__field(f, "layer_types") ? "layer_types" : "layers_block_type";
    const json_t *list = rt__field(f, key), *entry;
    size_t i;
    if (!list && family != HYBRID) return RC_OK;
    if (!list)
        return rc_fail(RC_INVALID_ARGUMENT, f->msg,
                       "%.255s: layer_types is absent, which makes every layer mamba; mamba is not supported",
                       f->label);
    if (!json_is_array(list) || json_array_size(list) != c->layers)
        return rt__field_fail(f, key, list, "a list with one entry a layer (num_hidden_layers)");
    json_array_foreach((json_t *)list, i, entry)
    {
        const char *type = json_string_value(entry);
        if (type && (strcmp(type, "attention") == 0 || strcmp(type, "full_attention") == 0)) continue;
        return rc_fail(RC_INVALID_ARGUMENT, f->msg,
                       "%.255s: %s[%zu] is \"%.64s\", which is not supported, expected attention", f->label,
                       key, i, type ? type : "no string");
    }
    return RC_OK;
}

static rc_code parse_hybrid(const rt__fields *f, rt_model_config *c)
{
    uint32_t experts;
    const char *kind = NULL;
    RC_TRY(rt__field_u32(f, "num_local_experts", 8, 0, UINT32_MAX, &experts));
    if (experts)
        return rc_fail(RC_INVALID_ARGUMENT, f->msg,
                       "%.255s: num_local_experts is %" PRIu32 "%s, expected 0 (experts are not supported)",
                       f->label, experts, rt__field(f, "num_local_experts") ? "" : " (absent)");
    c->fused_mlp = true;
    RC_TRY(rt__field_text(f, "position_embedding_type", &kind));
    if (!kind || strcmp(kind, "nope") == 0) {
        c->rope_kind = RT_ROPE_NONE;
        return RC_OK;
    }
    if (strcmp(kind, "rope") == 0) return rt__config_rope(f, c);
    return rc_fail(RC_INVALID_ARGUMENT, f->msg,
                   "%.255s: position_embedding_type \"%.64s\" is not supported, expected rope or nope",
                   f->label, kind);
}

static rc_code parse_plain(const rt__fields *f, rt_model_config *c)
{
    if (!rt__field_off(f, "num_local_experts"))
        return rt__field_fail(f, "num_local_experts", rt__field(f, "num_local_experts"),
                              "0 (experts are not supported)");
    RC_TRY(rt__field_bool(f, "mlp_bias", false, &c->mlp_bias));
    return rt__config_rope(f, c);
}

/* A token id, or -1 for none, which some configs write. */
static bool is_token_id(const json_t *v)
{
    return json_is_integer(v) && json_integer_value(v) >= -1 && json_integer_value(v) <= INT32_MAX;
}

static rc_code parse_eos(const rt__fields *f, rt_model_config *c)
{
    const json_t *v = rt__field(f, "eos_token_id"), *entry;
    size_t count = json_is_array(v) ? json_array_size(v) : 1;
    c->eos_count = 0;
    if (!v) return RC_OK;
    if (count > RT_EOS_MAX) return rt__field_fail(f, "eos_token_id", v, "at most 16 ids");
    for (size_t i = 0; i < count; i++) {
        entry = json_is_array(v) ? json_array_get(v, i) : v;
        if (!is_token_id(entry)) return rt__field_fail(f, "eos_token_id", entry, "a token id");
        if (json_integer_value(entry) >= 0) c->eos[c->eos_count++] = (int32_t)json_integer_value(entry);
    }
    return RC_OK;
}

/* Absent ids have the class defaults 1 and 2, an explicit null has none. */
static rc_code parse_special_tokens(const rt__fields *f, rt_model_config *c)
{
    const json_t *bos = json_object_get(f->object, "bos_token_id");
    if (bos && !json_is_null(bos) && !is_token_id(bos))
        return rt__field_fail(f, "bos_token_id", bos, "a token id");
    c->bos = !bos ? 1 : json_is_null(bos) ? -1 : (int32_t)json_integer_value(bos);
    if (json_object_get(f->object, "eos_token_id")) return parse_eos(f, c);
    c->eos_count = 1;
    c->eos[0] = 2;
    return RC_OK;
}

rc_code rt__config_check(const rt_model_config *c, const char *where, rc_msg *msg)
{
    if (c->heads % c->kv_heads)
        return rc_fail(RC_INVALID_ARGUMENT, msg,
                       "%.255s: %" PRIu32 " attention heads are no multiple of %" PRIu32 " key/value heads",
                       where, c->heads, c->kv_heads);
    if (c->head_dim == 0 || c->head_dim % 2 || c->head_dim > RT_HEAD_DIM_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg,
                       "%.255s: head_dim is %" PRIu32 ", expected an even number up to %d", where,
                       c->head_dim, RT_HEAD_DIM_MAX);
    if (!(c->rms_epsilon >= 0))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%.255s: rms_norm_eps is %g, expected a number from 0",
                       where, (double)c->rms_epsilon);
    return RC_OK;
}

static rc_code parse_config(const rt__fields *f, rt_model_config *c)
{
    config_family family = GRANITE;
    const char *architecture = NULL;
    RC_TRY(find_family(f, &family, &architecture));
    snprintf(c->arch, sizeof c->arch, "%s", architecture);
    RC_TRY(check_refused(f));
    RC_TRY(check_activation(f));
    RC_TRY(parse_sizes(f, family, c));
    RC_TRY(check_window(f, c));
    RC_TRY(check_layer_types(f, family, c));
    RC_TRY(rt__field_f32(f, "rms_norm_eps", 1e-6, &c->rms_epsilon));
    RC_TRY(rt__config_check(c, f->label, f->msg));
    RC_TRY(parse_multipliers(f, family, c));
    RC_TRY(rt__field_bool(f, "tie_word_embeddings", false, &c->tied_head));
    RC_TRY(rt__field_bool(f, "attention_bias", false, &c->attention_bias));
    RC_TRY(parse_dtype(f, c));
    RC_TRY(parse_special_tokens(f, c));
    return family == HYBRID ? parse_hybrid(f, c) : parse_plain(f, c);
}

static rc_code parse_generation(const char *json, size_t bytes, const char *label, rt_model_config *c,
                                rc_msg *msg)
{
    json_t *root;
    char where[PATH_BYTES_MAX];
    snprintf(where, sizeof where, "%.200s/generation_config.json", label);
    RC_TRY(rt__json_load(json, bytes, where, &root, msg));
    rt__fields f = {root, where, msg};
    rc_code code = rt__field(&f, "eos_token_id") ? parse_eos(&f, c) : RC_OK;
    json_decref(root);
    return code;
}

rc_code rt_model_config_parse(const char *config_json, size_t config_bytes, const char *generation_json,
                              size_t generation_bytes, const char *label, rt_model_config *out, rc_msg *msg)
{
    json_t *root;
    char where[PATH_BYTES_MAX];
    rt_model_config c = {0};
    snprintf(where, sizeof where, "%.200s/config.json", label);
    RC_TRY(rt__json_load(config_json, config_bytes, where, &root, msg));
    rc_code code = parse_config(&(rt__fields){root, where, msg}, &c);
    json_decref(root);
    RC_TRY(code);
    if (generation_json) RC_TRY(parse_generation(generation_json, generation_bytes, label, &c, msg));
    *out = c;
    return RC_OK;
}
