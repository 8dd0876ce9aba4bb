/* JSON in and out: strict about what is read, one valid line whatever is written, floats that read back. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/json_in.h"
#include "runtime/base/json_out.h"
#include "runtime/base/utf8.h"

static void commas_come_by_themselves(void **state)
{
    (void)state;
    rt_bytes b = {0};
    rt_json_open(&b, '{');
    rt_json_key(&b, "a");
    rt_json_open(&b, '[');
    rt_json_u64(&b, UINT64_MAX);
    rt_json_i64(&b, INT64_MIN);
    rt_json_null(&b);
    rt_json_text(&b, "[");
    rt_json_open(&b, '[');
    rt_json_close(&b, ']');
    rt_json_close(&b, ']');
    rt_json_key(&b, "b");
    rt_json_bool(&b, false);
    rt_json_close(&b, '}');
    assert_string_equal(b.data,
                        "{\"a\":[18446744073709551615,-9223372036854775808,null,\"[\",[]],\"b\":false}");
    rt_bytes_deinit(&b);
}

static void wrote(const char *text, size_t bytes, const char *expected)
{
    rt_bytes b = {0};
    rt_json_string(&b, text, bytes);
    assert_string_equal(b.data, expected);
    assert_int_equal(rt_utf8_valid(b.data, b.count), b.count);
    rt_bytes_deinit(&b);
}

static void any_bytes_become_one_line_of_utf8(void **state)
{
    (void)state;
    wrote("a\"\\\n\r\t\b\f\0\x1f\x7f/", 12, "\"a\\\"\\\\\\n\\r\\t\\b\\f\\u0000\\u001f\\u007f/\"");
    wrote("\xc3\xa9\xf0\x9f\x98\x80", 6, "\"\xc3\xa9\xf0\x9f\x98\x80\"");
    wrote("\xc2\x85\xe2\x80\xa8\xe2\x80\xa9\xc2\xa0", 10, "\"\\u0085\\u2028\\u2029\xc2\xa0\"");
    wrote("\xff\xc3(\xe2\x80", 5, "\"\xef\xbf\xbd\xef\xbf\xbd(\xef\xbf\xbd\xef\xbf\xbd\"");
    wrote("\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    wrote("", 0, "\"\"");
    assert_int_equal(rt_utf8_count("a\xc3\xa9\xff", 4), 3);
    assert_int_equal(rt_utf8_valid("a\xc0\x80", 3), 1);
    assert_int_equal(rt_utf8_valid("\xf4\x90\x80\x80", 4), 0);
    assert_int_equal(rt_utf8_valid("\xe0\x9f\xbf", 3), 0);
    assert_int_equal(rt_utf8_valid("\xf0\x8f\xbf\xbf", 4), 0);
}

static void floats_read_back_exactly(void **state)
{
    (void)state;
    rt_bytes b = {0};
    uint64_t random = 1;
    for (int i = 0; i < 200000; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        uint32_t bits = (uint32_t)(random >> 32);
        float f;
        memcpy(&f, &bits, sizeof f);
        if (!isfinite(f)) continue;
        rt_bytes_clear(&b);
        rt_json_f32(&b, f);
        float back = strtof(b.data, NULL);
        assert_memory_equal(&back, &f, sizeof f);
        back = (float)strtod(b.data, NULL);
        assert_memory_equal(&back, &f, sizeof f);
        assert_non_null(strpbrk(b.data, ".e"));
    }
    static const struct {
        float value;
        const char *text;
    } cases[] = {{-INFINITY, "-9999.0"}, {0, "0.0"},       {-1, "-1.0"},
                 {0.1f, "0.1"},          {1e-7f, "1e-07"}, {16777216, "16777216.0"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rt_bytes_clear(&b);
        rt_json_f32(&b, cases[i].value);
        assert_string_equal(b.data, cases[i].text);
    }
    rt_bytes_clear(&b);
    rt_json_f64(&b, 1.0 / 3);
    assert_true(strtod(b.data, NULL) == 1.0 / 3);
    rt_bytes_deinit(&b);
}

static rc_msg msg;

static json_t *read_text(const char *text)
{
    json_t *value = NULL;
    return rt_json_read(text, strlen(text), &value, &msg) == RC_OK ? value : NULL;
}

static void what_is_not_json_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",   "{",      "{}x", "{\"a\":1,\"a\":2}", "NaN",    "[1,]", "\"\\ud800\"", "\"\xff\"",
        "01", "1e999x", "'a'", "{\"a\" 1}",         "[1e999", "tru",  "\"\t\""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_null(read_text(bad[i]));
        assert_int_equal(strncmp(msg.text, "not JSON: ", 10), 0);
    }
    char deep[6001];
    memset(deep, '[', 6000);
    deep[6000] = 0;
    assert_null(read_text(deep));
}

static void numbers_beyond_any_type_are_huge(void **state)
{
    (void)state;
    json_t *list = read_text("[99999999999999999999, -99999999999999999999, 1e999, -1E+999, "
                             "9223372036854775807, \"1e999\\\"1e999\"]");
    assert_non_null(list);
    assert_true(json_real_value(json_array_get(list, 0)) == RT_JSON_HUGE);
    assert_true(json_real_value(json_array_get(list, 1)) == -RT_JSON_HUGE);
    assert_true(json_real_value(json_array_get(list, 2)) == RT_JSON_HUGE);
    assert_true(json_real_value(json_array_get(list, 3)) == -RT_JSON_HUGE);
    assert_true(json_integer_value(json_array_get(list, 4)) == INT64_MAX);
    assert_string_equal(json_string_value(json_array_get(list, 5)), "1e999\"1e999");
    char quoted[16];
    assert_string_equal(rt_json_quote(json_array_get(list, 1), quoted, sizeof quoted), "-huge");
    assert_string_equal(rt_json_quote(list, quoted, sizeof quoted), "[1e300,-1e30...");
    json_decref(list);
    json_t *accents = read_text("\"\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\"");
    rt_json_quote(accents, quoted, sizeof quoted);
    assert_int_equal(rt_utf8_valid(quoted, strlen(quoted)), strlen(quoted));
    json_decref(accents);
    json_t *last = NULL;
    assert_int_equal(rt_json_read_lenient("{\"a\":1,\"a\":2}", 13, &last, &msg), RC_OK);
    assert_int_equal(json_integer_value(json_object_get(last, "a")), 2);
    json_decref(last);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commas_come_by_themselves),
        cmocka_unit_test(any_bytes_become_one_line_of_utf8),
        cmocka_unit_test(floats_read_back_exactly),
        cmocka_unit_test(what_is_not_json_is_refused),
        cmocka_unit_test(numbers_beyond_any_type_are_huge),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
