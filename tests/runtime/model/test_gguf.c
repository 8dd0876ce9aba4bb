#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/model/gguf.h"

#define GOLDEN MICA_SOURCE_DIR "/tests/golden/gguf/quants.gguf"

/* A GGUF file being written by hand. */
typedef struct bytes {
    unsigned char data[4096];
    size_t count;
} bytes;

static void put(bytes *b, uint64_t value, size_t size)
{
    for (size_t i = 0; i < size; i++) b->data[b->count++] = (unsigned char)(value >> (8 * i));
}

static void put_str(bytes *b, const char *text)
{
    put(b, strlen(text), 8);
    memcpy(b->data + b->count, text, strlen(text));
    b->count += strlen(text);
}

static bytes header(uint32_t version, uint64_t tensors, uint64_t keys)
{
    bytes b = {.count = 4};
    memcpy(b.data, "GGUF", 4);
    put(&b, version, 4);
    put(&b, tensors, 8);
    put(&b, keys, 8);
    return b;
}

static void put_tensor(bytes *b, const char *name, uint32_t dims, const uint64_t *shape, uint32_t type,
                       uint64_t offset)
{
    put_str(b, name);
    put(b, dims, 4);
    for (uint32_t d = 0; d < dims; d++) put(b, shape[d], 8);
    put(b, type, 4);
    put(b, offset, 8);
}

static void pad(bytes *b, size_t alignment, size_t data)
{
    while (b->count % alignment) put(b, 0, 1);
    for (size_t i = 0; i < data; i++) put(b, i, 1);
}

/* Opens a copy of exactly that size, so that a byte read past its end is seen. */
static rc_code open_copy(const void *data, size_t count, rt_gguf **out, void **copy, rc_msg *msg)
{
    *copy = malloc(count + (count == 0));
    memcpy(*copy, data, count);
    return rt_gguf_open_memory(*copy, count, "x.gguf", out, msg);
}

static void refused(const bytes *b, const char *why)
{
    rt_gguf *g = (rt_gguf *)1;
    void *copy;
    rc_msg msg = {{0}, {0}};
    assert_int_equal(open_copy(b->data, b->count, &g, &copy, &msg), RC_INVALID_ARGUMENT);
    assert_ptr_equal(g, (rt_gguf *)1);
    if (!strstr(msg.text, why)) fail_msg("'%s' does not say '%s'", msg.text, why);
    free(copy);
}

static void every_format_dequantizes_to_the_recorded_bits(void **state)
{
    (void)state;
    rt_gguf *g;
    unsigned formats = 0;
    assert_int_equal(rt_gguf_open(GOLDEN, &g, NULL), RC_OK);
    for (size_t i = 0; i < rt_gguf_count(g); i++) {
        const rt_gguf_tensor *t = rt_gguf_at(g, i);
        char name[64];
        if (strchr(t->name, '.')) continue;
        snprintf(name, sizeof name, "%s.f32", t->name);
        const rt_gguf_tensor *want = rt_gguf_find(g, name);
        assert_non_null(want);
        assert_string_equal(rt_gguf_type_name(t->type), t->name);
        assert_true(rt_gguf_type_known(t->type));
        size_t row = (size_t)t->shape[0], rows = (size_t)t->shape[1];
        assert_int_equal(want->bytes, row * rows * sizeof(float));
        float *got = malloc(want->bytes);
        for (size_t r = 0; r < rows; r++)
            rt_gguf_row(t->type, (const char *)t->data + r * rt_gguf_row_bytes(t->type, row), row,
                        got + r * row);
        assert_memory_equal(got, want->data, want->bytes);
        free(got);
        formats++;
    }
    assert_int_equal(formats, 13);
    rt_gguf_close(g);
}

static void numbers_of_every_type_are_read_where_they_fit(void **state)
{
    (void)state;
    rt_gguf *g;
    uint32_t u;
    float f;
    bool yes;
    assert_int_equal(rt_gguf_open(GOLDEN, &g, NULL), RC_OK);
    assert_true(rt_gguf_u32(g, "t.u8", &u) && u == 255);
    assert_true(rt_gguf_u32(g, "t.u16", &u) && u == 65535);
    assert_true(rt_gguf_u32(g, "t.u32", &u) && u == UINT32_MAX);
    assert_true(rt_gguf_u32(g, "t.f64", &u) && u == 4096);
    assert_false(rt_gguf_u32(g, "t.i8", &u));
    assert_false(rt_gguf_u32(g, "t.u64", &u));
    assert_false(rt_gguf_u32(g, "t.f32", &u));
    assert_false(rt_gguf_u32(g, "t.true", &u));
    assert_false(rt_gguf_u32(g, "t.str", &u));
    assert_false(rt_gguf_u32(g, "t.ints", &u));
    assert_false(rt_gguf_u32(g, "t.absent", &u));
    assert_true(rt_gguf_f32(g, "t.f32", &f) && f == 0.1f);
    assert_true(rt_gguf_f32(g, "t.i16", &f) && f == -32768.0f);
    assert_true(rt_gguf_f32(g, "t.i64", &f) && f == -5.0f);
    assert_true(rt_gguf_bool(g, "t.true", &yes) && yes);
    assert_false(rt_gguf_bool(g, "t.u8", &yes));
    rt_gguf_close(g);
}

static void strings_and_arrays_are_read_element_by_element(void **state)
{
    (void)state;
    rt_gguf *g;
    const char *text;
    size_t size;
    uint64_t count;
    int32_t i;
    float f;
    assert_int_equal(rt_gguf_open(GOLDEN, &g, NULL), RC_OK);
    assert_true(rt_gguf_str(g, "t.str", &text, &size));
    assert_int_equal(size, 8);
    assert_memory_equal(text, "Grüße\n", 8);
    assert_true(rt_gguf_array(g, "t.strs", &count) && count == 4);
    assert_true(rt_gguf_array_str(g, "t.strs", 1, &text, &size) && size == 0);
    assert_true(rt_gguf_array_str(g, "t.strs", 2, &text, &size) && size == 5);
    assert_memory_equal(text, "Ġthe", 5);
    assert_false(rt_gguf_array_str(g, "t.strs", 4, &text, &size));
    assert_false(rt_gguf_array_i32(g, "t.strs", 0, &i));
    assert_true(rt_gguf_array_i32(g, "t.ints", 1, &i) && i == -2);
    assert_false(rt_gguf_array_i32(g, "t.ints", 3, &i));
    assert_false(rt_gguf_array_str(g, "t.ints", 0, &text, &size));
    assert_true(rt_gguf_array_f32(g, "t.floats", 1, &f) && f == -1.25f);
    assert_false(rt_gguf_array(g, "t.str", &count));
    rt_gguf_close(g);
}

static bytes small_file(uint32_t alignment)
{
    const uint64_t shape[] = {4, 2};
    bytes b = header(3, 2, alignment ? 1 : 0);
    if (alignment) {
        put_str(&b, "general.alignment");
        put(&b, 4, 4);
        put(&b, alignment, 4);
    }
    put_tensor(&b, "w", 2, shape, 0, 0);
    put_tensor(&b, "odd", 1, shape, 99, 1);
    pad(&b, alignment ? alignment : 32, 32);
    return b;
}

static void tensors_stand_after_the_padding(void **state)
{
    (void)state;
    const uint32_t alignments[] = {0, 1, 8, 64, 1024};
    for (size_t i = 0; i < 5; i++) {
        bytes b = small_file(alignments[i]);
        rt_gguf *g;
        void *copy;
        assert_int_equal(open_copy(b.data, b.count, &g, &copy, NULL), RC_OK);
        const rt_gguf_tensor *w = rt_gguf_find(g, "w");
        assert_int_equal(w->bytes, 32);
        assert_int_equal(w->shape[2], 1);
        assert_int_equal(((const unsigned char *)w->data)[31], 31);
        assert_null(rt_gguf_find(g, "odd")->data);
        assert_false(rt_gguf_type_known(99));
        assert_null(rt_gguf_type_name(99));
        assert_null(rt_gguf_find(g, "nothing"));
        rt_gguf_close(g);
        free(copy);
    }
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    (void)state;
    bytes b = small_file(64);
    for (size_t count = 0; count < b.count; count++) {
        bytes cut = b;
        cut.count = count;
        refused(&cut, "x.gguf");
    }
}

static void bad_headers_are_refused(void **state)
{
    (void)state;
    bytes b = header(1, 0, 0);
    refused(&b, "version 1");
    b = header(3u << 24, 0, 0);
    refused(&b, "big-endian");
    b = header(3, UINT64_MAX, 0);
    refused(&b, "tensors");
    b = header(3, 0, 1ull << 60);
    refused(&b, "keys");
    const uint32_t alignments[] = {3, 48};
    for (size_t i = 0; i < 2; i++) {
        b = small_file(alignments[i]);
        refused(&b, "general.alignment");
    }
    b = header(3, 0, 1);
    put_str(&b, "general.alignment");
    put(&b, 4, 4);
    put(&b, 0, 4);
    refused(&b, "general.alignment");
}

static bytes one_value(uint32_t type)
{
    bytes b = header(2, 0, 1);
    put_str(&b, "key");
    put(&b, type, 4);
    return b;
}

static void bad_metadata_is_refused(void **state)
{
    (void)state;
    bytes b = one_value(13);
    refused(&b, "value type 13");
    b = one_value(8);
    put(&b, UINT64_MAX, 8);
    refused(&b, "ends past the file");
    b = one_value(9);
    put(&b, 9, 4);
    put(&b, 1, 8);
    refused(&b, "inside an array");
    const uint32_t elements[] = {0, 4, 8, 12};
    for (size_t i = 0; i < 4; i++) {
        b = one_value(9);
        put(&b, elements[i], 4);
        put(&b, 1ull << 61, 8);
        refused(&b, "ends past the file");
    }
    b = header(3, 0, 2);
    for (int i = 0; i < 2; i++) {
        put_str(&b, "twice");
        put(&b, 0, 4);
        put(&b, 7, 1);
    }
    refused(&b, "'twice'");
    b = header(3, 0, 1);
    put(&b, UINT64_MAX - 7, 8);
    pad(&b, 1, 64);
    refused(&b, "a key");
}

static void one_tensor_refused(uint32_t dims, const uint64_t *shape, uint32_t type, uint64_t offset,
                               const char *why)
{
    bytes b = header(3, 1, 0);
    put_tensor(&b, "w", dims, shape, type, offset);
    pad(&b, 32, 64);
    refused(&b, why);
}

static void bad_tensors_are_refused_by_name(void **state)
{
    (void)state;
    const uint64_t ok[] = {16, 1, 1, 1, 1}, huge[] = {1ull << 62, 1ull << 62},
                   wide[] = {1ull << 60, 64, 1, 1};
    const uint64_t odd[] = {33};
    one_tensor_refused(5, ok, 0, 0, "'w'");
    one_tensor_refused(1, ok, 0, 32, "ends past");
    one_tensor_refused(1, ok, 0, 4, "not aligned");
    one_tensor_refused(1, ok, 0, UINT64_MAX - 31, "ends past");
    one_tensor_refused(2, huge, 0, 0, "ends past");
    one_tensor_refused(4, wide, 1, 0, "ends past");
    one_tensor_refused(1, odd, 2, 0, "blocks");
    one_tensor_refused(1, ok, 12, 0, "blocks");
    bytes b = header(3, 2, 0);
    put_tensor(&b, "w", 1, ok, 0, 0);
    put_tensor(&b, "w", 1, ok, 0, 0);
    pad(&b, 32, 64);
    refused(&b, "twice");
}

static void the_real_model_opens(void **state)
{
    (void)state;
    rt_gguf *g;
    const char *text;
    size_t size;
    if (rt_gguf_open(MICA_SOURCE_DIR "/build/models/SmolLM2-135M-Instruct.Q4_1.gguf", &g, NULL) != RC_OK)
        skip();
    assert_true(rt_gguf_str(g, "general.architecture", &text, &size) && size == 5);
    assert_memory_equal(text, "llama", 5);
    assert_int_equal(rt_gguf_count(g), 272);
    for (size_t i = 0; i < rt_gguf_count(g); i++) assert_true(rt_gguf_type_known(rt_gguf_at(g, i)->type));
    rt_gguf_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_dequantizes_to_the_recorded_bits),
        cmocka_unit_test(numbers_of_every_type_are_read_where_they_fit),
        cmocka_unit_test(strings_and_arrays_are_read_element_by_element),
        cmocka_unit_test(tensors_stand_after_the_padding),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(bad_headers_are_refused),
        cmocka_unit_test(bad_metadata_is_refused),
        cmocka_unit_test(bad_tensors_are_refused_by_name),
        cmocka_unit_test(the_real_model_opens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
