/* runtime/engine/engine.h - the step loop's body: schedule, run, commit, sample, hand out.
 *
 * Owns the cache's bookkeeping, the adapter registry and the scheduler. Single-threaded; time decides
 * nothing in it: whoever owns it calls rt_engine_step() again and again (runtime/api's engine thread; a
 * loop with a seed in the simulation) and picks up the news.
 *
 *     submit -> WAITING in sched -> rows in steps -> tokens -> news ... -> finish -> news, engine_done
 *
 * Memory   taken by create and, for each request, by whoever made it; a step allocates nothing.
 * Threads  one.
 */
#ifndef RUNTIME_ENGINE_ENGINE_H
#define RUNTIME_ENGINE_ENGINE_H

#include "runtime/engine/exec.h"
#include "runtime/engine/request.h"

typedef struct rt_engine rt_engine;

typedef struct rt_engine_options {
    rt_exec exec;
    uint32_t blocks_max, block_tokens;
    bool enable_prefix_cache;
    uint32_t max_model_len;
    uint32_t running_max;        /* --max-num-seqs */
    uint32_t seqs_max;           /* waiting and running */
    uint32_t rows_max;           /* --max-num-batched-tokens */
    bool by_priority, in_order, prefill_first;
    uint32_t slots_max, contents_max;
    const int32_t *eos;
    uint32_t eos_count;
    kv_watcher watcher;          /* of the cache, or NULL; called within submit, cancel and step */
    void *watcher_ctx;
    uint64_t adapter_domain;     /* of the cache's hashes */
    /* Told within rt_engine_step() when the device begins to work on its own, and when it is done: between
     * the two other threads may ask rt_engine_find(). NULL: nobody does. */
    void (*device_works)(void *ctx, bool begins);
    void *device_works_ctx;
} rt_engine_options;

size_t rt_engine_bytes(const rt_engine_options *o);
RC_MUST_CHECK rc_code rt_engine_create(const rt_engine_options *o, rt_engine **out, rc_msg *msg);
void rt_engine_destroy(rt_engine *e); /* requests still inside stay their owner's */

/* Takes a request, whose adapter is set; it stays the engine's until engine_done. A failure is told as news
 * of every choice (MICA_FAILED), so there is one way in which requests end. */
void rt_engine_submit(rt_engine *e, rt_request *r);
/* Ends choices that are not finished, as MICA_CANCELLED. */
void rt_engine_cancel(rt_engine *e, rt_request *r);
void rt_engine_cancel_choice(rt_engine *e, rt_choice *c);

/* The adapter can't be brought into a slot: ends what waits for it, as MICA_FAILED. */
void rt_engine_fail_adapter(rt_engine *e, const adapter_content *adapter);

/* When to call rt_engine_step() next, by rt_now_ns(); 0: at once. While a step runs on the device the next
 * need not be planned before it is about to end, and whoever comes until then is in it. */
int64_t rt_engine_next_at(const rt_engine *e);

/* One step. False: nothing could run (nothing is there, all wait for an adapter to be brought in, or the
 * engine is lost). */
bool rt_engine_step(rt_engine *e);

/* RC_OK, or RC_UNAVAILABLE: the device failed in a step. All that was inside has ended as MICA_FAILED, and so
 * does whatever still comes. */
RC_MUST_CHECK rc_code rt_engine_status(const rt_engine *e, rc_msg *msg);

/* Choices with new tokens or an end since the last call, linked by next_news; NULL: none. The list belongs
 * to the caller; a choice whose finish is set comes a last time, and when its request's choices_alive is 0
 * the engine has let go of the request. */
rt_choice *rt_engine_take_news(rt_engine *e);

/* How many of the prompt's tokens the cache has now, for whoever has this salt (no bytes: everybody), adapted
 * from `adapted_from` on by the content `adapter` (0 and ADAPTER_NEVER: base). Changes nothing. */
uint32_t rt_engine_find(const rt_engine *e, const int32_t *tokens, uint32_t count, const char *salt,
                        uint64_t adapter, uint32_t adapted_from);

adapter_registry *rt_engine_adapters(rt_engine *e); /* to add, remove and serve jobs between steps */

typedef struct rt_engine_stats {
    rt_sched_stats sched;
    kv_stats cache;
    uint64_t steps, rows, prompt_tokens, cached_tokens, generated_tokens;
} rt_engine_stats;
rt_engine_stats rt_engine_get_stats(const rt_engine *e);
void rt_engine_check(const rt_engine *e); /* aborts where an invariant is broken; tests */

#endif
