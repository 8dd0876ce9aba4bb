/* Each allocation of ours fails in turn: the call says so, gives nothing and leaks nothing (ASan sees leaks).
 * The libraries' own allocations do not fail here: jansson 2.14 then loses text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "adapters/registry.h"
#include "adapters/safetensors.h"
#include "runtime/model/gguf.h"

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);

static long left = -1; /* allocations until one fails; below 0: none will */

static bool fails(void)
{
    if (left < 0) return false;
    return left-- == 0;
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}
void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : __real_calloc(count, bytes);
}
void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    return fails() ? NULL : __real_aligned_alloc(alignment, bytes);
}

typedef rc_code (*attempt)(rc_msg *msg);

/* Runs it with the first, second, ... allocation failing, until none of its own does. */
static void torture(attempt run)
{
    rc_code code = RC_RESOURCE_EXHAUSTED;
    long allocations = 0;
    for (; code != RC_OK; allocations++) {
        rc_msg msg = {{0}, {0}};
        left = allocations;
        code = run(&msg);
        bool failed = left < 0;
        left = -1;
        if (code == RC_OK && failed) fail_msg("allocation %ld failed and nobody noticed", allocations);
        if (code != RC_OK && (code != RC_RESOURCE_EXHAUSTED || !msg.text[0]))
            fail_msg("allocation %ld: code %d, '%s'", allocations, code, msg.text);
    }
    assert_true(allocations > 3);
}

static rc_code load_weights(rc_msg *msg)
{
    static const adapter_shape granite = {
        .layer_prefix = "model.layers.",
        .layers = 2,
        .vocab = 349,
        .modules_count = 4,
        .modules = {{"self_attn.q_proj", 0, 48, 48, 0},
                    {"self_attn.k_proj", 0, 48, 12, 48},
                    {"self_attn.v_proj", 0, 48, 12, 60},
                    {"mlp.down_proj", 3, 80, 48, 0}},
        .rank_max = 64,
    };
    adapter_weights *w = NULL;
    rc_code code = adapter_weights_load(MICA_SOURCE_DIR "/tests/golden/models/granite/adapters/lora-patterns",
                                        &granite, NULL, NULL, &w, msg);
    adapter_weights_free(w);
    return code;
}

static rc_code parse_config(rc_msg *msg)
{
    static const char json[] =
        "{\"target_modules\":[\"q_proj\"],\"exclude_modules\":\"x\",\"layers_to_transform\":[1],"
        "\"layers_pattern\":[\"layers\",\"h\"],\"alpha_pattern\":{\"q\":2}}";
    adapter_config *c = NULL;
    rc_code code = adapter_config_parse(json, sizeof json - 1, "a.json", &c, msg);
    adapter_config_free(c);
    return code;
}

static rc_code open_gguf(rc_msg *msg)
{
    rt_gguf *g = NULL;
    rc_code code = rt_gguf_open(MICA_SOURCE_DIR "/tests/golden/gguf/quants.gguf", &g, msg);
    rt_gguf_close(g);
    return code;
}

static rc_code use_registry(rc_msg *msg)
{
    const adapter_registry_options o = {2, 3};
    adapter_registry *r = NULL;
    RC_TRY(adapter_registry_create(&o, &r, msg));
    rc_code code = adapter_registry_add(r, "a", NULL, msg);
    if (code == RC_OK) code = adapter_registry_add(r, "b", NULL, msg);
    adapter_registry_check(r);
    adapter_registry_destroy(r);
    return code;
}

static void loading_an_adapter_survives_every_failed_allocation(void **state)
{
    (void)state;
    torture(load_weights);
}

static void parsing_a_config_survives_every_failed_allocation(void **state)
{
    (void)state;
    torture(parse_config);
}

static void opening_a_gguf_file_survives_every_failed_allocation(void **state)
{
    (void)state;
    torture(open_gguf);
}

static void the_registry_survives_every_failed_allocation(void **state)
{
    (void)state;
    torture(use_registry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loading_an_adapter_survives_every_failed_allocation),
        cmocka_unit_test(parsing_a_config_survives_every_failed_allocation),
        cmocka_unit_test(opening_a_gguf_file_survives_every_failed_allocation),
        cmocka_unit_test(the_registry_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
