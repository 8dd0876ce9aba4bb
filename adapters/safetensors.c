/* The header is parsed once into tensors; everything after open is a lookup. */
#include "adapters/safetensors.h"

#include <jansson.h>

#include "adapters/file.h"
#include "adapters/name_index.h"

enum { LENGTH_BYTES = 8 };

struct adapter_st {
    adapter_map map;         /* zeroed where the caller keeps the bytes */
    json_t *header;          /* owns the names */
    adapter_tensor *tensors; /* [count], in the header's order */
    size_t count;
    adapter_name_index index; /* of tensors, by name */
};

/* What open works on; label is the path in messages. */
typedef struct st_source {
    const unsigned char *data; /* what follows the header */
    uint64_t data_bytes;
    const char *label;
} st_source;

typedef struct st_type {
    const char *name;
    uint32_t bits;
    rc_dtype dtype; /* 0: Mica does not read it */
} st_type;

static const st_type *find_type(const char *name)
{
    static const st_type types[] = {
        {"F32", 32, RC_F32}, {"F16", 16, RC_F16},   {"BF16", 16, RC_BF16}, {"F64", 64, 0},
        {"I64", 64, 0},      {"I32", 32, 0},        {"I16", 16, 0},        {"I8", 8, 0},
        {"U64", 64, 0},      {"U32", 32, 0},        {"U16", 16, 0},        {"U8", 8, 0},
        {"BOOL", 8, 0},      {"C64", 64, 0},        {"F8_E4M3", 8, 0},     {"F8_E5M2", 8, 0},
        {"F8_E8M0", 8, 0},   {"F8_E4M3FNUZ", 8, 0}, {"F8_E5M2FNUZ", 8, 0}, {"F6_E2M3", 6, 0},
        {"F6_E3M2", 6, 0},   {"F4", 4, 0},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, name) == 0) return &types[i];
    return NULL;
}

static rc_code fail_tensor(rc_msg *msg, const st_source *s, const char *name, const char *what)
{
    return rc_fail(RC_INVALID_ARGUMENT, msg, "'%.200s': tensor '%.200s': %s", s->label, name, what);
}

static bool read_u64(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

/* Bits that a tensor of this shape takes. False: more than 2^64. An empty tensor takes none. */
static bool shape_bits(const adapter_tensor *t, uint32_t element_bits, uint64_t *bits)
{
    uint64_t product = element_bits;
    for (uint32_t d = 0; d < t->dims; d++) {
        if (__builtin_mul_overflow(product, t->shape[d], &product)) return false;
    }
    *bits = product;
    return true;
}

static rc_code read_shape(const st_source *s, const json_t *shape, adapter_tensor *t, rc_msg *msg)
{
    if (!json_is_array(shape)) return fail_tensor(msg, s, t->name, "shape is not a list");
    if (json_array_size(shape) > ST_DIMS_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg,
                       "'%.200s': tensor '%.200s': %zu dimensions, at most %d are read", s->label, t->name,
                       json_array_size(shape), ST_DIMS_MAX);
    t->dims = (uint32_t)json_array_size(shape);
    for (uint32_t d = 0; d < t->dims; d++)
        if (!read_u64(json_array_get(shape, d), &t->shape[d]))
            return fail_tensor(msg, s, t->name, "shape holds something that is not a size");
    return RC_OK;
}

static rc_code read_data(const st_source *s, const json_t *offsets, uint32_t element_bits, adapter_tensor *t,
                         rc_msg *msg)
{
    uint64_t from, to, bits;
    if (json_array_size(offsets) != 2 || !read_u64(json_array_get(offsets, 0), &from) ||
        !read_u64(json_array_get(offsets, 1), &to))
        return fail_tensor(msg, s, t->name, "data_offsets is not a pair of offsets");
    if (from > to || to > s->data_bytes)
        return rc_fail(
            RC_INVALID_ARGUMENT, msg,
            "'%.200s': tensor '%.200s': data_offsets %llu to %llu are not inside the file's %llu bytes",
            s->label, t->name, (unsigned long long)from, (unsigned long long)to,
            (unsigned long long)s->data_bytes);
    if (!shape_bits(t, element_bits, &bits) || bits % 8 != 0 || bits / 8 != to - from)
        return rc_fail(RC_INVALID_ARGUMENT, msg,
                       "'%.200s': tensor '%.200s': %llu bytes do not fit its shape and %s", s->label, t->name,
                       (unsigned long long)(to - from), t->dtype_name);
    t->data = s->data + from;
    t->bytes = (size_t)(to - from);
    return RC_OK;
}

static rc_code read_tensor(const st_source *s, const char *name, const json_t *entry, adapter_tensor *t,
                           rc_msg *msg)
{
    *t = (adapter_tensor){.name = name, .dtype_name = json_string_value(json_object_get(entry, "dtype"))};
    if (!json_is_object(entry)) return fail_tensor(msg, s, name, "its entry is not an object");
    if (!t->dtype_name) return fail_tensor(msg, s, name, "dtype is not a string");
    const st_type *type = find_type(t->dtype_name);
    if (!type)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "'%.200s': tensor '%.200s': unknown dtype '%.32s'", s->label,
                       name, t->dtype_name);
    t->dtype = type->dtype;
    RC_TRY(read_shape(s, json_object_get(entry, "shape"), t, msg));
    return read_data(s, json_object_get(entry, "data_offsets"), type->bits, t, msg);
}

static rc_code read_tensors(adapter_st *st, const st_source *s, rc_msg *msg)
{
    const char *name;
    json_t *entry;
    json_object_foreach(st->header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0) {
            if (!json_is_object(entry))
                return rc_fail(RC_INVALID_ARGUMENT, msg, "'%.300s': __metadata__ is not an object", s->label);
            continue;
        }
        adapter_tensor *t = &st->tensors[st->count];
        RC_TRY(read_tensor(s, name, entry, t, msg));
        bool added = adapter_name_index_add(&st->index, name, strlen(name));
        RC_ASSERT(added); /* the JSON parser refuses duplicates */
        st->count++;
    }
    return RC_OK;
}

static int by_data(const void *left, const void *right)
{
    const adapter_tensor *l = *(const adapter_tensor *const *)left,
                         *r = *(const adapter_tensor *const *)right;
    if (l->data != r->data) return (uintptr_t)l->data < (uintptr_t)r->data ? -1 : 1;
    return l->bytes < r->bytes ? -1 : l->bytes > r->bytes;
}

/* The tensors tile the data: no byte belongs to two of them, and none to nobody. */
static rc_code check_tiling(const adapter_st *st, const st_source *s, rc_msg *msg)
{
    const adapter_tensor **sorted = malloc((st->count + 1) * sizeof *sorted);
    if (!sorted) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "'%.300s': no memory", s->label);
    for (size_t i = 0; i < st->count; i++) sorted[i] = &st->tensors[i];
    qsort(sorted, st->count, sizeof *sorted, by_data);
    const unsigned char *end = s->data;
    rc_code code = RC_OK;
    for (size_t i = 0; i < st->count && code == RC_OK; i++) {
        const unsigned char *data = sorted[i]->data;
        if (data < end) code = fail_tensor(msg, s, sorted[i]->name, "its data overlaps another tensor's");
        if (data > end)
            code = fail_tensor(msg, s, sorted[i]->name, "there is a hole in the file before its data");
        end = data + sorted[i]->bytes;
    }
    free(sorted);
    if (code == RC_OK && end != s->data + s->data_bytes)
        code = rc_fail(RC_INVALID_ARGUMENT, msg, "'%.300s': %llu bytes after the last tensor", s->label,
                       (unsigned long long)(s->data + s->data_bytes - end));
    return code;
}

static rc_code split_file(const unsigned char *bytes, size_t count, st_source *s, uint64_t *header_bytes,
                          rc_msg *msg)
{
    uint64_t length = 0;
    if (count < LENGTH_BYTES)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "'%.300s': %zu bytes are too few for a safetensors file",
                       s->label, count);
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) length = length << 8 | bytes[i];
    if (length > ST_HEADER_BYTES_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg,
                       "'%.300s': not a safetensors file: a header of %llu bytes, at most %d are read",
                       s->label, (unsigned long long)length, ST_HEADER_BYTES_MAX);
    if (length > count - LENGTH_BYTES)
        return rc_fail(RC_INVALID_ARGUMENT, msg,
                       "'%.300s': cut short: a header of %llu bytes in a file of %zu", s->label,
                       (unsigned long long)length, count);
    s->data = bytes + LENGTH_BYTES + length;
    s->data_bytes = count - LENGTH_BYTES - length;
    *header_bytes = length;
    return RC_OK;
}

static rc_code parse_header(adapter_st *st, const char *text, size_t count, const char *label, rc_msg *msg)
{
    json_error_t error;
    st->header = json_loadb(text, count, JSON_REJECT_DUPLICATES, &error);
    if (!st->header && !error.text[0])
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "'%.300s': no memory for its header", label);
    if (!st->header)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "'%.200s': the header is not JSON: %.200s (byte %d)", label,
                       error.text, error.position);
    if (!json_is_object(st->header))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "'%.300s': the header is not a JSON object", label);
    size_t entries = json_object_size(st->header);
    st->tensors = calloc(entries + 1, sizeof *st->tensors);
    if (!st->tensors || !adapter_name_index_init(&st->index, (uint32_t)entries))
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "'%.300s': no memory for %zu tensors", label, entries);
    return RC_OK;
}

static rc_code open_bytes(adapter_st *st, const void *bytes, size_t count, const char *label, rc_msg *msg)
{
    st_source s = {.label = label};
    uint64_t header_bytes = 0;
    RC_TRY(split_file(bytes, count, &s, &header_bytes, msg));
    RC_TRY(parse_header(st, (const char *)bytes + LENGTH_BYTES, (size_t)header_bytes, label, msg));
    RC_TRY(read_tensors(st, &s, msg));
    return check_tiling(st, &s, msg);
}

rc_code adapter_st_open_memory(const void *bytes, size_t count, const char *label, adapter_st **out,
                               rc_msg *msg)
{
    adapter_st *st = calloc(1, sizeof *st);
    if (!st) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "'%.300s': no memory", label);
    rc_code code = open_bytes(st, bytes, count, label, msg);
    if (code != RC_OK) {
        adapter_st_close(st);
        return code;
    }
    *out = st;
    return RC_OK;
}

rc_code adapter_st_open(const char *path, adapter_st **out, rc_msg *msg)
{
    adapter_map map;
    adapter_st *st;
    RC_TRY(adapter_file_map(path, &map, msg));
    rc_code code = adapter_st_open_memory(map.bytes, map.count, path, &st, msg);
    if (code != RC_OK) {
        adapter_file_unmap(&map);
        return code;
    }
    st->map = map;
    *out = st;
    return RC_OK;
}

void adapter_st_close(adapter_st *st)
{
    if (!st) return;
    adapter_name_index_free(&st->index);
    free(st->tensors);
    json_decref(st->header);
    adapter_file_unmap(&st->map);
    free(st);
}

size_t adapter_st_count(const adapter_st *st)
{
    return st->count;
}

const adapter_tensor *adapter_st_at(const adapter_st *st, size_t index)
{
    RC_ASSERT(index < st->count);
    return &st->tensors[index];
}

const adapter_tensor *adapter_st_find(const adapter_st *st, const char *name)
{
    uint32_t i = adapter_name_index_find(&st->index, name, strlen(name));
    return i == ADAPTER_NAME_NONE ? NULL : &st->tensors[i];
}
