/* runtime/mica.h - the public interface: one model, a paged K/V cache, any number of adapters.
 *
 *     mica_options o = MICA_OPTIONS_INIT;          mica_request r = MICA_REQUEST_INIT;
 *     o.model = "granite-3.3-2b";                  r.prompt_text = "..."; r.prompt_text_bytes = n;
 *     mica_open(&o, &m, &err);                     mica_submit(m, &r, &id, &err);
 *     while (mica_poll(m, -1, &e)) ...             mica_close(m);
 *
 * Threads  Every call may be made from any thread, but mica_poll() by one at a time. Tokenizing runs on
 *          the thread that submits, detokenizing and stop strings on the thread that polls. The engine
 *          has a thread of its own.
 * Errors   A call that fails changes nothing and fills `err` with one line and the field it is about.
 * Memory   Planned by mica_open(), which prints the plan where `log` is given; a request takes what it
 *          needs when it is submitted. Inputs are copied.
 */
#ifndef RUNTIME_MICA_H
#define RUNTIME_MICA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/rc.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MICA_VERSION "0.1.0"
#define MICA_NEVER UINT32_MAX /* an activation that does not happen */
#if defined(__GNUC__)
#define MICA_API __attribute__((visibility("default")))
#else
#define MICA_API
#endif

typedef struct mica mica;

/* A line for people: level is 'I', 'W' or 'E'. */
typedef void (*mica_log)(void *ctx, char level, const char *line);
/* Loading: bytes done of bytes in all. */
typedef void (*mica_progress)(void *ctx, uint64_t done, uint64_t total);

typedef struct mica_adapter_ref {
    const char *name, *path;
} mica_adapter_ref;

enum { MICA_MAX_LORAS_DEFAULT = 8 };

/* vLLM's flags of the same names; 0 or NULL takes the default. */
typedef struct mica_options {
    size_t size; /* of this struct, set by MICA_OPTIONS_INIT: newer fields read as defaults */
    const char *model;              /* directory or .gguf */
    const char *served_model_name;  /* default: model */
    bool load_dummy;
    const char *dtype;              /* "auto", "float32", "bfloat16" */
    uint32_t max_model_len;
    uint32_t block_size;            /* 16 */
    uint64_t kv_cache_memory_bytes; /* of each rank; all: a quarter of the free memory, at most 4 GiB */
    uint32_t num_gpu_blocks;        /* overrides the bytes */
    uint32_t max_num_seqs;          /* 256 */
    uint32_t max_num_batched_tokens; /* 512; 2048 on a CUDA device */
    bool disable_prefix_caching;
    bool priority_scheduling;       /* else FCFS */
    bool prefill_first;             /* all prompts before any second token: for latency benchmarks */
    bool admit_in_order;            /* nobody passes a request whose adapter is being brought into a slot */
    uint64_t seed;
    uint32_t threads;               /* all cores */
    const char *cpu_kernels;        /* "auto", or a family by name */
    uint32_t max_loras;             /* 8 */
    uint32_t max_lora_rank;         /* 64 */
    bool require_activation;        /* every aLoRA request as if it said so */
    const mica_adapter_ref *adapters;
    size_t adapters_count;
    mica_log log;
    void *log_ctx;
    mica_progress progress;
    void *progress_ctx;
    const char *quantization;       /* "auto"; "q8_0", "q4_0": a directory's matrices, at load */
    const char *kv_cache_dtype;     /* "auto": as dtype; "int8": with a scale a token and head */
    uint32_t tensor_parallel_size;  /* ranks, each with a part of the model and of `threads`; 1 */
    /* Processes that share those ranks evenly: what mpirun, srun or torchrun says in the environment, or: */
    uint32_t nnodes, node_rank;
    const char *master_addr;        /* where process 0 is */
    uint32_t master_port;           /* 29500 */
    const char *device;             /* "auto": CUDA where it can be used; "cpu", "cuda" */
    const char *plugin_dir;         /* where libmica_cuda.so is, if not beside libmica.so */
    double gpu_memory_utilization;  /* what everything may take of a device's memory; 0.9 */
    bool enforce_eager;             /* a CUDA device launches decode steps op by op, not as graphs */
    bool batch_invariant;           /* same request, same bits on a GPU too, at some cost; over ranks where
                                     * their sums are fused */
    uint32_t kv_changes_max;        /* of the cache that may wait for mica_kv_poll(); 0: none are told */
    bool disable_custom_all_reduce; /* ranks on GPUs sum by NCCL alone */
} mica_options;
#define MICA_OPTIONS_INIT { .size = sizeof(mica_options) }

typedef struct mica_bias {
    int32_t token;
    float bias;
} mica_bias;

typedef struct mica_text {
    const char *bytes;
    size_t count;
} mica_text;

/* The most that a request may ask for. */
enum {
    MICA_CHOICES_MAX = 128,
    MICA_STOPS_MAX = 64,
    MICA_STOP_BYTES_MAX = 1024,
    MICA_STOP_IDS_MAX = 256,
    MICA_LOGIT_BIAS_MAX = 1024,
    MICA_LOGPROBS_MAX = 20,
    MICA_SALT_BYTES_MAX = 256
};

/* One prompt, n choices. Fields are vLLM's; MICA_REQUEST_INIT holds OpenAI completions' defaults. */
typedef struct mica_request {
    size_t size;
    void *user;                   /* comes back with every event */
    const char *key;              /* custom_id or request id: seeds the randomness where has_seed is false */
    const char *model;            /* base's or an adapter's name; NULL: base */
    const char *prompt_text;      /* either text ... */
    size_t prompt_text_bytes;
    const int32_t *prompt_ids;    /* ... or ids */
    size_t prompt_ids_count;
    bool add_special_tokens;
    uint32_t max_tokens;          /* 0: what still fits */
    uint32_t min_tokens;
    const mica_text *stop;
    size_t stop_count;
    const int32_t *stop_token_ids;
    size_t stop_token_ids_count;
    bool ignore_eos;
    bool include_stop_str_in_output;
    bool skip_special_tokens;
    float temperature, top_p, min_p;
    int32_t top_k;                /* 0 or -1: all */
    bool has_seed;
    int64_t seed;
    uint32_t n;
    uint32_t first_choice;        /* index of the first of the n choices (prompt lists) */
    float frequency_penalty, presence_penalty, repetition_penalty;
    const mica_bias *logit_bias;
    size_t logit_bias_count;
    int32_t logprobs;             /* -1: none; k: the token's and the k best */
    int32_t prompt_logprobs;      /* -1: none; reads nothing from the cache */
    const char *cache_salt;
    int32_t priority;             /* lower runs first, with priority scheduling */
    bool has_activation;
    uint32_t activation;
    bool require_activation;
    uint32_t truncate_prompt_tokens; /* keeps the prompt's last ones; 0: all */
} mica_request;
#define MICA_REQUEST_INIT                                                                              \
    { .size = sizeof(mica_request), .add_special_tokens = true, .max_tokens = 16,                      \
      .skip_special_tokens = true, .temperature = 1, .top_p = 1, .n = 1, .repetition_penalty = 1,      \
      .logprobs = -1, .prompt_logprobs = -1 }

/* Log probabilities are of the model's own distribution; rank counts from 1. */
typedef struct mica_top {
    int32_t token;
    float logprob;
    uint32_t rank;
} mica_top;

typedef struct mica_token {
    int32_t id;
    float logprob;       /* where logprobs were asked for */
    uint32_t rank;
    const mica_top *top; /* the k best, best first */
    uint32_t top_count;
    size_t text_offset;  /* bytes of the choice's text before this token's */
} mica_token;

typedef enum mica_finish {
    MICA_RUNNING = 0,
    MICA_STOP = 1,     /* eos, a stop token or a stop string */
    MICA_LENGTH = 2,
    MICA_CANCELLED = 3,
    MICA_FAILED = 4    /* the engine could not go on; `error` says why */
} mica_finish;

/* What is known of the prompt once its request was admitted. */
typedef struct mica_prompt {
    const int32_t *ids;
    uint32_t count;
    uint32_t cached_tokens;      /* of the first choice, when first admitted */
    const char *adapter;         /* NULL: base */
    uint32_t activation;         /* first adapted position, or MICA_NEVER */
    int64_t admitted_ns;         /* CLOCK_MONOTONIC, when first admitted; 0: not yet */
    const mica_token *logprobs;  /* [count] with prompt_logprobs, the first without value; else NULL */
} mica_prompt;

/* News of one choice. Everything pointed to is valid until the next mica_poll(). */
typedef struct mica_event {
    uint64_t request;
    void *user;
    uint32_t choice;             /* first_choice .. first_choice + n - 1 */
    const mica_prompt *prompt;
    const char *text;            /* new text of the choice; whole characters, never a part of a stop string */
    size_t text_bytes;
    const mica_token *tokens;    /* new tokens */
    uint32_t tokens_count;
    mica_finish finish;          /* not MICA_RUNNING: this choice's last event */
    bool request_done;           /* and the request's last */
    int32_t stop_token;          /* of stop_token_ids, or -1 */
    const char *stop_text;       /* the stop string that ended it, or NULL; not terminated */
    size_t stop_text_bytes;
    const rc_msg *error;         /* with MICA_FAILED */
} mica_event;

typedef struct mica_stats {
    uint32_t running, waiting;
    uint64_t prompt_tokens, generated_tokens;   /* since open; a prompt, cached too, at its first token */
    uint64_t cached_prompt_tokens;
    uint64_t computed_tokens;                   /* rows of all steps */
    uint64_t steps, preemptions;
    uint32_t blocks_total, blocks_live, blocks_cached;
    uint32_t adapters_known, adapters_resident;
} mica_stats;

typedef struct mica_info {
    const char *model_name;      /* served name */
    uint32_t vocab, max_model_len, block_size, blocks, max_num_seqs, max_num_batched_tokens;
    const char *dtype, *device;  /* "bfloat16", "cpu avx512, 2 threads" */
    uint64_t planned_bytes;
    uint32_t max_loras;
    uint32_t ranks;              /* tensor_parallel_size */
} mica_info;

typedef struct mica_adapter {
    int64_t id;                  /* above 0; a name that is loaded again gets a new one */
    const char *name, *path;
    uint64_t bytes;              /* of its weights */
    bool is_resident;            /* in a slot, after the last step */
    bool is_awaited;             /* requests for it wait to be admitted */
} mica_adapter;

typedef enum mica_kv_kind {
    MICA_KV_STORED = 1,  /* a full block of the cache can be found from now on; so can its parent */
    MICA_KV_REMOVED = 2, /* it cannot any more; its children went before */
    MICA_KV_CLEARED = 3  /* nothing can be found: told first of all */
} mica_kv_kind;

/* What has become of a full block of the cache: for a router that sends prompts where their prefix is. Tokens
 * are those of requests, so this is for whoever may read all of them. Half-filled blocks are not told of.
 * Pointers hold until the next mica_kv_poll(). */
typedef struct mica_kv_change {
    mica_kv_kind kind;
    uint64_t batch;         /* of a step, from 0 on; a number that is missing was dropped */
    bool ends_batch;        /* no more of this number */
    int64_t time_ns;        /* since 1970: of the batch */
    uint64_t hash;          /* of all that the block's K/V depends on (paged_kv/block_manager.h) */
    /* with MICA_KV_STORED */
    bool has_parent;        /* false: the first block of a prompt */
    uint64_t parent;
    const int32_t *tokens;  /* [tokens_count], the block size */
    uint32_t tokens_count;
    const char *adapter;    /* of rows from first_adapted on; NULL: all are base's, whoever computed them */
    int64_t adapter_id;     /* as in mica_adapter; 0: base */
    uint32_t first_adapted;
    const char *cache_salt; /* of a first block; NULL: none */
} mica_kv_change;

/* For a model whose ranks are spread over processes: called first, in each. In all but the one of rank 0 it
 * opens the process's part, serves until the engine ends, and sets *follows: nothing is left to do then. In
 * the one of rank 0, or where there is but one, it does nothing. The environment is read if
 * tensor_parallel_size is above 1.
 * Errors  as mica_open; UNAVAILABLE: another process died, hangs or failed: the line names it. */
MICA_API rc_code mica_follow(const mica_options *options, bool *follows, rc_msg *err);
MICA_API rc_code mica_open(const mica_options *options, mica **out, rc_msg *err);
MICA_API void mica_close(mica *m); /* ends running requests; NULL is allowed */

/* Reads and checks a PEFT directory on the caller's thread; running requests do not wait. */
MICA_API rc_code mica_adapter_load(mica *m, const char *name, const char *path, rc_msg *err);
/* New requests no longer find it; running ones finish on it. */
MICA_API rc_code mica_adapter_unload(mica *m, const char *name, rc_msg *err);
/* Keeps it in a slot from now on until it is unloaded, so that no request for it ever waits for one that
 * others took. Errors NOT_FOUND; RESOURCE_EXHAUSTED: one of max_loras slots is left for the others. */
MICA_API rc_code mica_adapter_pin(mica *m, const char *name, rc_msg *err);
/* A random adapter, for benchmarks: rank, all linears or q k v only; alora: invoked by has_activation. */
MICA_API rc_code mica_adapter_synthetic(mica *m, const char *name, uint32_t rank, bool qkv_only, bool alora,
                                        uint64_t seed, rc_msg *err);

/* What is loaded, by name: *out, [*count], and its strings by one free(). */
MICA_API rc_code mica_adapter_list(const mica *m, mica_adapter **out, size_t *count, rc_msg *err);

MICA_API rc_code mica_submit(mica *m, const mica_request *request, uint64_t *id, rc_msg *err);
/* Whether mica_submit() would take it now but for want of room; for whoever lets requests wait before. */
MICA_API rc_code mica_check(mica *m, const mica_request *request, rc_msg *err);
MICA_API void mica_cancel(mica *m, uint64_t id); /* unknown or ended: nothing; else MICA_CANCELLED events */

/* How many tokens of the prompt the cache would give the request now: a hint for whoever chooses what to
 * submit next, since others come and go. 0 where mica_submit() would refuse it. Waits for no device. */
MICA_API uint32_t mica_cached_tokens(mica *m, const mica_request *request);

/* Waits for news, at most timeout_ms (-1: as long as anything is unfinished). False: none came. */
MICA_API bool mica_poll(mica *m, int timeout_ms, mica_event *event);
/* Readable while news waits; for poll(2). */
MICA_API int mica_fd(const mica *m);

/* The next change of the cache of a step that has ended, without waiting; false: none. Where kv_changes_max
 * have not been taken, changes of whole steps are dropped and no step waits. One thread at a time, any. */
MICA_API bool mica_kv_poll(mica *m, mica_kv_change *change);
/* Readable while changes wait; for poll(2). -1 without kv_changes_max. */
MICA_API int mica_kv_fd(const mica *m);

/* Text of one token by itself, lossily decoded, for logprobs. Written to out; gives the bytes needed. */
MICA_API size_t mica_token_text(const mica *m, int32_t id, char *out, size_t out_max);
MICA_API rc_code mica_tokenize(const mica *m, const char *text, size_t bytes, bool add_special, int32_t **ids,
                               size_t *count, rc_msg *err); /* *ids by free() */
/* The prompt of a request as mica_submit() would take it: tokenized, cut, not checked. *ids by free(). */
MICA_API rc_code mica_prompt_ids(mica *m, const mica_request *request, int32_t **ids, size_t *count,
                                 rc_msg *err);
/* Text of ids, malloc'ed and terminated: *text by free(). offsets: NULL, or [count], filled with the bytes of
 * the text before each token's, as in mica_token. */
MICA_API rc_code mica_detokenize(const mica *m, const int32_t *ids, size_t count, bool skip_special,
                                 char **text, size_t *bytes, size_t *offsets, rc_msg *err);
/* RC_OK; or RC_UNAVAILABLE and the line: a device or a rank failed, so nothing can run any more. What was
 * running has ended as MICA_FAILED; all that is left is mica_close(). */
MICA_API rc_code mica_status(const mica *m, rc_msg *err);
MICA_API mica_stats mica_get_stats(const mica *m);
MICA_API mica_info mica_get_info(const mica *m);

#ifdef __cplusplus
}
#endif
#endif
