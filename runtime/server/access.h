/* runtime/server/access.h - the door of a server with tenants: who calls, and who goes in when.
 *
 * Holds the tenants file as last read and the shares (shares.h), both behind one lock. Without a tenants file
 * there is no door: every function takes NULL for it, everyone may do everything and goes in at once.
 *
 * Threads  any; the lock is the innermost of the server's.
 */
#ifndef RUNTIME_SERVER_ACCESS_H
#define RUNTIME_SERVER_ACCESS_H

#include "runtime/server/rpc_core.h"
#include "runtime/server/tenants.h"

typedef struct rt_access rt_access;
typedef struct rt_access_list rt_access_list;

/* Who calls. */
typedef struct rt_caller {
    rt_access_list *list;    /* NULL: there is no tenants file */
    const rt_tenant *tenant; /* NULL: the admin, or anyone */
} rt_caller;

/* requests, prompt_tokens: as of rt__shares_create(). Errors as of rt__tenants_read(). */
RC_MUST_CHECK rc_code rt__access_open(const char *path, uint32_t requests, uint32_t prompt_tokens,
                                      rt_access **out, rc_msg *msg);
RC_MUST_CHECK rc_code rt__access_reload(rt_access *a, rc_msg *msg); /* a bad file changes nothing */
void rt__access_close(rt_access *a);                                /* nobody is in it */

/* Errors UNAUTHENTICATED: no key, or nobody's. On success rt__access_leave() is due. */
RC_MUST_CHECK rc_code rt__access_enter(rt_access *a, const rpc_call *c, rt_caller *caller, rc_msg *msg);
void rt__access_leave(rt_access *a, const rt_caller *caller);
bool rt__caller_is_admin(const rt_caller *caller); /* or anyone */
bool rt__caller_sees(const rt_caller *caller, const char *adapter);

/* shares.h under the lock, at the time it is. */
RC_MUST_CHECK rc_code rt__access_arrive(rt_access *a, rt_share_item *item, int64_t *retry_us, rc_msg *msg);
rt_share_item *rt__access_next(rt_access *a, rt_share_cached cached);
void rt__access_progress(rt_access *a, rt_share_item *item, uint32_t tokens, uint32_t cached_tokens);
/* True: it was held, and nobody will give it to the engine any more. */
bool rt__access_end(rt_access *a, rt_share_item *item);

#endif
