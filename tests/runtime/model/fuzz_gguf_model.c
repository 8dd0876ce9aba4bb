/* Any GGUF file: its shape and its tokenizer are read, or refused with a line. */
#include "runtime/model/gguf.h"
#include "runtime/model/model_config.h"
#include "runtime/tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    rt_gguf *g = NULL;
    rt_tokenizer *t = NULL;
    rt_model_config config;
    rc_msg msg = {{0}, {0}};
    if (rt_gguf_open_memory(data, size, "fuzz", &g, &msg) != RC_OK) return 0;
    if (rt_model_config_gguf(g, "fuzz", &config, &msg) != RC_OK) RC_ASSERT(msg.text[0]);
    msg.text[0] = 0;
    if (rt_tokenizer_open_gguf(g, &t, &msg) != RC_OK) RC_ASSERT(t == NULL && msg.text[0]);
    rt_tokenizer_close(t);
    rt_gguf_close(g);
    return 0;
}
