/* Any bytes: adapter_config_parse refuses them with a line, or what it gives keeps its promises. */
#include <math.h>

#include "adapters/adapter_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const adapter_config *c)
{
    static const char *const paths[] = {"model.layers.0.self_attn.q_proj", "model.layers.17.mlp.down_proj",
                                        "x"};
    uint32_t count;
    const int32_t *ids = adapter_config_invocation(c, &count);
    RC_ASSERT(count <= ADAPTER_INVOCATION_MAX);
    for (uint32_t i = 0; i < count; i++) RC_ASSERT(ids[i] >= 0);
    RC_ASSERT(!adapter_config_invocation_text(c) || adapter_config_invocation_text(c)[0]);
    for (size_t p = 0; p < sizeof paths / sizeof *paths; p++) {
        adapter_match m;
        rc_msg msg = {{0}, {0}};
        if (adapter_config_match(c, paths[p], &m, &msg) != RC_OK)
            RC_ASSERT(msg.text[0]);
        else
            RC_ASSERT(!m.targeted || (m.rank > 0 && isfinite(m.scaling)));
        for (uint32_t i = 0; i < adapter_config_targets_count(c); i++)
            adapter_config_target_names(c, i, paths[p]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    adapter_config *c = NULL;
    rc_msg msg = {{0}, {0}};
    if (adapter_config_parse((const char *)data, size, "fuzz", &c, &msg) == RC_OK)
        check(c);
    else
        RC_ASSERT(c == NULL && msg.text[0]);
    adapter_config_free(c);
    return 0;
}
