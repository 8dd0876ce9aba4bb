/* runtime/tokenizer/pattern.h - the regular expressions of a tokenizer.json, found as Oniguruma finds them.
 *
 * The library's regexes are Oniguruma's. They are rewritten for PCRE2 (pattern_rewrite.c) so that both match
 * alike; what has no exact counterpart is refused by name.
 *
 * Threads  A pattern is read-only after it is made; a search belongs to one thread.
 */
#ifndef RUNTIME_TOKENIZER_PATTERN_H
#define RUNTIME_TOKENIZER_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/rc.h"
#include "runtime/base/bytes.h"

typedef struct rt__tok_pattern rt__tok_pattern;

RC_MUST_CHECK rc_code rt__tok_pattern_new(const char *text, size_t bytes, bool is_regex,
                                          rt__tok_pattern **out, rc_msg *msg);
void rt__tok_pattern_free(rt__tok_pattern *p); /* NULL is allowed */

/* All matches of a pattern in one text, in order. */
typedef struct rt__tok_search rt__tok_search;

RC_MUST_CHECK rc_code rt__tok_search_new(const rt__tok_pattern *p, rt__tok_search **out, rc_msg *msg);
void rt__tok_search_free(rt__tok_search *s); /* NULL is allowed */
void rt__tok_search_begin(rt__tok_search *s, const char *text, size_t bytes);
/* Next match [*start, *end), *found false at the end. Errors RESOURCE_EXHAUSTED: the pattern needs too many
 * steps on this text. */
RC_MUST_CHECK rc_code rt__tok_search_next(rt__tok_search *s, bool *found, size_t *start, size_t *end,
                                          rc_msg *msg);

/* `out` is PCRE2's spelling of Oniguruma's `text`. */
RC_MUST_CHECK rc_code rt__tok_pattern_rewrite(const char *text, size_t bytes, rt_bytes *out, rc_msg *msg);

/* Items of a PCRE2 class for \p{name}; false: no such name, or none that both know alike. */
bool rt__tok_property_items(const char *name, size_t bytes, rt_bytes *out);
void rt__tok_space_items(rt_bytes *out);               /* \s */
void rt__tok_word_items(rt_bytes *out, bool in_class); /* \w, which Oniguruma takes wider outside of [] */

#endif
