#include <string.h>

#include "adapters/lora_cuda.h"
#include "adapters/lora_cuda_plan.h"

/* An item has a row at least. */
size_t adapter_cuda_plan_words(uint32_t rows_max)
{
    return (size_t)rows_max * (ADAPTER_CUDA_ITEM_WORDS + 1);
}

static void cut(const adapter_segment *s, adapter_cuda_item *items, adapter_cuda_plan *out)
{
    for (uint32_t i = 0; i < s->rows; i += ADAPTER_CUDA_ROWS) {
        uint32_t rows = s->rows - i < ADAPTER_CUDA_ROWS ? s->rows - i : ADAPTER_CUDA_ROWS;
        items[out->items++] = (adapter_cuda_item){s->slot, s->first + i, rows};
    }
}

void adapter_cuda_pack(const adapter_plan *plan, uint32_t *words, adapter_cuda_plan *out)
{
    adapter_cuda_item *items = (adapter_cuda_item *)words;
    *out = (adapter_cuda_plan){0};
    for (uint32_t i = 0; i < plan->segments_count; i++) {
        const adapter_segment *s = &plan->segments[i];
        cut(s, items, out);
        if (s->first + s->rows > out->rows) out->rows = s->first + s->rows;
    }
    if (out->rows) memcpy(items + out->items, plan->row_index, out->rows * sizeof *words);
    out->words = out->items * ADAPTER_CUDA_ITEM_WORDS + out->rows;
}
