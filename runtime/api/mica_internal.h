/* runtime/api/mica_internal.h - what stands behind the handle of runtime/mica.h.
 *
 * Three kinds of thread meet here: callers, who submit, cancel and load adapters; the engine's, which runs
 * steps; the poller. One lock covers what they hand over: commands, the catalog of names, news, numbers. It
 * is held for moments only, never over a step.
 *
 *     caller --commands--> engine's thread --news--> poller
 *
 * An adapter's name is looked up and its request queued under one hold of the lock, and a removal is carried
 * out after the commands before it: so a request that found a name always finds the content alive.
 *
 * A second lock covers the engine's bookkeeping, for callers who ask what the cache has. The engine's thread
 * holds it whenever it is at the engine, and not while the device works. Taken after the first one or alone.
 */
#ifndef RUNTIME_API_MICA_INTERNAL_H
#define RUNTIME_API_MICA_INTERNAL_H

#include <pthread.h>

#include "runtime/engine/engine.h"
#include "runtime/api/kv_queue.h"
#include "runtime/api/device.h"
#include "runtime/api/processes.h"
#include "runtime/api/ranks.h"
#include "runtime/engine/exec_lead.h"
#include "runtime/engine/loader.h"

enum { MICA__KV_NAMES = 64 };
enum { MICA__ID_BUCKETS = 4096, MICA__ADAPTERS_MAX = 4096, MICA__EVENT_TEXT_BYTES = 1 << 16,
       MICA__EVENT_TOKENS = 4096 };

/* What options and model come to: every size of the engine. */
typedef struct mica__plan {
    rt_model_info info;
    const rt_quant *quant; /* NULL, or what matrices are rounded to at load */
    rt_engine_options engine;
    mica__rank_plan *ranks; /* [ranks_count] of this process, of tensor_parallel_size */
    uint32_t ranks_count, lora_rank_max, kv_element_bytes;
    size_t kv_block_bytes; /* on the rank with most K/V heads */
    uint32_t block_size, max_model_len;
    bool kv_is_measured; /* blocks are as many as there is room for when all else is there */
    uint64_t kv_queue_bytes;
} mica__plan;

/* An operation that the engine's thread carries out while its caller waits. */
typedef struct mica__op {
    enum { MICA__ADD, MICA__REMOVE, MICA__KEEP } kind;
    const char *name;
    adapter_weights *weights; /* to add */
    adapter_content *content; /* what was added */
    rc_code code;
    rc_msg msg;
    bool done;
} mica__op;

typedef struct mica__name {
    char name[ADAPTER_NAME_BYTES_MAX + 1];
    char *path;
    int64_t id;
    bool is_resident, is_awaited; /* after the last step */
    adapter_content *content;
} mica__name;

/* Name of a content whose block was told lately. */
typedef struct mica__kv_name {
    uint64_t content;
    char name[ADAPTER_NAME_BYTES_MAX + 1];
} mica__kv_name;

struct mica {
    /* fixed once open */
    mica_options o;              /* with defaults filled in; strings below */
    char *model_name;
    char device_text[160];
    mica__plan plan;
    rt_request_limits limits;
    adapter_shape shape;
    rt_tokenizer *tokenizer;     /* NULL: the model has none, prompts are ids */
    mica__device device;
    mica__processes processes;
    mica__ranks ranks;
    rt_exec_lead *lead;          /* NULL: there are no other processes */
    rt_exec exec;
    uint64_t planned_bytes;
    /* the engine's thread */
    rt_engine *engine;
    rt_loader *loader;
    mica__kv_queue *kv_queue;    /* NULL: the cache's changes are not told; it writes, mica_kv_poll() reads */
    mica__kv_name kv_names[MICA__KV_NAMES];
    pthread_mutex_t engine_lock;
    pthread_t thread;
    bool thread_runs;
    /* under the lock */
    pthread_mutex_t lock;
    pthread_cond_t work, news_came, op_ended;
    bool stopping, woken, is_lost;
    rc_msg why_lost;
    rt_request *commands, *commands_tail;
    mica__op *op;
    rt_request *news, *news_tail;
    rt_request *by_id[MICA__ID_BUCKETS];
    uint32_t open_requests, open_choices; /* not yet given to the end */
    uint64_t next_id;
    mica__name *names;
    uint32_t names_count;
    uint64_t bytes_adapters;
    mica_stats stats;
    int news_fd;
    /* the poller's */
    rt_request *current;         /* whose event was given last */
    char *event_text;
    mica_token *event_tokens;
};

/* runtime/api/mica.c */
RC_MUST_CHECK rc_code mica__options_copy(const mica_options *from, mica_options *to, rc_msg *err);

/* runtime/api/plan.c */
RC_MUST_CHECK rc_code mica__plan_make(const mica_options *o, const mica__device *device,
                                      const mica__processes *processes, mica__plan *plan, rc_msg *msg);
/* Opens the plan's ranks, and settles how many blocks there are, which may be fewer than planned; gives when
 * all processes have done so. On failure close what there is. */
RC_MUST_CHECK rc_code mica__plan_open(const mica_options *o, const mica__device *device,
                                      const mica__processes *processes, mica__plan *plan, mica__ranks *ranks,
                                      rt_exec *exec, rc_msg *msg);
void mica__plan_shape(const mica__plan *plan, adapter_shape *shape);
rt_wire_limits mica__plan_wire(const mica__plan *plan);
void mica__plan_free(mica__plan *plan); /* zeroed is allowed */

/* runtime/api/plan_table.c */
uint64_t mica__rank_bytes(const mica__rank_plan *r);
uint64_t mica__plan_bytes(const mica__plan *plan); /* without adapters and the program */
void mica__plan_print(const mica *m, uint64_t program_bytes);

/* runtime/api/kv_changes.c */
RC_MUST_CHECK rc_code mica__kv_watch(mica *m, rc_msg *err); /* before the engine is made */

/* runtime/api/engine_thread.c */
void *mica__run(void *arg);
void mica__device_works(void *m, bool begins);
void mica__wake(void *arg);

/* runtime/api/poll.c; all with the lock held */
void mica__queue_command(mica *m, rt_request *r);
void mica__publish(mica *m, rt_choice *news);
void mica__forget_if_over(mica *m, rt_request *r); /* frees it once everybody is done with it */

/* runtime/api/adapters.c */
adapter_content *mica__find_name(const mica *m, const char *name); /* lock held */

/* runtime/api/synthetic.c */
RC_MUST_CHECK rc_code mica__synthetic_weights(const adapter_shape *shape, uint32_t rank, bool qkv_only,
                                              bool alora, uint64_t seed, adapter_weights **out, rc_msg *msg);

#endif
