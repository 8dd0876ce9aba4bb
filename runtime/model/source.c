#include "runtime/model/source.h"

#include <errno.h>
#include <sys/stat.h>

#include "runtime/model/gguf.h"
#include "runtime/model/read_file.h"
#include "runtime/model/shards.h"

enum { CONFIG_BYTES_MAX = 16 << 20, GGML_F32 = 0, GGML_F16 = 1, GGML_BF16 = 30 };

struct rt_source {
    char path[RT_SOURCE_PATH_MAX];
    rt_model_config config;
    bool has_tensors;
    rt_shards *shards; /* of a directory */
    rt_gguf *gguf;     /* of a file */
};

static rc_code join(const char *directory, const char *name, char path[RT_SOURCE_PATH_MAX], rc_msg *msg)
{
    if (snprintf(path, RT_SOURCE_PATH_MAX, "%s/%s", directory, name) < RT_SOURCE_PATH_MAX) return RC_OK;
    return rc_fail(RC_INVALID_ARGUMENT, msg, "%.255s: the path is longer than %d bytes", directory,
                   RT_SOURCE_PATH_MAX);
}

static rc_code read_configs(rt_source *s, rc_msg *msg)
{
    char path[RT_SOURCE_PATH_MAX], *config, *generation = NULL;
    size_t config_bytes, generation_bytes = 0;
    RC_TRY(join(s->path, "config.json", path, msg));
    RC_TRY(rt__read_file(path, CONFIG_BYTES_MAX, &config, &config_bytes, msg));
    rc_code code = join(s->path, "generation_config.json", path, msg);
    if (code == RC_OK) code = rt__read_file(path, CONFIG_BYTES_MAX, &generation, &generation_bytes, msg);
    if (code == RC_OK || code == RC_NOT_FOUND)
        code = rt_model_config_parse(config, config_bytes, generation, generation_bytes, s->path, &s->config,
                                     msg);
    free(generation);
    free(config);
    return code;
}

static rc_code open_gguf(rt_source *s, rc_msg *msg)
{
    RC_TRY(rt_gguf_open(s->path, &s->gguf, msg));
    return rt_model_config_gguf(s->gguf, s->path, &s->config, msg);
}

static rc_code open_any(rt_source *s, bool dummy, rc_msg *msg)
{
    struct stat st;
    if (stat(s->path, &st) != 0)
        return rc_fail(errno == ENOENT || errno == ENOTDIR ? RC_NOT_FOUND : RC_INTERNAL, msg, "%.255s: %s",
                       s->path, strerror(errno));
    s->has_tensors = !dummy;
    if (S_ISREG(st.st_mode)) return open_gguf(s, msg);
    if (!S_ISDIR(st.st_mode))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%.255s: neither a directory nor a GGUF file", s->path);
    RC_TRY(read_configs(s, msg));
    return dummy ? RC_OK : rt__shards_open(s->path, &s->shards, msg);
}

rc_code rt__source_open(const char *path, bool dummy, rt_source **out, rc_msg *msg)
{
    if (strlen(path) >= RT_SOURCE_PATH_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%.255s: the path is longer than %d bytes", path,
                       RT_SOURCE_PATH_MAX);
    rt_source *s = calloc(1, sizeof *s);
    if (!s) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "%.255s: no memory to open it", path);
    snprintf(s->path, sizeof s->path, "%s", path);
    rc_code code = open_any(s, dummy, msg);
    if (code != RC_OK) {
        rt__source_close(s);
        return code;
    }
    *out = s;
    return RC_OK;
}

void rt__source_close(rt_source *s)
{
    if (!s) return;
    rt__shards_close(s->shards);
    rt_gguf_close(s->gguf);
    free(s);
}

const rt_model_config *rt__source_config(const rt_source *s)
{
    return &s->config;
}
bool rt__source_is_gguf(const rt_source *s)
{
    return s->gguf != NULL;
}
bool rt__source_has_tensors(const rt_source *s)
{
    return s->has_tensors;
}
const char *rt__source_path(const rt_source *s)
{
    return s->path;
}

static void view_safetensor(const adapter_tensor *t, rt_tensor *out)
{
    *out = (rt_tensor){.dtype = t->dtype, .dims = t->dims, .data = t->data, .type_name = t->dtype_name};
    out->rows = t->dims == 2 ? t->shape[0] : 1;
    out->columns = t->dims == 2 ? t->shape[1] : t->dims == 1 ? t->shape[0] : 0;
    out->row_bytes = t->dtype ? out->columns * rc_dtype_bytes(t->dtype) : 0;
}

static void view_gguf(const rt_gguf_tensor *t, rt_tensor *out)
{
    const char *name = rt_gguf_type_name(t->type);
    *out = (rt_tensor){.ggml_type = t->type,
                       .from_gguf = true,
                       .dims = t->dims,
                       .data = t->data,
                       .type_name = name ? name : "unknown"};
    out->rows = t->dims == 2 ? t->shape[1] : 1;
    out->columns = t->shape[0];
    out->dtype = t->type == GGML_F32    ? RC_F32
                 : t->type == GGML_F16  ? RC_F16
                 : t->type == GGML_BF16 ? RC_BF16
                                        : 0;
    if (rt_gguf_type_known(t->type)) out->row_bytes = rt_gguf_row_bytes(t->type, t->shape[0]);
}

bool rt__source_find(const rt_source *s, const char *name, rt_tensor *out)
{
    if (s->gguf) {
        const rt_gguf_tensor *t = rt_gguf_find(s->gguf, name);
        if (t) view_gguf(t, out);
        return t != NULL;
    }
    const adapter_tensor *t = s->shards ? rt__shards_find(s->shards, name) : NULL;
    if (t) view_safetensor(t, out);
    return t != NULL;
}

bool rt__tensor_readable(const rt_tensor *t)
{
    return t->dtype || (t->from_gguf && rt_gguf_type_known(t->ggml_type));
}

rt_tensor rt__tensor_rows(const rt_tensor *t, uint64_t first, uint64_t rows)
{
    rt_tensor part = *t;
    RC_ASSERT(first <= t->rows && rows <= t->rows - first);
    part.data += first * t->row_bytes;
    part.rows = rows;
    return part;
}

uint32_t rt__tensor_group(const rt_tensor *t) { return t->dtype ? 1 : rt_gguf_type_block(t->ggml_type); }

bool rt__tensor_columns(rt_tensor *t, uint64_t first, uint64_t columns)
{
    uint32_t group = rt__tensor_group(t);
    RC_ASSERT(first <= t->columns && columns <= t->columns - first);
    if (first % group || columns % group) return false;
    t->data += t->dtype ? first * rc_dtype_bytes(t->dtype) : rt_gguf_row_bytes(t->ggml_type, first);
    t->columns = columns;
    return true;
}

void rt__tensor_row(const rt_tensor *t, uint64_t row, float *out)
{
    const unsigned char *src = t->data + row * t->row_bytes;
    if (t->dtype)
        for (uint64_t i = 0; i < t->columns; i++) out[i] = rc_load_f32(src, t->dtype, i);
    else
        rt_gguf_row(t->ggml_type, src, t->columns, out);
}
