/* config.json, and after a 0 byte generation_config.json: any bytes give a code and a line, never a crash,
 * and what is accepted is within the limits that later sizes are computed from. */
#include "runtime/model/model_config.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_accepted(const rt_model_config *c)
{
    RC_ASSERT(c->vocab >= 1 && c->vocab <= RT_VOCAB_MAX);
    RC_ASSERT(c->hidden >= 1 && c->hidden <= RT_HIDDEN_MAX);
    RC_ASSERT(c->layers >= 1 && c->layers <= RT_LAYERS_MAX);
    RC_ASSERT(c->heads >= 1 && c->heads <= RT_HEADS_MAX);
    RC_ASSERT(c->kv_heads >= 1 && c->heads % c->kv_heads == 0);
    RC_ASSERT(c->head_dim >= 2 && c->head_dim % 2 == 0 && c->head_dim <= RT_HEAD_DIM_MAX);
    RC_ASSERT(c->ffn >= 1 && c->ffn <= RT_FFN_MAX);
    RC_ASSERT(c->eos_count <= RT_EOS_MAX);
    RC_ASSERT(isfinite(c->attention_multiplier) && c->logits_scaling != 0);
    RC_ASSERT(c->rope_kind == RT_ROPE_NONE || (isfinite(c->rope_theta) && c->rope_theta > 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *zero = memchr(data, 0, size);
    size_t config_bytes = zero ? (size_t)(zero - data) : size;
    const char *generation = zero ? (const char *)zero + 1 : NULL;
    rt_model_config c;
    rc_msg msg = {0};
    rc_code code = rt_model_config_parse((const char *)data, config_bytes, generation,
                                         zero ? size - config_bytes - 1 : 0, "fuzz", &c, &msg);
    if (code == RC_OK)
        check_accepted(&c);
    else
        RC_ASSERT(msg.text[0]);
    return 0;
}
