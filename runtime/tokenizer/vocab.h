/* runtime/tokenizer/vocab.h - token texts and their ids, both ways.
 *
 * A text has one id. Ids are at most RT__TOK_ID_MAX and may have holes.
 */
#ifndef RUNTIME_TOKENIZER_VOCAB_H
#define RUNTIME_TOKENIZER_VOCAB_H

#include <stddef.h>
#include <stdint.h>

#include "proto/rc.h"
#include "runtime/base/bytes.h"

enum { RT__TOK_ID_MAX = (1 << 24) - 1 };

typedef struct rt__tok_text {
    uint32_t at, bytes; /* in arena */
    int32_t id;
} rt__tok_text;

typedef struct rt__tok_vocab {
    rt_bytes arena;
    rt__tok_text *texts; /* [count] */
    uint32_t count, room;
    uint32_t *slots; /* [slots_count] index of a text + 1, 0: empty */
    uint32_t slots_count;
    uint32_t *by_id; /* [ids] index of a text + 1, 0: no such id; NULL before rt__tok_vocab_index() */
    uint32_t ids;    /* highest id + 1 */
} rt__tok_vocab;

/* Gives `text` that id; one that is there already gets the new id. Errors RESOURCE_EXHAUSTED: memory. */
RC_MUST_CHECK rc_code rt__tok_vocab_put(rt__tok_vocab *v, const char *text, size_t bytes, int32_t id,
                                        rc_msg *msg);
/* Makes by_id. Errors INVALID_ARGUMENT: two texts share an id. RESOURCE_EXHAUSTED: memory. */
RC_MUST_CHECK rc_code rt__tok_vocab_index(rt__tok_vocab *v, rc_msg *msg);
int32_t rt__tok_vocab_find(const rt__tok_vocab *v, const char *text, size_t bytes); /* -1: not there */
const char *rt__tok_vocab_text(const rt__tok_vocab *v, int32_t id, size_t *bytes);  /* NULL: no such id */
void rt__tok_vocab_deinit(rt__tok_vocab *v);

#endif
