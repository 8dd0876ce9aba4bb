/* bench/demo_set.h - the held-out conversations of the demo, read from bench/demo_heldout.json. */
#ifndef BENCH_DEMO_SET_H
#define BENCH_DEMO_SET_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/rc.h"

typedef struct demo_example {
    char *text; /* the conversation in SmolLM2's chat format, up to and with the assistant's next header */
    char *team; /* which team should take over */
} demo_example;

typedef struct demo_set {
    char *system; /* the system turn, in the chat format */
    char **teams;
    size_t teams_count;
    demo_example *examples;
    size_t examples_count;
} demo_set;

/* Errors NOT_FOUND, INVALID_ARGUMENT. */
RC_MUST_CHECK rc_code demo_set_read(const char *path, demo_set *set, rc_msg *msg);
void demo_set_free(demo_set *set);

/* The team that `text` names first, in any case of letters; NULL: none. */
const char *demo_set_team_in(const demo_set *set, const char *text);

#endif
