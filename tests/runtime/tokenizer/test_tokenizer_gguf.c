#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/base/bytes.h"
#include "runtime/tokenizer/tokenizer.h"

enum { U32 = 4, I32 = 5, BOOL = 7, STRING = 8, ARRAY = 9 };

/* A GGUF file with metadata and no tensors. */
typedef struct file {
    rt_bytes values;
    uint64_t count;
} file;

static void put(file *f, const void *bytes, size_t count)
{
    rt_bytes_add(&f->values, bytes, count);
}

static void put_number(file *f, uint64_t value, size_t bytes)
{
    put(f, &value, bytes); /* little endian */
}

static void put_string(file *f, const char *text)
{
    put_number(f, strlen(text), 8);
    put(f, text, strlen(text));
}

static void key(file *f, const char *name, uint32_t type)
{
    f->count++;
    put_string(f, name);
    put_number(f, type, 4);
}

static void key_string(file *f, const char *name, const char *value)
{
    key(f, name, STRING);
    put_string(f, value);
}

static void key_array(file *f, const char *name, uint32_t type, uint64_t count)
{
    key(f, name, ARRAY);
    put_number(f, type, 4);
    put_number(f, count, 8);
}

static const char *const tokens[] = {"<s>",
                                     "<user>",
                                     "a",
                                     "b",
                                     "\xc4\xa0",
                                     "1",
                                     "2",
                                     "ab",
                                     "\xc4\xa0"
                                     "ab",
                                     "12",
                                     "!",
                                     "[PAD11]"};
static const int types[] = {3, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 5};
enum { TOKENS = sizeof tokens / sizeof tokens[0] };

static void add_model(file *f, const char *model, const char *pre)
{
    key_string(f, "tokenizer.ggml.model", model);
    key_string(f, "tokenizer.ggml.pre", pre);
    key_array(f, "tokenizer.ggml.tokens", STRING, TOKENS);
    for (size_t i = 0; i < TOKENS; i++) put_string(f, tokens[i]);
    key_array(f, "tokenizer.ggml.token_type", I32, TOKENS);
    for (size_t i = 0; i < TOKENS; i++) put_number(f, (uint64_t)types[i], 4);
}

static void add_merges(file *f, const char *const *merges, size_t count)
{
    key_array(f, "tokenizer.ggml.merges", STRING, count);
    for (size_t i = 0; i < count; i++) put_string(f, merges[i]);
}

static rc_code open_file(file *f, rt_tokenizer **t, rc_msg *msg)
{
    file whole = {0};
    rt_gguf *gguf = NULL;
    put(&whole, "GGUF", 4);
    put_number(&whole, 3, 4);
    put_number(&whole, 0, 8);
    put_number(&whole, f->count, 8);
    put(&whole, f->values.data, f->values.count);
    assert_false(whole.values.failed);
    rc_code code = rt_gguf_open_memory(whole.values.data, whole.values.count, "test.gguf", &gguf, msg);
    if (code != RC_OK) fail_msg("%s", msg->text);
    code = rt_tokenizer_open_gguf(gguf, t, msg);
    rt_gguf_close(gguf);
    rt_bytes_deinit(&whole.values);
    rt_bytes_deinit(&f->values);
    return code;
}

static void expect_ids(const rt_tokenizer *t, const char *text, const int32_t *want, size_t want_count)
{
    int32_t *ids;
    size_t count;
    rc_msg msg;
    assert_int_equal(rt_tokenizer_encode(t, text, strlen(text), true, 100, &ids, &count, &msg), RC_OK);
    assert_int_equal(count, want_count);
    assert_memory_equal(ids, want, count * sizeof *ids);
    free(ids);
}

static const char *const merges[] = {"a b", "\xc4\xa0 ab", "1 2"};

static void the_name_of_the_pre_tokenizer_decides_about_digits(void **state)
{
    static const char *const names[] = {"smollm",          "refact", "starcoder", "gpt-2",
                                        "granite-docling", "dbrx",   "qwen2"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        file f = {0};
        rt_tokenizer *t;
        rc_msg msg;
        bool alone = i < 3 || i == 6;
        add_model(&f, "gpt2", names[i]);
        add_merges(&f, merges, 3);
        assert_int_equal(open_file(&f, &t, &msg), RC_OK);
        expect_ids(t, "ab ab12", alone ? (int32_t[]){7, 8, 5, 6} : (int32_t[]){7, 8, 9}, alone ? 4 : 3);
        rt_tokenizer_close(t);
    }
}

static void special_tokens_are_found_and_the_text_is_opened(void **state)
{
    file f = {0};
    rt_tokenizer *t;
    rc_msg msg;
    (void)state;
    add_model(&f, "gpt2", "smollm");
    add_merges(&f, merges, 3);
    key(&f, "tokenizer.ggml.add_bos_token", BOOL);
    put_number(&f, 1, 1);
    key(&f, "tokenizer.ggml.bos_token_id", U32);
    put_number(&f, 0, 4);
    assert_int_equal(open_file(&f, &t, &msg), RC_OK);
    expect_ids(t, "a<user>b<s>!", (int32_t[]){0, 2, 1, 3, 0, 10}, 6);
    assert_true(rt_tokenizer_is_special(t, 0));
    assert_false(rt_tokenizer_is_special(t, 1));
    rt_tokenizer_close(t);
}

static void padding_rows_have_no_text(void **state)
{
    file f = {0};
    rt_tokenizer *t;
    rc_msg msg;
    size_t bytes = 1;
    (void)state;
    add_model(&f, "gpt2", "smollm");
    add_merges(&f, merges, 3);
    assert_int_equal(open_file(&f, &t, &msg), RC_OK);
    (void)rt_tokenizer_bytes(t, 11, &bytes);
    assert_int_equal(bytes, 0);
    rt_tokenizer_close(t);
}

static void what_is_not_supported_is_refused_by_name(void **state)
{
    static const char *const cases[][3] = {{"llama", "default", "'llama'"},
                                           {"gpt2", "tekken", "'tekken'"},
                                           {"gpt2", "smollm", "merges"},
                                           {"gpt2", "smollm", "'c'"}};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        file f = {0};
        rt_tokenizer *t = NULL;
        rc_msg msg = {0};
        add_model(&f, cases[i][0], cases[i][1]);
        if (i != 2) add_merges(&f, i == 3 ? (const char *const[]){"a c"} : merges, 1);
        assert_int_not_equal(open_file(&f, &t, &msg), RC_OK);
        assert_null(t);
        if (!strstr(msg.text, cases[i][2])) fail_msg("%s", msg.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_name_of_the_pre_tokenizer_decides_about_digits),
        cmocka_unit_test(special_tokens_are_found_and_the_text_is_opened),
        cmocka_unit_test(padding_rows_have_no_text),
        cmocka_unit_test(what_is_not_supported_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
