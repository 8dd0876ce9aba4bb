/* Opening a model while each allocation fails in turn: every failure is a code with a line, and nothing stays
 * behind (the leak checker of the dev build sees to that). Allocations inside jansson are left out: 2.14
 * drops a failure to grow its token buffer and then reads past it. */
#include "model_support.h"

#include <stdio.h>

#define MODELS MICA_SOURCE_DIR "/tests/golden/models/"

static struct {
    uint64_t allocations, fail_at; /* fail_at 0: never */
    bool armed;
} torture;

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);

static bool fails_now(void)
{
    return torture.armed && ++torture.allocations == torture.fail_at;
}

void *__wrap_malloc(size_t bytes)
{
    return fails_now() ? NULL : __real_malloc(bytes);
}
void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails_now() ? NULL : __real_calloc(count, bytes);
}

/* False: no allocation was left to fail. */
static bool fail_one(const rt_model_options *o, uint64_t n)
{
    rc_msg msg = {0};
    run r;
    torture.allocations = 0;
    torture.fail_at = n;
    torture.armed = true;
    rc_code code = try_open(o, &r, &msg);
    torture.armed = false;
    bool failed = torture.allocations >= n;
    if (failed && code == RC_OK) close_run(&r); /* an allocation that may fail: progress went on without it */
    if (failed && code != RC_OK && !msg.text[0]) fail_msg("allocation %lu: no message", (unsigned long)n);
    if (!failed) {
        if (code != RC_OK) fail_msg("%s", msg.text);
        close_run(&r);
    }
    return failed;
}

static void check_all(const char *path, bool dummy)
{
    rt_model_options o = options_of(path, 0);
    uint64_t n = 1;
    o.dummy = dummy;
    o.threads = 1;
    while (fail_one(&o, n)) n++;
    printf("%s: %lu allocations failed in turn\n", path, (unsigned long)(n - 1));
}

static void each_allocation_may_fail(void **state)
{
    (void)state;
    check_all(MODELS "granite-odd", false);
    check_all(MODELS "granite-odd", true);
    check_all(MODELS "llama-bias", false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_allocation_may_fail)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
