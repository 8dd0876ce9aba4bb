/* runtime/cli/id_set.h - which custom_ids have been seen, 24 bytes each however long they are.
 *
 * Ids are told apart by 128 bits of XXH3: a million of them collide once in 10^26 runs.
 */
#ifndef RUNTIME_CLI_ID_SET_H
#define RUNTIME_CLI_ID_SET_H

#include <stddef.h>
#include <stdint.h>

#include "proto/rc.h"

enum { RT_ID_DONE = 1, RT_ID_SEEN = 2 }; /* answered before this run; met in this run's input */

typedef struct rt_id_entry {
    uint64_t low, high;
    uint32_t marks; /* 0: the place is free */
} rt_id_entry;

typedef struct rt_id_set {
    rt_id_entry *entries;
    size_t count, room; /* room is a power of two, at most three quarters used */
} rt_id_set;

/* Adds a mark to an id; *before: the marks it had. Errors RESOURCE_EXHAUSTED: nothing has changed. */
RC_MUST_CHECK rc_code rt__id_set_mark(rt_id_set *s, const char *id, size_t bytes, uint32_t mark,
                                      uint32_t *before, rc_msg *msg);
void rt__id_set_deinit(rt_id_set *s);

#endif
