/* runtime/cli/completion_reply.h - collects the events of one completion and writes its JSON answer.
 *
 * A completion is prompts * n choices; choice c belongs to prompt c / n. Events of one choice come in
 * order, those of different choices in any.
 * Memory   grows with what was asked for: text always, ids and log probabilities only where they are shown.
 * Errors   RESOURCE_EXHAUSTED: memory. After a failed call the reply is good for nothing but destroying.
 */
#ifndef RUNTIME_CLI_COMPLETION_REPLY_H
#define RUNTIME_CLI_COMPLETION_REPLY_H

#include "runtime/base/bytes.h"
#include "runtime/cli/completion_request.h"

typedef struct rt_completion_reply rt_completion_reply;

/* Copies what it needs of `r`; `m` names tokens and is borrowed. */
RC_MUST_CHECK rc_code rt_completion_reply_create(rt_completion_reply **out, const rt_completion_request *r,
                                                 const mica *m, rc_msg *msg);
void rt_completion_reply_destroy(rt_completion_reply *reply); /* NULL is allowed */

RC_MUST_CHECK rc_code rt_completion_reply_add(rt_completion_reply *reply, const mica_event *e, rc_msg *msg);
uint32_t rt_completion_reply_choices(const rt_completion_reply *reply);
/* Appends the body, an object, to `out`; every choice has finished. created: seconds since 1970. */
RC_MUST_CHECK rc_code rt_completion_reply_write(const rt_completion_reply *reply, const char *id,
                                                int64_t created, rt_bytes *out, rc_msg *msg);

/* How a refusal looks outside: HTTP status 400, 404, 500 or 503, and vLLM's {"error": {...}} body. */
int rt_completion_status(rc_code code);
void rt_completion_error_write(int status, const rc_msg *msg, rt_bytes *out);

#endif
