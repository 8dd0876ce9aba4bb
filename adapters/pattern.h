/* adapters/pattern.h - Python's regular expressions over module paths, by PCRE2, with bounded work.
 *
 * Module paths are ASCII without line breaks; on such text the two languages agree but for `{,n}`, which
 * is rewritten. What PCRE2 knows beyond Python is not refused.
 *
 * Threads  one at a time may match by one matcher.
 */
#ifndef ADAPTERS_PATTERN_H
#define ADAPTERS_PATTERN_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/rc.h"

typedef struct adapter_matcher adapter_matcher; /* limits and scratch memory, shared by many patterns */
typedef struct adapter_pattern adapter_pattern;

RC_MUST_CHECK rc_code adapter_matcher_create(adapter_matcher **out, rc_msg *msg);
void adapter_matcher_destroy(adapter_matcher *m); /* NULL is allowed */

typedef enum adapter_pattern_kind {
    ADAPTER_PATTERN_WHOLE, /* re.fullmatch(regex, path) */
    ADAPTER_PATTERN_TAIL,  /* re.match("(.*\.)?(regex)$", path) */
    ADAPTER_PATTERN_LAYER  /* re.match("(?:^|.*?\.)regex\.(?P<idx>\d+)\.", path) */
} adapter_pattern_kind;

/* `what` names the config's key in messages, `label` the file. */
RC_MUST_CHECK rc_code adapter_pattern_compile(adapter_pattern_kind kind, const char *regex, const char *what,
                                              const char *label, adapter_pattern **out, rc_msg *msg);
void adapter_pattern_free(adapter_pattern *p); /* NULL is allowed */

/* *number is the layer that an ADAPTER_PATTERN_LAYER found (UINT64_MAX where it is larger); else 0. */
RC_MUST_CHECK rc_code adapter_pattern_match(const adapter_pattern *p, adapter_matcher *m, const char *path,
                                            bool *matched, uint64_t *number, rc_msg *msg);

#endif
