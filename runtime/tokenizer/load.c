#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/json_in.h"
#include "runtime/tokenizer/tokenizer_internal.h"

enum { FILE_BYTES_MAX = 256 << 20 };

static rc_code load_parts(rt_tokenizer *t, const json_t *root, rc_msg *msg)
{
    const json_t *version = json_object_get(root, "version");
    if (!json_is_object(root)) return rc_fail(RC_INVALID_ARGUMENT, msg, "tokenizer.json is no object");
    if (version && (!json_is_string(version) || strcmp(json_string_value(version), "1.0"))) {
        char quoted[80];
        return rc_fail(RC_UNIMPLEMENTED, msg, "tokenizer.json: version %s is not \"1.0\"",
                       rt_json_quote(version, quoted, sizeof quoted));
    }
    RC_TRY(rt__tok_load_normalizer(t, json_object_get(root, "normalizer"), msg));
    RC_TRY(rt__tok_load_pre(t, json_object_get(root, "pre_tokenizer"), msg));
    RC_TRY(rt__tok_load_post(t, json_object_get(root, "post_processor"), msg));
    RC_TRY(rt__tok_load_decoder(t, json_object_get(root, "decoder"), msg));
    RC_TRY(rt__tok_load_model(t, json_object_get(root, "model"), msg));
    RC_TRY(rt__tok_load_added(t, json_object_get(root, "added_tokens"), msg));
    return rt__tok_decode_finish(t, msg);
}

rc_code rt_tokenizer_open_json(const char *json, size_t bytes, const char *label, rt_tokenizer **out,
                               rc_msg *msg)
{
    json_t *root;
    rc_msg why;
    rt_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a tokenizer");
    rc_code code = rt_json_read(json, bytes, &root, &why);
    if (code == RC_OK) {
        code = load_parts(t, root, &why);
        json_decref(root);
    }
    if (code != RC_OK) {
        rt_tokenizer_close(t);
        return rc_fail(code, msg, "%.200s: %.390s", label, why.text);
    }
    *out = t;
    return RC_OK;
}

void rt_tokenizer_close(rt_tokenizer *t)
{
    if (!t) return;
    rt__tok_bpe_deinit(&t->bpe);
    rt__tok_added_deinit(&t->added);
    rt__tok_normals_deinit(&t->normals);
    for (unsigned i = 0; i < t->pres_count; i++) rt__tok_pattern_free(t->pres[i].pattern);
    for (unsigned i = 0; i < t->posts_count; i++) free(t->posts[i].pieces);
    rt_bytes_deinit(&t->decoded);
    free(t->decoded_at);
    free(t->flags);
    free(t);
}

static rc_code read_all(int file, const char *path, char **bytes, size_t *count, rc_msg *msg)
{
    struct stat st;
    if (fstat(file, &st) || !S_ISREG(st.st_mode))
        return rc_fail(RC_INVALID_ARGUMENT, msg, "'%.300s' is no file", path);
    if (st.st_size > FILE_BYTES_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "'%.300s' has more than %d MiB", path, FILE_BYTES_MAX >> 20);
    size_t size = (size_t)st.st_size, done = 0;
    char *to = malloc(size + 1);
    if (!to)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the %zu bytes of '%.300s'", size, path);
    while (done < size) {
        ssize_t got = read(file, to + done, size - done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            free(to);
            return rc_fail(RC_INTERNAL, msg, "'%.300s' can't be read: %s", path,
                           got ? strerror(errno) : "it is cut off");
        }
        done += (size_t)got;
    }
    *bytes = to;
    *count = size;
    return RC_OK;
}

static rc_code open_directory(const char *directory, rt_tokenizer **out, rc_msg *msg)
{
    char path[PATH_MAX];
    char *json = NULL;
    size_t bytes = 0;
    if (snprintf(path, sizeof path, "%s/tokenizer.json", directory) >= (int)sizeof path)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "'%.300s...' is too long a path", directory);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return rc_fail(RC_NOT_FOUND, msg, "'%.300s': %s", path, strerror(errno));
    rc_code code = read_all(file, path, &json, &bytes, msg);
    close(file);
    if (code != RC_OK) return code;
    code = rt_tokenizer_open_json(json, bytes, path, out, msg);
    free(json);
    return code;
}

rc_code rt_tokenizer_open(const char *model_path, rt_tokenizer **out, rc_msg *msg)
{
    struct stat st;
    rt_gguf *gguf;
    if (stat(model_path, &st)) return rc_fail(RC_NOT_FOUND, msg, "'%.300s': %s", model_path, strerror(errno));
    if (S_ISDIR(st.st_mode)) return open_directory(model_path, out, msg);
    RC_TRY(rt_gguf_open(model_path, &gguf, msg));
    rc_code code = rt_tokenizer_open_gguf(gguf, out, msg);
    rt_gguf_close(gguf);
    return code;
}
