/* Normalizers, pre-tokenizers, post-processor and decoder of a tokenizer.json. */
#include "runtime/base/json_in.h"
#include "runtime/tokenizer/tokenizer_internal.h"

static rc_code unsupported(const char *where, const char *type, rc_msg *msg)
{
    return rc_fail(RC_UNIMPLEMENTED, msg, "%s '%.100s' is not supported", where, type);
}

static rc_code copy_content(const json_t *o, const char *type, const char *key, rt__tok_normal *step,
                            rc_msg *msg)
{
    const char *text;
    RC_TRY(rt__tok_field_string(o, type, key, &text, &step->content_bytes, msg));
    step->content = malloc(step->content_bytes + 1);
    if (!step->content) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a normalizer");
    memcpy(step->content, text, step->content_bytes + 1);
    return RC_OK;
}

static rc_code load_normal(rt_tokenizer *t, const json_t *o, const char *type, rc_msg *msg)
{
    static const struct {
        const char *type;
        rt__tok_normal_kind kind;
    } kinds[] = {
        {"NFC", RT__TOK_NORMAL_NFC},
        {"NFD", RT__TOK_NORMAL_NFD},
        {"NFKC", RT__TOK_NORMAL_NFKC},
        {"NFKD", RT__TOK_NORMAL_NFKD},
        {"Lowercase", RT__TOK_NORMAL_LOWERCASE},
        {"Prepend", RT__TOK_NORMAL_PREPEND},
        {"Replace", RT__TOK_NORMAL_REPLACE},
        {"Strip", RT__TOK_NORMAL_STRIP},
        {"StripAccents", RT__TOK_NORMAL_STRIP_ACCENTS},
        {"ByteLevel", RT__TOK_NORMAL_BYTE_LEVEL},
    };
    if (t->normals.count == RT__TOK_STEPS_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "more than %d normalizers", RT__TOK_STEPS_MAX);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i].type, type)) continue;
        rt__tok_normal *step = &t->normals.steps[t->normals.count++];
        step->kind = kinds[i].kind;
        if (step->kind == RT__TOK_NORMAL_PREPEND) return copy_content(o, type, "prepend", step, msg);
        if (step->kind == RT__TOK_NORMAL_STRIP) {
            RC_TRY(rt__tok_field_bool(o, type, "strip_left", &step->left, msg));
            return rt__tok_field_bool(o, type, "strip_right", &step->right, msg);
        }
        if (step->kind != RT__TOK_NORMAL_REPLACE) return RC_OK;
        RC_TRY(rt__tok_field_pattern(o, type, &step->pattern, msg));
        return copy_content(o, type, "content", step, msg);
    }
    return unsupported("normalizer", type, msg);
}

rc_code rt__tok_load_normalizer(rt_tokenizer *t, const json_t *o, rc_msg *msg)
{
    if (!o || json_is_null(o)) return RC_OK;
    return rt__tok_each(t, o, "normalizer", "normalizers", 0, load_normal, msg);
}

static rc_code load_behavior(const json_t *o, const char *type, rt__tok_behavior *behavior, rc_msg *msg)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext",
                                        "Contiguous"};
    const char *text;
    size_t bytes;
    RC_TRY(rt__tok_field_string(o, type, "behavior", &text, &bytes, msg));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(names[i], text)) return *behavior = (rt__tok_behavior)i, RC_OK;
    return rc_fail(RC_INVALID_ARGUMENT, msg, "%s: behavior '%.100s' is unknown", type, text);
}

static rc_code load_byte_level(const json_t *o, rt__tok_pre *pre, rc_msg *msg)
{
    bool use_regex = true;
    pre->kind = RT__TOK_PRE_BYTE_LEVEL;
    RC_TRY(rt__tok_field_bool(o, "ByteLevel", "add_prefix_space", &pre->add_prefix_space, msg));
    RC_TRY(rt__tok_field_bool_or(o, "ByteLevel", "use_regex", &use_regex, msg));
    if (!use_regex) return RC_OK;
    return rt__tok_pattern_new(rt__tok_gpt2_regex, strlen(rt__tok_gpt2_regex), true, &pre->pattern, msg);
}

static rc_code load_split(const json_t *o, rt__tok_pre *pre, rc_msg *msg)
{
    pre->kind = RT__TOK_PRE_SPLIT;
    RC_TRY(load_behavior(o, "Split", &pre->behavior, msg));
    RC_TRY(rt__tok_field_bool(o, "Split", "invert", &pre->invert, msg));
    return rt__tok_field_pattern(o, "Split", &pre->pattern, msg);
}

static rc_code load_pre(rt_tokenizer *t, const json_t *o, const char *type, rc_msg *msg)
{
    bool individual = false;
    if (t->pres_count == RT__TOK_STEPS_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "more than %d pre_tokenizers", RT__TOK_STEPS_MAX);
    rt__tok_pre *pre = &t->pres[t->pres_count];
    t->pres_count++;
    if (!strcmp(type, "ByteLevel")) return load_byte_level(o, pre, msg);
    if (!strcmp(type, "Split")) return load_split(o, pre, msg);
    if (!strcmp(type, "Digits")) {
        pre->kind = RT__TOK_PRE_DIGITS;
        RC_TRY(rt__tok_field_bool(o, type, "individual_digits", &individual, msg));
        pre->behavior = individual ? RT__TOK_ISOLATED : RT__TOK_CONTIGUOUS;
        return RC_OK;
    }
    if (!strcmp(type, "Punctuation")) {
        pre->kind = RT__TOK_PRE_PUNCTUATION;
        return json_object_get(o, "behavior") ? load_behavior(o, type, &pre->behavior, msg) : RC_OK;
    }
    if (!strcmp(type, "Whitespace")) return pre->kind = RT__TOK_PRE_WHITESPACE, RC_OK;
    if (strcmp(type, "WhitespaceSplit")) return unsupported("pre_tokenizer", type, msg);
    pre->kind = RT__TOK_PRE_WHITESPACE_SPLIT;
    pre->behavior = RT__TOK_REMOVED;
    return RC_OK;
}

rc_code rt__tok_load_pre(rt_tokenizer *t, const json_t *o, rc_msg *msg)
{
    if (!o || json_is_null(o)) return RC_OK;
    return rt__tok_each(t, o, "pre_tokenizer", "pretokenizers", 0, load_pre, msg);
}

static rc_code check_id(json_int_t id, const char *where, rc_msg *msg)
{
    if (id >= 0 && id <= RT__TOK_ID_MAX) return RC_OK;
    return rc_fail(RC_INVALID_ARGUMENT, msg, "%s: id %" JSON_INTEGER_FORMAT " is not in 0..%d", where, id,
                   RT__TOK_ID_MAX);
}

static rc_code add_piece(rt__tok_post *post, bool is_sequence, json_int_t id, const char *where, rc_msg *msg)
{
    if (!is_sequence) RC_TRY(check_id(id, where, msg));
    rt__tok_post_piece *pieces = realloc(post->pieces, (post->count + 1) * sizeof *pieces);
    if (!pieces) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a post_processor");
    post->pieces = pieces;
    pieces[post->count++] = (rt__tok_post_piece){.is_sequence = is_sequence, .id = (int32_t)id};
    return RC_OK;
}

/* {"Sequence": {"id": "A"}} or {"SpecialToken": {"id": name}}, whose ids `specials` holds. */
static rc_code template_piece(rt__tok_post *post, const json_t *piece, const json_t *specials, rc_msg *msg)
{
    static const char where[] = "TemplateProcessing";
    const json_t *sequence = json_object_get(piece, "Sequence");
    const json_t *value;
    const char *name;
    size_t bytes, i;
    RC_TRY(rt__tok_field_string(sequence ? sequence : json_object_get(piece, "SpecialToken"), where, "id",
                                &name, &bytes, msg));
    if (sequence && strcmp(name, "A"))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%s: single has a sequence '%.100s'", where, name);
    if (sequence) return add_piece(post, true, 0, where, msg);
    const json_t *ids = json_object_get(json_object_get(specials, name), "ids");
    if (!json_is_array(ids))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%s: special_tokens has no ids of '%.100s'", where, name);
    json_array_foreach(ids, i, value)
    {
        if (!json_is_integer(value))
            return rc_fail(RC_INVALID_ARGUMENT, msg, "%s: an id of '%.100s' is no integer", where, name);
        RC_TRY(add_piece(post, false, json_integer_value(value), where, msg));
    }
    return RC_OK;
}

static rc_code load_template(rt__tok_post *post, const json_t *o, rc_msg *msg)
{
    const json_t *piece, *single = json_object_get(o, "single");
    size_t i;
    if (!json_is_array(single))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "TemplateProcessing: single is no list");
    json_array_foreach(single, i, piece)
        RC_TRY(template_piece(post, piece, json_object_get(o, "special_tokens"), msg));
    return RC_OK;
}

/* RobertaProcessing and BertProcessing: cls, the sequence, sep; each a pair of text and id. */
static rc_code load_cls_sep(rt__tok_post *post, const json_t *o, const char *type, rc_msg *msg)
{
    const json_t *cls = json_array_get(json_object_get(o, "cls"), 1);
    const json_t *sep = json_array_get(json_object_get(o, "sep"), 1);
    if (!json_is_integer(cls) || !json_is_integer(sep))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%s: cls and sep must each be a text and an id", type);
    RC_TRY(add_piece(post, false, json_integer_value(cls), type, msg));
    RC_TRY(add_piece(post, true, 0, type, msg));
    return add_piece(post, false, json_integer_value(sep), type, msg);
}

static rc_code load_post(rt_tokenizer *t, const json_t *o, const char *type, rc_msg *msg)
{
    if (!strcmp(type, "ByteLevel")) return RC_OK; /* trims offsets only */
    if (t->posts_count == RT__TOK_POSTS_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "more than %d post_processors", RT__TOK_POSTS_MAX);
    rt__tok_post *post = &t->posts[t->posts_count++];
    if (!strcmp(type, "TemplateProcessing")) return load_template(post, o, msg);
    if (!strcmp(type, "RobertaProcessing") || !strcmp(type, "BertProcessing"))
        return load_cls_sep(post, o, type, msg);
    return unsupported("post_processor", type, msg);
}

rc_code rt__tok_load_post(rt_tokenizer *t, const json_t *o, rc_msg *msg)
{
    if (!o || json_is_null(o)) return RC_OK;
    return rt__tok_each(t, o, "post_processor", "processors", 0, load_post, msg);
}

/* ByteLevel or Fuse; what follows ByteLevel can only join what is one text already. */
static rc_code load_decoder(rt_tokenizer *t, const json_t *o, const char *type, rc_msg *msg)
{
    (void)o;
    if (!strcmp(type, "Fuse")) {
        if (t->decoder == RT__TOK_DECODE_SPACED) t->decoder = RT__TOK_DECODE_JOINED;
        return RC_OK;
    }
    if (strcmp(type, "ByteLevel")) return unsupported("decoder", type, msg);
    if (t->decoder != RT__TOK_DECODE_SPACED) return unsupported("decoder", "ByteLevel after another", msg);
    t->decoder = RT__TOK_DECODE_BYTE_LEVEL;
    return RC_OK;
}

rc_code rt__tok_load_decoder(rt_tokenizer *t, const json_t *o, rc_msg *msg)
{
    t->decoder = RT__TOK_DECODE_SPACED;
    if (!o || json_is_null(o)) return RC_OK;
    RC_TRY(rt__tok_each(t, o, "decoder", "decoders", 0, load_decoder, msg));
    if (t->decoder == RT__TOK_DECODE_SPACED) t->decoder = RT__TOK_DECODE_JOINED; /* an empty sequence */
    return RC_OK;
}
