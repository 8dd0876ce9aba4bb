/* runtime/model/source.h - the tensors and the configuration of a checkpoint, wherever they are stored.
 *
 *     directory   config.json, generation_config.json; model.safetensors, or the shards of
 *                 model.safetensors.index.json, or else every *.safetensors in it
 *     file        GGUF: metadata and tensors in one
 *
 * Threads  read-only after open.
 */
#ifndef RUNTIME_MODEL_SOURCE_H
#define RUNTIME_MODEL_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/dtype.h"
#include "proto/rc.h"
#include "runtime/model/model_config.h"

enum { RT_SOURCE_DIMS_MAX = 2, RT_SOURCE_PATH_MAX = 4096 };

typedef struct rt_source rt_source;

/* A vector [columns] or a matrix [rows][columns], row-major. */
typedef struct rt_tensor {
    rc_dtype dtype; /* 0: stored as ggml_type, a quantised one */
    uint32_t ggml_type;
    bool from_gguf;
    uint32_t dims; /* 1 or 2; more where the tensor has more, which no shape here matches */
    uint64_t rows, columns;
    size_t row_bytes;
    const unsigned char *data; /* possibly unaligned; valid until close */
    const char *type_name;     /* for messages */
} rt_tensor;

/* Reads the configuration of `path`; with `dummy`, config.json is all that a directory needs, and no tensor
 * is looked at. Errors INVALID_ARGUMENT, NOT_FOUND, INTERNAL (read), RESOURCE_EXHAUSTED (memory). */
RC_MUST_CHECK rc_code rt__source_open(const char *path, bool dummy, rt_source **out, rc_msg *msg);
void rt__source_close(rt_source *s); /* NULL is allowed */

const rt_model_config *rt__source_config(const rt_source *s);
bool rt__source_is_gguf(const rt_source *s);
bool rt__source_has_tensors(const rt_source *s); /* false: a dummy's */
/* False: there is none of this name. */
bool rt__source_find(const rt_source *s, const char *name, rt_tensor *out);
const char *rt__source_path(const rt_source *s);

/* Element values of row `row` as float32, exactly. Needs a readable type: rt__tensor_readable(). */
void rt__tensor_row(const rt_tensor *t, uint64_t row, float *out);
bool rt__tensor_readable(const rt_tensor *t);

/* Rows [first, first + rows), or columns, of a tensor, in place. False: columns are stored in groups
 * (quantised), and this would cut one. */
rt_tensor rt__tensor_rows(const rt_tensor *t, uint64_t first, uint64_t rows);
bool rt__tensor_columns(rt_tensor *t, uint64_t first, uint64_t columns);
uint32_t rt__tensor_group(const rt_tensor *t); /* columns that are stored together; 1: each by itself */

#endif
