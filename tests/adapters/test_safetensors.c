#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "adapters/safetensors.h"

typedef struct file_bytes {
    unsigned char *bytes;
    size_t count;
} file_bytes;

static file_bytes make(const char *header, size_t data_bytes)
{
    size_t length = strlen(header);
    file_bytes f = {malloc(8 + length + data_bytes + 1), 8 + length + data_bytes};
    for (int i = 0; i < 8; i++) f.bytes[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(f.bytes + 8, header, length);
    for (size_t i = 0; i < data_bytes; i++) f.bytes[8 + length + i] = (unsigned char)i;
    return f;
}

static void refused(const char *header, size_t data_bytes, const char *why)
{
    file_bytes f = make(header, data_bytes);
    adapter_st *st = (adapter_st *)1;
    rc_msg msg = {{0}, {0}};
    assert_int_equal(adapter_st_open_memory(f.bytes, f.count, "x.safetensors", &st, &msg),
                     RC_INVALID_ARGUMENT);
    assert_ptr_equal(st, (adapter_st *)1);
    if (!strstr(msg.text, why)) fail_msg("'%s' does not say '%s'", msg.text, why);
    free(f.bytes);
}

static void tensors_are_found_by_name_and_kept_in_order(void **state)
{
    (void)state;
    file_bytes f = make("{\"__metadata__\":{\"format\":\"pt\"},"
                        "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
                        "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                        "\"ids\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[16,17]},"
                        "\"none\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[16,16]}}   ",
                        17);
    adapter_st *st;
    assert_int_equal(adapter_st_open_memory(f.bytes, f.count, "x", &st, NULL), RC_OK);
    assert_int_equal(adapter_st_count(st), 4);
    assert_string_equal(adapter_st_at(st, 0)->name, "b");
    const adapter_tensor *b = adapter_st_find(st, "b");
    assert_ptr_equal(b, adapter_st_at(st, 0));
    assert_int_equal(b->dtype, RC_BF16);
    assert_int_equal(b->dims, 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->bytes, 12);
    assert_int_equal(*(const unsigned char *)b->data, 4);
    assert_int_equal(adapter_st_find(st, "ids")->dtype, 0);
    assert_string_equal(adapter_st_find(st, "ids")->dtype_name, "I8");
    assert_int_equal(adapter_st_find(st, "none")->bytes, 0);
    assert_null(adapter_st_find(st, "__metadata__"));
    assert_null(adapter_st_find(st, "c"));
    adapter_st_close(st);
    free(f.bytes);
}

static void a_file_without_tensors_is_legal(void **state)
{
    (void)state;
    file_bytes f = make("{}", 0);
    adapter_st *st;
    assert_int_equal(adapter_st_open_memory(f.bytes, f.count, "x", &st, NULL), RC_OK);
    assert_int_equal(adapter_st_count(st), 0);
    assert_null(adapter_st_find(st, ""));
    adapter_st_close(st);
    free(f.bytes);
}

#define ENTRY(dtype, shape, offsets)                                                                         \
    "\"w\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void bad_entries_are_refused_by_tensor_name(void **state)
{
    (void)state;
    refused("{\"w\":3}", 0, "'w'");
    refused("{\"__metadata__\":[]}", 0, "__metadata__");
    refused("{" ENTRY("7", "[1]", "[0,4]") "}", 4, "dtype");
    refused("{" ENTRY("\"F33\"", "[1]", "[0,4]") "}", 4, "F33");
    refused("{" ENTRY("\"F32\"", "1", "[0,4]") "}", 4, "shape");
    refused("{" ENTRY("\"F32\"", "[-1]", "[0,4]") "}", 4, "shape");
    refused("{" ENTRY("\"F32\"", "[1.0]", "[0,4]") "}", 4, "shape");
    refused("{" ENTRY("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "9 dimensions");
    refused("{" ENTRY("\"F32\"", "[1]", "[0]") "}", 4, "data_offsets");
    refused("{" ENTRY("\"F32\"", "[1]", "[-4,0]") "}", 4, "data_offsets");
    refused("{" ENTRY("\"F32\"", "[1]", "[4,0]") "}", 4, "not inside");
    refused("{" ENTRY("\"F32\"", "[2]", "[0,8]") "}", 4, "not inside");
    refused("{" ENTRY("\"F32\"", "[2]", "[0,4]") "}", 4, "do not fit");
    refused("{" ENTRY("\"F32\"", "[4611686018427387904,4]", "[0,0]") "}", 0, "do not fit");
    refused("{" ENTRY("\"F4\"", "[3]", "[0,1]") "}", 1, "do not fit");
}

static void overlaps_holes_and_tails_are_refused(void **state)
{
    (void)state;
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
            "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}",
            6, "overlaps");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
            "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[5,9]}}",
            9, "hole");
    refused("{" ENTRY("\"U8\"", "[4]", "[0,4]") "}", 5, "1 bytes after");
}

static void a_header_that_is_no_json_object_is_refused(void **state)
{
    (void)state;
    refused("", 0, "JSON");
    refused("[]", 0, "not a JSON object");
    refused("{\"a\":", 0, "JSON");
    refused("{} x", 0, "JSON");
    refused("{\"\\u0000\":1}", 0, "JSON");
    refused("{\"w\":{},\"w\":{}}", 0, "uplicate");
    char deep[5001];
    memset(deep, '[', 5000);
    deep[5000] = 0;
    refused(deep, 0, "JSON");
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    (void)state;
    file_bytes f = make("{" ENTRY("\"F32\"", "[2,2]", "[0,16]") "}", 16);
    for (size_t count = 0; count < f.count; count++) {
        unsigned char *cut = malloc(count + 1);
        memcpy(cut, f.bytes, count);
        adapter_st *st;
        assert_int_equal(adapter_st_open_memory(cut, count, "x", &st, NULL), RC_INVALID_ARGUMENT);
        free(cut);
    }
    memset(f.bytes, 0xff, 8);
    adapter_st *st;
    assert_int_equal(adapter_st_open_memory(f.bytes, f.count, "x", &st, NULL), RC_INVALID_ARGUMENT);
    free(f.bytes);
}

static void a_path_that_is_no_file_is_named(void **state)
{
    (void)state;
    adapter_st *st;
    rc_msg msg;
    assert_int_equal(adapter_st_open("/nowhere/a.safetensors", &st, &msg), RC_NOT_FOUND);
    assert_non_null(strstr(msg.text, "'/nowhere/a.safetensors'"));
    assert_int_equal(adapter_st_open("/", &st, &msg), RC_INVALID_ARGUMENT);
    assert_non_null(strstr(msg.text, "not a regular file"));
    char path[] = "/tmp/test_safetensors_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(adapter_st_open(path, &st, &msg), RC_INVALID_ARGUMENT);
    file_bytes f = make("{" ENTRY("\"F32\"", "[2,2]", "[0,16]") "}", 16);
    assert_int_equal(write(fd, f.bytes, f.count), f.count);
    close(fd);
    assert_int_equal(adapter_st_open(path, &st, &msg), RC_OK);
    assert_int_equal(((const unsigned char *)adapter_st_find(st, "w")->data)[15], 15);
    adapter_st_close(st);
    unlink(path);
    free(f.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_found_by_name_and_kept_in_order),
        cmocka_unit_test(a_file_without_tensors_is_legal),
        cmocka_unit_test(bad_entries_are_refused_by_tensor_name),
        cmocka_unit_test(overlaps_holes_and_tails_are_refused),
        cmocka_unit_test(a_header_that_is_no_json_object_is_refused),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(a_path_that_is_no_file_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
