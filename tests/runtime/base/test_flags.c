/* Command lines as tables: every form of a flag, every refusal with its one line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/base/flags.h"
#include "runtime/base/size.h"

typedef struct target {
    bool on;
    const char *truth, *text, *choice;
    uint32_t count;
    uint64_t bytes;
    double share;
    rt_texts each, values;
} target;

static bool is_even(uint64_t n)
{
    return n % 2 == 0;
}

static const rt_flag flags[] = {
    {"on", NULL, RT_FLAG_BOOL, offsetof(target, on), "[no-]", "a switch", 0, 0, NULL, NULL},
    {"truth_of", NULL, RT_FLAG_TRUTH, offsetof(target, truth), NULL, NULL, 0, 0, NULL, NULL},
    {"text", "x", RT_FLAG_TEXT, offsetof(target, text), "TEXT", "some text", 0, 0, NULL, NULL},
    {"choice", NULL, RT_FLAG_CHOICE, offsetof(target, choice), "red|green", "", 0, 0, NULL, NULL},
    {"even-count", "n", RT_FLAG_U32, offsetof(target, count), "N", "", 2, 1 << 20, is_even, "an even number"},
    {"bytes", NULL, RT_FLAG_U64, offsetof(target, bytes), "N", "", 1, 0, NULL, NULL},
    {"share", NULL, RT_FLAG_F64, offsetof(target, share), "F", "", 0, 0, NULL, NULL},
    {"each", NULL, RT_FLAG_EACH, offsetof(target, each), "TEXT", "", 0, 0, NULL, NULL},
    {"values", NULL, RT_FLAG_VALUES, offsetof(target, values), "A ...", "", 0, 0, NULL, NULL},
    {"nothing", NULL, RT_FLAG_F64, RT_FLAG_IGNORED, "N", NULL, 0, 0, NULL, NULL},
};

static target got;
static rt_texts rest;
static rc_msg msg;

static rc_code parse(char **argv)
{
    rt_flag_set set = {NULL, flags, sizeof flags / sizeof *flags, &got};
    int argc = 0;
    rt_texts_deinit(&got.each);
    rt_texts_deinit(&got.values);
    rt_texts_deinit(&rest);
    got = (target){0};
    while (argv[argc]) argc++;
    return rt_flags_parse(&set, 1, argc, argv, &rest, &msg);
}
#define PARSE(...) parse((char *[]){__VA_ARGS__, NULL})

static int teardown(void **state)
{
    (void)state;
    return PARSE("--on") == RC_OK ? 0 : 1;
}

static void every_form_of_a_flag_is_understood(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--on", "--no-truth-of", "--text", "a b", "--even_count=4K", "--bytes", "1.5G",
                           "--share", "0.9"),
                     RC_OK);
    assert_true(got.on);
    assert_string_equal(got.truth, "false");
    assert_string_equal(got.text, "a b");
    assert_int_equal(got.count, 4096);
    assert_true(got.bytes == 3ull << 29);
    assert_true(got.share == 0.9);
    assert_int_equal(PARSE("--on", "--no-on", "-x=-", "-n", "8", "--choice", "green", "--on=false"), RC_OK);
    assert_false(got.on);
    assert_string_equal(got.text, "-");
    assert_string_equal(got.choice, "green");
    assert_int_equal(PARSE("--text", "-", "--nothing", "3"), RC_OK);
    assert_string_equal(got.text, "-");
}

static void lists_grow_and_end_at_the_next_flag(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--values", "a", "b", "--each", "--strange", "--each", "y", "--values=c"), RC_OK);
    assert_int_equal(got.values.count, 3);
    assert_string_equal(got.values.items[2], "c");
    assert_int_equal(got.each.count, 2);
    assert_string_equal(got.each.items[0], "--strange");
    assert_int_equal(PARSE("--values", "a", "-", "b", "--", "--on"), RC_OK);
    assert_int_equal(got.values.count, 1);
    assert_int_equal(rest.count, 3);
    assert_string_equal(rest.items[2], "--on");
}

static void refused(char **argv, const char *text, const char *param)
{
    assert_int_equal(parse(argv), RC_INVALID_ARGUMENT);
    assert_string_equal(msg.text, text);
    assert_string_equal(msg.param, param);
}
#define REFUSED(text, param, ...) refused((char *[]){__VA_ARGS__, NULL}, text, param)

static void what_is_wrong_is_said_in_one_line(void **state)
{
    (void)state;
    REFUSED("unknown flag '--even-cnt'; the nearest is '--even-count'", "", "--even-cnt", "3");
    REFUSED("unknown flag '--byte=3'; the nearest is '--bytes'", "", "--byte=3");
    REFUSED("--even-count '3': expected an even number", "even-count", "-n", "3");
    REFUSED("--even-count '2M': expected an even number", "even-count", "-n", "2M");
    REFUSED("--bytes '0': expected a whole number of at least 1 (K, M, G are 1024's powers)", "bytes",
            "--bytes", "0");
    REFUSED("--bytes '-1': expected a whole number of at least 1 (K, M, G are 1024's powers)", "bytes",
            "--bytes", "-1");
    REFUSED("--choice 'blue': expected red|green", "choice", "--choice", "blue");
    REFUSED("--choice '': expected red|green", "choice", "--choice=");
    REFUSED("--share 'much': expected a number, 0 or more", "share", "--share", "much");
    REFUSED("--text needs a value: expected TEXT", "text", "--text", "--on");
    REFUSED("--values needs a value: expected A ...", "values", "--values");
    REFUSED("--on 'maybe': expected no value, true or false", "on", "--on=maybe");
}

/* However long a value is, what was expected of it is said. */
static void a_long_value_is_cut(void **state)
{
    static char flag[4001] = "--", value[4001];
    (void)state;
    memset(flag + 2, 'x', sizeof flag - 3);
    memset(value, 'x', sizeof value - 1);
    assert_int_equal(parse((char *[]){flag, NULL}), RC_INVALID_ARGUMENT);
    assert_non_null(strstr(msg.text, "'; the nearest is '--"));
    assert_int_equal(parse((char *[]){"--choice", value, NULL}), RC_INVALID_ARGUMENT);
    assert_non_null(strstr(msg.text, "': expected red|green"));
}

static void sizes_are_whole_or_refused(void **state)
{
    (void)state;
    uint64_t n;
    assert_true(rt_size_parse("18446744073709551615", &n) && n == UINT64_MAX);
    assert_true(rt_size_parse("32k", &n) && n == 32000);
    assert_true(rt_size_parse("0.5K", &n) && n == 512);
    static const char *const bad[] = {"",
                                      ".",
                                      "K",
                                      "1.5",
                                      "18446744073709551616",
                                      "17179869184G",
                                      "1KB",
                                      "1 K",
                                      "0x10",
                                      "1e3",
                                      "-1",
                                      "+1",
                                      "1.2.3K",
                                      "99999999999999999999999999999999999999999",
                                      "nan"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(rt_size_parse(bad[i], &n));
    char text[32];
    assert_string_equal(rt_size_text(1536, text, sizeof text), "1.5 KiB");
    assert_string_equal(rt_size_text(17, text, sizeof text), "17 B");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_of_a_flag_is_understood),
        cmocka_unit_test(lists_grow_and_end_at_the_next_flag),
        cmocka_unit_test(what_is_wrong_is_said_in_one_line),
        cmocka_unit_test(a_long_value_is_cut),
        cmocka_unit_test(sizes_are_whole_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, teardown);
}
