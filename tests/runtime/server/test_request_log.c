/* The line of a request that has ended, what of a client's ids is believed, and a log that nobody reads. */
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/server/line_log.h"
#include "runtime/server/request_log.h"

static json_t *line_of(const rt_request_record *r)
{
    rt_bytes out = {0};
    json_error_t error;
    rt__request_log_add(&out, r);
    for (size_t i = 0; i < out.count; i++) assert_in_range((unsigned char)out.data[i], 0x20, 0x7e);
    json_t *line = json_loadb(out.data, out.count, JSON_REJECT_DUPLICATES, &error);
    assert_non_null(line);
    rt_bytes_deinit(&out);
    return line;
}

static void a_line_has_the_facts(void **state)
{
    (void)state;
    rt_request_facts facts = {.times = {1000000, 1500000, 3000000, 9000000, 9250000}, .prompt_tokens = 30,
                              .generated_tokens = 7, .finish = MICA_LENGTH};
    rt_request_record r = {.unix_ns = 1764064800123000000, .now_ns = 99000000, .request_id = "r-1",
                           .model = "base", .adapter = "uq", .x_request_id = {"abc!", 3},
                           .cached_tokens = 12, .facts = &facts};
    json_t *line = line_of(&r), *expected = json_pack(
        "{s:s,s:s,s:s,s:s,s:n,s:n,s:s,s:s,s:s,s:s,s:i,s:i,s:i,s:f,s:f,s:f}",
        "time", "2025-11-25T10:00:00.123Z", "event", "request", "request_id", "r-1",
        "x_request_id", "abc", "traceparent", "tenant", "model", "base", "adapter", "uq",
        "status", "OK", "finish", "length", "prompt_tokens", 30, "cached_tokens", 12,
        "generated_tokens", 7, "queue_ms", 0.5, "ttft_ms", 2.0, "total_ms", 8.25);
    assert_true(json_equal(line, expected));
    json_decref(line);
    json_decref(expected);
}

static void what_did_not_happen_is_null(void **state)
{
    (void)state;
    rt_request_facts facts = {.times = {.arrived = 1000000}};
    rt_request_record r = {.now_ns = 3000000, .model = "base", .code = RC_INVALID_ARGUMENT, .facts = &facts};
    json_t *line = line_of(&r);
    const char *null[] = {"request_id", "x_request_id", "tenant", "adapter", "finish", "queue_ms", "ttft_ms"};
    for (size_t i = 0; i < sizeof null / sizeof *null; i++)
        assert_true(json_is_null(json_object_get(line, null[i])));
    assert_string_equal(json_string_value(json_object_get(line, "status")), "INVALID_ARGUMENT");
    assert_true(json_real_value(json_object_get(line, "total_ms")) == 2.0);
    json_decref(line);
}

static void nothing_that_a_client_sent_is_raw(void **state)
{
    (void)state;
    rt_request_facts facts = {0};
    const char hostile[] = "a\n{\"event\":\"x\"}\x1b[2J\x7f\xc2\x9b" "31m\"\\";
    rt_request_record r = {.request_id = hostile, .model = "base", .facts = &facts};
    json_t *line = line_of(&r); /* all bytes are printable ASCII */
    assert_string_equal(json_string_value(json_object_get(line, "request_id")), hostile);
    json_decref(line);
}

static void only_printable_ids_are_echoed(void **state)
{
    (void)state;
    char longest[257];
    memset(longest, 'x', sizeof longest);
    assert_true(rt__is_echoable("a b-~", 5));
    assert_true(rt__is_echoable(longest, 256));
    assert_false(rt__is_echoable(longest, 257));
    assert_false(rt__is_echoable("", 0));
    assert_false(rt__is_echoable("a\n", 2));
    assert_false(rt__is_echoable("a\x7f", 2));
    assert_false(rt__is_echoable("\xc3\xa4", 2));
}

static void a_traceparent_is_w3cs(void **state)
{
    (void)state;
    const char *good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const char *bad[] = {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
                         "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
                         "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                         "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                         "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                         "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
                         "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", ""};
    assert_true(rt__is_traceparent(good, strlen(good)));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(rt__is_traceparent(bad[i], strlen(bad[i])));
}

/* ---- the file ---- */

static size_t read_all(int fd, char *text, size_t max)
{
    size_t count = 0;
    for (ssize_t n; (n = read(fd, text + count, max - count)) > 0;) count += (size_t)n;
    return count;
}

static void lines_are_written_in_order(void **state)
{
    (void)state;
    int ends[2];
    char text[64];
    rt_line_log *l;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(rt__line_log_open(ends[1], &l, NULL), RC_OK);
    rt__line_log_add(l, "one", 3);
    rt__line_log_add(l, "two", 3);
    rt__line_log_close(l);
    close(ends[1]);
    assert_int_equal(read_all(ends[0], text, sizeof text), 8);
    assert_memory_equal(text, "one\ntwo\n", 8);
    close(ends[0]);
}

/* 4 MiB into a pipe that nobody reads: adding returns, closing too, and what was dropped is counted. */
static void a_log_that_nobody_reads_holds_nobody_up(void **state)
{
    (void)state;
    enum { LINES = 4096, BYTES = 1023 };
    int ends[2];
    char line[BYTES + 1];
    rt_line_log *l;
    memset(line, 'x', sizeof line);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(rt__line_log_open(ends[1], &l, NULL), RC_OK);
    for (int i = 0; i < LINES; i++) rt__line_log_add(l, line, BYTES);
    rt__line_log_close(l);
    close(ends[1]);
    char *text = malloc(LINES * (BYTES + 1));
    size_t count = read_all(ends[0], text, LINES * (BYTES + 1));
    assert_in_range(count, BYTES + 1, 1 << 20);
    for (size_t at = BYTES; at < count; at += BYTES + 1) assert_int_equal(text[at], '\n');
    free(text);
    close(ends[0]);
}

static void what_was_dropped_is_counted(void **state)
{
    (void)state;
    int ends[2];
    char text[64], line[8192];
    rt_line_log *l;
    memset(line, 'x', sizeof line);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(rt__line_log_open(ends[1], &l, NULL), RC_OK);
    rt__line_log_add(l, line, sizeof line); /* longer than a line may be */
    rt__line_log_close(l);
    close(ends[1]);
    size_t count = read_all(ends[0], text, sizeof text - 1);
    text[count] = 0;
    assert_string_equal(text, "{\"event\":\"dropped\",\"lines\":1}\n");
    close(ends[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_has_the_facts),
        cmocka_unit_test(what_did_not_happen_is_null),
        cmocka_unit_test(nothing_that_a_client_sent_is_raw),
        cmocka_unit_test(only_printable_ids_are_echoed),
        cmocka_unit_test(a_traceparent_is_w3cs),
        cmocka_unit_test(lines_are_written_in_order),
        cmocka_unit_test(a_log_that_nobody_reads_holds_nobody_up),
        cmocka_unit_test(what_was_dropped_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
