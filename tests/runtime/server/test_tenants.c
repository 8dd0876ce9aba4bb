/* The tenants file, and what follows from it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "runtime/server/tenants.h"

/* SHA-256 of "a" and "b". */
#define HASH_A "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
#define HASH_B "3E23E8160039594A33894F6564E1B1348BBD7A0088D42C4ACB73EEAED59C009D"

static rt_tenants *parse(const char *text)
{
    rt_tenants *t;
    rc_msg msg;
    assert_int_equal(rt__tenants_parse(text, strlen(text), &t, &msg), RC_OK);
    return t;
}

static void refuses(const char *text, const char *said)
{
    rt_tenants *t;
    rc_msg msg;
    assert_int_equal(rt__tenants_parse(text, strlen(text), &t, &msg), RC_INVALID_ARGUMENT);
    if (!strstr(msg.text, said)) fail_msg("'%s' does not say '%s'", msg.text, said);
}

static void takes_every_field(void **state)
{
    (void)state;
    rt_tenants *t =
        parse("{\"admin_key_sha256\": \"" HASH_B "\", \"tenants\": [{\"name\": \"acme\", \"key_sha256\": "
              "\"" HASH_A "\", \"weight\": 2.5, \"adapters\": [\"uq\", \"acme-*\"], \"may_load\": true, "
              "\"max_concurrency\": 8, \"max_queue\": 0, \"requests_per_minute\": 600, "
              "\"tokens_per_minute\": 100000, \"cache_group\": \"g\"}]}");
    const rt_tenant *x = &t->list[0];
    assert_true(t->has_admin && t->count == 1 && x->may_load);
    assert_string_equal(x->name, "acme");
    assert_string_equal(x->cache_group, "g");
    assert_int_equal(x->limits.weight, 2500);
    assert_int_equal(x->limits.max_concurrency, 8);
    assert_int_equal(x->limits.max_queue, 0);
    assert_int_equal(x->limits.requests_per_minute, 600);
    assert_int_equal(x->limits.tokens_per_minute, 100000);
    rt__tenants_free(t);
}

static void leaves_out_what_is_not_there(void **state)
{
    (void)state;
    rt_tenants *t =
        parse("{\"tenants\": [{\"name\": \"x\", \"key_sha256\": \"" HASH_A "\", \"max_queue\": null}]}");
    const rt_tenant *x = &t->list[0];
    assert_true(!t->has_admin && !x->may_load && !x->cache_group && !x->adapters_count);
    assert_int_equal(x->limits.weight, 1000);
    assert_int_equal(x->limits.max_concurrency, RT_NO_LIMIT);
    assert_int_equal(x->limits.max_queue, RT_NO_LIMIT);
    assert_int_equal(x->limits.requests_per_minute, RT_NO_LIMIT);
    assert_int_equal(x->limits.tokens_per_minute, RT_NO_LIMIT);
    rt__tenants_free(t);
    rt__tenants_free(parse("{\"tenants\": []}"));
}

#define ONE(fields) "{\"tenants\": [{\"name\": \"x\", \"key_sha256\": \"" HASH_A "\"" fields "}]}"

static void refuses_what_it_does_not_know(void **state)
{
    (void)state;
    refuses("", "not JSON");
    refuses("{}", "tenants must be a list");
    refuses("{\"tenants\": [], \"tenant\": []}", "'tenant' is no known key");
    refuses("{\"tenants\": [7]}", "tenants[0] must be an object, got 7");
    refuses("{\"tenants\": [{\"key_sha256\": \"" HASH_A "\"}]}", "tenants[0].name must be");
    refuses("{\"tenants\": [{\"name\": \"x\"}]}", "tenants[0].key_sha256 must be a SHA-256");
    refuses("{\"tenants\": [{\"name\": \"x\", \"key_sha256\": \"" HASH_A "0\"}]}", "64 hex digits");
    refuses("{\"tenants\": [{\"name\": \"\\u0007\", \"key_sha256\": \"" HASH_A "\"}]}", "plain bytes");
    refuses(ONE(", \"wieght\": 1"), "'wieght' is no known key");
    refuses(ONE(", \"weight\": 0"), "weight must be a number from 0.001");
    refuses(ONE(", \"weight\": \"1\""), "weight must be");
    refuses(ONE(", \"max_concurrency\": 0"),
            "max_concurrency must be a whole number from 1 to 4294967294, got 0");
    refuses(ONE(", \"max_queue\": -1"), "max_queue must be a whole number from 0 to 4294967294, got -1");
    refuses(ONE(", \"requests_per_minute\": 1.5"), "requests_per_minute must be");
    refuses(ONE(", \"tokens_per_minute\": 4294967295"), "tokens_per_minute must be");
    refuses(ONE(", \"adapters\": \"*\""), "adapters must be a list");
    refuses(ONE(", \"adapters\": [\"\"]"), "adapters must be names");
    refuses(ONE(", \"may_load\": 1"), "may_load must be true or false");
    refuses(ONE(", \"cache_group\": \"\""), "cache_group must be");
    refuses("{\"admin_key_sha256\": \"" HASH_A "\", \"tenants\": [{\"name\": \"x\", \"key_sha256\": \"" HASH_A
            "\"}]}",
            "has the admin's key");
    refuses("{\"tenants\": [{\"name\": \"x\", \"key_sha256\": \"" HASH_A
            "\"}, {\"name\": \"y\", \"key_sha256\": "
            "\"" HASH_A "\"}]}",
            "the same key_sha256");
}

static void finds_who_a_key_is_of(void **state)
{
    (void)state;
    rt_tenants *t = parse("{\"admin_key_sha256\": \"" HASH_B
                          "\", \"tenants\": [{\"name\": \"x\", \"key_sha256\": \"" HASH_A "\"}]}");
    const rt_tenant *who;
    assert_true(rt__tenants_find(t, "Bearer a", 8, &who));
    assert_ptr_equal(who, &t->list[0]);
    assert_true(rt__tenants_find(t, "bearer b", 8, &who));
    assert_null(who);
    for (size_t bytes = 0; bytes < 8; bytes++) assert_false(rt__tenants_find(t, "Bearer a", bytes, &who));
    assert_false(rt__tenants_find(t, "Bearer c", 8, &who));
    assert_false(rt__tenants_find(t, "Bearer aa", 9, &who));
    assert_false(rt__tenants_find(t, "Basic a", 7, &who));
    rt__tenants_free(t);
}

static void stars_stand_for_any_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *name;
        bool sees;
    } cases[] = {{"uq", "uq", true},        {"uq", "uq2", false},     {"uq", "u", false},
                 {"*", "", true},           {"*", "anything", true},  {"a-*", "a-b", true},
                 {"a-*", "a-", true},       {"a-*", "a", false},      {"*-b", "a-b", true},
                 {"*-b", "a-b-c", false},   {"a*c*e", "abcde", true}, {"a*c*e", "abcdef", false},
                 {"*a*a*", "banana", true}, {"**", "x", true},        {"?", "x", false},
                 {"[x]", "x", false},       {"a*a", "a", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *pattern = (char *)cases[i].pattern;
        rt_tenant t = {.adapters = &pattern, .adapters_count = 1};
        if (rt__tenant_sees(&t, cases[i].name) != cases[i].sees)
            fail_msg("'%s' and '%s'", cases[i].pattern, cases[i].name);
    }
    assert_false(rt__tenant_sees(&(rt_tenant){0}, "x"));
}

static void salts_tell_groups_apart(void **state)
{
    (void)state;
    rt_tenant a = {.name = "a"}, b = {.name = "b"}, group_a = {.name = "c", .cache_group = "a"};
    rt_tenant also = {.name = "d", .cache_group = "a"};
    char salts[6][RT_SALT_TEXT_BYTES], same[RT_SALT_TEXT_BYTES];
    rt__tenant_salt(&a, NULL, salts[0]);
    rt__tenant_salt(&b, NULL, salts[1]);
    rt__tenant_salt(&group_a, NULL, salts[2]);
    rt__tenant_salt(&group_a, "s", salts[3]);
    rt__tenant_salt(&a, "s", salts[4]);
    rt__tenant_salt(&a, salts[0], salts[5]);
    for (int i = 0; i < 6; i++)
        for (int k = 0; k < i; k++) assert_string_not_equal(salts[i], salts[k]);
    rt__tenant_salt(&also, "s", same);
    assert_string_equal(same, salts[3]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_every_field),
        cmocka_unit_test(leaves_out_what_is_not_there),
        cmocka_unit_test(refuses_what_it_does_not_know),
        cmocka_unit_test(finds_who_a_key_is_of),
        cmocka_unit_test(stars_stand_for_any_bytes),
        cmocka_unit_test(salts_tell_groups_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
