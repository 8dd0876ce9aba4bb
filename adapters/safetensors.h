/* adapters/safetensors.h - bounded reader of one .safetensors file.
 *
 *     u64 header_bytes | JSON header {"name": {"dtype", "shape", "data_offsets"}, "__metadata__"} | data
 *
 * The file is mapped read-only. Every offset is checked against the file, overlaps and holes in the
 * data are refused as upstream does, and only F32, F16 and BF16 tensors may be read (others may be present).
 *
 * Threads  read-only after open; any thread may read.
 * Source   https://github.com/huggingface/safetensors (format section of the README)
 */
#ifndef ADAPTERS_SAFETENSORS_H
#define ADAPTERS_SAFETENSORS_H

#include <stdint.h>

#include "proto/dtype.h"
#include "proto/rc.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { ST_DIMS_MAX = 8, ST_HEADER_BYTES_MAX = 100 << 20 };

typedef struct adapter_st adapter_st;

typedef struct adapter_tensor {
    const char *name;        /* borrowed from the file */
    const char *dtype_name;  /* as written, for messages */
    rc_dtype dtype;          /* 0 where it is none of rc_dtype */
    uint32_t dims;
    uint64_t shape[ST_DIMS_MAX];
    const void *data;        /* row-major, possibly unaligned; valid until close */
    size_t bytes;
} adapter_tensor;

/* Errors INVALID_ARGUMENT: not such a file; NOT_FOUND or INTERNAL: it can't be read. Names the path. */
RC_MUST_CHECK rc_code adapter_st_open(const char *path, adapter_st **out, rc_msg *msg);
/* The same from memory that the caller keeps until close; `label` stands for the path in messages. */
RC_MUST_CHECK rc_code adapter_st_open_memory(const void *bytes, size_t count, const char *label,
                                             adapter_st **out, rc_msg *msg);
void adapter_st_close(adapter_st *st); /* NULL is allowed */

size_t adapter_st_count(const adapter_st *st);
const adapter_tensor *adapter_st_at(const adapter_st *st, size_t index);       /* in the header's order */
const adapter_tensor *adapter_st_find(const adapter_st *st, const char *name); /* NULL: none */

#ifdef __cplusplus
}
#endif
#endif
