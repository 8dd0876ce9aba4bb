/* bench/demo_ask.h - puts questions to an engine and measures the answers.
 *
 * A talk is a conversation as token ids: what a model said is kept as the ids that it made, so that the
 * next prompt begins with exactly the tokens whose K/V is in the cache.
 */
#ifndef BENCH_DEMO_ASK_H
#define BENCH_DEMO_ASK_H

#include "runtime/mica.h"

enum { DEMO_TEXT_BYTES = 1024, DEMO_TOKENS_MAX = 96 };

typedef struct demo_talk {
    int32_t *ids;
    size_t count;
} demo_talk;

/* The demo has no way on without memory or with text that is not UTF-8: both end the process. */
void demo_talk_add(mica *m, demo_talk *talk, const char *text);
void demo_talk_add_ids(demo_talk *talk, const int32_t *ids, size_t count);
void demo_talk_free(demo_talk *talk);

typedef struct demo_ask {
    /* the question */
    const char *model; /* NULL: base */
    const int32_t *prompt;
    size_t prompt_count;
    uint32_t max_tokens;
    bool streams;      /* its text goes to stdout as it is made */
    /* the answer */
    char text[DEMO_TEXT_BYTES];
    int32_t ids[DEMO_TOKENS_MAX];
    uint32_t ids_count;
    uint32_t cached;     /* prompt tokens whose K/V was there */
    uint32_t activation; /* first adapted position, or MICA_NEVER */
    double first_s;      /* to the first token, from the moment when all were submitted */
    double last_s;       /* to the last */
} demo_ask;

/* Puts all questions at once and waits for all answers; gives the seconds that took. Greedy.
 * Errors those of mica_submit() and of a request that failed. */
RC_MUST_CHECK rc_code demo_ask_all(mica *m, demo_ask *asks, size_t count, double *seconds, rc_msg *msg);

/* Adds the answer to the talk and closes the turn. */
void demo_talk_add_answer(mica *m, demo_talk *talk, const demo_ask *ask);

#endif
