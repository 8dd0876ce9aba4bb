/* runtime/load/group.h - records summed up: all of them, those of an adapter, those of a tenant. */
#ifndef RUNTIME_LOAD_GROUP_H
#define RUNTIME_LOAD_GROUP_H

#include "runtime/base/samples.h"
#include "runtime/load/load.h"

#define RT_LOAD_ANY UINT32_MAX

typedef struct rt_load_group {
    size_t requests, done, failed, good;                  /* good: done within the objectives */
    uint64_t prompt_tokens, output_tokens, cached_tokens; /* of those that are done */
    rt_samples ms[RT_LOAD_METRICS];
    rt_samples queued_ms; /* from due to sent, of all that were sent */
} rt_load_group;

/* Of one adapter's index, one tenant's, or RT_LOAD_ANY. Errors RESOURCE_EXHAUSTED; deinit it then too. */
RC_MUST_CHECK rc_code rt_load_group_of(const rt_load *l, uint32_t lora, uint32_t tenant, rt_load_group *g,
                                       rc_msg *msg);
void rt_load_group_deinit(rt_load_group *g);

#endif
