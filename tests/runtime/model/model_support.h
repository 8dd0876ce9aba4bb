/* tests/runtime/model/model_support.h - a model on the CPU backend, run over one sequence at a time. */
#ifndef TESTS_RUNTIME_MODEL_SUPPORT_H
#define TESTS_RUNTIME_MODEL_SUPPORT_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/model/model.h"

enum {
    RUN_ROWS_MAX = 64,
    RUN_POSITIONS = 256,
    RUN_BLOCK = 16,
    RUN_BLOCKS = RUN_POSITIONS / RUN_BLOCK,
    RUN_LOGITS = 3
};

/* One rank's, or the whole model. */
typedef struct run {
    rt_model_info info;
    rt_device *device;
    rt_model *model;
} run;

static inline rt_model_options options_of(const char *path, rc_dtype dtype)
{
    return (rt_model_options){.path = path, .dtype = dtype, .dtype_auto = dtype == 0, .threads = 2};
}

static inline rt_model_limits limits_of(const rt_model_info *info)
{
    const rt_model_config *c = &info->own;
    return (rt_model_limits){.rows_max = RUN_ROWS_MAX,
                             .logits_max = RUN_LOGITS,
                             .positions_max = RUN_POSITIONS,
                             .kv = {.layers = c->layers,
                                    .kv_heads = c->kv_heads,
                                    .head_dim = c->head_dim,
                                    .block_tokens = RUN_BLOCK,
                                    .element_bytes = info->dtype == RC_F32 ? 4 : 2}};
}

static inline rc_code open_device(const rt_model_info *info, rt_group *group, rt_device **device, rc_msg *msg)
{
    const rt_model_config *c = &info->own;
    rt_device_options o = {.threads = 2,
                           .kernels = "auto",
                           .rows_max = RUN_ROWS_MAX,
                           .width_max = rt_model_width_max(c),
                           .slots_max = 1,
                           .layers = c->layers,
                           .linears = RT_LINEARS,
                           .lora_rank_max = 64,
                           .kv = limits_of(info).kv,
                           .kv_blocks = RUN_BLOCKS,
                           .heads = c->heads,
                           .group = group};
    return rt_backend_cpu()->open(&o, device, msg);
}

static inline rc_code try_open_rank(const rt_model_options *o, rt_group *group, run *r, rc_msg *msg)
{
    *r = (run){0};
    rc_code code = rt_model_probe(o, rt_backend_cpu(), &r->info, msg);
    if (code != RC_OK) return code;
    code = open_device(&r->info, group, &r->device, msg);
    rt_model_limits limits = limits_of(&r->info);
    if (code == RC_OK)
        code = rt_model_open(o, &r->info, &limits, rt_backend_cpu(), r->device, &r->model, msg);
    if (code != RC_OK && r->device) rt_backend_cpu()->close(r->device);
    return code;
}

static inline rc_code try_open(const rt_model_options *o, run *r, rc_msg *msg)
{
    return try_open_rank(o, NULL, r, msg);
}

static inline run open_run(const rt_model_options *o)
{
    rc_msg msg = {0};
    run r;
    rc_code code = try_open(o, &r, &msg);
    if (code != RC_OK) fail_msg("%s: %s", o->path, msg.text);
    return r;
}

static inline void close_run(run *r)
{
    rt_model_close(r->model);
    rt_backend_cpu()->close(r->device);
}

/* logits [count][vocab] of all tokens, computed `rows` at a time. Rows from `activation` on use slot 0. */
static inline void run_tokens(run *r, const int32_t *tokens, uint32_t count, uint32_t rows,
                              uint32_t activation, float *logits)
{
    uint32_t tables[RUN_BLOCKS], positions[RUN_ROWS_MAX], all[RUN_ROWS_MAX], adapted[RUN_ROWS_MAX];
    uint32_t vocab = r->info.config.vocab;
    for (uint32_t i = 0; i < RUN_BLOCKS; i++) tables[i] = (i * 5 + 3) % RUN_BLOCKS;
    for (uint32_t at = 0; at < count; at += rows) {
        uint32_t n = count - at < rows ? count - at : rows, adapted_count = 0;
        for (uint32_t i = 0; i < n; i++) {
            positions[i] = at + i;
            all[i] = i;
            if (at + i >= activation) adapted[adapted_count++] = i;
        }
        kv_span span = {.row = 0, .rows = n, .position = at, .table = 0};
        kv_group group = {.span = 0, .spans = 1};
        adapter_segment segment = {.rows = adapted_count};
        rt_step step = {.rows = n,
                        .tokens = tokens + at,
                        .positions = positions,
                        .kv = {&span, 1, &group, 1, tables},
                        .adapters = {&segment, adapted_count ? 1 : 0, adapted},
                        .logit_rows = all,
                        .logit_rows_count = n};
        rt_model_forward(r->model, &step);
        for (uint32_t first = 0; first < n; first += RUN_LOGITS) {
            uint32_t part = n - first < RUN_LOGITS ? n - first : RUN_LOGITS;
            memcpy(logits + (size_t)(at + first) * vocab, rt_model_logits(r->model, &step, first, part),
                   (size_t)part * vocab * sizeof *logits);
        }
    }
}

static inline double log_probability(const float *logits, uint32_t vocab, int32_t token)
{
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < vocab; i++) max = logits[i] > max ? logits[i] : max;
    for (uint32_t i = 0; i < vocab; i++) sum += exp(logits[i] - max);
    return logits[token] - max - log(sum);
}

#endif
