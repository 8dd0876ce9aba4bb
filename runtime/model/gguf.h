/* runtime/model/gguf.h - bounded reader of one GGUF file (v2, v3): metadata, tensor table, dequantizing.
 *
 * The file is mapped; counts, lengths, offsets, alignment and nesting are checked before use.
 * Dequantizing gives exactly the float32 values that llama.cpp's reference dequantizers give.
 *
 * Threads  read-only after open.
 * Source   https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; ggml-quants.c dequantize_row_*.
 */
#ifndef RUNTIME_MODEL_GGUF_H
#define RUNTIME_MODEL_GGUF_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/rc.h"

enum { RT_GGUF_DIMS_MAX = 4 };

typedef struct rt_gguf rt_gguf;

typedef struct rt_gguf_tensor {
    const char *name;
    uint32_t type;        /* ggml_type number */
    uint32_t dims;
    uint64_t shape[RT_GGUF_DIMS_MAX]; /* ggml order: shape[0] is the contiguous one; 1 from dims on */
    const void *data;     /* NULL, and bytes 0, where even the type's size is not known */
    size_t bytes;
} rt_gguf_tensor;

/* Errors INVALID_ARGUMENT: not such a file; NOT_FOUND or INTERNAL: it can't be read; RESOURCE_EXHAUSTED.
 * open_memory reads bytes that the caller keeps until close; `label` stands for the path in messages. */
RC_MUST_CHECK rc_code rt_gguf_open(const char *path, rt_gguf **out, rc_msg *msg);
RC_MUST_CHECK rc_code rt_gguf_open_memory(const void *bytes, size_t count, const char *label, rt_gguf **out,
                                          rc_msg *msg);
void rt_gguf_close(rt_gguf *g); /* NULL is allowed */

/* Metadata by key. Each gives false where the key is absent or of another kind; numbers of any integer or
 * float type that fits are accepted. Strings are borrowed and not terminated. */
bool rt_gguf_u32(const rt_gguf *g, const char *key, uint32_t *out);
bool rt_gguf_f32(const rt_gguf *g, const char *key, float *out);
bool rt_gguf_bool(const rt_gguf *g, const char *key, bool *out);
bool rt_gguf_str(const rt_gguf *g, const char *key, const char **text, size_t *bytes);
/* Arrays: count, then one element at a time. */
bool rt_gguf_array(const rt_gguf *g, const char *key, uint64_t *count);
bool rt_gguf_array_str(const rt_gguf *g, const char *key, uint64_t index, const char **text, size_t *bytes);
bool rt_gguf_array_i32(const rt_gguf *g, const char *key, uint64_t index, int32_t *out);
bool rt_gguf_array_f32(const rt_gguf *g, const char *key, uint64_t index, float *out);

size_t rt_gguf_count(const rt_gguf *g);
const rt_gguf_tensor *rt_gguf_at(const rt_gguf *g, size_t index);
const rt_gguf_tensor *rt_gguf_find(const rt_gguf *g, const char *name); /* NULL: none */

bool rt_gguf_type_known(uint32_t type);            /* can rt_gguf_row read it */
const char *rt_gguf_type_name(uint32_t type);      /* "Q4_K"; NULL where ggml has no such type */
/* Elements that are stored together: a row holds a multiple of it. 0: no such type. */
uint32_t rt_gguf_type_block(uint32_t type);
/* Bytes of a row. Needs a type with a name, a multiple of its block, and a size below 2^63. */
size_t rt_gguf_row_bytes(uint32_t type, uint64_t elements);
/* Row of `elements` values as float32. Needs a known type and a multiple of its block; any alignment. */
void rt_gguf_row(uint32_t type, const void *src, uint64_t elements, float *out);

#endif
