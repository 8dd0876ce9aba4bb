/* runtime/server/shares.h - who may enter the engine next, so that tenants get their shares of it.
 *
 *     arrive -> held -> next -> inside -> ended            held -> withdrawn
 *
 * Nothing here knows gRPC, the engine or the clock: items, integers and a time that the caller gives.
 *
 * Fair      deficit round robin over tenants with something held (Shreedhar & Varghese 1995), in cost units:
 *           a token computed, or a MiB of an adapter to be brought in. Rounds in which nobody can go are
 *           skipped in closed form. Generated tokens are charged as they come, while another tenant waits.
 * Within    a tenant the longest cached prefix of its first LOOKAHEAD goes first, so that what is cached is
 *           used before it is evicted (SGLang's cache-aware scheduling, arXiv 2312.07104, sec. 3). One that
 *           was passed PASSES times is passed no more. Whose turn it is the cost of the first decides.
 * Full      A tenant whose held items exceed its queue and its free concurrency is refused.
 * Places    One in eight of those inside is kept for tenants that have less than their weight's part of
 *           them, and of each tenant short prompts of a step together may come whatever others do: so that
 *           who comes rarely goes in at once.
 * Window    What is inside is no more than keeps the engine busy: the engine serves in order of arrival, so
 *           what is inside early cannot be overtaken any more.
 * Threads   Not safe: the caller has a lock.
 */
#ifndef RUNTIME_SERVER_SHARES_H
#define RUNTIME_SERVER_SHARES_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/rc.h"

#define RT_NO_LIMIT UINT32_MAX
enum {
    RT_SHARES_MAX = 4096,
    RT_SHARE_NAME_BYTES_MAX = 128,
    RT_SHARES_LOOKAHEAD = 16,
    RT_SHARES_PASSES = 32
};

typedef struct rt_share_limits {
    uint32_t weight;                                                             /* in thousandths, above 0 */
    uint32_t max_concurrency, max_queue, requests_per_minute, tokens_per_minute; /* or RT_NO_LIMIT */
} rt_share_limits;

/* Part of what the caller queues; {0} before it arrives. */
typedef struct rt_share_item {
    struct rt_share_item *next, **link;
    uint32_t share;
    uint32_t prompt_tokens;
    uint32_t adapter_mib; /* that must be read for it */
    enum { RT_ITEM_OUT, RT_ITEM_HELD, RT_ITEM_INSIDE } state;
    bool in_prefill; /* inside, without a first token */
    uint32_t passes; /* by others of its tenant, while held */
} rt_share_item;

typedef struct rt_shares rt_shares;

/* How many of a held item's prompt tokens the cache has now. */
typedef uint32_t (*rt_share_cached)(const rt_share_item *item);

/* At most `requests` inside; of those without a first token at most `prompt_tokens`, or one. NULL: no memory.
 */
rt_shares *rt__shares_create(uint32_t requests, uint32_t prompt_tokens);
void rt__shares_destroy(rt_shares *s); /* nothing is held or inside */

/* Begins a new list of tenants: those not named again take nothing new, and are forgotten once empty. */
void rt__shares_begin_list(rt_shares *s);
/* Finds or makes the tenant's share, which keeps what it was charged. Errors RESOURCE_EXHAUSTED. */
RC_MUST_CHECK rc_code rt__shares_list(rt_shares *s, const char *name, const rt_share_limits *limits,
                                      int64_t now_us, uint32_t *share, rc_msg *msg);

/* Holds the item, or refuses it: RESOURCE_EXHAUSTED, with what is full in msg and in *retry_us when it may be
 * tried again, 0 where that is not known. */
RC_MUST_CHECK rc_code rt__shares_arrive(rt_shares *s, rt_share_item *item, int64_t now_us, int64_t *retry_us,
                                        rc_msg *msg);
/* The next to go inside, which it then is; NULL: none now. Ask again after an item ended, had its first token
 * or was withdrawn. */
rt_share_item *rt__shares_next(rt_shares *s, rt_share_cached cached);
void rt__shares_first_token(rt_shares *s, rt_share_item *item, uint32_t cached_tokens);
void rt__shares_generated(rt_shares *s, const rt_share_item *item, uint32_t tokens, int64_t now_us);
/* Ended or withdrawn; an item that is out already stays so. */
void rt__shares_leave(rt_shares *s, rt_share_item *item);

uint32_t rt__shares_held(const rt_shares *s, uint32_t share);
uint32_t rt__shares_inside(const rt_shares *s, uint32_t share);
void rt__shares_check(const rt_shares *s); /* aborts where what is counted is not what is there; tests */

#endif
