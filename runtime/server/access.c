#include "runtime/server/access.h"

#include <pthread.h>
#include <stdlib.h>

#include "runtime/base/clock.h"

struct rt_access_list {
    rt_tenants *tenants;
    uint32_t holders; /* the door's own and callers' */
};

struct rt_access {
    const char *path;
    pthread_mutex_t lock; /* of what follows */
    rt_shares *shares;
    rt_access_list *list;
};

static int64_t now_us(void)
{
    return rt_now_ns() / 1000;
}

/* ---- the list ---- */

static void release(rt_access_list *list)
{
    if (--list->holders) return;
    rt__tenants_free(list->tenants);
    free(list);
}

/* The lock is held. Shares of tenants that are new stay where a later one cannot be had: nobody uses them. */
static rc_code take_list(rt_access *a, rt_tenants *t, rc_msg *msg)
{
    rt_access_list *list = malloc(sizeof *list);
    if (!list) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the tenants");
    rt__shares_begin_list(a->shares);
    for (size_t i = 0; i < t->count; i++) {
        rt_tenant *x = &t->list[i];
        rc_code code = rt__shares_list(a->shares, x->name, &x->limits, now_us(), &x->share, msg);
        if (code == RC_OK) continue;
        free(list);
        return code;
    }
    *list = (rt_access_list){t, 1};
    if (a->list) release(a->list);
    a->list = list;
    return RC_OK;
}

rc_code rt__access_reload(rt_access *a, rc_msg *msg)
{
    rt_tenants *t;
    RC_TRY(rt__tenants_read(a->path, &t, msg));
    pthread_mutex_lock(&a->lock);
    rc_code code = take_list(a, t, msg);
    pthread_mutex_unlock(&a->lock);
    if (code != RC_OK) rt__tenants_free(t);
    return code;
}

rc_code rt__access_open(const char *path, uint32_t requests, uint32_t prompt_tokens, rt_access **out,
                        rc_msg *msg)
{
    rt_access *a = calloc(1, sizeof *a);
    if (a) a->shares = rt__shares_create(requests, prompt_tokens);
    if (!a || !a->shares) {
        free(a);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the tenants");
    }
    a->path = path;
    pthread_mutex_init(&a->lock, NULL);
    rc_code code = rt__access_reload(a, msg);
    if (code == RC_OK)
        *out = a;
    else
        rt__access_close(a);
    return code;
}

void rt__access_close(rt_access *a)
{
    if (!a) return;
    if (a->list) release(a->list);
    rt__shares_destroy(a->shares);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

/* ---- who calls ---- */

rc_code rt__access_enter(rt_access *a, const rpc_call *c, rt_caller *caller, rc_msg *msg)
{
    const char *value;
    size_t bytes;
    *caller = (rt_caller){0};
    if (!a) return RC_OK;
    if (!rpc_call_metadata(c, "authorization", &value, &bytes))
        return rc_fail(RC_UNAUTHENTICATED, msg, "no key: expected metadata authorization: Bearer KEY");
    pthread_mutex_lock(&a->lock);
    bool found = rt__tenants_find(a->list->tenants, value, bytes, &caller->tenant);
    if (found) caller->list = a->list;
    if (found) a->list->holders++;
    pthread_mutex_unlock(&a->lock);
    return found ? RC_OK : rc_fail(RC_UNAUTHENTICATED, msg, "the key in authorization is nobody's here");
}

void rt__access_leave(rt_access *a, const rt_caller *caller)
{
    if (!caller->list) return;
    pthread_mutex_lock(&a->lock);
    release(caller->list);
    pthread_mutex_unlock(&a->lock);
}

bool rt__caller_is_admin(const rt_caller *caller)
{
    return !caller->tenant;
}

bool rt__caller_sees(const rt_caller *caller, const char *adapter)
{
    return !caller->tenant || rt__tenant_sees(caller->tenant, adapter);
}

/* ---- whose turn it is ---- */

rc_code rt__access_arrive(rt_access *a, rt_share_item *item, int64_t *retry_us, rc_msg *msg)
{
    pthread_mutex_lock(&a->lock);
    rc_code code = rt__shares_arrive(a->shares, item, now_us(), retry_us, msg);
    pthread_mutex_unlock(&a->lock);
    return code;
}

rt_share_item *rt__access_next(rt_access *a, rt_share_cached cached)
{
    if (!a) return NULL;
    pthread_mutex_lock(&a->lock);
    rt_share_item *item = rt__shares_next(a->shares, cached);
    pthread_mutex_unlock(&a->lock);
    return item;
}

void rt__access_progress(rt_access *a, rt_share_item *item, uint32_t tokens, uint32_t cached_tokens)
{
    if (!a || !tokens) return;
    pthread_mutex_lock(&a->lock);
    rt__shares_first_token(a->shares, item, cached_tokens);
    rt__shares_generated(a->shares, item, tokens, now_us());
    pthread_mutex_unlock(&a->lock);
}

bool rt__access_end(rt_access *a, rt_share_item *item)
{
    if (!a) return false;
    pthread_mutex_lock(&a->lock);
    bool was_held = item->state == RT_ITEM_HELD;
    rt__shares_leave(a->shares, item);
    pthread_mutex_unlock(&a->lock);
    return was_held;
}
