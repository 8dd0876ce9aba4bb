#include "runtime/model/shards.h"

#include <dirent.h>
#include <errno.h>
#include <unistd.h>

#include "runtime/model/config_json.h"
#include "runtime/model/read_file.h"

enum { PATH_BYTES_MAX = 4096, NAME_BYTES_MAX = 256, INDEX_BYTES_MAX = 64 << 20 };

typedef struct shard {
    char name[NAME_BYTES_MAX];
    adapter_st *st;
} shard;

struct rt_shards {
    const char *directory;
    json_t *weight_map; /* tensor name -> file name; NULL: every file is searched */
    uint32_t count;
    shard shards[RT_SHARDS_MAX];
};

static rc_code join(const char *directory, const char *name, char path[PATH_BYTES_MAX], rc_msg *msg)
{
    if (snprintf(path, PATH_BYTES_MAX, "%s/%s", directory, name) < PATH_BYTES_MAX) return RC_OK;
    return rc_fail(RC_INVALID_ARGUMENT, msg, "%.255s: the path is longer than %d bytes", directory,
                   PATH_BYTES_MAX);
}

static shard *find_shard(const rt_shards *s, const char *name)
{
    for (uint32_t i = 0; i < s->count; i++)
        if (strcmp(s->shards[i].name, name) == 0) return (shard *)&s->shards[i];
    return NULL;
}

static rc_code add_shard(rt_shards *s, const char *name, rc_msg *msg)
{
    if (s->count == RT_SHARDS_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%.255s: more than %d safetensors files", s->directory,
                       RT_SHARDS_MAX);
    snprintf(s->shards[s->count++].name, NAME_BYTES_MAX, "%s", name);
    return RC_OK;
}

static bool is_plain_name(const char *name)
{
    return name && name[0] && name[0] != '.' && strlen(name) < NAME_BYTES_MAX && !strchr(name, '/');
}

static rc_code list_from_index(rt_shards *s, json_t *index, const char *label, rc_msg *msg)
{
    const char *tensor;
    json_t *file, *map = json_object_get(index, "weight_map");
    if (!json_is_object(map)) return rc_fail(RC_INVALID_ARGUMENT, msg, "%.255s: no object weight_map", label);
    json_object_foreach(map, tensor, file)
    {
        const char *name = json_string_value(file);
        if (!is_plain_name(name))
            return rc_fail(
                RC_INVALID_ARGUMENT, msg,
                "%.255s: weight_map of %.64s is \"%.64s\", expected the name of a file in this directory",
                label, tensor, name ? name : "no string");
        if (!find_shard(s, name)) RC_TRY(add_shard(s, name, msg));
    }
    s->weight_map = json_incref(map);
    return RC_OK;
}

static rc_code read_index(rt_shards *s, const char *path, rc_msg *msg)
{
    char *bytes;
    size_t count;
    json_t *index;
    RC_TRY(rt__read_file(path, INDEX_BYTES_MAX, &bytes, &count, msg));
    rc_code code = rt__json_load(bytes, count, path, &index, msg);
    free(bytes);
    RC_TRY(code);
    code = list_from_index(s, index, path, msg);
    json_decref(index);
    return code;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const shard *)a)->name, ((const shard *)b)->name);
}

static rc_code list_directory(rt_shards *s, rc_msg *msg)
{
    static const char suffix[] = ".safetensors";
    DIR *dir = opendir(s->directory);
    rc_code code = RC_OK;
    if (!dir) return rc_fail(RC_INTERNAL, msg, "%.255s: %s", s->directory, strerror(errno));
    for (struct dirent *e; code == RC_OK && (e = readdir(dir));) {
        size_t n = strlen(e->d_name);
        if (n < sizeof suffix || strcmp(e->d_name + n - (sizeof suffix - 1), suffix) != 0) continue;
        if (!is_plain_name(e->d_name) || strcmp(e->d_name, "adapter_model.safetensors") == 0) continue;
        code = add_shard(s, e->d_name, msg);
    }
    closedir(dir);
    RC_TRY(code);
    if (!s->count) return rc_fail(RC_NOT_FOUND, msg, "%.255s: no .safetensors file in it", s->directory);
    qsort(s->shards, s->count, sizeof *s->shards, by_name);
    return RC_OK;
}

static rc_code list_files(rt_shards *s, rc_msg *msg)
{
    char path[PATH_BYTES_MAX];
    RC_TRY(join(s->directory, "model.safetensors", path, msg));
    if (access(path, F_OK) == 0) return add_shard(s, "model.safetensors", msg);
    RC_TRY(join(s->directory, "model.safetensors.index.json", path, msg));
    if (access(path, F_OK) == 0) return read_index(s, path, msg);
    return list_directory(s, msg);
}

static rc_code check_unique(const rt_shards *s, uint32_t last, rc_msg *msg)
{
    const adapter_st *st = s->shards[last].st;
    for (size_t t = 0; t < adapter_st_count(st); t++)
        for (uint32_t i = 0; i < last; i++)
            if (adapter_st_find(s->shards[i].st, adapter_st_at(st, t)->name))
                return rc_fail(RC_INVALID_ARGUMENT, msg, "%.200s: tensor %.128s is in %.64s and in %.64s",
                               s->directory, adapter_st_at(st, t)->name, s->shards[i].name,
                               s->shards[last].name);
    return RC_OK;
}

static rc_code open_all(rt_shards *s, rc_msg *msg)
{
    char path[PATH_BYTES_MAX];
    RC_TRY(list_files(s, msg));
    for (uint32_t i = 0; i < s->count; i++) {
        RC_TRY(join(s->directory, s->shards[i].name, path, msg));
        RC_TRY(adapter_st_open(path, &s->shards[i].st, msg));
        if (!s->weight_map) RC_TRY(check_unique(s, i, msg));
    }
    return RC_OK;
}

rc_code rt__shards_open(const char *directory, rt_shards **out, rc_msg *msg)
{
    rt_shards *s = calloc(1, sizeof *s);
    if (!s) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "%.255s: no memory to open it", directory);
    s->directory = directory;
    rc_code code = open_all(s, msg);
    if (code != RC_OK) {
        rt__shards_close(s);
        return code;
    }
    *out = s;
    return RC_OK;
}

void rt__shards_close(rt_shards *s)
{
    if (!s) return;
    for (uint32_t i = 0; i < s->count; i++) adapter_st_close(s->shards[i].st);
    json_decref(s->weight_map);
    free(s);
}

const adapter_tensor *rt__shards_find(const rt_shards *s, const char *name)
{
    if (s->weight_map) {
        const char *file = json_string_value(json_object_get(s->weight_map, name));
        return file ? adapter_st_find(find_shard(s, file)->st, name) : NULL;
    }
    for (uint32_t i = 0; i < s->count; i++) {
        const adapter_tensor *t = adapter_st_find(s->shards[i].st, name);
        if (t) return t;
    }
    return NULL;
}
