/* --kv-events-config: every field, its default, and what is refused in which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/server/kv_config.h"

static rt_kv_config parse(const char *text)
{
    rt_kv_config c;
    rc_msg msg;
    if (rt__kv_config_parse(text, &c, &msg) != RC_OK) fail_msg("%s", msg.text);
    return c;
}

static void every_field_is_taken(void **state)
{
    (void)state;
    rt_kv_config c = parse("{\"enable_kv_cache_events\": true, \"publisher\": \"zmq\", \"endpoint\": "
                           "\"tcp://*:1\", \"replay_endpoint\": \"ipc:///tmp/r\", \"buffer_steps\": 0, "
                           "\"hwm\": 7, \"max_queue_size\": 8, \"topic\": \"kv@pod@m\", "
                           "\"event_format\": \"array\"}");
    assert_true(c.is_on && c.as_arrays);
    assert_string_equal(c.endpoint, "tcp://*:1");
    assert_string_equal(c.replay_endpoint, "ipc:///tmp/r");
    assert_string_equal(c.topic, "kv@pod@m");
    assert_true(c.buffer_steps == 0 && c.hwm == 7 && c.max_queue_size == 8);
}

static void what_is_left_out_or_null_is_the_default(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{\"enable_kv_cache_events\": true}",
        "{\"enable_kv_cache_events\": true, \"publisher\": null, \"endpoint\": null, \"replay_endpoint\": "
        "null, \"buffer_steps\": null, \"hwm\": null, \"max_queue_size\": null, \"topic\": null, "
        "\"event_format\": null}"};
    for (int i = 0; i < 2; i++) {
        rt_kv_config c = parse(texts[i]);
        assert_true(c.is_on && !c.as_arrays);
        assert_string_equal(c.endpoint, "tcp://127.0.0.1:5557");
        assert_string_equal(c.replay_endpoint, "");
        assert_string_equal(c.topic, "");
        assert_true(c.buffer_steps == 10000 && c.hwm == 100000 && c.max_queue_size == 100000);
    }
    assert_false(parse("{}").is_on);
    assert_false(parse("{\"publisher\": \"zmq\"}").is_on);
    assert_false(parse("{\"enable_kv_cache_events\": true, \"publisher\": \"null\"}").is_on);
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *said;
    } cases[] = {
        {"[1]", "the value must be a JSON object, got [1]"},
        {"{\"endpiont\": 1}", "'endpiont' is no known key"},
        {"{\"enable_kv_cache_events\": 1}", "enable_kv_cache_events must be true or false, got 1"},
        {"{\"publisher\": \"nats\"}", "publisher must be \"zmq\" or \"null\", got \"nats\""},
        {"{\"publisher\": false}", "publisher must be \"zmq\" or \"null\", got false"},
        {"{\"endpoint\": 5557}", "endpoint must be tcp://HOST:PORT or ipc://PATH, got 5557"},
        {"{\"endpoint\": \"inproc://x\"}",
         "endpoint must be tcp://HOST:PORT or ipc://PATH, got \"inproc://x\""},
        {"{\"endpoint\": \"tcp://5557\"}",
         "endpoint must be tcp://HOST:PORT or ipc://PATH, got \"tcp://5557\""},
        {"{\"endpoint\": \"ipc://\"}", "endpoint must be tcp://HOST:PORT or ipc://PATH, got \"ipc://\""},
        {"{\"replay_endpoint\": \"\"}", "replay_endpoint must be tcp://HOST:PORT or ipc://PATH, got \"\""},
        {"{\"buffer_steps\": -1}", "buffer_steps must be a whole number from 0 to 1000000, got -1"},
        {"{\"buffer_steps\": 1.5}", "buffer_steps must be a whole number from 0 to 1000000, got 1.5"},
        {"{\"hwm\": 0}", "hwm must be a whole number from 1 to 1000000, got 0"},
        {"{\"hwm\": 99999999999999999999}", "hwm must be a whole number from 1 to 1000000, got"},
        {"{\"max_queue_size\": \"9\"}", "max_queue_size must be a whole number from 1 to 1000000, got \"9\""},
        {"{\"topic\": \"a\\u0000b\"}", "topic must be a string of at most 255 plain bytes, got"},
        {"{\"topic\": 3}", "topic must be a string of at most 255 plain bytes, got 3"},
        {"{\"event_format\": \"maps\"}", "event_format must be \"map\" or \"array\", got \"maps\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rt_kv_config c;
        rc_msg msg;
        char said[256];
        assert_int_equal(rt__kv_config_parse(cases[i].text, &c, &msg), RC_INVALID_ARGUMENT);
        snprintf(said, sizeof said, "--kv-events-config: %s", cases[i].said);
        if (strncmp(msg.text, said, strlen(said))) fail_msg("'%s' is not '%s'", msg.text, said);
        assert_string_equal(msg.param, "kv-events-config");
    }
    rt_kv_config c;
    rc_msg msg;
    assert_int_equal(rt__kv_config_parse("{", &c, &msg), RC_INVALID_ARGUMENT);
    assert_non_null(strstr(msg.text, "--kv-events-config: "));
}

static void wildcards_paths_and_loopback_are_bound(void **state)
{
    (void)state;
    static const char *const bound[] = {"tcp://*:5557",     "tcp://127.0.0.1:5557", "tcp://10.0.0.1:*",
                                        "ipc:///a",         "tcp://[::]:1",         "tcp://[::1]:1",
                                        "tcp://localhost:1"};
    static const char *const connected[] = {"tcp://10.0.0.1:5557", "tcp://router.local:5557"};
    for (size_t i = 0; i < sizeof bound / sizeof *bound; i++) assert_true(rt__kv_is_bound(bound[i]));
    for (size_t i = 0; i < 2; i++) assert_false(rt__kv_is_bound(connected[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_is_taken),
        cmocka_unit_test(what_is_left_out_or_null_is_the_default),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(wildcards_paths_and_loopback_are_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
