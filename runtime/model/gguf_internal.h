/* runtime/model/gguf_internal.h - what reading a GGUF file and looking into it share. */
#ifndef RUNTIME_MODEL_GGUF_INTERNAL_H
#define RUNTIME_MODEL_GGUF_INTERNAL_H

#include "adapters/file.h"
#include "adapters/name_index.h"
#include "runtime/model/gguf.h"

/* GGUF's value types */
enum {
    V_U8,
    V_I8,
    V_U16,
    V_I16,
    V_U32,
    V_I32,
    V_F32,
    V_BOOL,
    V_STRING,
    V_ARRAY,
    V_U64,
    V_I64,
    V_F64,
    V_TYPES
};

typedef struct gguf_value {
    uint32_t type; /* of the value, or of an array's elements */
    bool is_array;
    uint64_t count;          /* elements; 1 where it is no array */
    const uint8_t *data;     /* the first element */
    const uint8_t **strings; /* [count] the elements of an array of strings; else NULL */
} gguf_value;

struct rt_gguf {
    adapter_map map; /* zeroed where the caller keeps the bytes */
    adapter_name_index keys, names;
    gguf_value *values;      /* [keys.capacity], by index of the key */
    rt_gguf_tensor *tensors; /* [names.capacity], by index of the name */
    char *name_text;         /* all names of tensors, terminated */
};

/* A little-endian integer of `bytes` bytes. */
static inline uint64_t rt_gguf__load(const uint8_t *p, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = bytes; i-- > 0;) value = value << 8 | p[i];
    return value;
}

/* Bytes of a value of this type; 0 for strings, arrays and types that do not exist. */
size_t rt_gguf__scalar_bytes(uint32_t type);

#endif
