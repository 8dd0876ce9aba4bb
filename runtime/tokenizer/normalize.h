/* runtime/tokenizer/normalize.h - the normalizers of a tokenizer.json, in a row.
 *
 * Threads  The steps are read-only; a work area belongs to one call.
 */
#ifndef RUNTIME_TOKENIZER_NORMALIZE_H
#define RUNTIME_TOKENIZER_NORMALIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/rc.h"
#include "runtime/base/bytes.h"
#include "runtime/tokenizer/pattern.h"

enum { RT__TOK_STEPS_MAX = 32 }; /* normalizers, or pre-tokenizers, of one tokenizer */

typedef enum rt__tok_normal_kind {
    RT__TOK_NORMAL_NFC,
    RT__TOK_NORMAL_NFD,
    RT__TOK_NORMAL_NFKC,
    RT__TOK_NORMAL_NFKD,
    RT__TOK_NORMAL_LOWERCASE,
    RT__TOK_NORMAL_PREPEND,
    RT__TOK_NORMAL_REPLACE,
    RT__TOK_NORMAL_STRIP,
    RT__TOK_NORMAL_STRIP_ACCENTS,
    RT__TOK_NORMAL_BYTE_LEVEL,
} rt__tok_normal_kind;

typedef struct rt__tok_normal {
    rt__tok_normal_kind kind;
    rt__tok_pattern *pattern; /* replace */
    char *content;            /* replace, prepend */
    size_t content_bytes;
    bool left, right; /* strip */
} rt__tok_normal;

typedef struct rt__tok_normals {
    rt__tok_normal steps[RT__TOK_STEPS_MAX];
    unsigned count;
} rt__tok_normals;

typedef struct rt__tok_normal_work {
    rt_bytes texts[2];
    uint32_t *points; /* one decomposed text */
    size_t points_room;
    rt__tok_search *searches[RT__TOK_STEPS_MAX];
} rt__tok_normal_work;

/* `text` after all steps; *out is in the work area, or `text` itself, until the next call. */
RC_MUST_CHECK rc_code rt__tok_normalize(const rt__tok_normals *n, rt__tok_normal_work *work, const char *text,
                                        size_t bytes, const char **out, size_t *out_bytes, rc_msg *msg);
void rt__tok_normals_deinit(rt__tok_normals *n);
void rt__tok_normal_work_deinit(rt__tok_normal_work *work);

/* Unicode's four forms; `points` grows as needed. */
RC_MUST_CHECK rc_code rt__tok_normal_form(const char *text, size_t bytes, bool composes, bool is_compatible,
                                          rt__tok_normal_work *work, rt_bytes *out, rc_msg *msg);

/* The visible character that stands for a byte in byte-level vocabularies, and back (-1: for none). */
uint32_t rt__tok_byte_char(unsigned char byte);
int rt__tok_char_byte(uint32_t c);
/* Appends the characters of all bytes. */
void rt__tok_byte_level(const char *text, size_t bytes, rt_bytes *out);

#endif
