/* Arrivals, traces, mixes, objectives, what is noted of a request, and the picture. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "runtime/base/samples.h"
#include "runtime/load/load.h"
#include "runtime/load/message.h"
#include "runtime/load/prompt.h"
#include "runtime/load/svg.h"

static rc_msg msg;

static rt_load_mix mix_of(rt_load_mix_kind kind, const char *text)
{
    rt_load_mix m = {0};
    assert_int_equal(rt_load_mix_read(&m, kind, "flag", text, &msg), RC_OK);
    return m;
}

static void refused_mix(rt_load_mix_kind kind, const char *text, const char *said)
{
    rt_load_mix m = {0};
    assert_int_equal(rt_load_mix_read(&m, kind, "flag", text, &msg), RC_INVALID_ARGUMENT);
    assert_string_equal(msg.text, said);
    assert_string_equal(msg.param, "flag");
    rt_load_mix_deinit(&m);
}

static const char *file_of(const char *text)
{
    static char path[] = "/tmp/mica-load-XXXXXX";
    memcpy(path + sizeof path - 7, "XXXXXX", 6);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    return path;
}

/* ---- mixes ---- */

static void names_have_weights(void **state)
{
    (void)state;
    rt_load_mix m = mix_of(RT_LOAD_WEIGHTS, "uq=2,base=0.5,x");
    assert_int_equal(m.count, 3);
    assert_string_equal(m.choices[1].name, "base");
    assert_true(m.choices[1].weight == 0.5 && m.choices[2].weight == 1 && m.weights == 3.5);
    assert_int_equal(rt_load_mix_find(&m, "base=", 4), 1);
    assert_int_equal(rt_load_mix_find(&m, "ba", 2), 3);
    assert_int_equal(rt_load_mix_draw(&m, 0), 0);
    assert_int_equal(rt_load_mix_draw(&m, 1.99 / 3.5), 0);
    assert_int_equal(rt_load_mix_draw(&m, 2.01 / 3.5), 1);
    assert_int_equal(rt_load_mix_draw(&m, 0.9999999), 2);
    rt_load_mix_deinit(&m);
    m = mix_of(RT_LOAD_WEIGHTS, "never=0,always=1,not=0");
    assert_int_equal(rt_load_mix_draw(&m, 0), 1);
    assert_int_equal(rt_load_mix_draw(&m, 0.9999999), 1);
    rt_load_mix_deinit(&m);
    refused_mix(RT_LOAD_WEIGHTS, "uq=x", "--flag 'uq=x': expected NAME=WEIGHT, a number of at least 0");
    refused_mix(RT_LOAD_WEIGHTS, "uq=", "--flag 'uq=': expected NAME=WEIGHT, a number of at least 0");
    refused_mix(RT_LOAD_WEIGHTS, "a,,b", "--flag '': expected NAME=WEIGHT, a number of at least 0");
    refused_mix(RT_LOAD_WEIGHTS, "a=-1", "--flag 'a=-1': expected NAME=WEIGHT, a number of at least 0");
    refused_mix(RT_LOAD_WEIGHTS, "a=1,a=2", "--flag: 'a' is there twice: expected it once");
    refused_mix(RT_LOAD_WEIGHTS, "a=0", "--flag: expected one weight above 0");
    refused_mix(RT_LOAD_WEIGHTS, "@/nowhere/f", "--flag '/nowhere/f': No such file or directory");
}

static void keys_are_never_repeated(void **state)
{
    (void)state;
    rt_load_mix m = mix_of(RT_LOAD_KEYS, "acme=se:cret:2,blue=k=ey");
    assert_string_equal(m.choices[0].key, "se:cret");
    assert_true(m.choices[0].weight == 2 && m.choices[1].weight == 1);
    assert_string_equal(m.choices[1].key, "k=ey");
    rt_load_mix_deinit(&m);
    static const char *const bad[] = {"acme=se cret",  "acme",       "acme=", "=secret",
                                      "acme=secret:x", "a=sec\nret", "a=:2"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused_mix(
            RT_LOAD_KEYS, bad[i],
            "--flag: expected NAME=KEY or NAME=KEY:WEIGHT, a key of printable ASCII, a weight of at least 0");
    char value[64];
    const char *path = file_of("# keys\nacme=secret:3\n\nblue=other \n");
    snprintf(value, sizeof value, "@%s", path);
    m = mix_of(RT_LOAD_KEYS, value);
    unlink(path);
    assert_int_equal(m.count, 2);
    assert_string_equal(m.choices[1].key, "other");
    assert_true(m.weights == 4);
    rt_load_mix_deinit(&m);
    path = file_of("acme=secret\nsecret\n");
    snprintf(value, sizeof value, "@%s", path);
    refused_mix(RT_LOAD_KEYS, value,
                "--flag, line 2: expected NAME=KEY or NAME=KEY:WEIGHT, a key of printable ASCII, a weight of "
                "at least 0");
    unlink(path);
}

static void invocations_end_prompts(void **state)
{
    (void)state;
    rt_load_mix m = mix_of(RT_LOAD_WEIGHTS, "uq,base");
    assert_int_equal(rt_load_mix_tail(&m, "t", "uq=5,0,70000", &msg), RC_OK);
    assert_int_equal(m.choices[0].tail_count, 3);
    assert_int_equal(m.choices[0].tail[2], 70000);
    static const char *const bad[] = {"uq=", "uq=1,", "uq=-1", "uq=1;2", "uq=4294967296", "uq= 1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(rt_load_mix_tail(&m, "t", bad[i], &msg), RC_INVALID_ARGUMENT);
        assert_non_null(strstr(msg.text, "expected token ids after the name"));
    }
    assert_int_equal(rt_load_mix_tail(&m, "t", "x=1", &msg), RC_INVALID_ARGUMENT);
    assert_string_equal(msg.text, "--t 'x=1': expected a name that --lora-weights has");
    assert_int_equal(m.choices[0].tail_count, 3);
    rt_load_mix_deinit(&m);
}

/* ---- plans ---- */

static rt_load_plan_options options_of(const rt_load_mix *loras, const rt_load_mix *tenants)
{
    return (rt_load_plan_options){.rate = INFINITY,
                                  .count = 4000,
                                  .input_len = 32,
                                  .output_len = 8,
                                  .prefixes = 3,
                                  .seed = 7,
                                  .loras = loras,
                                  .tenants = tenants};
}

static void arrivals_are_poisson(void **state)
{
    (void)state;
    rt_load_mix loras = mix_of(RT_LOAD_WEIGHTS, "uq=3,base=1"), tenants = mix_of(RT_LOAD_KEYS, "a=k,b=k");
    rt_load_plan_options o = options_of(&loras, &tenants);
    rt_load_plan p = {0}, again = {0};
    double sum = 0, squares = 0, uq = 0, last = 0;
    o.rate = 20;
    assert_int_equal(rt_load_plan_make(&p, &o, &msg), RC_OK);
    assert_int_equal(rt_load_plan_make(&again, &o, &msg), RC_OK);
    assert_int_equal(p.count, 4000);
    assert_memory_equal(p.arrivals, again.arrivals, p.count * sizeof *p.arrivals);
    for (size_t i = 0; i < p.count; i++) {
        const rt_load_arrival *a = &p.arrivals[i];
        double gap = a->at_s - last;
        assert_true(gap >= 0 && a->prefix < 3 && a->tenant < 2);
        sum += gap;
        squares += gap * gap;
        uq += a->lora == 0;
        last = a->at_s;
    }
    /* Exponential gaps: mean 1 / rate, and as much deviation; five standard errors of 4000 draws. */
    double mean = sum / 4000, deviation = sqrt(squares / 4000 - mean * mean);
    assert_true(fabs(mean * 20 - 1) < 0.08);
    assert_true(fabs(deviation * 20 - 1) < 0.12);
    assert_true(fabs(uq / 4000 - 0.75) < 0.035);
    rt_load_plan_deinit(&again);
    o.rate = INFINITY;
    assert_int_equal(rt_load_plan_make(&again, &o, &msg), RC_OK);
    for (size_t i = 0; i < again.count; i++) assert_true(again.arrivals[i].at_s == 0);
    rt_load_plan_deinit(&again);
    rt_load_plan_deinit(&p);
    rt_load_mix_deinit(&loras);
    rt_load_mix_deinit(&tenants);
}

static void a_ramp_halves_what_arrives_in_it(void **state)
{
    (void)state;
    assert_true(rt_load_ramp_time(100, INFINITY, 0) == 0);
    assert_true(rt_load_ramp_time(100, 10, 0) == 10);
    assert_true(fabs(rt_load_ramp_time(50, 10, 10) - 10) < 1e-12);  /* the whole ramp */
    assert_true(fabs(rt_load_ramp_time(12.5, 10, 10) - 5) < 1e-12); /* a quarter of it by half time */
    assert_true(fabs(rt_load_ramp_time(60, 10, 10) - 11) < 1e-12);
}

static void refused_trace(const char *text, const char *said)
{
    rt_load_mix loras = mix_of(RT_LOAD_WEIGHTS, "base"), tenants = mix_of(RT_LOAD_KEYS, "a=k");
    rt_load_plan_options o = options_of(&loras, &tenants);
    rt_load_plan p = {0};
    char expected[300];
    const char *path = file_of(text);
    assert_int_equal(rt_load_plan_read(&p, path, &loras, &o, &msg), RC_INVALID_ARGUMENT);
    snprintf(expected, sizeof expected, "--trace '%s'%s", path, said);
    assert_string_equal(msg.text, expected);
    unlink(path);
    rt_load_plan_deinit(&p);
    rt_load_mix_deinit(&loras);
    rt_load_mix_deinit(&tenants);
}

static void a_trace_says_what_it_must(void **state)
{
    (void)state;
    rt_load_mix loras = mix_of(RT_LOAD_WEIGHTS, "base"), tenants = mix_of(RT_LOAD_KEYS, "a=k,b=k");
    rt_load_plan_options o = options_of(&loras, &tenants);
    rt_load_plan p = {0};
    const char *path =
        file_of("{\"at\": 0, \"lora\": null}\n\n"
                "{\"at\": 1.5, \"input_len\": 5, \"output_len\": 6, \"lora\": \"uq\", \"tenant\": \"b\"}\n"
                "{\"at\": 1.5}");
    o.count = 0;
    assert_int_equal(rt_load_plan_read(&p, path, &loras, &o, &msg), RC_OK);
    assert_int_equal(p.count, 3);
    assert_true(p.arrivals[0].at_s == 0 && p.arrivals[0].input_len == 32 && p.arrivals[0].lora == 0);
    assert_true(p.arrivals[1].at_s == 1.5 && p.arrivals[1].input_len == 5 && p.arrivals[1].output_len == 6);
    assert_int_equal(p.arrivals[1].lora, 1);
    assert_int_equal(p.arrivals[1].tenant, 1);
    assert_string_equal(loras.choices[1].name, "uq");
    assert_true(loras.choices[1].weight == 0);
    rt_load_plan_deinit(&p);
    o.count = 2;
    assert_int_equal(rt_load_plan_read(&p, path, &loras, &o, &msg), RC_OK);
    assert_int_equal(p.count, 2);
    unlink(path);
    rt_load_plan_deinit(&p);
    assert_int_equal(rt_load_plan_read(&p, "/nowhere/t", &loras, &o, &msg), RC_INVALID_ARGUMENT);
    assert_string_equal(msg.text, "--trace '/nowhere/t': No such file or directory");
    rt_load_mix_deinit(&loras);
    rt_load_mix_deinit(&tenants);
    refused_trace("{\"at\": 1}\n{\"at\": 0.5}\n",
                  ", line 2: \"at\" 0.5: expected no earlier time than the line above has");
    refused_trace("\n{\"input_len\": 1}", ", line 2: \"at\" is missing: expected seconds after the start");
    refused_trace("{\"at\": -1}", ", line 1: \"at\" -1: expected seconds after the start, at least 0");
    refused_trace("{\"at\": 0, \"input_len\": 0}",
                  ", line 1: \"input_len\" 0: expected a whole number of at least 1");
    refused_trace("{\"at\": 0, \"lora\": 3}",
                  ", line 1: \"lora\" 3: expected an adapter's name, or \"base\"");
    refused_trace("{\"at\": 0, \"tenant\": \"x\"}",
                  ", line 1: \"tenant\" \"x\": expected a name that --tenant-keys has");
    refused_trace("{\"at\": 0, \"len\": 1}",
                  ", line 1: unknown key 'len': expected at, input_len, output_len, lora, tenant");
    refused_trace("[]", ", line 1: expected a JSON object");
    refused_trace(" \n", ": expected at least one line");
}

/* ---- what is measured ---- */

static void percentiles_lie_between_values(void **state)
{
    (void)state;
    rt_samples s = {0};
    assert_true(rt_samples_percentile(&s, 50) == 0);
    for (int i = 5; i >= 1; i--) rt_samples_add(&s, i);
    assert_true(rt_samples_percentile(&s, 0) == 1 && rt_samples_percentile(&s, 50) == 3);
    assert_true(rt_samples_percentile(&s, 100) == 5 && rt_samples_percentile(&s, 90) == 4.6);
    rt_samples_add(&s, 0);
    assert_true(rt_samples_percentile(&s, 0) == 0 && rt_samples_sum(&s) == 15);
    rt_samples_deinit(&s);
}

static void tokens_of_one_message_have_one_gap(void **state)
{
    (void)state;
    enum { MS = 1000000 };
    rt_load_record r = {.sent_ns = 5 * MS};
    double ms[RT_LOAD_METRICS];
    size_t count;
    rt_load_record_tokens(&r, 0, 7 * MS);
    rt_load_record_tokens(&r, 1, 15 * MS);
    rt_load_record_tokens(&r, 2, 35 * MS);
    rt_load_record_tokens(&r, 1, 75 * MS);
    const float *gaps = rt_load_record_gaps(&r, &count);
    assert_int_equal(count, 3);
    assert_true(gaps[0] == 20 && gaps[1] == 0 && gaps[2] == 40);
    assert_int_equal(r.output_tokens, 4);
    rt_load_record_metrics(&r, ms);
    assert_true(ms[RT_LOAD_TTFT] == 10 && ms[RT_LOAD_E2EL] == 70 && ms[RT_LOAD_TPOT] == 20);
    assert_true(fabs(ms[RT_LOAD_ITL] - 39.8) < 1e-9);
    rt_bytes_deinit(&r.gaps);
}

static void objectives_are_met_or_not(void **state)
{
    (void)state;
    rt_load_slo s = {{0}};
    const double ms[RT_LOAD_METRICS] = {100, 20, 30, 1000};
    assert_false(rt_load_slo_is_set(&s));
    assert_true(rt_load_slo_is_met(&s, ms));
    assert_int_equal(rt_load_slo_add(&s, "ttft:100", &msg), RC_OK);
    assert_int_equal(rt_load_slo_add(&s, "itl:30.5", &msg), RC_OK);
    assert_true(rt_load_slo_is_set(&s) && rt_load_slo_is_met(&s, ms));
    assert_int_equal(rt_load_slo_add(&s, "e2el:999", &msg), RC_OK);
    assert_false(rt_load_slo_is_met(&s, ms));
    static const char *const bad[] = {"ttft:1", "ttft", "tpot:", "tpot:0", "tpot:x", "x:1", ":1", "tpot:inf"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(rt_load_slo_add(&s, bad[i], &msg), RC_INVALID_ARGUMENT);
    assert_string_equal(msg.text,
                        "--goodput 'tpot:inf': expected ttft:MS, tpot:MS, itl:MS or e2el:MS, once each");
}

static void prompts_depend_on_their_place_alone(void **state)
{
    (void)state;
    rt_bytes a = {0}, b = {0}, c = {0};
    rt_load_prompt_add(&a, 1, RT_LOAD_TURN, 3, 2, 50, 99);
    rt_load_prompt_add(&b, 1, RT_LOAD_TURN, 2, 3, 50, 99);
    rt_load_prompt_add(&c, 1, RT_LOAD_TURN, 3, 2, 60, 99);
    const uint32_t *ids = (const uint32_t *)(const void *)a.data;
    for (int i = 0; i < 50; i++) assert_true(ids[i] < 99);
    assert_memory_not_equal(a.data, b.data, a.count);
    assert_memory_equal(a.data, c.data, a.count);
    rt_bytes_deinit(&a);
    rt_bytes_deinit(&b);
    rt_bytes_deinit(&c);
}

static void messages_that_are_none_are_told(void **state)
{
    (void)state;
    rt_load_news news;
    static const uint8_t empty[] = {0}, bad[] = {0x12, 0x7f, 0x01}, two[] = {0x12, 0x02, 0x18, 0x02};
    assert_true(rt_load_news_read(empty, 0, &news));
    assert_true(!news.tokens && !news.is_last);
    rt_load_news_free(&news);
    assert_false(rt_load_news_read(bad, sizeof bad, &news));
    rt_load_news_free(&news);
    assert_true(rt_load_news_read(two, sizeof two, &news));
    assert_true(news.tokens == 2 && !news.is_last);
    rt_load_news_free(&news);
}

static void pictures_are_well_formed(void **state)
{
    (void)state;
    rt_bytes out = {0};
    rt_svg_panel p = {.out = &out,
                      .width = 100,
                      .height = 50,
                      .x = {0, 2, false, "s"},
                      .y = {0.01, 100, true, "ms"},
                      .title = "a < b & \"c\" \x80"};
    assert_true(rt_svg_round_up(0) == 1 && rt_svg_round_up(0.7) == 0.8 && rt_svg_round_up(1) == 1);
    assert_true(rt_svg_round_up(26) == 30 && rt_svg_round_up(8.1) == 10 && rt_svg_round_up(1e9) == 1e9);
    rt_svg_begin(&out, 200, 100, "t");
    rt_svg_axes(&p);
    rt_svg_dot(&p, 1, 0, 0);
    rt_svg_dot(&p, 3, 1000, 99);
    rt_svg_end(&out);
    assert_false(out.failed);
    assert_non_null(strstr(out.data, "a &lt; b &amp; \"c\" ?<"));
    assert_non_null(strstr(out.data, "cx=\"50.0\" cy=\"50.0\""));
    assert_non_null(strstr(out.data, "cx=\"100.0\" cy=\"0.0\""));
    assert_null(strstr(out.data, "nan"));
    assert_null(strstr(out.data, "inf"));
    rt_bytes_deinit(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_have_weights),
        cmocka_unit_test(keys_are_never_repeated),
        cmocka_unit_test(invocations_end_prompts),
        cmocka_unit_test(arrivals_are_poisson),
        cmocka_unit_test(a_ramp_halves_what_arrives_in_it),
        cmocka_unit_test(a_trace_says_what_it_must),
        cmocka_unit_test(percentiles_lie_between_values),
        cmocka_unit_test(tokens_of_one_message_have_one_gap),
        cmocka_unit_test(objectives_are_met_or_not),
        cmocka_unit_test(prompts_depend_on_their_place_alone),
        cmocka_unit_test(messages_that_are_none_are_told),
        cmocka_unit_test(pictures_are_well_formed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
