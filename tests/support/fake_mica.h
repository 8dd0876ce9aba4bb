/* tests/support/fake_mica.h - an engine behind mica.h whose answers are a script, for tests of its clients.
 *
 * Tokens are bytes (vocabulary 300; 256 is a begin token of no text). Choice c of a prompt of p tokens
 * generates "abc..." from letter (c + p) % 26 on, one token an event, requests taking turns, until max_tokens
 * or a one-letter stop string. logprob of the i-th token is -(i + 1) / 8, those of candidates follow it.
 * What a prompt begins with can ask for more:
 *     !fail   the engine fails after one token          !sigint, !sigterm  raised when its first token is
 * polled !busy   refused as long as anything runs          !huge              refused: too long !eos    ends
 * after two tokens                     !bytes             its text is not UTF-8 Adapters: those of the
 * options, of which one named "alora..." activates at '|' in the prompt.
 */
#ifndef TESTS_SUPPORT_FAKE_MICA_H
#define TESTS_SUPPORT_FAKE_MICA_H

#include "runtime/mica.h"

enum { FAKE_VOCAB = 300, FAKE_BEGIN = 256 };

typedef struct fake_facts {
    uint32_t opened, closed;
    uint32_t inside_max; /* sequences at a time, at most */
    uint32_t submitted;
    bool is_silent;        /* set: no signals are raised */
    uint32_t sigint_at;    /* raises SIGINT with this submission, counted from 1 */
    char keys[4096]; /* of requests in the order of submission, a space after each */
} fake_facts;

/* Of all engines so far; reset it between tests. */
extern fake_facts fake;
/* Options of the engine that was opened last; its pointers are the caller's. */
extern mica_options fake_options;

#endif
