/* runtime/load/mix.h - names that requests are dealt to by weight: adapters, or tenants with their keys.
 *
 *     uq=2,base=1                    adapters; a name alone has weight 1
 *     acme=KEY:2,blue=KEY            tenants; a key alone has weight 1
 *     @FILE                          the same, one a line; blank lines and those that begin with # are
 * skipped
 *
 * Memory   its own; {0} is an empty one; freed by rt_load_mix_deinit().
 */
#ifndef RUNTIME_LOAD_MIX_H
#define RUNTIME_LOAD_MIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/rc.h"

enum { RT_LOAD_KEY_MAX = 4096 }; /* bytes */

typedef struct rt_load_choice {
    char *name;
    char *key;      /* NULL: has none */
    double weight;  /* at least 0; 0: only where a trace names it */
    uint32_t *tail; /* [tail_count] token ids that end each of its prompts */
    size_t tail_count;
} rt_load_choice;

typedef struct rt_load_mix {
    rt_load_choice *choices;
    size_t count;
    double weights; /* their sum */
} rt_load_mix;

typedef enum rt_load_mix_kind { RT_LOAD_WEIGHTS = 1, RT_LOAD_KEYS } rt_load_mix_kind;

/* `flag` is named by failures. Errors INVALID_ARGUMENT, with the entry or the line's number. A key is never
 * repeated. */
RC_MUST_CHECK rc_code rt_load_mix_read(rt_load_mix *m, rt_load_mix_kind kind, const char *flag,
                                       const char *value, rc_msg *msg);
/* Adds a name without a key. */
RC_MUST_CHECK rc_code rt_load_mix_add(rt_load_mix *m, const char *name, double weight, rc_msg *msg);
/* "uq=49152,318": ends every prompt of uq with these ids. */
RC_MUST_CHECK rc_code rt_load_mix_tail(rt_load_mix *m, const char *flag, const char *value, rc_msg *msg);
void rt_load_mix_deinit(rt_load_mix *m);

/* Its index; count where there is none of that name. */
size_t rt_load_mix_find(const rt_load_mix *m, const char *name, size_t bytes);
/* The index that `unit`, at least 0 and below 1, falls on. Needs one weight above 0. */
size_t rt_load_mix_draw(const rt_load_mix *m, double unit);

#endif
