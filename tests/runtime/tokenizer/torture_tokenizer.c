/* Opening and encoding while each allocation of ours fails in turn: a code with a line, and nothing stays
 * behind (the leak checker of the dev build sees to that). What jansson and PCRE2 allocate is left out. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>

#include "runtime/tokenizer/tokenizer.h"

static struct {
    uint64_t allocations, fail_at;
    bool armed;
} torture;

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);

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
void *__wrap_realloc(void *old, size_t bytes)
{
    return fails_now() ? NULL : __real_realloc(old, bytes);
}

static const char text[] =
    " <tool>word  The \xc3\x89t\xc3\xa9 e\xcc\x81\xcc\xa7 12345 it's<left> CAF\xc3\x89 ab\n\n";

static rc_code open_and_encode(const char *json, size_t bytes, rc_msg *msg)
{
    rt_tokenizer *t = NULL;
    int32_t *ids = NULL;
    size_t count;
    rc_code code = rt_tokenizer_open_json(json, bytes, "json", &t, msg);
    if (code == RC_OK) code = rt_tokenizer_encode(t, text, sizeof text - 1, true, 1000, &ids, &count, msg);
    free(ids);
    rt_tokenizer_close(t);
    return code;
}

static void fail_each(const char *name)
{
    char path[512], *json = malloc(1 << 16);
    snprintf(path, sizeof path, "%s/tests/golden/tokenizers/%s.json", MICA_SOURCE_DIR, name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_non_null(json);
    size_t bytes = fread(json, 1, 1 << 16, f);
    fclose(f);
    for (torture.fail_at = 1;; torture.fail_at++) {
        rc_msg msg = {0};
        torture.allocations = 0;
        torture.armed = true;
        rc_code code = open_and_encode(json, bytes, &msg);
        torture.armed = false;
        if (torture.allocations < torture.fail_at) {
            assert_int_equal(code, RC_OK);
            break;
        }
        if (code != RC_RESOURCE_EXHAUSTED || !msg.text[0])
            fail_msg("%s: allocation %lu: code %d '%s'", name, (unsigned long)torture.fail_at, code,
                     msg.text);
    }
    printf("%s: %lu allocations failed in turn\n", name, (unsigned long)torture.fail_at - 1);
    free(json);
}

static void each_allocation_may_fail(void **state)
{
    (void)state;
    fail_each("flags");
    fail_each("characters");
    fail_each("chain");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_allocation_may_fail)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
