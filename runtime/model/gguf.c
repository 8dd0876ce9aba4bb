/* One pass over the header builds two tables (metadata, tensors) that point into the file. */
#include "runtime/model/gguf_internal.h"

enum {
    DEFAULT_ALIGNMENT = 32,
    ENTRIES_MAX = 1 << 24,
    KEY_BYTES_MIN = 8 + 4 + 1,
    TENSOR_BYTES_MIN = 8 + 4 + 4 + 8
};

/* Where the reader is. `label` is the path in messages. */
typedef struct gguf_cursor {
    const uint8_t *start, *at, *end;
    const char *label;
    rc_msg *msg;
} gguf_cursor;

static rc_code fail_short(const gguf_cursor *c, const char *what)
{
    return rc_fail(RC_INVALID_ARGUMENT, c->msg,
                   "'%.300s': cut short, or not GGUF: %s at byte %zu ends past the file", c->label, what,
                   (size_t)(c->at - c->start));
}

static size_t left(const gguf_cursor *c)
{
    return (size_t)(c->end - c->at);
}

static rc_code read_number(gguf_cursor *c, size_t bytes, const char *what, uint64_t *out)
{
    if (left(c) < bytes) return fail_short(c, what);
    *out = rt_gguf__load(c->at, bytes);
    c->at += bytes;
    return RC_OK;
}

static rc_code read_string(gguf_cursor *c, const char *what, const char **text, uint64_t *bytes)
{
    RC_TRY(read_number(c, 8, what, bytes));
    if (*bytes > left(c)) return fail_short(c, what);
    *text = (const char *)c->at;
    c->at += *bytes;
    return RC_OK;
}

static rc_code read_strings(gguf_cursor *c, gguf_value *v)
{
    if (v->count > left(c) / 8) return fail_short(c, "an array of strings");
    v->strings = malloc((size_t)(v->count + 1) * sizeof *v->strings);
    if (!v->strings)
        return rc_fail(RC_RESOURCE_EXHAUSTED, c->msg, "'%.300s': no memory for %llu strings", c->label,
                       (unsigned long long)v->count);
    for (uint64_t i = 0; i < v->count; i++) {
        const char *text;
        uint64_t bytes = 0;
        v->strings[i] = c->at;
        RC_TRY(read_string(c, "a string of an array", &text, &bytes));
    }
    return RC_OK;
}

static rc_code read_scalars(gguf_cursor *c, const char *key, int key_bytes, gguf_value *v)
{
    size_t bytes = rt_gguf__scalar_bytes(v->type);
    if (!bytes)
        return rc_fail(RC_INVALID_ARGUMENT, c->msg,
                       "'%.200s': '%.*s' has the value type %u, which is not read%s", c->label, key_bytes,
                       key, v->type, v->is_array && v->type == V_ARRAY ? " inside an array" : "");
    if (v->count > left(c) / bytes) return fail_short(c, "a value");
    c->at += v->count * bytes;
    return RC_OK;
}

static rc_code read_value(gguf_cursor *c, const char *key, int key_bytes, gguf_value *v)
{
    uint64_t type = 0;
    RC_TRY(read_number(c, 4, "a value's type", &type));
    *v = (gguf_value){.type = (uint32_t)type, .count = 1};
    if (type == V_ARRAY) {
        v->is_array = true;
        RC_TRY(read_number(c, 4, "an array's type", &type));
        RC_TRY(read_number(c, 8, "an array's length", &v->count));
        v->type = (uint32_t)type;
    }
    v->data = c->at;
    if (v->type != V_STRING) return read_scalars(c, key, key_bytes, v);
    if (v->is_array) return read_strings(c, v);
    const char *text;
    uint64_t bytes = 0;
    return read_string(c, "a string", &text, &bytes);
}

static int shown(uint64_t bytes)
{
    return bytes > 200 ? 200 : (int)bytes;
}

static rc_code read_metadata(rt_gguf *g, gguf_cursor *c)
{
    for (uint32_t i = 0; i < g->keys.capacity; i++) {
        const char *key = NULL;
        uint64_t bytes = 0;
        RC_TRY(read_string(c, "a key", &key, &bytes));
        if (!adapter_name_index_add(&g->keys, key, bytes))
            return rc_fail(RC_INVALID_ARGUMENT, c->msg, "'%.300s': the key '%.*s' is there twice", c->label,
                           shown(bytes), key);
        RC_TRY(read_value(c, key, shown(bytes), &g->values[i]));
    }
    return RC_OK;
}

static rc_code fail_tensor(const gguf_cursor *c, const adapter_name *name, const char *what)
{
    return rc_fail(RC_INVALID_ARGUMENT, c->msg, "'%.200s': tensor '%.*s': %s", c->label, shown(name->bytes),
                   name->text, what);
}

/* Name, shape, type and offset of one tensor; *offset is from the start of the data, not yet known. */
static rc_code read_tensor(rt_gguf *g, gguf_cursor *c, rt_gguf_tensor *t, uint64_t *offset)
{
    uint64_t bytes = 0, dims = 0, type = 0;
    const char *text = NULL;
    RC_TRY(read_string(c, "a tensor's name", &text, &bytes));
    adapter_name name = {text, bytes};
    if (memchr(text, 0, bytes)) return fail_tensor(c, &name, "its name holds a zero byte");
    if (!adapter_name_index_add(&g->names, text, bytes)) return fail_tensor(c, &name, "it is there twice");
    RC_TRY(read_number(c, 4, "a tensor's dimensions", &dims));
    if (dims > RT_GGUF_DIMS_MAX) return fail_tensor(c, &name, "more than 4 dimensions");
    t->dims = (uint32_t)dims;
    for (uint32_t d = 0; d < RT_GGUF_DIMS_MAX; d++) t->shape[d] = 1;
    for (uint32_t d = 0; d < t->dims; d++) RC_TRY(read_number(c, 8, "a tensor's shape", &t->shape[d]));
    RC_TRY(read_number(c, 4, "a tensor's type", &type));
    t->type = (uint32_t)type;
    return read_number(c, 8, "a tensor's offset", offset);
}

/* Bytes of a tensor; false where they overflow. */
static bool tensor_bytes(const rt_gguf_tensor *t, uint64_t *bytes)
{
    if (t->shape[0] > INT64_MAX / 8) return false;
    *bytes = rt_gguf_row_bytes(t->type, t->shape[0]);
    for (uint32_t d = 1; d < RT_GGUF_DIMS_MAX; d++)
        if (__builtin_mul_overflow(*bytes, t->shape[d], bytes)) return false;
    return *bytes <= INT64_MAX;
}

static rc_code place_tensor(const gguf_cursor *c, const adapter_name *name, uint64_t alignment,
                            uint64_t offset, rt_gguf_tensor *t)
{
    uint64_t bytes, end;
    uint32_t block = rt_gguf_type_block(t->type);
    if (!block) return RC_OK;
    if (t->shape[0] % block) return fail_tensor(c, name, "its rows are no whole number of blocks");
    if (offset % alignment) return fail_tensor(c, name, "its data is not aligned");
    if (!tensor_bytes(t, &bytes) || __builtin_add_overflow(offset, bytes, &end) || end > left(c))
        return fail_tensor(c, name, "its data ends past the file");
    t->data = c->at + offset;
    t->bytes = (size_t)bytes;
    return RC_OK;
}

static rc_code read_alignment(const rt_gguf *g, const gguf_cursor *c, uint64_t *alignment)
{
    uint32_t given = DEFAULT_ALIGNMENT;
    bool present = adapter_name_index_find(&g->keys, "general.alignment", 17) != ADAPTER_NAME_NONE;
    if (present && !rt_gguf_u32(g, "general.alignment", &given)) given = 0;
    if (given == 0 || (given & (given - 1)))
        return rc_fail(RC_INVALID_ARGUMENT, c->msg, "'%.300s': general.alignment is not a power of two",
                       c->label);
    *alignment = given;
    return RC_OK;
}

/* Moves the cursor from the tensor table to the data, which begins at the next aligned byte. */
static void skip_padding(gguf_cursor *c, uint64_t alignment)
{
    uint64_t beyond = (uint64_t)(c->at - c->start) % alignment;
    uint64_t padding = beyond ? alignment - beyond : 0;
    c->at = padding < left(c) ? c->at + padding : c->end;
}

static rc_code copy_names(rt_gguf *g, const gguf_cursor *c)
{
    size_t total = 1;
    for (uint32_t i = 0; i < g->names.count; i++) total += g->names.names[i].bytes + 1;
    char *text = g->name_text = malloc(total);
    if (!text) return rc_fail(RC_RESOURCE_EXHAUSTED, c->msg, "'%.300s': no memory for its names", c->label);
    for (uint32_t i = 0; i < g->names.count; i++) {
        const adapter_name *name = &g->names.names[i];
        g->tensors[i].name = text;
        memcpy(text, name->text, name->bytes);
        text[name->bytes] = 0;
        text += name->bytes + 1;
    }
    return RC_OK;
}

static rc_code read_tensors(rt_gguf *g, gguf_cursor *c)
{
    uint64_t alignment = 0;
    RC_TRY(read_alignment(g, c, &alignment));
    uint64_t *offsets = malloc(((size_t)g->names.capacity + 1) * sizeof *offsets);
    if (!offsets)
        return rc_fail(RC_RESOURCE_EXHAUSTED, c->msg, "'%.300s': no memory for its tensors", c->label);
    rc_code code = RC_OK;
    for (uint32_t i = 0; i < g->names.capacity && code == RC_OK; i++)
        code = read_tensor(g, c, &g->tensors[i], &offsets[i]);
    skip_padding(c, alignment);
    for (uint32_t i = 0; i < g->names.capacity && code == RC_OK; i++)
        code = place_tensor(c, &g->names.names[i], alignment, offsets[i], &g->tensors[i]);
    free(offsets);
    return code == RC_OK ? copy_names(g, c) : code;
}

static rc_code read_counts(gguf_cursor *c, uint64_t *tensors, uint64_t *keys)
{
    uint64_t version = 0;
    if (left(c) < 4 || memcmp(c->at, "GGUF", 4) != 0)
        return rc_fail(RC_INVALID_ARGUMENT, c->msg, "'%.300s': not a GGUF file: it does not begin with GGUF",
                       c->label);
    c->at += 4;
    RC_TRY(read_number(c, 4, "the version", &version));
    if (version != 2 && version != 3)
        return rc_fail(RC_INVALID_ARGUMENT, c->msg, "'%.300s': GGUF version %u%s, expected 2 or 3", c->label,
                       (unsigned)version, (version & 0xffff) == 0 ? " (big-endian?)" : "");
    RC_TRY(read_number(c, 8, "the number of tensors", tensors));
    RC_TRY(read_number(c, 8, "the number of keys", keys));
    if (*tensors > ENTRIES_MAX || *tensors > left(c) / TENSOR_BYTES_MIN || *keys > ENTRIES_MAX ||
        *keys > left(c) / KEY_BYTES_MIN)
        return rc_fail(RC_INVALID_ARGUMENT, c->msg,
                       "'%.300s': %llu tensors and %llu keys in a file of %zu bytes", c->label,
                       (unsigned long long)*tensors, (unsigned long long)*keys, (size_t)(c->end - c->start));
    return RC_OK;
}

static rc_code open_bytes(rt_gguf *g, gguf_cursor *c)
{
    uint64_t tensors = 0, keys = 0;
    RC_TRY(read_counts(c, &tensors, &keys));
    g->values = calloc((size_t)keys + 1, sizeof *g->values);
    g->tensors = calloc((size_t)tensors + 1, sizeof *g->tensors);
    if (!g->values || !g->tensors || !adapter_name_index_init(&g->keys, (uint32_t)keys) ||
        !adapter_name_index_init(&g->names, (uint32_t)tensors))
        return rc_fail(RC_RESOURCE_EXHAUSTED, c->msg, "'%.300s': no memory for %llu tensors and %llu keys",
                       c->label, (unsigned long long)tensors, (unsigned long long)keys);
    RC_TRY(read_metadata(g, c));
    return read_tensors(g, c);
}

rc_code rt_gguf_open_memory(const void *bytes, size_t count, const char *label, rt_gguf **out, rc_msg *msg)
{
    rt_gguf *g = calloc(1, sizeof *g);
    if (!g) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "'%.300s': no memory", label);
    const uint8_t *start = bytes;
    gguf_cursor c = {start, start, start + count, label, msg};
    rc_code code = open_bytes(g, &c);
    if (code != RC_OK) {
        rt_gguf_close(g);
        return code;
    }
    *out = g;
    return RC_OK;
}

rc_code rt_gguf_open(const char *path, rt_gguf **out, rc_msg *msg)
{
    adapter_map map;
    rt_gguf *g;
    RC_TRY(adapter_file_map(path, &map, msg));
    rc_code code = rt_gguf_open_memory(map.bytes, map.count, path, &g, msg);
    if (code != RC_OK) {
        adapter_file_unmap(&map);
        return code;
    }
    g->map = map;
    *out = g;
    return RC_OK;
}

void rt_gguf_close(rt_gguf *g)
{
    if (!g) return;
    for (uint32_t i = 0; g->values && i < g->keys.capacity; i++) free(g->values[i].strings);
    free(g->values);
    free(g->tensors);
    free(g->name_text);
    adapter_name_index_free(&g->keys);
    adapter_name_index_free(&g->names);
    adapter_file_unmap(&g->map);
    free(g);
}
