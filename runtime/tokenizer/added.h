/* runtime/tokenizer/added.h - added tokens: found in a text before anything else is done with it.
 *
 * Those that are not `normalized` are found in the raw text, the others in what the normalizers make of the
 * rest, each by its own normalized content. Of several at one place the longest counts (as aho-corasick's
 * LeftmostLongest).
 */
#ifndef RUNTIME_TOKENIZER_ADDED_H
#define RUNTIME_TOKENIZER_ADDED_H

#include <stdbool.h>

#include "runtime/tokenizer/normalize.h"
#include "runtime/tokenizer/vocab.h"

typedef struct rt__tok_added {
    const char *content; /* borrowed while it is added, owned by the set afterwards */
    size_t bytes;
    char *matched; /* what is searched for and decoded, where it differs from content; else NULL */
    size_t matched_bytes;
    int32_t id;
    bool special, single_word, lstrip, rstrip, normalized;
} rt__tok_added;

/* Tokens to find, ordered by their bytes. */
typedef struct rt__tok_finder {
    const rt__tok_added **tokens; /* [count] */
    uint32_t count;
    uint32_t first[257]; /* tokens that begin with byte b: first[b] .. first[b + 1] */
} rt__tok_finder;

typedef struct rt__tok_added_set {
    rt__tok_added *tokens; /* [count], each id once */
    uint32_t count, room;
    uint32_t next_id;
    rt__tok_vocab by_content; /* content -> id; not indexed by id */
    rt__tok_vocab specials;   /* contents that are skipped in decoding */
    rt__tok_vocab by_id;      /* the four bytes of an id -> index in tokens */
    rt__tok_finder raw, normalized;
} rt__tok_added_set;

/* Adds one token as the library does when it loads: the id is that of its content in the model's vocabulary,
 * or the next free one (the id in the file does not count). */
RC_MUST_CHECK rc_code rt__tok_added_put(rt__tok_added_set *set, const rt__tok_added *token,
                                        const rt__tok_vocab *vocab, const rt__tok_normals *normals,
                                        rt__tok_normal_work *work, rc_msg *msg);
RC_MUST_CHECK rc_code rt__tok_added_finish(rt__tok_added_set *set, rc_msg *msg);
void rt__tok_added_deinit(rt__tok_added_set *set);

const rt__tok_added *rt__tok_added_by_id(const rt__tok_added_set *set, int32_t id); /* NULL: none */
bool rt__tok_added_is_special(const rt__tok_added_set *set, const char *text, size_t bytes);
/* What is matched and decoded. */
const char *rt__tok_added_text(const rt__tok_added *token, size_t *bytes);

/* First, longest token in text[from..bytes); NULL: none. */
const rt__tok_added *rt__tok_find(const rt__tok_finder *f, const char *text, size_t bytes, size_t from,
                                  size_t *start);

#endif
