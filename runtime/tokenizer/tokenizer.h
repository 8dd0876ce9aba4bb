/* runtime/tokenizer/tokenizer.h - text to token ids and back, as Hugging Face's tokenizers does it.
 *
 * Byte-level BPE from tokenizer.json (its own normalizer, pre-tokenizer chain, added tokens and
 * post-processor) or from GGUF metadata. What the file asks for and Mica does not do is refused by name.
 *
 * Threads  read-only after open: any number of threads may encode and decode at once; a PCRE2 match
 *          context is made per call.
 * Exact    ids and text equal tokenizers 0.23 on any valid UTF-8 (tests/runtime/tokenizer).
 * Source   https://github.com/huggingface/tokenizers (tokenizers/src), llama.cpp src/llama-vocab.cpp for
 *          the pre-tokenizer names of GGUF.
 */
#ifndef RUNTIME_TOKENIZER_TOKENIZER_H
#define RUNTIME_TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/rc.h"
#include "runtime/model/gguf.h"

typedef struct rt_tokenizer rt_tokenizer;

RC_MUST_CHECK rc_code rt_tokenizer_open_json(const char *json, size_t bytes, const char *label,
                                             rt_tokenizer **out, rc_msg *msg);
RC_MUST_CHECK rc_code rt_tokenizer_open_gguf(const rt_gguf *gguf, rt_tokenizer **out, rc_msg *msg);
/* Directory with tokenizer.json, or a .gguf file. */
RC_MUST_CHECK rc_code rt_tokenizer_open(const char *model_path, rt_tokenizer **out, rc_msg *msg);
void rt_tokenizer_close(rt_tokenizer *t); /* NULL is allowed */

/* Ids of UTF-8 `text`; *ids is malloc'ed, the caller frees it. add_special: run the post-processor.
 * Special tokens written in the text become their ids, as Hugging Face does.
 * Errors INVALID_ARGUMENT: not UTF-8, or more than ids_max ids. RESOURCE_EXHAUSTED: memory. */
RC_MUST_CHECK rc_code rt_tokenizer_encode(const rt_tokenizer *t, const char *text, size_t bytes,
                                          bool add_special, size_t ids_max, int32_t **ids, size_t *count,
                                          rc_msg *msg);

uint32_t rt_tokenizer_vocab(const rt_tokenizer *t); /* highest id + 1 */
bool rt_tokenizer_is_special(const rt_tokenizer *t, int32_t id);
int32_t rt_tokenizer_id(const rt_tokenizer *t, const char *token, size_t bytes); /* -1: none */

/* Bytes that one token stands for in decoded text, which need not be whole characters. As in the library,
 * a token (an added one, too) whose characters all belong to the byte-level alphabet is decoded to bytes, any
 * other is its text as it is. Unknown id: 0 bytes. */
const char *rt_tokenizer_bytes(const rt_tokenizer *t, int32_t id, size_t *bytes);

/* Incremental detokenizer: concatenated pieces equal the decoding of all ids at once. Bytes that do not
 * (yet) make a whole character are held back; at the end, and where they never can, they become U+FFFD
 * as in Hugging Face's lossy decoding. Plain data: copy to fork. */
typedef struct rt_detok {
    unsigned char held[8];
    uint32_t held_bytes;
    bool skip_special;
    bool started;
} rt_detok;

void rt_detok_init(rt_detok *d, bool skip_special);
/* Text that `id` completes, written to out; gives its length. Needs out_max >= rt_tokenizer_piece_max(). An
 * id without a token adds nothing. */
size_t rt_detok_push(rt_detok *d, const rt_tokenizer *t, int32_t id, char *out, size_t out_max);
size_t rt_detok_finish(rt_detok *d, const rt_tokenizer *t, char *out, size_t out_max);
size_t rt_tokenizer_piece_max(const rt_tokenizer *t);

#endif
