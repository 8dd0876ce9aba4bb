/* runtime/engine/request.h - a request while the engine and its caller hold it.
 *
 * Made on the caller's thread from a mica_request, checked and copied into one allocation that also holds
 * everything that its answer can need, so that neither a step nor the engine's thread allocates for it.
 * Three parties touch it, each its own part:
 *     the caller, until it is submitted       everything
 *     the engine                              tokens, generated, finish, ...
 *     the poller                              what is handed over under the owner's lock, and `output`
 */
#ifndef RUNTIME_ENGINE_REQUEST_H
#define RUNTIME_ENGINE_REQUEST_H

#include "adapters/registry.h"
#include "runtime/engine/output.h"
#include "runtime/engine/sampler.h"

typedef struct rt_request rt_request;

/* One of the n answers: a sequence of its own. */
typedef struct rt_choice {
    rt_request *request;
    uint32_t index;              /* choices[].index */
    /* engine's */
    uint32_t seq;                /* the scheduler's index */
    int32_t *tokens;             /* [prompt_count + max_tokens] prompt, then generated, then one to come */
    mica_token *generated;       /* [max_tokens] where log probabilities are wanted, else one: see below */
    uint32_t generated_count, begun_count; /* begun: with one whose step is under way */
    uint32_t item;               /* of that step; its place there */
    mica_finish finish;
    int32_t stop_token;
    bool in_news;
    struct rt_choice *next_news;
    /* handed over */
    uint32_t published_count;
    mica_finish published_finish;
    bool wants_cancel;           /* the poller met a stop string */
    /* poller's */
    uint32_t consumed;
    bool ended;                  /* its last event was given */
    rt_output output;
} rt_choice;

struct rt_request {
    uint64_t id;
    void *user;
    /* what was asked */
    const int32_t *prompt;
    uint32_t prompt_count, max_tokens;
    uint32_t choices_count;
    rt_sampling sampling;        /* choice is set per draw */
    bool ignore_eos;
    const int32_t *stop_ids;
    uint32_t stop_ids_count;
    int32_t logprobs, prompt_logprobs;
    int32_t priority;
    const char *salt;
    size_t salt_bytes;
    rt_stops stops;
    /* what it resolves to */
    adapter_content *adapter;    /* NULL: base */
    uint32_t activation;         /* ADAPTER_NEVER: no row is adapted */
    char adapter_name[ADAPTER_NAME_BYTES_MAX + 1]; /* the content may be gone before the last event */
    uint32_t salt_id;
    /* the answer */
    uint32_t choices_alive;      /* engine's */
    uint32_t prompt_scored;      /* rows of the prompt whose log probabilities are known */
    mica_token *prompt_logprob;  /* [prompt_count], or NULL */
    uint32_t cached_tokens;
    int64_t admitted_ns;         /* 0: not yet */
    rc_msg error;                /* with MICA_FAILED */
    rt_choice *choices;
    /* owner's */
    uint32_t choices_open;       /* whose last event is still to come */
    bool wants_submit, wants_cancel, in_commands, in_news, engine_done;
    rt_request *next_command, *next_news, *next_done, *next_by_id;
    uint32_t cached_published;
    int64_t admitted_published;
    mica_prompt prompt_view;     /* poller's */
};

/* The engine's: where the next token goes with what is known of it. Without log probabilities nothing is kept
 * but its id, in tokens. */
static inline mica_token *rt_choice_next(const rt_choice *c)
{
    return &c->generated[c->request->logprobs < 0 ? 0 : c->generated_count];
}

/* What a request is checked against. */
typedef struct rt_request_limits {
    uint32_t vocab, max_model_len;
    uint64_t engine_seed;
    const int32_t *eos;
    uint32_t eos_count;
    size_t piece_max;            /* bytes of any token's text */
    bool require_activation;
} rt_request_limits;

/* Checks everything that does not depend on the prompt's tokens. Errors INVALID_ARGUMENT, about a field. */
RC_MUST_CHECK rc_code rt_request_validate(const mica_request *q, const rt_request_limits *l, rc_msg *msg);

/* Makes a request of a validated mica_request with these prompt ids. The adapter is set by the caller.
 * Errors INVALID_ARGUMENT (prompt, max_tokens), RESOURCE_EXHAUSTED (memory). */
RC_MUST_CHECK rc_code rt_request_create(const mica_request *q, const int32_t *prompt, size_t prompt_count,
                                        const rt_request_limits *l, rt_request **out, rc_msg *msg);
/* From where on an adapter (NULL: base) applies to a prompt, or ADAPTER_NEVER. Errors INVALID_ARGUMENT. */
RC_MUST_CHECK rc_code rt_request_activation(const mica_request *q, const adapter_content *adapter,
                                            const int32_t *prompt, uint32_t prompt_count,
                                            const rt_request_limits *l, uint32_t *activation, rc_msg *msg);
/* Points it at an adapter (NULL: base) and fixes the activation. Errors INVALID_ARGUMENT. */
RC_MUST_CHECK rc_code rt_request_set_adapter(rt_request *r, const mica_request *q, adapter_content *adapter,
                                             const rt_request_limits *l, rc_msg *msg);
void rt_request_free(rt_request *r); /* NULL is allowed */

#endif
