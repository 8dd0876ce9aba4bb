/* adapters/activation.h - the first position of a prompt at which an adapter applies.
 *
 *     base    ADAPTER_NEVER
 *     LoRA    0
 *     aLoRA   first token of the LAST occurrence of the invocation ids in the prompt;
 *             empty invocation: the prompt's last token; not found: ADAPTER_NEVER (base answers)
 *
 * Found once, when a request is submitted; generated tokens never move it.
 * Source  peft 0.21 src/peft/tuners/lora/variants.py, calculate_alora_offsets.
 */
#ifndef ADAPTERS_ACTIVATION_H
#define ADAPTERS_ACTIVATION_H

#include "adapters/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ADAPTER_NEVER UINT32_MAX

/* Needs prompt_count >= 1. Cost O(prompt_count * invocation_count). */
uint32_t adapter_find_activation(const adapter_weights *w, const int32_t *prompt, uint32_t prompt_count);

#ifdef __cplusplus
}
#endif
#endif
