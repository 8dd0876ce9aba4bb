#include "runtime/cli/engine_flags.h"

#include <stdlib.h>
#include <string.h>

#define OPTION(member) offsetof(rt_engine_flags, options.member)
#define FLAG(member) offsetof(rt_engine_flags, member)
#define NUMBER(name, alias, member, type, min, help)                                                         \
    {                                                                                                        \
        name, alias, RT_FLAG_##type, OPTION(member), "N", help, min, 0, NULL, NULL                           \
    }
#define TEXT(name, at, value, help)                                                                          \
    {                                                                                                        \
        name, NULL, RT_FLAG_TEXT, at, value, help, 0, 0, NULL, NULL                                          \
    }
#define CHOICE(name, at, value, help)                                                                        \
    {                                                                                                        \
        name, NULL, RT_FLAG_CHOICE, at, value, help, 0, 0, NULL, NULL                                        \
    }

static bool is_block_size(uint64_t n)
{
    return n >= 8 && n <= 256 && !(n & (n - 1));
}

static const rt_flag shown[] = {
    TEXT("model", OPTION(model), "PATH", "model directory or .gguf file (required)"),
    TEXT("served-model-name", OPTION(served_model_name), "NAME", "base's name in requests (PATH)"),
    CHOICE("load-format", FLAG(load_format), "auto|dummy", "dummy: random weights"),
    CHOICE("quantization", OPTION(quantization), "auto|none|q8_0|q4_0", "a directory's matrices, at load"),
    CHOICE("dtype", OPTION(dtype), "auto|float32|bfloat16", "(auto)"),
    NUMBER("max-model-len", NULL, max_model_len, U32, 1, "(the config's, as far as it fits)"),
    {"block-size", NULL, RT_FLAG_U32, OPTION(block_size), "N", "8 16 32 64 128 256 (16)", 8, 256,
     is_block_size, "a power of two from 8 to 256"},
    TEXT("kv-cache-dtype", FLAG(kv_cache_dtype), "auto|int8", "K/V's (as --dtype)"),
    NUMBER("kv-cache-memory-bytes", NULL, kv_cache_memory_bytes, U64, 1,
           "(a quarter of the free, at most 4G)"),
    NUMBER("num-gpu-blocks-override", NULL, num_gpu_blocks, U32, 1, "K/V blocks, instead of bytes"),
    NUMBER("max-num-seqs", NULL, max_num_seqs, U32, 1, "sequences at a time (256)"),
    NUMBER("max-num-batched-tokens", NULL, max_num_batched_tokens, U32, 1, "of a step (512; cuda: 2048)"),
    {"enable-prefix-caching", NULL, RT_FLAG_BOOL, FLAG(enable_prefix_caching), "[no-]", "(on)", 0, 0, NULL,
     NULL},
    CHOICE("scheduling-policy", FLAG(scheduling_policy), "fcfs|priority", "(fcfs)"),
    NUMBER("seed", NULL, seed, U64, 0, "of requests without one (0)"),
    {"threads", "t", RT_FLAG_U32, OPTION(threads), "N", "(all cores)", 1, 1024, NULL, NULL},
    {"tensor-parallel-size", "tp", RT_FLAG_U32, OPTION(tensor_parallel_size), "N",
     "ranks, which share model and threads (1)", 1, 1024, NULL, NULL},
    NUMBER("nnodes", NULL, nnodes, U32, 1, "processes, with --node-rank, --master-addr"),
    CHOICE("device", OPTION(device), "auto|cpu|cuda", "(auto); cuda: --plugin-dir, --batch-invariant"),
    TEXT("cpu-kernels", OPTION(cpu_kernels), "FAMILY", "kernel family (auto)"),
    {"lora-modules", NULL, RT_FLAG_VALUES, FLAG(lora_modules), "NAME=PATH ...", "adapters, or vLLM's JSON", 0,
     0, NULL, NULL},
    NUMBER("max-loras", NULL, max_loras, U32, 1, "resident at a time (8)"),
    NUMBER("max-lora-rank", NULL, max_lora_rank, U32, 1, "(64)"),
    {"require-activation", NULL, RT_FLAG_BOOL, OPTION(require_activation), NULL,
     "refuse where an invocation is missing", 0, 0, NULL, NULL},
    {"help", "h", RT_FLAG_BOOL, FLAG(help), NULL, "this text", 0, 0, NULL, NULL},
};

#define IGNORED_TRUTH(name)                                                                                  \
    {                                                                                                        \
        name, NULL, RT_FLAG_BOOL, RT_FLAG_IGNORED, NULL, NULL, 0, 0, NULL, NULL                              \
    }
#define IGNORED_NUMBER(name)                                                                                 \
    {                                                                                                        \
        name, NULL, RT_FLAG_F64, RT_FLAG_IGNORED, "N", NULL, 0, 0, NULL, NULL                                \
    }
#define IGNORED_CHOICE(name, value)                                                                          \
    {                                                                                                        \
        name, NULL, RT_FLAG_CHOICE, RT_FLAG_IGNORED, value, NULL, 0, 0, NULL, NULL                           \
    }

/* Those of the lines of --nnodes and --device; vLLM's that have nothing to change here, and those of which
 * one value is all there is. */
static const rt_flag accepted[] = {
    NUMBER("node-rank", NULL, node_rank, U32, 0, NULL),
    TEXT("master-addr", OPTION(master_addr), "HOST", NULL),
    NUMBER("master-port", NULL, master_port, U32, 1, NULL),
    TEXT("plugin-dir", OPTION(plugin_dir), "DIR", NULL),
    {"batch-invariant", NULL, RT_FLAG_BOOL, OPTION(batch_invariant), NULL, NULL, 0, 0, NULL, NULL},
    {"enforce-eager", NULL, RT_FLAG_BOOL, OPTION(enforce_eager), NULL, NULL, 0, 0, NULL, NULL},
    {"disable-custom-all-reduce", NULL, RT_FLAG_BOOL, OPTION(disable_custom_all_reduce), NULL, NULL, 0, 0,
     NULL, NULL},
    {"gpu-memory-utilization", NULL, RT_FLAG_F64, OPTION(gpu_memory_utilization), "F", NULL, 0, 0, NULL,
     NULL},
    TEXT("tokenizer", FLAG(tokenizer), "PATH", NULL),
    IGNORED_TRUTH("enable-lora"),
    IGNORED_TRUTH("enable-chunked-prefill"),
    IGNORED_TRUTH("disable-log-stats"),
    IGNORED_TRUTH("disable-log-requests"),
    IGNORED_TRUTH("enable-log-requests"),
    IGNORED_TRUTH("trust-remote-code"),
    IGNORED_TRUTH("enable-prompt-tokens-details"),
    IGNORED_TRUTH("async-scheduling"),
    IGNORED_TRUTH("fully-sharded-loras"),
    IGNORED_NUMBER("swap-space"),
    IGNORED_NUMBER("max-cpu-loras"),
    IGNORED_NUMBER("max-log-len"),
    IGNORED_CHOICE("lora-dtype", "auto"),
    IGNORED_CHOICE("tokenizer-mode", "auto"),
    IGNORED_CHOICE("generation-config", "auto|vllm"),
    IGNORED_CHOICE("distributed-executor-backend", "mp|uni|ray|external_launcher"),
};

void rt__engine_flags_init(rt_engine_flags *f)
{
    *f = (rt_engine_flags){.options = MICA_OPTIONS_INIT, .enable_prefix_caching = true};
    f->load_format = f->kv_cache_dtype = "auto";
    f->scheduling_policy = "fcfs";
    f->options.gpu_memory_utilization = 0.9;
}

void rt__engine_flags_deinit(rt_engine_flags *f)
{
    rt_texts_deinit(&f->lora_modules);
    for (size_t i = 0; i < f->adapters_count; i++) free(f->adapters_owned[i]);
    free(f->adapters);
    free(f->adapters_owned);
}

void rt__engine_flag_sets(rt_engine_flags *f, rt_flag_set sets[RT_ENGINE_SETS])
{
    sets[0] = (rt_flag_set){"Engine (sizes take K, M, G)", shown, sizeof shown / sizeof *shown, f};
    sets[1] = (rt_flag_set){NULL, accepted, sizeof accepted / sizeof *accepted, f};
}

static rc_code refuse(rc_msg *msg, const char *flag, const char *value, const char *expected)
{
    rc_code code = rc_fail(RC_UNIMPLEMENTED, msg, "--%s '%.200s': expected %s", flag, value, expected);
    return rc_about(code, msg, flag);
}

/* vLLM's longer name says the same: a scale a token and head. */
static bool is_int8(const char *kv_cache_dtype)
{
    return !strcmp(kv_cache_dtype, "int8") || !strcmp(kv_cache_dtype, "int8_per_token_head");
}

/* What vLLM has and this build does not. */
static rc_code check_supported(const rt_engine_flags *f, rc_msg *msg)
{
    if (strcmp(f->kv_cache_dtype, "auto") && !is_int8(f->kv_cache_dtype))
        return refuse(msg, "kv-cache-dtype", f->kv_cache_dtype, "auto or int8");
    if (!(f->options.gpu_memory_utilization > 0)) /* where the library would take its default */
        return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg,
                                "--gpu-memory-utilization '%g': expected above 0 and at most 1",
                                f->options.gpu_memory_utilization),
                        msg, "gpu-memory-utilization");
    if (f->tokenizer && (!f->options.model || strcmp(f->tokenizer, f->options.model)))
        return refuse(msg, "tokenizer", f->tokenizer, "the model's path; its own tokenizer is the one used");
    return RC_OK;
}

rc_code rt__engine_flags_finish(rt_engine_flags *f, rc_msg *msg)
{
    mica_options *o = &f->options;
    RC_TRY(check_supported(f, msg));
    if (!o->model) {
        rc_code code = rc_fail(RC_INVALID_ARGUMENT, msg,
                               "--model is missing: expected a model directory or a .gguf file");
        return rc_about(code, msg, "model");
    }
    o->load_dummy = !strcmp(f->load_format, "dummy");
    o->priority_scheduling = !strcmp(f->scheduling_policy, "priority");
    o->disable_prefix_caching = !f->enable_prefix_caching;
    o->kv_cache_dtype = is_int8(f->kv_cache_dtype) ? "int8" : "auto";
    RC_TRY(rt__lora_modules_decode(f, msg));
    o->adapters = f->adapters;
    o->adapters_count = f->adapters_count;
    return RC_OK;
}
