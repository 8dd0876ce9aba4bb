#include "adapters/activation.h"

static bool stands_at(const adapter_weights *w, const int32_t *prompt)
{
    return memcmp(prompt, w->invocation, w->invocation_count * sizeof *prompt) == 0;
}

uint32_t adapter_find_activation(const adapter_weights *w, const int32_t *prompt, uint32_t prompt_count)
{
    RC_ASSERT(prompt_count >= 1);
    if (w->kind == ADAPTER_LORA) return 0;
    if (w->invocation_count == 0) return prompt_count - 1;
    if (w->invocation_count > prompt_count) return ADAPTER_NEVER;
    for (uint32_t at = prompt_count - w->invocation_count + 1; at-- > 0;)
        if (stands_at(w, prompt + at)) return at;
    return ADAPTER_NEVER;
}
