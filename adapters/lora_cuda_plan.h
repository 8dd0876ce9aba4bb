/* adapters/lora_cuda_plan.h - the words of an adapter_cuda_plan: items, then the rows of all, sorted by slot.
 */
#ifndef ADAPTERS_LORA_CUDA_PLAN_H
#define ADAPTERS_LORA_CUDA_PLAN_H

#include <stdint.h>

typedef struct adapter_cuda_item {
    uint32_t slot;
    uint32_t first, rows; /* of the sorted rows; none: nothing to do */
} adapter_cuda_item;

enum { ADAPTER_CUDA_ITEM_WORDS = sizeof(adapter_cuda_item) / sizeof(uint32_t) };

#endif
