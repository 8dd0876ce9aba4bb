/* runtime/model/model.h - a loaded model and its forward pass over one step's rows.
 *
 * rt_model_open() reads a Hugging Face directory or a GGUF file into the backend's layout.
 * rt_model_forward() runs the layer loop over a step; rt_model_logits() gives the logits of the rows
 * that asked for them, a bounded number at a time.
 *
 * Memory   everything is taken by rt_model_open(); forward and logits allocate nothing.
 * Threads  forward and logits: one thread.
 * Source   transformers 5.19 models/granite/modeling_granite.py (GraniteModel.forward); the four
 *          multipliers are 1 for Llama.
 */
#ifndef RUNTIME_MODEL_MODEL_H
#define RUNTIME_MODEL_MODEL_H

#include "runtime/backend/backend.h"
#include "runtime/model/model_config.h"
#include "runtime/model/shard.h"

typedef struct rt_model rt_model;

/* Adaptable linears of a layer, as rt_linear.linear and adapter_module.linear number them. */
enum { RT_LINEAR_QKV, RT_LINEAR_O, RT_LINEAR_GATE_UP, RT_LINEAR_DOWN, RT_LINEARS };

typedef void (*rt_progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);

typedef struct rt_model_options {
    const char *path;
    bool dummy;              /* random weights from the config alone */
    uint64_t seed;           /* of dummy weights */
    bool dtype_auto;         /* else dtype decides */
    rc_dtype dtype;
    const rt_quant *quant;   /* NULL, or Q8_0 or Q4_0: what matrices of a directory are rounded to */
    uint32_t rank, world;    /* of a tensor-parallel model, whose part is opened; world 0: of one rank */
    uint32_t threads;        /* for loading; 0: all cores */
    rt_progress progress;    /* NULL: none */
    void *progress_ctx;
} rt_model_options;

/* What can be known from the headers alone, for planning memory before anything is loaded. */
typedef struct rt_model_info {
    rt_model_config config;
    rc_dtype dtype;          /* of activations and K/V; weights of GGUF types stay as stored */
    bool is_gguf;
    rt_shard shard;          /* the rank's part */
    rt_model_config own;     /* config with the rank's heads, kv_heads and ffn */
    size_t weight_bytes;     /* the rank's, in the backend's layout */
} rt_model_info;

/* Checks every tensor's name, shape and type, and reads none of them.
 * Errors  INVALID_ARGUMENT: the checkpoint (one line names the key or tensor); NOT_FOUND, INTERNAL: it can't
 *         be read; RESOURCE_EXHAUSTED: memory. rt_model_open adds FAILED_PRECONDITION: replaced since. */
RC_MUST_CHECK rc_code rt_model_probe(const rt_model_options *o, const rt_backend *backend,
                                     rt_model_info *info, rc_msg *msg);

/* Fills the module table that adapters are matched against. rank_max is the caller's to set. */
void rt_model_adapter_shape(const rt_model_config *c, adapter_shape *shape);

/* One step's rows, planned on the host (runtime/engine/batch.h builds it). */
typedef struct rt_step {
    uint32_t rows;             /* T */
    const int32_t *tokens;     /* [T], or what is to come of the step before (rt_token_to_come) */
    const uint32_t *positions; /* [T] */
    kv_plan kv;
    adapter_plan adapters;
    const uint32_t *logit_rows; /* [logit_rows_count] rows whose logits are wanted, in increasing order */
    uint32_t logit_rows_count;
    bool is_picked;       /* the device picks from these rows' logits; else they will be asked for */
    const rt_pick *picks; /* [logit_rows_count]; rank 0's alone are read */
} rt_step;

/* Buffers of a forward pass: rows_max rows a step, logits of logits_max rows at a time, positions_max
 * rows of the RoPE tables. */
typedef struct rt_model_limits {
    uint32_t rows_max, logits_max, positions_max;
    kv_layout kv; /* blocks' geometry, the same as the device was opened with: the rank's K/V heads */
} rt_model_limits;
/* c, here and below: rt_model_info.own. */
size_t rt_model_activation_bytes(const rt_model_config *c, const rt_model_limits *limits);
/* Widest K or N of any product but the head's (rt_device_options.width_max). */
uint32_t rt_model_width_max(const rt_model_config *c);

/* Ranks of one model are opened on devices of one group, each on its own. */
RC_MUST_CHECK rc_code rt_model_open(const rt_model_options *o, const rt_model_info *info,
                                    const rt_model_limits *limits, const rt_backend *backend,
                                    rt_device *device, rt_model **out, rc_msg *msg);
void rt_model_close(rt_model *m); /* NULL is allowed */

/* Once, before the first step, when the ranks of the device's group have met: lets the device find out how it
 * does the model's products best. Errors  RESOURCE_EXHAUSTED. */
RC_MUST_CHECK rc_code rt_model_tune(rt_model *m, rc_msg *msg);

/* All ranks of a model run the same steps and ask for the same logits, each on a thread of its own. A device
 * may be at work still when it returns. */
void rt_model_forward(rt_model *m, const rt_step *step);

/* After a forward of that step: logits [count][vocab] of step->logit_rows[first .. first + count), count <=
 * logits_max, on the host, after logits_scaling. Valid until the next call. Only rank 0 has them whole. */
const float *rt_model_logits(rt_model *m, const rt_step *step, uint32_t first, uint32_t count);
/* Where the backend picks: what it picked from all logit_rows of a step (rt_backend.picked). */
const mica_top *rt_model_picked(rt_model *m, uint32_t *stride);

#endif
