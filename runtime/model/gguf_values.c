/* Lookups in an open GGUF file. */
#include <math.h>

#include "runtime/model/gguf_internal.h"

size_t rt_gguf__scalar_bytes(uint32_t type)
{
    static const uint8_t bytes[V_TYPES] = {
        [V_U8] = 1,  [V_I8] = 1,   [V_U16] = 2, [V_I16] = 2, [V_U32] = 4, [V_I32] = 4,
        [V_F32] = 4, [V_BOOL] = 1, [V_U64] = 8, [V_I64] = 8, [V_F64] = 8,
    };
    return type < V_TYPES ? bytes[type] : 0;
}

static const gguf_value *find_value(const rt_gguf *g, const char *key, bool is_array)
{
    uint32_t i = adapter_name_index_find(&g->keys, key, strlen(key));
    if (i == ADAPTER_NAME_NONE || g->values[i].is_array != is_array) return NULL;
    return &g->values[i];
}

/* Element `index` as an integer, where it is one. */
static bool value_i64(const gguf_value *v, uint64_t index, int64_t *out)
{
    size_t bytes = rt_gguf__scalar_bytes(v->type);
    const uint8_t *p = v->data + index * bytes;
    switch (v->type) {
    case V_U8:
    case V_U16:
    case V_U32:
        *out = (int64_t)rt_gguf__load(p, bytes);
        return true;
    case V_I8:
        *out = (int8_t)rt_gguf__load(p, bytes);
        return true;
    case V_I16:
        *out = (int16_t)rt_gguf__load(p, bytes);
        return true;
    case V_I32:
        *out = (int32_t)rt_gguf__load(p, bytes);
        return true;
    case V_U64:
    case V_I64:
        *out = (int64_t)rt_gguf__load(p, bytes);
        return v->type == V_I64 || *out >= 0;
    default:
        return false;
    }
}

static bool value_f64(const gguf_value *v, uint64_t index, double *out)
{
    int64_t integer;
    float single;
    const uint8_t *p = v->data + index * rt_gguf__scalar_bytes(v->type);
    if (v->type == V_F32) {
        memcpy(&single, p, sizeof single);
        *out = single;
        return true;
    }
    if (v->type == V_F64) {
        memcpy(out, p, sizeof *out);
        return true;
    }
    if (!value_i64(v, index, &integer)) return false;
    *out = (double)integer;
    return true;
}

/* Element as an integer in [min, max], from an integer or from a float that is whole. */
static bool value_between(const gguf_value *v, uint64_t index, int64_t min, int64_t max, int64_t *out)
{
    double number;
    if (!value_i64(v, index, out)) {
        if (!value_f64(v, index, &number) || !(number >= -0x1p52 && number <= 0x1p52) ||
            number != floor(number))
            return false;
        *out = (int64_t)number;
    }
    return *out >= min && *out <= max;
}

static void value_str(const uint8_t *at, const char **text, size_t *bytes)
{
    *bytes = (size_t)rt_gguf__load(at, 8);
    *text = (const char *)at + 8;
}

bool rt_gguf_u32(const rt_gguf *g, const char *key, uint32_t *out)
{
    int64_t value;
    const gguf_value *v = find_value(g, key, false);
    if (!v || !value_between(v, 0, 0, UINT32_MAX, &value)) return false;
    *out = (uint32_t)value;
    return true;
}

bool rt_gguf_f32(const rt_gguf *g, const char *key, float *out)
{
    double value;
    const gguf_value *v = find_value(g, key, false);
    if (!v || !value_f64(v, 0, &value)) return false;
    *out = (float)value;
    return true;
}

bool rt_gguf_bool(const rt_gguf *g, const char *key, bool *out)
{
    const gguf_value *v = find_value(g, key, false);
    if (!v || v->type != V_BOOL) return false;
    *out = *v->data != 0;
    return true;
}

bool rt_gguf_str(const rt_gguf *g, const char *key, const char **text, size_t *bytes)
{
    const gguf_value *v = find_value(g, key, false);
    if (!v || v->type != V_STRING) return false;
    value_str(v->data, text, bytes);
    return true;
}

bool rt_gguf_array(const rt_gguf *g, const char *key, uint64_t *count)
{
    const gguf_value *v = find_value(g, key, true);
    if (!v) return false;
    *count = v->count;
    return true;
}

bool rt_gguf_array_str(const rt_gguf *g, const char *key, uint64_t index, const char **text, size_t *bytes)
{
    const gguf_value *v = find_value(g, key, true);
    if (!v || !v->strings || index >= v->count) return false;
    value_str(v->strings[index], text, bytes);
    return true;
}

bool rt_gguf_array_i32(const rt_gguf *g, const char *key, uint64_t index, int32_t *out)
{
    int64_t value;
    const gguf_value *v = find_value(g, key, true);
    if (!v || index >= v->count || !value_between(v, index, INT32_MIN, INT32_MAX, &value)) return false;
    *out = (int32_t)value;
    return true;
}

bool rt_gguf_array_f32(const rt_gguf *g, const char *key, uint64_t index, float *out)
{
    double value;
    const gguf_value *v = find_value(g, key, true);
    if (!v || index >= v->count || !value_f64(v, index, &value)) return false;
    *out = (float)value;
    return true;
}

size_t rt_gguf_count(const rt_gguf *g)
{
    return g->names.count;
}

const rt_gguf_tensor *rt_gguf_at(const rt_gguf *g, size_t index)
{
    RC_ASSERT(index < g->names.count);
    return &g->tensors[index];
}

const rt_gguf_tensor *rt_gguf_find(const rt_gguf *g, const char *name)
{
    uint32_t i = adapter_name_index_find(&g->names, name, strlen(name));
    return i == ADAPTER_NAME_NONE ? NULL : &g->tensors[i];
}
