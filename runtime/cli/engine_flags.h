/* runtime/cli/engine_flags.h - the flags that every command shares: vLLM's, for mica_options. */
#ifndef RUNTIME_CLI_ENGINE_FLAGS_H
#define RUNTIME_CLI_ENGINE_FLAGS_H

#include "runtime/base/flags.h"
#include "runtime/mica.h"

typedef struct rt_engine_flags {
    mica_options options;
    const char *load_format, *scheduling_policy, *kv_cache_dtype, *tokenizer;
    bool enable_prefix_caching;
    rt_texts lora_modules;
    mica_adapter_ref *adapters; /* decoded from lora_modules */
    void **adapters_owned;      /* what their names and paths are part of */
    size_t adapters_count;
    bool help;
} rt_engine_flags;

void rt__engine_flags_init(rt_engine_flags *f);
void rt__engine_flags_deinit(rt_engine_flags *f);
/* Two sets: what is shown by --help, and vLLM's flags that change nothing here. */
enum { RT_ENGINE_SETS = 2 };
void rt__engine_flag_sets(rt_engine_flags *f, rt_flag_set sets[RT_ENGINE_SETS]);

/* After parsing: what one flag says about another, and f->options filled in. `f` must outlive mica_open().
 * Errors INVALID_ARGUMENT, or UNIMPLEMENTED for what this build does not have. */
RC_MUST_CHECK rc_code rt__engine_flags_finish(rt_engine_flags *f, rc_msg *msg);

/* --lora-modules: NAME=PATH, or vLLM's {"name", "path", "base_model_name"}, or a list of those. */
RC_MUST_CHECK rc_code rt__lora_modules_decode(rt_engine_flags *f, rc_msg *msg);

#endif
