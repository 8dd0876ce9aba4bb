/* The model and the added tokens of a tokenizer.json. */
#include "runtime/base/json_in.h"
#include "runtime/tokenizer/tokenizer_internal.h"

static rc_code load_vocab(rt__tok_bpe *bpe, json_t *vocab, rc_msg *msg)
{
    const char *text;
    json_t *value;
    if (!json_is_object(vocab)) return rc_fail(RC_INVALID_ARGUMENT, msg, "model: vocab is no object");
    json_object_foreach(vocab, text, value)
    {
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id > RT__TOK_ID_MAX) {
            char quoted[40];
            return rc_fail(RC_INVALID_ARGUMENT, msg, "model: vocab['%.100s'] is %s, expected an id of 0..%d",
                           text, rt_json_quote(value, quoted, sizeof quoted), RT__TOK_ID_MAX);
        }
        RC_TRY(rt__tok_vocab_put(&bpe->vocab, text, strlen(text), (int32_t)id, msg));
    }
    return RC_OK;
}

static rc_code bad_merge(size_t rank, rc_msg *msg)
{
    return rc_fail(RC_INVALID_ARGUMENT, msg,
                   "model: merges[%zu] must be \"left right\" or [\"left\", \"right\"]", rank);
}

/* As a string: exactly one space, but none where the line begins with #version, which does not count. */
static rc_code load_merge(rt__tok_bpe *bpe, const json_t *merge, bool is_pair, size_t rank, rc_msg *msg)
{
    if (is_pair) {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right))
            return bad_merge(rank, msg);
        return rt__tok_bpe_merge(bpe, json_string_value(left), json_string_length(left),
                                 json_string_value(right), json_string_length(right), msg);
    }
    if (!json_is_string(merge)) return bad_merge(rank, msg);
    const char *text = json_string_value(merge);
    size_t bytes = json_string_length(merge);
    if (!strncmp(text, "#version", 8)) return RC_OK;
    const char *space = memchr(text, ' ', bytes);
    if (!space || memchr(space + 1, ' ', bytes - (size_t)(space + 1 - text))) return bad_merge(rank, msg);
    return rt__tok_bpe_merge(bpe, text, (size_t)(space - text), space + 1, bytes - (size_t)(space + 1 - text),
                             msg);
}

static rc_code load_merges(rt__tok_bpe *bpe, const json_t *merges, rc_msg *msg)
{
    size_t rank;
    const json_t *merge;
    if (!json_is_array(merges)) return rc_fail(RC_INVALID_ARGUMENT, msg, "model: merges is no list");
    bool is_pair = json_is_array(json_array_get(merges, 0));
    RC_TRY(rt__tok_bpe_expect(bpe, json_array_size(merges), msg));
    json_array_foreach(merges, rank, merge) RC_TRY(load_merge(bpe, merge, is_pair, rank, msg));
    return RC_OK;
}

/* Of features that are off unless they are set. */
static rc_code refuse_unless_off(const json_t *model, const char *key, rc_msg *msg)
{
    const json_t *value = json_object_get(model, key);
    char quoted[80];
    if (!value || json_is_null(value)) return RC_OK;
    if (json_is_string(value) && !json_string_length(value)) return RC_OK;
    if (json_is_number(value) && json_number_value(value) == 0) return RC_OK;
    return rc_fail(RC_UNIMPLEMENTED, msg, "model: %s %s is not supported", key,
                   rt_json_quote(value, quoted, sizeof quoted));
}

static rc_code load_unknown(rt__tok_bpe *bpe, const json_t *model, rc_msg *msg)
{
    const char *text;
    size_t bytes;
    const json_t *value = json_object_get(model, "unk_token");
    if (!value || json_is_null(value)) return RC_OK;
    RC_TRY(rt__tok_field_string(model, "model", "unk_token", &text, &bytes, msg));
    bpe->unknown = strdup(text);
    return bpe->unknown ? RC_OK : rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the model");
}

rc_code rt__tok_load_model(rt_tokenizer *t, const json_t *model, rc_msg *msg)
{
    rt__tok_bpe *bpe = &t->bpe;
    const json_t *type = json_object_get(model, "type");
    if (!json_is_object(model))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "tokenizer.json: model is no object");
    if (type && (!json_is_string(type) || strcmp(json_string_value(type), "BPE"))) {
        char quoted[80];
        return rc_fail(RC_UNIMPLEMENTED, msg, "model: type %s is not supported, only \"BPE\"",
                       rt_json_quote(type, quoted, sizeof quoted));
    }
    RC_TRY(refuse_unless_off(model, "dropout", msg));
    RC_TRY(refuse_unless_off(model, "continuing_subword_prefix", msg));
    RC_TRY(refuse_unless_off(model, "end_of_word_suffix", msg));
    RC_TRY(rt__tok_field_bool_or(model, "model", "fuse_unk", &bpe->fuse_unknown, msg));
    RC_TRY(rt__tok_field_bool_or(model, "model", "byte_fallback", &bpe->byte_fallback, msg));
    RC_TRY(rt__tok_field_bool_or(model, "model", "ignore_merges", &bpe->ignore_merges, msg));
    RC_TRY(load_unknown(bpe, model, msg));
    RC_TRY(load_vocab(bpe, json_object_get(model, "vocab"), msg));
    RC_TRY(load_merges(bpe, json_object_get(model, "merges"), msg));
    return rt__tok_bpe_finish(bpe, msg);
}

static rc_code load_token(rt_tokenizer *t, const json_t *o, rt__tok_normal_work *work, rc_msg *msg)
{
    static const char where[] = "added_tokens";
    rt__tok_added token = {0};
    RC_TRY(rt__tok_field_string(o, where, "content", &token.content, &token.bytes, msg));
    RC_TRY(rt__tok_field_bool(o, where, "single_word", &token.single_word, msg));
    RC_TRY(rt__tok_field_bool(o, where, "lstrip", &token.lstrip, msg));
    RC_TRY(rt__tok_field_bool(o, where, "rstrip", &token.rstrip, msg));
    RC_TRY(rt__tok_field_bool(o, where, "normalized", &token.normalized, msg));
    RC_TRY(rt__tok_field_bool(o, where, "special", &token.special, msg));
    return rt__tok_added_put(&t->added, &token, &t->bpe.vocab, &t->normals, work, msg);
}

rc_code rt__tok_load_added(rt_tokenizer *t, const json_t *added, rc_msg *msg)
{
    rt__tok_normal_work work = {0};
    rc_code code = RC_OK;
    size_t count = 0;
    if (added && !json_is_null(added)) {
        if (!json_is_array(added))
            return rc_fail(RC_INVALID_ARGUMENT, msg, "tokenizer.json: added_tokens is no list");
        count = json_array_size(added);
    }
    for (size_t i = 0; i < count && code == RC_OK; i++)
        code = load_token(t, json_array_get(added, i), &work, msg);
    rt__tok_normal_work_deinit(&work);
    return code == RC_OK ? rt__tok_added_finish(&t->added, msg) : code;
}
