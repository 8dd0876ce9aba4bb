/* run-batch from file to file on a scripted engine: answers, refusals, resuming, signals. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "runtime/base/bytes.h"
#include "runtime/base/json_in.h"
#include "runtime/cli/commands.h"
#include "tests/support/fake_mica.h"

static char directory[64], in_path[96], out_path[96], err_path[96];

static int setup(void **state)
{
    (void)state;
    snprintf(directory, sizeof directory, "/tmp/test_run_batch.XXXXXX");
    if (!mkdtemp(directory)) return 1;
    snprintf(in_path, sizeof in_path, "%s/in.jsonl", directory);
    snprintf(out_path, sizeof out_path, "%s/out.jsonl", directory);
    snprintf(err_path, sizeof err_path, "%s/stderr", directory);
    memset(&fake, 0, sizeof fake);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(in_path);
    unlink(out_path);
    unlink(err_path);
    return rmdir(directory);
}

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    fclose(f);
}

static rt_bytes get(const char *path)
{
    rt_bytes b = {0};
    int fd = open(path, O_RDONLY);
    ssize_t n = 1;
    while (fd >= 0 && n > 0) {
        n = read(fd, rt_bytes_reserve(&b, 1 << 16), 1 << 16);
        if (n > 0) b.count += (size_t)n;
    }
    if (b.data) b.data[b.count] = 0;
    if (fd >= 0) close(fd);
    return b;
}

/* Runs the command with its stderr in a file. */
static int run(char **argv)
{
    int argc = 0, saved = dup(STDERR_FILENO), to = open(err_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    while (argv[argc]) argc++;
    dup2(to, STDERR_FILENO);
    close(to);
    int status = rt_command_run_batch(argc, argv);
    dup2(saved, STDERR_FILENO);
    close(saved);
    assert_int_equal(fake.opened, fake.closed);
    return status;
}
#define RUN(...) run((char *[]){"-i", in_path, "-o", out_path, "--model", "base", __VA_ARGS__, NULL})

enum { LINES_MAX = 2100 };
typedef struct lines {
    json_t *line[LINES_MAX];
    size_t count;
} lines;

static lines read_lines(const char *path)
{
    lines l = {0};
    rt_bytes b = get(path);
    for (char *at = b.data; at && *at;) {
        char *feed = strchr(at, '\n');
        assert_non_null(feed);
        assert_true(l.count < LINES_MAX);
        l.line[l.count] = json_loadb(at, (size_t)(feed - at), JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
        assert_non_null(l.line[l.count++]);
        at = feed + 1;
    }
    rt_bytes_deinit(&b);
    return l;
}

static void free_lines(lines *l)
{
    for (size_t i = 0; i < l->count; i++) json_decref(l->line[i]);
}

static int status_of(const json_t *line)
{
    return (int)json_integer_value(json_object_get(json_object_get(line, "response"), "status_code"));
}

static const json_t *body_of(const json_t *line)
{
    return json_object_get(json_object_get(line, "response"), "body");
}
static const char *id_of(const json_t *line)
{
    return json_string_value(json_object_get(line, "custom_id"));
}

static const char *error_of(const json_t *line, const char *member)
{
    return json_string_value(json_object_get(json_object_get(body_of(line), "error"), member));
}

#define LINE(id, body)                                                                                       \
    "{\"custom_id\":\"" id "\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":" body "}\n"
#define GOOD(id) LINE(id, "{\"prompt\":\"" id "\",\"max_tokens\":3}")

static void each_request_gets_its_line(void **state)
{
    (void)state;
    put(in_path,
        GOOD("a") "\n  \r\n" GOOD("bb") LINE("c", "{\"model\":\"base\",\"prompt\":[\"x\",\"y\"],\"n\":2}"));
    assert_int_equal(RUN(NULL), 0);
    lines l = read_lines(out_path);
    assert_int_equal(l.count, 3);
    assert_string_equal(id_of(l.line[0]), "a");
    assert_string_equal(id_of(l.line[2]), "c");
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(status_of(l.line[i]), 200);
        assert_true(json_is_null(json_object_get(l.line[i], "error")));
        assert_true(json_is_string(json_object_get(l.line[i], "id")));
        assert_true(json_is_string(json_object_get(json_object_get(l.line[i], "response"), "request_id")));
        assert_string_equal(json_string_value(json_object_get(body_of(l.line[i]), "model")), "base");
    }
    assert_int_equal(json_array_size(json_object_get(body_of(l.line[2]), "choices")), 4);
    assert_string_equal(fake.keys, "a bb c c ");
    free_lines(&l);
}

static void bad_requests_get_theirs_and_the_others_still_run(void **state)
{
    (void)state;
    put(in_path,
        GOOD("a") GOOD("a") LINE("b", "{\"model\":\"nobody\",\"prompt\":\"x\"}") LINE(
            "c", "{\"prompt\":\"x\",\"top_p\":2}") LINE("d", "{\"prompt\":\"!huge\"}")
            LINE("e", "{\"prompt\":[\"fine\",\"!huge\"]}") LINE(
                "f", "7") "{\"custom_id\":\"g\",\"method\":\"POST\",\"url\":\"/v1/embeddings\",\"body\":{}}\n"
                          "{\"custom_id\":\"h\",\"method\":\"GET\",\"url\":\"/v1/completions\",\"body\":{}}\n"
                          "{\"custom_id\":\"i\",\"url\":\"/v1/completions\",\"body\":{}}\n" LINE(
                              "j", "{\"prompt\":\"x\",\"n\":1e999}")
                              LINE("k", "{\"prompt\":\"x\",\"prompt\":\"y\"}") GOOD("z"));
    assert_int_equal(RUN(NULL), 0);
    static const struct {
        const char *id, *type, *param;
        int status;
    } expected[] = {{"a", "BadRequestError", "custom_id", 400}, {"b", "NotFoundError", "model", 404},
                    {"c", "BadRequestError", "top_p", 400},     {"d", "BadRequestError", "prompt", 400},
                    {"e", "BadRequestError", "prompt", 400},    {"f", "BadRequestError", "body", 400},
                    {"g", "NotFoundError", "url", 404},         {"h", "BadRequestError", "method", 400},
                    {"i", "BadRequestError", "method", 400},    {"j", "BadRequestError", "n", 400},
                    {"k", "BadRequestError", NULL, 400}};
    lines l = read_lines(out_path);
    size_t good = 0, count = sizeof expected / sizeof *expected;
    assert_int_equal(l.count, count + 2);
    for (size_t i = 0; i < l.count; i++) {
        size_t k = 0;
        if (status_of(l.line[i]) == 200) {
            good++;
            continue;
        }
        while (k < count && strcmp(expected[k].id, id_of(l.line[i]))) k++;
        assert_true(k < count);
        assert_int_equal(status_of(l.line[i]), expected[k].status);
        assert_string_equal(error_of(l.line[i], "type"), expected[k].type);
        if (expected[k].param) assert_string_equal(error_of(l.line[i], "param"), expected[k].param);
        assert_true(strlen(error_of(l.line[i], "message")) > 5);
    }
    assert_int_equal(good, 2);
    free_lines(&l);
}

static void lines_that_cannot_be_read_quote_their_number(void **state)
{
    (void)state;
    put(in_path,
        "\xef\xbb\xbf" GOOD("a") "nonsense\n\n" LINE("b", "{\"prompt\":\"\\ud800\"}")
            LINE("c", "{\"prompt\":\"\xff\"}") "{\"method\":\"POST\"}\n{\"custom_id\":7}\n[]\n{\"custom_"
                                               "id\":\"x\\u0000y\"}\n{\"custom_id\":\"torn");
    assert_int_equal(RUN(NULL), 0);
    static const char *const numbers[] = {"line 2 ", "line 4 ", "line 5 ", "line 6 ",
                                          "line 7 ", "line 8 ", "line 9 ", "line 10 "};
    lines l = read_lines(out_path);
    size_t at = 0;
    assert_int_equal(l.count, 9);
    for (size_t i = 0; i < l.count; i++) {
        if (status_of(l.line[i]) == 200) continue;
        assert_int_equal(status_of(l.line[i]), 400);
        assert_true(json_is_null(json_object_get(l.line[i], "custom_id")));
        assert_int_equal(strncmp(error_of(l.line[i], "message"), numbers[at], strlen(numbers[at])), 0);
        at++;
    }
    assert_int_equal(at, 8);
    free_lines(&l);
}

static void nothing_is_written_unless_all_can_be_read(void **state)
{
    (void)state;
    put(out_path, "precious\n");
    put(in_path, GOOD("a"));
    assert_int_equal(RUN("--lora-modules", "x=missing"), 1);
    assert_int_equal(RUN("--model", "missing"), 1);
    assert_int_equal(RUN("-i", "/nonexistent/in"), 1);
    assert_int_equal(RUN("-i", directory), 1);
    assert_int_equal(RUN("-i", out_path), 1);
    assert_int_equal(RUN("--max-num-seqs", "none"), 1);
    assert_int_equal(RUN("--resume"), 1);
    rt_bytes err = get(err_path), out = get(out_path);
    assert_string_equal(out.data, "precious\n");
    assert_non_null(strstr(err.data, "line 1 is no batch answer"));
    assert_ptr_equal(strchr(err.data, '\n'), err.data + err.count - 1);
    rt_bytes_deinit(&err);
    rt_bytes_deinit(&out);
    assert_int_equal(RUN("-o", "/nonexistent/out"), 1);
    unlink(out_path);
    assert_int_equal(RUN("--model", "missing"), 1);
    assert_int_equal(access(out_path, F_OK), -1);
}

static void without_resume_the_old_answers_go(void **state)
{
    (void)state;
    put(out_path, "old\n");
    put(in_path, GOOD("a"));
    assert_int_equal(RUN(NULL), 0);
    lines l = read_lines(out_path);
    assert_int_equal(l.count, 1);
    free_lines(&l);
}

#define DONE(id)                                                                                             \
    "{\"id\":\"old\",\"custom_id\":\"" id                                                                    \
    "\",\"response\":{\"status_code\":200,\"body\":{}},\"error\":null}\n"
#define LOST(id)                                                                                             \
    "{\"id\":\"old\",\"custom_id\":" id ",\"response\":{\"status_code\":400,\"body\":{}},\"error\":null}\n"

/* A token that is a NUL byte is a key of top_logprobs: jansson refuses such keys, other readers do not. */
static void answers_with_a_nul_token_are_resumed(void **state)
{
    (void)state;
    put(in_path,
        LINE("a", "{\"prompt\":\"x\\u0000y\",\"max_tokens\":1,\"echo\":true,\"logprobs\":0}") GOOD("b"));
    assert_int_equal(RUN(NULL), 0);
    assert_int_equal(RUN("--resume"), 0);
    assert_int_equal(fake.submitted, 2);
}

static void resuming_leaves_what_one_run_would_have(void **state)
{
    (void)state;
    put(in_path, GOOD("a") GOOD("b") GOOD("c") "nonsense\n" GOOD("a") GOOD("d"));
    static const char *const earlier[] = {
        "",
        DONE("b") "{\"id\":\"torn\",\"custom_id\":\"c",
        DONE("b") LOST("\"a\"") DONE("d") LOST("null"),
        LOST("\"a\"") DONE("b") DONE("b"),
        DONE("a") DONE("b") DONE("c") LOST("null") LOST("\"a\"") DONE("d"),
        DONE("b") "{\"id\":\"torn\",\"cust\n",
    };
    static const unsigned kept_of[] = {0, 1, 2, 1, 4, 1};
    for (size_t i = 0; i < sizeof earlier / sizeof *earlier; i++) {
        put(out_path, earlier[i]);
        for (int again = 0; again < 2; again++) {
            assert_int_equal(RUN("--resume"), 0);
            lines l = read_lines(out_path);
            unsigned answered[4] = {0}, kept = 0, refused = 0;
            for (size_t k = 0; k < l.count; k++) {
                if (status_of(l.line[k]) == 200) answered[id_of(l.line[k])[0] - 'a']++;
                if (status_of(l.line[k]) == 400) refused++;
                if (!strcmp(json_string_value(json_object_get(l.line[k], "id")), "old")) kept++;
            }
            for (int k = 0; k < 4; k++) assert_int_equal(answered[k], 1);
            assert_int_equal(refused, 2);
            assert_int_equal(kept, kept_of[i]);
            free_lines(&l);
        }
    }
}

static void what_has_finished_is_on_disk_after_a_signal(void **state)
{
    (void)state;
    put(in_path, LINE("a", "{\"prompt\":\"x\",\"max_tokens\":1}")
                     LINE("b", "{\"prompt\":\"!sigint\",\"max_tokens\":4000}") GOOD("c"));
    assert_int_equal(RUN("--max-num-seqs", "1"), 130);
    lines l = read_lines(out_path);
    assert_true(l.count >= 1);
    assert_string_equal(id_of(l.line[0]), "a");
    size_t before = l.count;
    free_lines(&l);
    put(in_path, LINE("a", "{\"prompt\":\"x\",\"max_tokens\":1}") LINE("b", "{\"prompt\":\"x\"}") GOOD("c"));
    assert_int_equal(RUN("--resume"), 0);
    l = read_lines(out_path);
    assert_int_equal(l.count, 3);
    assert_true(before < 3);
    free_lines(&l);
    put(in_path, LINE("b", "{\"prompt\":\"!sigterm\",\"max_tokens\":4000}"));
    assert_int_equal(RUN(NULL), 143);
}

static void a_lost_engine_fails_its_requests_and_the_run(void **state)
{
    (void)state;
    put(in_path, GOOD("a") LINE("b", "{\"prompt\":[\"!fail\",\"y\"],\"max_tokens\":50}"));
    assert_int_equal(RUN(NULL), 1);
    lines l = read_lines(out_path);
    assert_int_equal(l.count, 2);
    assert_int_equal(status_of(l.line[1]), 500);
    assert_string_equal(error_of(l.line[1], "message"), "the device was lost");
    free_lines(&l);
}

static void the_window_bounds_what_is_inside(void **state)
{
    (void)state;
    rt_bytes in = {0};
    for (int i = 0; i < 2000; i++)
        rt_bytes_print(&in, LINE("r%d", "{\"prompt\":\"%s\",\"max_tokens\":2,\"n\":%d}"), i,
                       i % 50 ? "x" : "!busy", 1 + i % 3);
    put(in_path, in.data);
    rt_bytes_deinit(&in);
    assert_int_equal(RUN("--max-num-seqs", "2"), 0);
    assert_true(fake.inside_max > 2 && fake.inside_max <= 4 * 2 + 64);
    lines l = read_lines(out_path);
    assert_int_equal(l.count, 2000);
    for (size_t i = 0; i < l.count; i++) assert_int_equal(status_of(l.line[i]), 200);
    free_lines(&l);
}

static void stdin_and_stdout_can_be_the_files(void **state)
{
    (void)state;
    put(in_path, GOOD("a"));
    int saved_in = dup(STDIN_FILENO), saved_out = dup(STDOUT_FILENO), ends[2];
    assert_int_equal(pipe(ends), 0);
    rt_bytes in = get(in_path);
    assert_int_equal(write(ends[1], in.data, in.count), in.count);
    close(ends[1]);
    int out = open(out_path, O_WRONLY | O_CREAT, 0600);
    fflush(stdout);
    dup2(ends[0], STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    int status = run((char *[]){"-i", "-", "-o", "-", "--model=base", NULL});
    int refused = run((char *[]){"-i", "-", "-o", "-", "--model=base", "--resume", NULL});
    dup2(saved_in, STDIN_FILENO);
    dup2(saved_out, STDOUT_FILENO);
    close(saved_in);
    close(saved_out);
    close(ends[0]);
    close(out);
    rt_bytes_deinit(&in);
    assert_int_equal(status, 0);
    assert_int_equal(refused, 1);
    lines l = read_lines(out_path);
    assert_int_equal(l.count, 1);
    free_lines(&l);
}

static void what_cannot_be_written_does_not_count_as_answered(void **state)
{
    (void)state;
    put(in_path, GOOD("a") GOOD("b"));
    assert_int_equal(run((char *[]){"-i", in_path, "-o", "/dev/full", "--model=base", NULL}), 1);
    rt_bytes err = get(err_path);
    assert_non_null(strstr(err.data, "cannot write '/dev/full': No space left on device\n"));
    assert_non_null(strstr(err.data, "0 answered, 0 failed"));
    rt_bytes_deinit(&err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(each_request_gets_its_line),
        TEST(bad_requests_get_theirs_and_the_others_still_run),
        TEST(lines_that_cannot_be_read_quote_their_number),
        TEST(nothing_is_written_unless_all_can_be_read),
        TEST(without_resume_the_old_answers_go),
        TEST(answers_with_a_nul_token_are_resumed),
        TEST(resuming_leaves_what_one_run_would_have),
        TEST(what_has_finished_is_on_disk_after_a_signal),
        TEST(a_lost_engine_fails_its_requests_and_the_run),
        TEST(the_window_bounds_what_is_inside),
        TEST(stdin_and_stdout_can_be_the_files),
        TEST(what_cannot_be_written_does_not_count_as_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
