#include <stdlib.h>
#include <string.h>

#include "runtime/api/mica_internal.h"

adapter_content *mica__find_name(const mica *m, const char *name)
{
    for (uint32_t i = 0; i < m->names_count; i++)
        if (!strcmp(m->names[i].name, name)) return m->names[i].content;
    return NULL;
}

static rc_code tokenize(void *ctx, const char *text, int32_t *ids, uint32_t max, uint32_t *count, rc_msg *msg)
{
    const mica *m = ctx;
    int32_t *found;
    size_t n;
    if (!m->tokenizer)
        return rc_fail(RC_FAILED_PRECONDITION, msg,
                       "an invocation string needs a tokenizer, which the model does not have");
    RC_TRY(rt_tokenizer_encode(m->tokenizer, text, strlen(text), false, max, &found, &n, msg));
    memcpy(ids, found, n * sizeof *ids);
    *count = (uint32_t)n;
    free(found);
    return RC_OK;
}

/* Hands an operation to the engine's thread and waits. The lock is held. */
static rc_code run_op(mica *m, mica__op *op, rc_msg *err)
{
    while (m->op) pthread_cond_wait(&m->op_ended, &m->lock);
    m->op = op;
    pthread_cond_signal(&m->work);
    while (!op->done) pthread_cond_wait(&m->op_ended, &m->lock);
    if (op->code != RC_OK && err) *err = op->msg;
    return op->code;
}

static rc_code check_name(const mica *m, const char *name, rc_msg *err)
{
    size_t bytes = strlen(name);
    if (!bytes || bytes > ADAPTER_NAME_BYTES_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, err, "an adapter's name must have 1 to %d bytes, got %zu",
                       ADAPTER_NAME_BYTES_MAX, bytes);
    if (!strcmp(name, m->model_name))
        return rc_fail(RC_ALREADY_EXISTS, err, "adapter name '%.200s' is the base model's", name);
    if (mica__find_name(m, name))
        return rc_fail(RC_ALREADY_EXISTS, err, "adapter '%.200s' is loaded already", name);
    if (m->names_count == MICA__ADAPTERS_MAX)
        return rc_fail(RC_RESOURCE_EXHAUSTED, err, "%d adapters are loaded, which is the most",
                       MICA__ADAPTERS_MAX);
    return RC_OK;
}

/* Publishes weights under a name; on failure frees them. */
static rc_code add(mica *m, const char *name, const char *path, adapter_weights *w, rc_msg *err)
{
    mica__op op = { .name = name, .weights = w };
    size_t bytes = w->bytes;
    char *own_path = strdup(path);
    rc_code code = own_path ? RC_OK : rc_fail(RC_RESOURCE_EXHAUSTED, err, "no memory for an adapter's path");
    pthread_mutex_lock(&m->lock);
    if (code == RC_OK) code = check_name(m, name, err);
    if (code == RC_OK) code = run_op(m, &op, err);
    if (code == RC_OK) {
        mica__name *n = &m->names[m->names_count++];
        snprintf(n->name, sizeof n->name, "%s", name);
        n->path = own_path;
        n->content = op.content;
        n->id = (int64_t)adapter_content_id(op.content);
        m->bytes_adapters += bytes;
    } else {
        free(own_path);
        adapter_weights_free(w);
    }
    pthread_mutex_unlock(&m->lock);
    return code;
}

rc_code mica_adapter_load(mica *m, const char *name, const char *path, rc_msg *err)
{
    adapter_weights *w;
    rc_code code;
    pthread_mutex_lock(&m->lock);
    code = check_name(m, name, err); /* before the reading, which is slow */
    pthread_mutex_unlock(&m->lock);
    if (code != RC_OK) return code;
    RC_TRY(adapter_weights_load(path, &m->shape, tokenize, m, &w, err));
    return add(m, name, path, w, err);
}

rc_code mica_adapter_synthetic(mica *m, const char *name, uint32_t rank, bool qkv_only, bool alora,
                               uint64_t seed, rc_msg *err)
{
    adapter_weights *w;
    RC_TRY(mica__synthetic_weights(&m->shape, rank, qkv_only, alora, seed, &w, err));
    return add(m, name, "synthetic", w, err);
}

rc_code mica_adapter_unload(mica *m, const char *name, rc_msg *err)
{
    mica__op op = { .kind = MICA__REMOVE, .name = name };
    rc_code code = RC_OK;
    pthread_mutex_lock(&m->lock);
    adapter_content *content = mica__find_name(m, name);
    if (!content) code = rc_fail(RC_NOT_FOUND, err, "adapter '%.200s' is not loaded", name);
    for (uint32_t i = 0; content && i < m->names_count; i++)
        if (m->names[i].content == content) { /* from now on no request finds it */
            m->bytes_adapters -= adapter_content_weights(content)->bytes;
            free(m->names[i].path);
            memmove(&m->names[i], &m->names[i + 1], (--m->names_count - i) * sizeof *m->names);
            break;
        }
    if (content) code = run_op(m, &op, err);
    pthread_mutex_unlock(&m->lock);
    return code;
}

rc_code mica_adapter_pin(mica *m, const char *name, rc_msg *err)
{
    mica__op op = {.kind = MICA__KEEP, .name = name};
    pthread_mutex_lock(&m->lock);
    rc_code code = run_op(m, &op, err);
    pthread_mutex_unlock(&m->lock);
    return code;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const mica_adapter *)a)->name, ((const mica_adapter *)b)->name);
}

static char *take_string(char **at, const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *taken = memcpy(*at, text, bytes);
    *at += bytes;
    return taken;
}

rc_code mica_adapter_list(const mica *m, mica_adapter **out, size_t *count, rc_msg *err)
{
    mica *locked = (mica *)m;
    pthread_mutex_lock(&locked->lock);
    size_t bytes = sizeof **out; /* never none */
    for (uint32_t i = 0; i < m->names_count; i++)
        bytes += sizeof **out + strlen(m->names[i].name) + strlen(m->names[i].path) + 2;
    mica_adapter *list = malloc(bytes);
    char *at = (char *)(list + m->names_count);
    for (uint32_t i = 0; list && i < m->names_count; i++) {
        list[i].id = m->names[i].id;
        list[i].bytes = adapter_content_weights(m->names[i].content)->bytes;
        list[i].is_resident = m->names[i].is_resident;
        list[i].is_awaited = m->names[i].is_awaited;
        list[i].name = take_string(&at, m->names[i].name);
        list[i].path = take_string(&at, m->names[i].path);
    }
    *count = m->names_count;
    pthread_mutex_unlock(&locked->lock);
    if (!list) return rc_fail(RC_RESOURCE_EXHAUSTED, err, "no memory for the list of adapters");
    qsort(list, *count, sizeof *list, by_name);
    *out = list;
    return RC_OK;
}
