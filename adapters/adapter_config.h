/* adapters/adapter_config.h - adapter_config.json of a PEFT directory as a checked struct.
 *
 * Unknown keys are ignored, and so are the options of features that are off. Keys that would change
 * the result (use_dora, modules_to_save, bias, ...) are refused by name unless absent, null, false,
 * {}, [] or "none".
 *
 * Threads  one at a time.
 * Source  peft 0.21 src/peft/tuners/lora/config.py; target matching: tuners_utils.py
 *         check_target_module_exists; patterns: utils/other.py get_pattern_key.
 */
#ifndef ADAPTERS_ADAPTER_CONFIG_H
#define ADAPTERS_ADAPTER_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/rc.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { ADAPTER_INVOCATION_MAX = 256, ADAPTER_PATTERNS_MAX = 4096 };

typedef struct adapter_config adapter_config; /* parsed; owns its strings and patterns */

typedef enum adapter_kind {
    ADAPTER_LORA = 1, /* active from position 0 */
    ADAPTER_ALORA = 2 /* active from the last occurrence of its invocation */
} adapter_kind;

RC_MUST_CHECK rc_code adapter_config_parse(const char *json, size_t json_bytes, const char *label,
                                           adapter_config **out, rc_msg *msg);
void adapter_config_free(adapter_config *c); /* NULL is allowed */

adapter_kind adapter_config_kind(const adapter_config *c);
/* Invocation ids of an aLoRA; *count 0 with kind ADAPTER_ALORA: active from the prompt's last token. */
const int32_t *adapter_config_invocation(const adapter_config *c, uint32_t *count);
/* Legacy invocation text, never empty, to be tokenized without special tokens; NULL where ids are given. */
const char *adapter_config_invocation_text(const adapter_config *c);

/* layers_to_transform; *count 0: no restriction. */
const uint32_t *adapter_config_layers(const adapter_config *c, uint32_t *count);
/* The entries of target_modules where it is a list; 0 where it is a regex or "all-linear". */
uint32_t adapter_config_targets_count(const adapter_config *c);
const char *adapter_config_target(const adapter_config *c, uint32_t index);
/* Whether that entry names the module of this path, whatever else the config says about it. */
bool adapter_config_target_names(const adapter_config *c, uint32_t index, const char *module_path);

typedef struct adapter_match {
    bool targeted; /* PEFT would adapt it; the rest holds only then */
    uint32_t rank;
    float scaling;
} adapter_match;

/* What the config says about the module of this full path ("model.layers.3.self_attn.q_proj"):
 * target_modules (list by suffix, regex on the whole path, "all-linear"), exclude_modules,
 * layers_to_transform, layers_pattern; rank_pattern, alpha_pattern, rsLoRA.
 * Errors INVALID_ARGUMENT: a pattern that takes too many steps, a scaling that is no float32;
 *        RESOURCE_EXHAUSTED. */
RC_MUST_CHECK rc_code adapter_config_match(const adapter_config *c, const char *module_path,
                                           adapter_match *out, rc_msg *msg);

#ifdef __cplusplus
}
#endif
#endif
