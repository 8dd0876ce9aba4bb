/* A model's shape from GGUF metadata of arch granite or llama, with llama.cpp's defaults. */
#include <inttypes.h>
#include <math.h>

#include "runtime/model/config_internal.h"
#include "runtime/model/gguf.h"

enum { KEY_BYTES_MAX = 96, ARCH_BYTES_MAX = 16, GGML_F32 = 0 };

typedef struct gguf_fields {
    const rt_gguf *g;
    const char *label;
    char arch[ARCH_BYTES_MAX];
    rc_msg *msg;
} gguf_fields;

static const char *key_of(const gguf_fields *f, const char *name, char key[KEY_BYTES_MAX])
{
    snprintf(key, KEY_BYTES_MAX, "%s.%s", f->arch, name);
    return key;
}

static rc_code size_in(const gguf_fields *f, const char *name, uint32_t value, uint32_t max)
{
    if (value >= 1 && value <= max) return RC_OK;
    return rc_fail(RC_INVALID_ARGUMENT, f->msg,
                   "%.255s: %s.%s is %" PRIu32 ", expected an integer from 1 to %" PRIu32, f->label, f->arch,
                   name, value, max);
}

static rc_code size_of(const gguf_fields *f, const char *name, uint32_t max, uint32_t *out)
{
    char key[KEY_BYTES_MAX];
    if (!rt_gguf_u32(f->g, key_of(f, name, key), out))
        return rc_fail(RC_INVALID_ARGUMENT, f->msg,
                       "%.255s: %s is absent or no number, expected one from 1 to %" PRIu32, f->label, key,
                       max);
    return size_in(f, name, *out, max);
}

static rc_code optional_size(const gguf_fields *f, const char *name, uint32_t fallback, uint32_t max,
                             uint32_t *out)
{
    char key[KEY_BYTES_MAX];
    if (!rt_gguf_u32(f->g, key_of(f, name, key), out)) *out = fallback;
    return size_in(f, name, *out, max);
}

/* Metadata numbers are float32; 0 stands for "not there", as in llama.cpp. */
static rc_code number(const gguf_fields *f, const char *name, float fallback, float *out)
{
    char key[KEY_BYTES_MAX];
    float v;
    *out = fallback;
    if (!rt_gguf_f32(f->g, key_of(f, name, key), &v)) return RC_OK;
    if (!isfinite(v))
        return rc_fail(RC_INVALID_ARGUMENT, f->msg, "%.255s: %s is %g, expected a finite number", f->label,
                       key, (double)v);
    if (v != 0) *out = v;
    return RC_OK;
}

static rc_code find_arch(gguf_fields *f)
{
    const char *text = "";
    size_t bytes = 0;
    bool found = rt_gguf_str(f->g, "general.architecture", &text, &bytes);
    if (!found ||
        !((bytes == 7 && memcmp(text, "granite", 7) == 0) || (bytes == 5 && memcmp(text, "llama", 5) == 0)))
        return rc_fail(RC_INVALID_ARGUMENT, f->msg,
                       "%.255s: general.architecture \"%.*s\" is not supported, expected granite or llama",
                       f->label, (int)(bytes < 64 ? bytes : 64), text);
    memcpy(f->arch, text, bytes);
    f->arch[bytes] = 0;
    return RC_OK;
}

/* The embedding says how many ids there are; the tokenizer may have fewer. */
static rc_code find_vocab(const gguf_fields *f, rt_model_config *c)
{
    const rt_gguf_tensor *t = rt_gguf_find(f->g, "token_embd.weight");
    if (!t || t->dims != 2)
        return rc_fail(RC_INVALID_ARGUMENT, f->msg, "%.255s: token_embd.weight is missing or no matrix",
                       f->label);
    if (t->shape[1] < 1 || t->shape[1] > RT_VOCAB_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, f->msg,
                       "%.255s: token_embd.weight has %" PRIu64 " rows, expected 1 to %d", f->label,
                       t->shape[1], RT_VOCAB_MAX);
    c->vocab = (uint32_t)t->shape[1];
    return RC_OK;
}

static rc_code parse_sizes(const gguf_fields *f, rt_model_config *c)
{
    uint32_t value_dim, rotated, experts;
    RC_TRY(find_vocab(f, c));
    RC_TRY(size_of(f, "embedding_length", RT_HIDDEN_MAX, &c->hidden));
    RC_TRY(size_of(f, "block_count", RT_LAYERS_MAX, &c->layers));
    RC_TRY(size_of(f, "feed_forward_length", RT_FFN_MAX, &c->ffn));
    RC_TRY(size_of(f, "attention.head_count", RT_HEADS_MAX, &c->heads));
    RC_TRY(optional_size(f, "attention.head_count_kv", c->heads, RT_HEADS_MAX, &c->kv_heads));
    RC_TRY(optional_size(f, "attention.key_length", c->hidden / c->heads, RT_HEAD_DIM_MAX, &c->head_dim));
    RC_TRY(optional_size(f, "attention.value_length", c->head_dim, RT_HEAD_DIM_MAX, &value_dim));
    RC_TRY(optional_size(f, "rope.dimension_count", c->head_dim, RT_HEAD_DIM_MAX, &rotated));
    RC_TRY(optional_size(f, "context_length", 2048, RT_POSITIONS_MAX, &c->positions_max));
    if (value_dim != c->head_dim || rotated != c->head_dim)
        return rc_fail(RC_INVALID_ARGUMENT, f->msg,
                       "%.255s: attention.value_length %" PRIu32 " and rope.dimension_count %" PRIu32
                       " must equal the head's %" PRIu32,
                       f->label, value_dim, rotated, c->head_dim);
    char key[KEY_BYTES_MAX];
    if (rt_gguf_u32(f->g, key_of(f, "expert_count", key), &experts) && experts)
        return rc_fail(RC_INVALID_ARGUMENT, f->msg,
                       "%.255s: %s is %" PRIu32 ", expected 0 (experts are not supported)", f->label, key,
                       experts);
    return RC_OK;
}

static rc_code parse_multipliers(const gguf_fields *f, rt_model_config *c)
{
    float head_scale = (float)(1.0 / sqrt(c->head_dim));
    bool granite = strcmp(f->arch, "granite") == 0;
    c->embedding_multiplier = c->residual_multiplier = c->logits_scaling = 1;
    c->attention_multiplier = head_scale;
    RC_TRY(number(f, "attention.layer_norm_rms_epsilon", 1e-6f, &c->rms_epsilon));
    if (!granite) return RC_OK;
    RC_TRY(number(f, "embedding_scale", 1, &c->embedding_multiplier));
    RC_TRY(number(f, "attention.scale", head_scale, &c->attention_multiplier));
    RC_TRY(number(f, "residual_scale", 1, &c->residual_multiplier));
    return number(f, "logit_scale", 1, &c->logits_scaling);
}

/* Granite models without RoPE say so by rope.scaling.finetuned = false. */
static bool rope_is_off(const gguf_fields *f)
{
    char key[KEY_BYTES_MAX];
    bool finetuned = true;
    return strcmp(f->arch, "granite") == 0 &&
           rt_gguf_bool(f->g, key_of(f, "rope.scaling.finetuned", key), &finetuned) && !finetuned;
}

static rc_code parse_rope(const gguf_fields *f, rt_model_config *c)
{
    char key[KEY_BYTES_MAX];
    const char *type = "linear";
    size_t bytes = 6;
    float theta, factor, attention;
    RC_TRY(number(f, "rope.freq_base", 10000, &theta));
    RC_TRY(number(f, "rope.scale_linear", 1, &factor));
    RC_TRY(number(f, "rope.scaling.factor", factor, &factor));
    RC_TRY(number(f, "rope.scaling.attn_factor", 1, &attention));
    (void)rt_gguf_str(f->g, key_of(f, "rope.scaling.type", key), &type, &bytes);
    bool none = bytes == 4 && memcmp(type, "none", 4) == 0;
    if (!none && !(bytes == 6 && memcmp(type, "linear", 6) == 0))
        return rc_fail(RC_INVALID_ARGUMENT, f->msg,
                       "%.255s: %s \"%.*s\" is not supported, expected none or linear", f->label, key,
                       (int)(bytes < 64 ? bytes : 64), type);
    if (theta <= 0 || factor <= 0 || attention != 1)
        return rc_fail(
            RC_INVALID_ARGUMENT, f->msg,
            "%.255s: rope.freq_base %g, rope.scaling.factor %g, rope.scaling.attn_factor %g: expected "
            "numbers above 0 and a last one of 1",
            f->label, (double)theta, (double)factor, (double)attention);
    bool has_factors = rt_gguf_find(f->g, "rope_freqs.weight") != NULL;
    bool scales = !none && factor != 1;
    if (has_factors && scales)
        return rc_fail(RC_INVALID_ARGUMENT, f->msg,
                       "%.255s: rope_freqs.weight together with %s.rope.scaling.factor is not supported",
                       f->label, f->arch);
    c->rope_theta = theta;
    c->rope_factor = scales ? factor : 1;
    c->rope_kind = has_factors ? RT_ROPE_FACTORS : scales ? RT_ROPE_LINEAR : RT_ROPE_DEFAULT;
    if (rope_is_off(f)) c->rope_kind = RT_ROPE_NONE;
    return RC_OK;
}

static void find_special_tokens(const rt_gguf *g, rt_model_config *c)
{
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    uint32_t id;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (rt_gguf_u32(g, ends[i], &id) && id <= INT32_MAX) c->eos[c->eos_count++] = (int32_t)id;
    c->bos = rt_gguf_u32(g, "tokenizer.ggml.bos_token_id", &id) && id <= INT32_MAX ? (int32_t)id : -1;
}

/* A file that holds nothing but float32 is a float32 checkpoint. */
static rc_dtype dtype_of(const rt_gguf *g)
{
    for (size_t i = 0; i < rt_gguf_count(g); i++)
        if (rt_gguf_at(g, i)->type != GGML_F32) return RC_BF16;
    return RC_F32;
}

rc_code rt_model_config_gguf(const rt_gguf *g, const char *label, rt_model_config *out, rc_msg *msg)
{
    rt_model_config c = {0};
    gguf_fields f = {.g = g, .label = label, .msg = msg};
    RC_TRY(find_arch(&f));
    snprintf(c.arch, sizeof c.arch, "%s", f.arch);
    RC_TRY(parse_sizes(&f, &c));
    RC_TRY(parse_multipliers(&f, &c));
    RC_TRY(rt__config_check(&c, label, msg));
    RC_TRY(parse_rope(&f, &c));
    c.tied_head = rt_gguf_find(g, "output.weight") == NULL;
    c.attention_bias = rt_gguf_find(g, "blk.0.attn_q.bias") != NULL;
    c.mlp_bias = rt_gguf_find(g, "blk.0.ffn_gate.bias") != NULL;
    c.checkpoint_dtype = dtype_of(g);
    c.dtype_said = true;
    find_special_tokens(g, &c);
    *out = c;
    return RC_OK;
}
