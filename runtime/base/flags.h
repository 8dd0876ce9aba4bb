/* runtime/base/flags.h - command lines as tables: a flag is its name, its kind, its range and its help.
 *
 *     static const rt_flag flags[] = { {"max-num-seqs", NULL, RT_FLAG_U32, offsetof(options, seqs), ...} };
 *     rt_flag_set set = {"Engine", flags, 1, &options};
 *     RC_TRY(rt_flags_parse(&set, 1, argc, argv, &rest, msg));
 *
 * `--flag value`, `--flag=value`, `--x` and `--no-x`; `_` in a name is `-`; a later value replaces an
 * earlier one, lists grow. Defaults are what the target holds before.
 * Errors   INVALID_ARGUMENT with one line: flag, value, what was expected; an unknown flag is answered with
 *          the nearest known one. The target may then hold the flags before it.
 * Memory   values point into argv; lists are freed by rt_texts_deinit().
 */
#ifndef RUNTIME_BASE_FLAGS_H
#define RUNTIME_BASE_FLAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "proto/rc.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rt_texts {
    const char **items;
    size_t count;
} rt_texts;

typedef enum rt_flag_kind {
    RT_FLAG_BOOL = 1, /* bool; --x, --no-x */
    RT_FLAG_TRUTH,    /* const char *: "true" or "false", as given; --x, --no-x */
    RT_FLAG_U32,      /* uint32_t, a size */
    RT_FLAG_U64,      /* uint64_t, a size */
    RT_FLAG_F64,      /* double */
    RT_FLAG_TEXT,     /* const char * */
    RT_FLAG_CHOICE,   /* const char *, one of those in `value`, which `|` separates */
    RT_FLAG_EACH,     /* rt_texts: one value each time */
    RT_FLAG_VALUES    /* rt_texts: one or more values each time, up to the next flag */
} rt_flag_kind;

#define RT_FLAG_IGNORED SIZE_MAX /* as `at`: checked, then forgotten */

typedef struct rt_flag {
    const char *name;  /* without dashes */
    const char *alias; /* short form, written with one dash; or NULL */
    rt_flag_kind kind;
    size_t at; /* offset in the target */
    const char *value; /* "N", "fcfs|priority"; of --x, --no-x: "[no-]" where help shows both, or NULL */
    const char *help;              /* with the default; NULL: accepted but not shown */
    uint64_t min, max;             /* of numbers; max 0: what the type holds */
    bool (*check)(uint64_t value); /* or NULL; then `expected` says what it lets through */
    const char *expected;
} rt_flag;

typedef struct rt_flag_set {
    const char *title;
    const rt_flag *flags;
    size_t count;
    void *target;
} rt_flag_set;

/* `rest`: NULL, then anything but flags is refused; else what is left, "-" and all after "--" included. */
RC_MUST_CHECK rc_code rt_flags_parse(const rt_flag_set *sets, size_t sets_count, int argc, char **argv,
                                     rt_texts *rest, rc_msg *msg);
/* Whether that is the name that was given; - and _ are one. */
bool rt__is_flag_name(const char *name, const char *given, size_t given_bytes);
/* A line for every flag that has help, under its set's title, in at most 80 columns. */
void rt_flags_help(const rt_flag_set *sets, size_t sets_count, FILE *out);
/* Names only, several a line, each once: for sets too long for one screen. All have titles. */
void rt_flags_help_short(const rt_flag_set *sets, size_t sets_count, FILE *out);

RC_MUST_CHECK rc_code rt_texts_add(rt_texts *t, const char *text, rc_msg *msg);
void rt_texts_deinit(rt_texts *t);

/* The nearest of `candidates` by edit distance ('_' and '-' are the same); NULL of none. */
const char *rt_nearest(const char *name, const char *const *candidates, size_t count);

#ifdef __cplusplus
}
#endif
#endif
