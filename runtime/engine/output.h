/* runtime/engine/output.h - from token ids to text that may be shown: detokenizing and stop strings.
 *
 * Runs on the poller's thread. Text that could still turn out to be the start of a stop string is held
 * back, and cut off when it does. A stop string may span any number of tokens.
 * Source  vLLM v1/engine/detokenizer.py (check_stop_strings, min_tokens).
 */
#ifndef RUNTIME_ENGINE_OUTPUT_H
#define RUNTIME_ENGINE_OUTPUT_H

#include "runtime/mica.h"
#include "runtime/tokenizer/tokenizer.h"

typedef struct rt_stops {
    const mica_text *texts;
    uint32_t count;
    size_t longest;
    bool include_in_output;
    uint32_t min_tokens;   /* stop strings count only in text made after that many tokens */
} rt_stops;

typedef struct rt_output {
    rt_detok detok;
    char *held;            /* [held_max] text not yet given out */
    size_t held_bytes, held_max;
    size_t check_from;     /* stop strings may begin at or after this place in held */
    uint32_t tokens;       /* pushed so far */
    size_t text_bytes;     /* of all text so far, given out or held */
} rt_output;

/* A growing piece of text with a fixed end. */
typedef struct rt_text {
    char *bytes;
    size_t count, max;
} rt_text;

/* Bytes that `held` needs. */
size_t rt_output_held_max(const rt_stops *stops, size_t piece_max);
/* Room that `out` must have left before a push. */
size_t rt_output_room(const rt_stops *stops, size_t piece_max);

/* Adds a token's text; silent: the token has none (a stop token). Gives the index of the stop string that
 * is complete now, or -1; then `out` ends where it should, and nothing more may be pushed. tokenizer NULL: no
 * text. */
int rt_output_push(rt_output *o, const rt_tokenizer *tokenizer, const rt_stops *stops, int32_t token,
                   bool silent, rt_text *out);
/* No more tokens: gives out what was held. */
void rt_output_finish(rt_output *o, const rt_tokenizer *tokenizer, rt_text *out);

#endif
