/* A tokenizer from the metadata of a GGUF file: tokenizer.ggml.*, byte-level BPE ("gpt2") only.
 *
 * The pre-tokenizer is a name. For each that is known, the steps below are those of the Hugging Face
 * tokenizer that the name is made for; they split as llama.cpp's expressions do. */
#include "runtime/base/utf8.h"
#include "runtime/tokenizer/tokenizer_internal.h"

static const char gpt2_steps[] = "gpt-2";
#define REST "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
#define TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
static const char llama3_regex[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|" REST "{1,3}" TAIL;
static const char qwen2_regex[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|" REST TAIL;
#undef REST
#undef TAIL

typedef struct pre_name {
    const char *name;
    const char
        *splits[4]; /* regexes one after the other, the matches isolated; gpt2_steps: ByteLevel's own */
    bool digits;    /* each numeric character on its own, first of all */
    bool ignore_merges;
    bool add_bos;
} pre_name;

static const pre_name pre_names[] = {
    {.name = "default",
     .splits = {"[\\p{P}\\$\\+<=>\\^~\\|]+", rt__tok_gpt2_regex, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {.name = "gpt-2", .splits = {gpt2_steps}},
    {.name = "mpt", .splits = {gpt2_steps}},
    {.name = "olmo", .splits = {gpt2_steps}},
    {.name = "granite-docling", .splits = {gpt2_steps}},
    {.name = "starcoder", .splits = {gpt2_steps}, .digits = true},
    {.name = "refact", .splits = {gpt2_steps}, .digits = true},
    {.name = "command-r", .splits = {gpt2_steps}, .digits = true},
    {.name = "smollm", .splits = {gpt2_steps}, .digits = true},
    {.name = "codeshell", .splits = {gpt2_steps}, .digits = true},
    {.name = "exaone", .splits = {gpt2_steps}, .digits = true},
    {.name = "llama3", .splits = {llama3_regex}, .ignore_merges = true, .add_bos = true},
    {.name = "llama-v3", .splits = {llama3_regex}, .ignore_merges = true, .add_bos = true},
    {.name = "llama-bpe", .splits = {llama3_regex}, .ignore_merges = true, .add_bos = true},
    {.name = "dbrx", .splits = {llama3_regex}},
    {.name = "smaug-bpe", .splits = {llama3_regex}},
    {.name = "qwen2", .splits = {qwen2_regex}},
    {.name = "stablelm2", .splits = {qwen2_regex}},
};

/* UNUSED marks the ids of padding rows: the model has them, the tokenizer does not. */
enum { TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4, TYPE_UNUSED = 5 };

static rc_code add_pres(rt_tokenizer *t, const pre_name *name, rc_msg *msg)
{
    rt__tok_pre *pre;
    bool by_byte_level = name->splits[0] == gpt2_steps;
    if (name->digits) t->pres[t->pres_count++] = (rt__tok_pre){.kind = RT__TOK_PRE_DIGITS};
    for (size_t i = 0; !by_byte_level && i < 4 && name->splits[i]; i++) {
        pre = &t->pres[t->pres_count++];
        pre->kind = RT__TOK_PRE_SPLIT;
        RC_TRY(rt__tok_pattern_new(name->splits[i], strlen(name->splits[i]), true, &pre->pattern, msg));
    }
    pre = &t->pres[t->pres_count++];
    pre->kind = RT__TOK_PRE_BYTE_LEVEL;
    if (!by_byte_level) return RC_OK;
    return rt__tok_pattern_new(rt__tok_gpt2_regex, strlen(rt__tok_gpt2_regex), true, &pre->pattern, msg);
}

static rc_code find_pre(const rt_gguf *g, const pre_name **out, rc_msg *msg)
{
    const char *text = "default";
    size_t bytes = 7;
    (void)rt_gguf_str(g, "tokenizer.ggml.pre", &text, &bytes);
    for (size_t i = 0; i < sizeof pre_names / sizeof pre_names[0]; i++)
        if (strlen(pre_names[i].name) == bytes && !memcmp(pre_names[i].name, text, bytes))
            return *out = &pre_names[i], RC_OK;
    return rc_fail(RC_UNIMPLEMENTED, msg, "tokenizer.ggml.pre '%.*s' is not supported",
                   bytes < 100 ? (int)bytes : 100, text);
}

static rc_code check_model(const rt_gguf *g, rc_msg *msg)
{
    const char *text;
    size_t bytes;
    if (!rt_gguf_str(g, "tokenizer.ggml.model", &text, &bytes))
        return rc_fail(RC_INVALID_ARGUMENT, msg,
                       "tokenizer.ggml.model is missing: the file has no tokenizer");
    if (bytes == 4 && !memcmp(text, "gpt2", 4)) return RC_OK;
    return rc_fail(RC_UNIMPLEMENTED, msg, "tokenizer.ggml.model '%.*s' is not supported, only 'gpt2'",
                   bytes < 100 ? (int)bytes : 100, text);
}

static rc_code bad_token(uint64_t id, rc_msg *msg)
{
    return rc_fail(RC_INVALID_ARGUMENT, msg, "tokenizer.ggml.tokens[%llu] is no UTF-8 text",
                   (unsigned long long)id);
}

static rc_code load_tokens(rt_tokenizer *t, const rt_gguf *g, uint64_t *count, rc_msg *msg)
{
    if (!rt_gguf_array(g, "tokenizer.ggml.tokens", count))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "tokenizer.ggml.tokens is missing");
    if (!*count || *count > RT__TOK_ID_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "tokenizer.ggml.tokens has %llu tokens, expected 1..%d",
                       (unsigned long long)*count, RT__TOK_ID_MAX);
    for (uint64_t id = 0; id < *count; id++) {
        const char *text;
        size_t bytes;
        int32_t type;
        if (rt_gguf_array_i32(g, "tokenizer.ggml.token_type", id, &type) && type == TYPE_UNUSED) continue;
        if (!rt_gguf_array_str(g, "tokenizer.ggml.tokens", id, &text, &bytes) ||
            rt_utf8_valid(text, bytes) != bytes)
            return bad_token(id, msg);
        RC_TRY(rt__tok_vocab_put(&t->bpe.vocab, text, bytes, (int32_t)id, msg));
    }
    return RC_OK;
}

static rc_code load_merges(rt_tokenizer *t, const rt_gguf *g, rc_msg *msg)
{
    uint64_t count;
    if (!rt_gguf_array(g, "tokenizer.ggml.merges", &count))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "tokenizer.ggml.merges is missing");
    RC_TRY(rt__tok_bpe_expect(&t->bpe, count, msg));
    for (uint64_t i = 0; i < count; i++) {
        const char *text, *space = NULL;
        size_t bytes;
        if (rt_gguf_array_str(g, "tokenizer.ggml.merges", i, &text, &bytes) && bytes > 1)
            space = memchr(text + 1, ' ', bytes - 1);
        if (!space)
            return rc_fail(RC_INVALID_ARGUMENT, msg, "tokenizer.ggml.merges[%llu] is no 'left right'",
                           (unsigned long long)i);
        size_t left = (size_t)(space - text);
        RC_TRY(rt__tok_bpe_merge(&t->bpe, text, left, space + 1, bytes - left - 1, msg));
    }
    return RC_OK;
}

static rc_code load_specials(rt_tokenizer *t, const rt_gguf *g, uint64_t count, rc_msg *msg)
{
    rt__tok_normal_work work = {0};
    for (uint64_t id = 0; id < count; id++) {
        int32_t type;
        rt__tok_added token = {0};
        if (!rt_gguf_array_i32(g, "tokenizer.ggml.token_type", id, &type)) continue;
        if (type != TYPE_UNKNOWN && type != TYPE_CONTROL && type != TYPE_USER_DEFINED) continue;
        if (!rt_gguf_array_str(g, "tokenizer.ggml.tokens", id, &token.content, &token.bytes)) continue;
        token.special = type != TYPE_USER_DEFINED;
        RC_TRY(rt__tok_added_put(&t->added, &token, &t->bpe.vocab, &t->normals, &work, msg));
    }
    return rt__tok_added_finish(&t->added, msg);
}

/* The ids that open and close a text. */
static rc_code load_post(rt_tokenizer *t, const rt_gguf *g, const pre_name *name, rc_msg *msg)
{
    bool bos = name->add_bos, eos = false;
    uint32_t bos_id = 0, eos_id = 0;
    (void)rt_gguf_bool(g, "tokenizer.ggml.add_bos_token", &bos);
    (void)rt_gguf_bool(g, "tokenizer.ggml.add_eos_token", &eos);
    if (!bos && !eos) return RC_OK;
    if (bos && (!rt_gguf_u32(g, "tokenizer.ggml.bos_token_id", &bos_id) || bos_id >= t->bpe.vocab.ids))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "tokenizer.ggml.bos_token_id is missing or no token");
    if (eos && (!rt_gguf_u32(g, "tokenizer.ggml.eos_token_id", &eos_id) || eos_id >= t->bpe.vocab.ids))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "tokenizer.ggml.eos_token_id is missing or no token");
    rt__tok_post *post = &t->posts[t->posts_count++];
    post->pieces = calloc(3, sizeof *post->pieces);
    if (!post->pieces) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a tokenizer");
    if (bos) post->pieces[post->count++].id = (int32_t)bos_id;
    post->pieces[post->count++].is_sequence = true;
    if (eos) post->pieces[post->count++].id = (int32_t)eos_id;
    return RC_OK;
}

static rc_code load_parts(rt_tokenizer *t, const rt_gguf *g, rc_msg *msg)
{
    const pre_name *name = NULL;
    uint64_t count = 0;
    RC_TRY(check_model(g, msg));
    RC_TRY(find_pre(g, &name, msg));
    RC_TRY(add_pres(t, name, msg));
    t->decoder = RT__TOK_DECODE_BYTE_LEVEL;
    t->bpe.ignore_merges = name->ignore_merges;
    RC_TRY(load_tokens(t, g, &count, msg));
    RC_TRY(load_merges(t, g, msg));
    RC_TRY(rt__tok_bpe_finish(&t->bpe, msg));
    RC_TRY(load_specials(t, g, count, msg));
    RC_TRY(load_post(t, g, name, msg));
    return rt__tok_decode_finish(t, msg);
}

rc_code rt_tokenizer_open_gguf(const rt_gguf *gguf, rt_tokenizer **out, rc_msg *msg)
{
    rt_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a tokenizer");
    rc_code code = load_parts(t, gguf, msg);
    if (code != RC_OK) {
        rt_tokenizer_close(t);
        return code;
    }
    *out = t;
    return RC_OK;
}
