/* runtime/tokenizer/tokenizer_internal.h - what one tokenizer consists of, between the files of this folder.
 */
#ifndef RUNTIME_TOKENIZER_TOKENIZER_INTERNAL_H
#define RUNTIME_TOKENIZER_TOKENIZER_INTERNAL_H

#include <jansson.h>

#include "runtime/tokenizer/added.h"
#include "runtime/tokenizer/bpe.h"
#include "runtime/tokenizer/normalize.h"
#include "runtime/tokenizer/tokenizer.h"

typedef enum rt__tok_behavior {
    RT__TOK_ISOLATED,
    RT__TOK_REMOVED,
    RT__TOK_MERGED_WITH_PREVIOUS,
    RT__TOK_MERGED_WITH_NEXT,
    RT__TOK_CONTIGUOUS,
} rt__tok_behavior;

typedef enum rt__tok_pre_kind {
    RT__TOK_PRE_BYTE_LEVEL, /* pattern NULL: it does not split */
    RT__TOK_PRE_SPLIT,
    RT__TOK_PRE_DIGITS,
    RT__TOK_PRE_PUNCTUATION,
    RT__TOK_PRE_WHITESPACE,
    RT__TOK_PRE_WHITESPACE_SPLIT,
} rt__tok_pre_kind;

typedef struct rt__tok_pre {
    rt__tok_pre_kind kind;
    rt__tok_behavior behavior;
    bool invert;
    bool add_prefix_space;
    rt__tok_pattern *pattern;
} rt__tok_pre;

/* One piece of a post-processor's template. */
typedef struct rt__tok_post_piece {
    bool is_sequence;
    int32_t id;
} rt__tok_post_piece;

typedef struct rt__tok_post {
    rt__tok_post_piece *pieces;
    size_t count;
} rt__tok_post;

typedef enum rt__tok_decoder {
    RT__TOK_DECODE_SPACED,     /* none: the tokens with spaces between them */
    RT__TOK_DECODE_JOINED,     /* the tokens as they are */
    RT__TOK_DECODE_BYTE_LEVEL, /* characters stand for bytes */
} rt__tok_decoder;

enum { RT__TOK_POSTS_MAX = 8 };

struct rt_tokenizer {
    rt__tok_bpe bpe;
    rt__tok_added_set added;
    rt__tok_normals normals;
    rt__tok_pre pres[RT__TOK_STEPS_MAX];
    unsigned pres_count;
    rt__tok_post posts[RT__TOK_POSTS_MAX];
    unsigned posts_count;
    rt__tok_decoder decoder;
    /* what ids decode to, made by rt__tok_decode_finish() */
    uint32_t ids;         /* highest id + 1 */
    rt_bytes decoded;     /* all texts, in order of id */
    uint32_t *decoded_at; /* [ids + 1] */
    uint8_t *flags;       /* [ids] */
    size_t decoded_max;
};

enum { RT__TOK_EXISTS = 1, RT__TOK_SPECIAL = 2 };

extern const char rt__tok_gpt2_regex[];

/* Ids while they are made. */
typedef struct rt__tok_run {
    const rt_tokenizer *t;
    rc_msg *msg;
    int32_t *ids;
    size_t count, room, max;
    rt__tok_bpe_work bpe;
    rt__tok_normal_work normal;
    rt__tok_search *searches[RT__TOK_STEPS_MAX];
    rt_bytes prefixed[RT__TOK_STEPS_MAX]; /* a piece with a space before it */
    rt_bytes mapped[RT__TOK_STEPS_MAX];   /* a piece in byte-level characters */
} rt__tok_run;

RC_MUST_CHECK rc_code rt__tok_run_push(rt__tok_run *run, int32_t id);
/* Splits text[0..bytes), a piece between added tokens, and adds its ids. */
RC_MUST_CHECK rc_code rt__tok_pre_tokenize(rt__tok_run *run, unsigned level, const char *text, size_t bytes);

RC_MUST_CHECK rc_code rt__tok_decode_finish(rt_tokenizer *t, rc_msg *msg);

/* Parts of a tokenizer.json. */
RC_MUST_CHECK rc_code rt__tok_load_model(rt_tokenizer *t, const json_t *model, rc_msg *msg);
RC_MUST_CHECK rc_code rt__tok_load_added(rt_tokenizer *t, const json_t *added, rc_msg *msg);
RC_MUST_CHECK rc_code rt__tok_load_normalizer(rt_tokenizer *t, const json_t *o, rc_msg *msg);
RC_MUST_CHECK rc_code rt__tok_load_pre(rt_tokenizer *t, const json_t *o, rc_msg *msg);
RC_MUST_CHECK rc_code rt__tok_load_post(rt_tokenizer *t, const json_t *o, rc_msg *msg);
RC_MUST_CHECK rc_code rt__tok_load_decoder(rt_tokenizer *t, const json_t *o, rc_msg *msg);

/* Fields of an object; `where` names it in messages. A field that must be there and is not, or is of
 * another type, is INVALID_ARGUMENT. */
RC_MUST_CHECK rc_code rt__tok_field_string(const json_t *o, const char *where, const char *key,
                                           const char **text, size_t *bytes, rc_msg *msg);
RC_MUST_CHECK rc_code rt__tok_field_bool(const json_t *o, const char *where, const char *key, bool *out,
                                         rc_msg *msg);
/* As above; where the field is absent or null *out stays as it is. */
RC_MUST_CHECK rc_code rt__tok_field_bool_or(const json_t *o, const char *where, const char *key, bool *out,
                                            rc_msg *msg);
/* {"String": ".."} or {"Regex": ".."} */
RC_MUST_CHECK rc_code rt__tok_field_pattern(const json_t *o, const char *where, rt__tok_pattern **out,
                                            rc_msg *msg);
/* {"type": "Sequence", `list`: [..]}: all its members, else `o` itself, go to `one`. */
RC_MUST_CHECK rc_code rt__tok_each(rt_tokenizer *t, const json_t *o, const char *where, const char *list,
                                   unsigned depth,
                                   rc_code (*one)(rt_tokenizer *, const json_t *, const char *, rc_msg *),
                                   rc_msg *msg);

#endif
