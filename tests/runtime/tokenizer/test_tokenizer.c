#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdbool.h>

#include "runtime/tokenizer/tokenizer.h"

#define GOLDEN MICA_SOURCE_DIR "/tests/golden/tokenizers/"

static const char *const names[] = {"gpt2",       "llama3", "starcoder",   "qwen2",      "o200k",
                                    "possessive", "flags",  "plain_flags", "characters", "chain"};

static json_t *load_json(const char *name, const char *suffix)
{
    char path[512];
    json_error_t error;
    snprintf(path, sizeof path, "%s%s%s", GOLDEN, name, suffix);
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!root) fail_msg("%s: %s", path, error.text);
    return root;
}

static rc_code open_value(const json_t *root, rt_tokenizer **t, rc_msg *msg)
{
    char *text = json_dumps(root, JSON_COMPACT);
    assert_non_null(text);
    rc_code code = rt_tokenizer_open_json(text, strlen(text), "tokenizer.json", t, msg);
    free(text);
    return code;
}

static rt_tokenizer *open_golden(const char *name)
{
    rt_tokenizer *t;
    rc_msg msg;
    json_t *root = load_json(name, ".json");
    if (open_value(root, &t, &msg) != RC_OK) fail_msg("%s", msg.text);
    json_decref(root);
    return t;
}

static void check_encode(const char *name, const rt_tokenizer *t, const json_t *vector)
{
    const json_t *text = json_object_get(vector, "text"), *want = json_object_get(vector, "ids");
    int32_t *ids;
    size_t count;
    rc_msg msg;
    if (rt_tokenizer_encode(t, json_string_value(text), json_string_length(text),
                            json_is_true(json_object_get(vector, "special")), 1000, &ids, &count,
                            &msg) != RC_OK)
        fail_msg("%s: %s", name, msg.text);
    bool same = count == json_array_size(want);
    for (size_t i = 0; same && i < count; i++) same = ids[i] == json_integer_value(json_array_get(want, i));
    if (!same) fail_msg("%s: other ids of '%s'", name, json_string_value(text));
    free(ids);
}

/* Every piece on its own must be whole characters, and all of them together the text. */
static void check_decode(const char *name, const rt_tokenizer *t, const json_t *vector)
{
    const json_t *ids = json_object_get(vector, "ids"), *want = json_object_get(vector, "text");
    size_t piece = rt_tokenizer_piece_max(t), length = 0;
    char *text = malloc((json_array_size(ids) + 1) * piece);
    rt_detok d;
    assert_non_null(text);
    rt_detok_init(&d, json_is_true(json_object_get(vector, "skip")));
    for (size_t i = 0; i <= json_array_size(ids); i++) {
        int32_t id = (int32_t)json_integer_value(json_array_get(ids, i));
        size_t more = i < json_array_size(ids) ? rt_detok_push(&d, t, id, text + length, piece)
                                               : rt_detok_finish(&d, t, text + length, piece);
        json_t *whole = json_stringn(text + length, more);
        if (!whole) fail_msg("%s: piece %zu is half a character", name, i);
        json_decref(whole);
        length += more;
    }
    if (length != json_string_length(want) || memcmp(text, json_string_value(want), length))
        fail_msg("%s: '%.*s' is not '%s'", name, (int)length, text, json_string_value(want));
    free(text);
}

static void ids_and_texts_are_those_of_the_library(void **state)
{
    (void)state;
    for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) {
        rt_tokenizer *t = open_golden(names[n]);
        json_t *vectors = load_json(names[n], ".vectors.json"), *vector;
        size_t i;
        json_array_foreach(json_object_get(vectors, "encode"), i, vector) check_encode(names[n], t, vector);
        json_array_foreach(json_object_get(vectors, "decode"), i, vector) check_decode(names[n], t, vector);
        json_decref(vectors);
        rt_tokenizer_close(t);
    }
}

static void what_is_not_supported_is_refused_by_name(void **state)
{
    static const struct {
        const char *key, *value, *named;
    } cases[] = {
        {"normalizer", "{\"type\": \"Nmt\"}", "Nmt"},
        {"normalizer", "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"\"}", "Precompiled"},
        {"normalizer", "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(a)\\\\1\"}, \"content\": \"\"}",
         "(a)\\1"},
        {"normalizer", "[]", "normalizer"},
        {"pre_tokenizer", "{\"type\": \"Metaspace\", \"replacement\": \"_\"}", "Metaspace"},
        {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Other\", \"invert\": false}", "Other"},
        {"pre_tokenizer", "{\"type\": \"ByteLevel\"}", "add_prefix_space"},
        {"post_processor", "{\"type\": \"Other\"}", "Other"},
        {"post_processor", "{\"type\": \"BertProcessing\", \"cls\": [\"a\", -1], \"sep\": [\"b\", 2]}", "-1"},
        {"decoder", "{\"type\": \"WordPiece\", \"prefix\": \"##\", \"cleanup\": true}", "WordPiece"},
        {"model", "{\"type\": \"Unigram\"}", "Unigram"},
        {"model", "{\"type\": \"BPE\", \"dropout\": 0.1, \"vocab\": {}, \"merges\": []}", "dropout"},
        {"model", "{\"vocab\": {}, \"merges\": [], \"end_of_word_suffix\": \"</w>\"}", "end_of_word_suffix"},
        {"model", "{\"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}", "both have the id 0"},
        {"model", "{\"vocab\": {\"a\": 99999999}, \"merges\": []}", "99999999"},
        {"model", "{\"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}", "'b'"},
        {"model", "{\"vocab\": {\"a\": 0}, \"merges\": [\"a\"]}", "merges[0]"},
        {"model", "{\"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]}", "merges[0]"},
        {"added_tokens", "[{\"content\": 7}]", "content"},
        {"version", "\"2.0\"", "2.0"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rt_tokenizer *t = NULL;
        rc_msg msg = {0};
        json_t *root = load_json("gpt2", ".json");
        json_object_set_new(root, cases[i].key, json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        assert_int_not_equal(open_value(root, &t, &msg), RC_OK);
        if (t || !strstr(msg.text, cases[i].named)) fail_msg("%s: %s", cases[i].value, msg.text);
        json_decref(root);
    }
}

static void a_text_that_is_not_utf8_or_too_long_is_refused(void **state)
{
    rt_tokenizer *t = open_golden("gpt2");
    int32_t *ids = NULL;
    size_t count;
    rc_msg msg;
    (void)state;
    assert_int_equal(rt_tokenizer_encode(t, "ab\xff", 3, true, 10, &ids, &count, &msg), RC_INVALID_ARGUMENT);
    assert_string_equal(msg.text, "the text is not UTF-8: byte 0xff at 2");
    assert_int_equal(rt_tokenizer_encode(t, "0 1 2 3", 7, true, 3, &ids, &count, &msg), RC_INVALID_ARGUMENT);
    assert_string_equal(msg.text, "the text has more than 3 tokens, which is the most");
    assert_null(ids);
    assert_int_equal(rt_tokenizer_encode(t, NULL, 0, true, 0, &ids, &count, &msg), RC_OK);
    assert_int_equal(count, 0);
    free(ids);
    rt_tokenizer_close(t);
}

static void tokens_are_known_by_text_id_and_bytes(void **state)
{
    rt_tokenizer *t = open_golden("gpt2");
    size_t bytes;
    (void)state;
    assert_int_equal(rt_tokenizer_vocab(t), 620);
    int32_t end = rt_tokenizer_id(t, "<|endoftext|>", 13);
    assert_int_equal(end, 0);
    assert_true(rt_tokenizer_is_special(t, end));
    assert_memory_equal(rt_tokenizer_bytes(t, end, &bytes), "<|endoftext|>", 13);
    int32_t space = rt_tokenizer_id(t, "\xc4\xa0", 2);
    assert_memory_equal(rt_tokenizer_bytes(t, space, &bytes), " ", 1);
    assert_int_equal(bytes, 1);
    assert_false(rt_tokenizer_is_special(t, space));
    assert_int_equal(rt_tokenizer_id(t, "no such token", 13), -1);
    static const int32_t none[] = {-1, 620, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        rt_tokenizer_bytes(t, none[i], &bytes);
        assert_int_equal(bytes, 0);
        assert_false(rt_tokenizer_is_special(t, none[i]));
    }
    rt_tokenizer_close(t);
}

/* A piece of this length would take minutes if merging were quadratic. */
static void a_piece_of_a_megabyte_is_merged_in_time(void **state)
{
    enum { BYTES = 1 << 20 };
    rt_tokenizer *t = open_golden("gpt2");
    char *text = malloc(BYTES);
    int32_t *ids;
    size_t count;
    rc_msg msg;
    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i < BYTES; i++) text[i] = "theandingofs"[i * 2654435761u % 4294967296u >> 20 & 7];
    assert_int_equal(rt_tokenizer_encode(t, text, BYTES, false, BYTES, &ids, &count, &msg), RC_OK);
    free(ids);
    memset(text, ' ', BYTES);
    assert_int_equal(rt_tokenizer_encode(t, text, BYTES, false, BYTES, &ids, &count, &msg), RC_OK);
    free(ids);
    free(text);
    rt_tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_and_texts_are_those_of_the_library),
        cmocka_unit_test(what_is_not_supported_is_refused_by_name),
        cmocka_unit_test(a_text_that_is_not_utf8_or_too_long_is_refused),
        cmocka_unit_test(tokens_are_known_by_text_id_and_bytes),
        cmocka_unit_test(a_piece_of_a_megabyte_is_merged_in_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
