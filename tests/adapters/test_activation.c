#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "adapters/activation.h"

/* Ids as a text, one byte each. */
static uint32_t activation(adapter_kind kind, const char *invocation, const char *prompt)
{
    adapter_weights w = {.kind = kind, .invocation_count = (uint32_t)strlen(invocation)};
    int32_t ids[64];
    for (size_t i = 0; i < strlen(invocation); i++) w.invocation[i] = invocation[i];
    for (size_t i = 0; i < strlen(prompt); i++) ids[i] = prompt[i];
    return adapter_find_activation(&w, ids, (uint32_t)strlen(prompt));
}

static void lora_is_active_from_the_start(void **state)
{
    (void)state;
    assert_int_equal(activation(ADAPTER_LORA, "", "abc"), 0);
}

static void alora_starts_at_the_first_token_of_the_last_occurrence(void **state)
{
    (void)state;
    assert_int_equal(activation(ADAPTER_ALORA, "bc", "abcd"), 1);
    assert_int_equal(activation(ADAPTER_ALORA, "bc", "bcbc"), 2);
    assert_int_equal(activation(ADAPTER_ALORA, "bcde", "bcde"), 0);
    assert_int_equal(activation(ADAPTER_ALORA, "b", "bab"), 2);
    assert_int_equal(activation(ADAPTER_ALORA, "bc", "bcc"), 0);
}

static void overlapping_occurrences_count_each(void **state)
{
    (void)state;
    assert_int_equal(activation(ADAPTER_ALORA, "aba", "ababa"), 2);
    assert_int_equal(activation(ADAPTER_ALORA, "aa", "aaaa"), 2);
    assert_int_equal(activation(ADAPTER_ALORA, "aab", "aaab"), 1);
}

static void an_empty_invocation_starts_at_the_last_token(void **state)
{
    (void)state;
    assert_int_equal(activation(ADAPTER_ALORA, "", "abc"), 2);
    assert_int_equal(activation(ADAPTER_ALORA, "", "a"), 0);
}

static void an_invocation_that_is_not_in_the_prompt_never_starts(void **state)
{
    (void)state;
    assert_int_equal(activation(ADAPTER_ALORA, "bd", "abcd"), ADAPTER_NEVER);
    assert_int_equal(activation(ADAPTER_ALORA, "cde", "abcd"), ADAPTER_NEVER);
    assert_int_equal(activation(ADAPTER_ALORA, "abc", "ab"), ADAPTER_NEVER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lora_is_active_from_the_start),
        cmocka_unit_test(alora_starts_at_the_first_token_of_the_last_occurrence),
        cmocka_unit_test(overlapping_occurrences_count_each),
        cmocka_unit_test(an_empty_invocation_starts_at_the_last_token),
        cmocka_unit_test(an_invocation_that_is_not_in_the_prompt_never_starts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
