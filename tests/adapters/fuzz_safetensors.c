/* Any bytes: adapter_st_open_memory refuses them with a line, or every tensor lies inside them. */
#include "adapters/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    adapter_st *st = NULL;
    rc_msg msg = {{0}, {0}};
    volatile unsigned char sum = 0;
    if (adapter_st_open_memory(data, size, "fuzz", &st, &msg) != RC_OK) {
        RC_ASSERT(st == NULL && msg.text[0]);
        return 0;
    }
    for (size_t i = 0; i < adapter_st_count(st); i++) {
        const adapter_tensor *t = adapter_st_at(st, i);
        RC_ASSERT(adapter_st_find(st, t->name) == t);
        for (size_t b = 0; b < t->bytes; b++) sum ^= ((const unsigned char *)t->data)[b];
    }
    adapter_st_close(st);
    return 0;
}
