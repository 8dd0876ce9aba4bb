/* adapters/registry.h - which adapters are known, which are resident in a slot, and who holds them.
 *
 *     name -> content (unique id per load, host weights) -> slot, while resident
 *
 *     states of a content    KNOWN ----> LOADING ----> RESIDENT ----> KNOWN (evicted, unpinned)
 *                              any, once its name is removed or replaced: DRAINING, gone with its last hold
 *
 * Rules
 *   1. A name points to at most one content; loading a name again is refused while it is known.
 *   2. A hold (one per request, from submit to end) keeps the content alive, removed name or not.
 *   3. A pin (one per sequence that runs) keeps it in its slot. Only unpinned slots are given away,
 *      the least recently unpinned first, so no row in flight ever points to a slot with other weights.
 *      A kept content's slot is given away only once its name is removed; one slot always is not kept.
 *   4. The registry never copies weights: adapter_registry_next_job() says which content goes to which
 *      slot, somebody does it (on another thread), adapter_registry_job_done() publishes it.
 * Conserved: slots free + loading + resident == slots_max; pins > 0 implies resident.
 *
 * Memory   taken by create; one content's record when it is added.
 * Threads  one thread, the engine's.
 * Source   S-LoRA (arXiv 2311.03285) sec. 5; slot reuse bugs it guards against: vllm#47724.
 */
#ifndef ADAPTERS_REGISTRY_H
#define ADAPTERS_REGISTRY_H

#include "adapters/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ADAPTER_NO_SLOT UINT32_MAX
enum { ADAPTER_NAME_BYTES_MAX = 256 };

typedef struct adapter_registry adapter_registry;
typedef struct adapter_content adapter_content; /* borrowed; alive while held */

typedef struct adapter_registry_options {
    uint32_t slots_max;    /* --max-loras */
    uint32_t contents_max; /* known and draining */
} adapter_registry_options;

typedef struct adapter_job {
    uint32_t slot;
    adapter_content *content;      /* to bring into slot; NULL where there is only something to remove */
    const adapter_weights *weights;
    bool evicts;                   /* the slot holds other weights, which must be dropped first */
} adapter_job;

RC_MUST_CHECK rc_code adapter_registry_create(const adapter_registry_options *o, adapter_registry **out,
                                              rc_msg *msg);
void adapter_registry_destroy(adapter_registry *r); /* frees the weights that it owns */

/* Makes `name` known with these weights, which it owns from now on (on success only).
 * Errors ALREADY_EXISTS, RESOURCE_EXHAUSTED (contents_max), INVALID_ARGUMENT (name empty or too long). */
RC_MUST_CHECK rc_code adapter_registry_add(adapter_registry *r, const char *name, adapter_weights *w,
                                           rc_msg *msg);
/* Forgets the name at once; the content goes with its last hold. Errors NOT_FOUND. */
RC_MUST_CHECK rc_code adapter_registry_remove(adapter_registry *r, const char *name, rc_msg *msg);
/* The content stays in its slot, into which it comes as soon as it can, until its name is removed. Twice is
 * once. Errors NOT_FOUND, RESOURCE_EXHAUSTED (all slots but one are kept). */
RC_MUST_CHECK rc_code adapter_registry_keep(adapter_registry *r, const char *name, rc_msg *msg);
adapter_content *adapter_registry_find(const adapter_registry *r, const char *name); /* NULL: none */

/* Known, or held still. NULL: none. */
const adapter_content *adapter_registry_with_id(const adapter_registry *r, uint64_t id);

void adapter_hold(adapter_registry *r, adapter_content *c);
void adapter_release(adapter_registry *r, adapter_content *c);

/* Pins c if it is resident and gives its slot. Otherwise gives ADAPTER_NO_SLOT and, unless every slot is
 * pinned or loading, plans a job for it: try again after that job is done. */
uint32_t adapter_pin(adapter_registry *r, adapter_content *c);
/* Plans a job for c, which is waited for but cannot run yet, where that takes nothing from anybody: an empty
 * or stale slot, or the least recently unpinned content's that nobody holds. False: c gets no slot so. */
bool adapter_prefetch(adapter_registry *r, adapter_content *c);
/* Whether a job for c is planned or under way. */
bool adapter_is_coming(const adapter_content *c);
/* Whether more hold it than have it pinned. */
bool adapter_is_awaited(const adapter_content *c);
void adapter_unpin(adapter_registry *r, adapter_content *c);

/* Next planned job that nobody has taken. False: none. */
bool adapter_registry_next_job(adapter_registry *r, adapter_job *job);
/* The taken job ended. ok false: the content could not be brought in; the slot is free. */
void adapter_registry_job_done(adapter_registry *r, const adapter_job *job, bool ok);

uint64_t adapter_content_id(const adapter_content *c); /* never 0, never used twice */
const char *adapter_content_name(const adapter_content *c);
const adapter_weights *adapter_content_weights(const adapter_content *c);
uint32_t adapter_content_slot(const adapter_content *c); /* ADAPTER_NO_SLOT unless resident */

/* All known names, in the order in which they were added: index in [0, count). */
uint32_t adapter_registry_count(const adapter_registry *r);
adapter_content *adapter_registry_at(const adapter_registry *r, uint32_t index);

void adapter_registry_check(const adapter_registry *r); /* aborts where an invariant is broken; tests */

#ifdef __cplusplus
}
#endif
#endif
