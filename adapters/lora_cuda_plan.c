#include <string.h>

#include "adapters/lora_cuda.h"
#include "adapters/lora_cuda_plan.h"

static uint32_t power_of_two(uint32_t count)
{
    uint32_t power = count > 0;
    while (power < count) power *= 2;
    return power;
}

/* An item has a row at least. */
size_t adapter_cuda_plan_words(uint32_t rows_max)
{
    return (size_t)power_of_two(rows_max) * ADAPTER_CUDA_ITEM_WORDS + rows_max;
}

static void cut(const adapter_segment *s, adapter_cuda_item *items, adapter_cuda_plan *out)
{
    for (uint32_t i = 0; i < s->rows; i += ADAPTER_CUDA_ROWS) {
        uint32_t rows = s->rows - i < ADAPTER_CUDA_ROWS ? s->rows - i : ADAPTER_CUDA_ROWS;
        items[out->items++] = (adapter_cuda_item){s->slot, s->first + i, rows};
    }
}

void adapter_cuda_pack(const adapter_plan *plan, uint32_t rows, uint32_t *words, adapter_cuda_plan *out)
{
    adapter_cuda_item *items = (adapter_cuda_item *)words;
    uint32_t adapted = 0;
    *out = (adapter_cuda_plan){0};
    for (uint32_t i = 0; i < plan->segments_count; i++) {
        const adapter_segment *s = &plan->segments[i];
        cut(s, items, out);
        if (s->first + s->rows > adapted) adapted = s->first + s->rows;
    }
    while (out->items < power_of_two(out->items)) items[out->items++] = (adapter_cuda_item){0};
    if (adapted) memcpy(items + out->items, plan->row_index, adapted * sizeof *words);
    out->words = out->items * ADAPTER_CUDA_ITEM_WORDS + rows;
}
