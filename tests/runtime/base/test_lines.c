/* Lines of a file, whatever the size of the pieces that read(2) gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "runtime/base/lines.h"

typedef struct source {
    int in, out;
} source;

static source open_source(void)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    return (source){ends[0], ends[1]};
}

static void put(source *s, const char *text)
{
    assert_int_equal(write(s->out, text, strlen(text)), strlen(text));
}

static void expect(rt_lines *l, rt_line_state state, const char *text)
{
    const char *line = NULL;
    size_t bytes = 0;
    assert_int_equal(rt_lines_next(l, &line, &bytes), state);
    if (!text) return;
    assert_int_equal(bytes, strlen(text));
    assert_memory_equal(line, text, bytes);
}

static void lines_come_whole_however_they_arrive(void **state)
{
    (void)state;
    source s = open_source();
    rt_lines l;
    rt_lines_init(&l, s.in, 100);
    expect(&l, RT_LINE_NEEDS, NULL);
    put(&s, "a\n\nb");
    assert_int_equal(rt_lines_fill(&l, NULL), RC_OK);
    expect(&l, RT_LINE, "a");
    expect(&l, RT_LINE, "");
    expect(&l, RT_LINE_NEEDS, NULL);
    put(&s, "c\nd");
    assert_int_equal(rt_lines_fill(&l, NULL), RC_OK);
    expect(&l, RT_LINE, "bc");
    assert_int_equal(l.number, 3);
    assert_int_equal(l.offset, 6);
    expect(&l, RT_LINE_NEEDS, NULL);
    close(s.out);
    assert_int_equal(rt_lines_fill(&l, NULL), RC_OK);
    expect(&l, RT_LINE_TORN, "d");
    expect(&l, RT_LINE_END, NULL);
    rt_lines_deinit(&l);
    close(s.in);
}

static void a_line_that_is_too_long_is_skipped_in_bounded_memory(void **state)
{
    (void)state;
    source s = open_source();
    rt_lines l;
    char piece[1001];
    memset(piece, 'x', 1000);
    piece[1000] = 0;
    rt_lines_init(&l, s.in, 10);
    for (int i = 0; i < 1000; i++) {
        put(&s, piece);
        assert_int_equal(rt_lines_fill(&l, NULL), RC_OK);
        expect(&l, RT_LINE_NEEDS, NULL);
    }
    assert_true(l.read.room < 200000);
    put(&s, "\n0123456789\n01234567890\n");
    assert_int_equal(rt_lines_fill(&l, NULL), RC_OK);
    expect(&l, RT_LINE_TOO_LONG, NULL);
    expect(&l, RT_LINE, "0123456789");
    expect(&l, RT_LINE_TOO_LONG, NULL);
    assert_int_equal(l.number, 3);
    close(s.out);
    assert_int_equal(rt_lines_fill(&l, NULL), RC_OK);
    expect(&l, RT_LINE_END, NULL);
    rt_lines_deinit(&l);
    close(s.in);
}

static void a_failed_read_says_why(void **state)
{
    (void)state;
    rt_lines l;
    rc_msg msg;
    rt_lines_init(&l, -1, 10);
    assert_int_equal(rt_lines_fill(&l, &msg), RC_INTERNAL);
    assert_string_equal(msg.text, "reading failed: Bad file descriptor");
    rt_lines_deinit(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_come_whole_however_they_arrive),
        cmocka_unit_test(a_line_that_is_too_long_is_skipped_in_bounded_memory),
        cmocka_unit_test(a_failed_read_says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
