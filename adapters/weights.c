/* A load is: read the config; ask it about every module of every layer; look its two tensors up; check
 * that no tensor is left over; copy. */
#include "adapters/weights.h"

#include "adapters/file.h"
#include "adapters/safetensors.h"

enum { PATH_BYTES = 4096, CONFIG_BYTES_MAX = 16 << 20, ALIGNMENT = 64 };
#define TENSOR_PREFIX "base_model.model."

/* A delta's matrices in the file. */
typedef struct matrices {
    const adapter_tensor *a, *b;
} matrices;

typedef struct loader {
    char config_path[PATH_BYTES], tensors_path[PATH_BYTES];
    const adapter_shape *shape;
    adapter_config *config;
    adapter_st *st;
    bool *tensor_used;                   /* [adapter_st_count] */
    matrices *found;                     /* [layers * modules_count], of each delta in order */
    uint32_t order[ADAPTER_MODULES_MAX]; /* modules by linear, then column */
    rc_msg *msg;
} loader;

static rc_code fail_memory(const loader *l)
{
    return rc_fail(RC_RESOURCE_EXHAUSTED, l->msg, "'%.300s': no memory for the adapter", l->tensors_path);
}

static rc_code join(char *out, const char *directory, const char *file, rc_msg *msg)
{
    int bytes = snprintf(out, PATH_BYTES, "%s/%s", directory, file);
    if (bytes >= 0 && bytes < PATH_BYTES) return RC_OK;
    return rc_fail(RC_INVALID_ARGUMENT, msg, "'%.300s...': a path of more than %d bytes", directory,
                   PATH_BYTES - 1);
}

static rc_code open_files(loader *l, const char *path)
{
    char *text;
    size_t bytes;
    RC_TRY(join(l->config_path, path, "adapter_config.json", l->msg));
    RC_TRY(join(l->tensors_path, path, "adapter_model.safetensors", l->msg));
    RC_TRY(adapter_file_read(l->config_path, CONFIG_BYTES_MAX, &text, &bytes, l->msg));
    rc_code code = adapter_config_parse(text, bytes, l->config_path, &l->config, l->msg);
    free(text);
    if (code != RC_OK) return code;
    RC_TRY(adapter_st_open(l->tensors_path, &l->st, l->msg));
    l->tensor_used = calloc(adapter_st_count(l->st) + 1, sizeof *l->tensor_used);
    return l->tensor_used ? RC_OK : fail_memory(l);
}

static rc_code check_layers(const loader *l)
{
    uint32_t count;
    const uint32_t *layers = adapter_config_layers(l->config, &count);
    for (uint32_t i = 0; i < count; i++)
        if (layers[i] >= l->shape->layers)
            return rc_fail(RC_INVALID_ARGUMENT, l->msg,
                           "'%.200s': layers_to_transform names layer %u, the model has "
                           "%u",
                           l->config_path, layers[i], l->shape->layers);
    return RC_OK;
}

static rc_code set_invocation(const loader *l, adapter_tokenize tokenize, void *ctx, adapter_weights *w)
{
    const char *text = adapter_config_invocation_text(l->config);
    const int32_t *ids = adapter_config_invocation(l->config, &w->invocation_count);
    w->kind = adapter_config_kind(l->config);
    memcpy(w->invocation, ids, w->invocation_count * sizeof *ids);
    if (text && !tokenize)
        return rc_fail(RC_INVALID_ARGUMENT, l->msg,
                       "'%.200s': the invocation '%.100s' is a text, and the model has no "
                       "tokenizer",
                       l->config_path, text);
    if (text)
        RC_TRY(tokenize(ctx, text, w->invocation, ADAPTER_INVOCATION_MAX, &w->invocation_count, l->msg));
    if (text && w->invocation_count == 0)
        return rc_fail(RC_INVALID_ARGUMENT, l->msg, "'%.200s': the invocation '%.100s' has no tokens",
                       l->config_path, text);
    for (uint32_t i = 0; i < w->invocation_count; i++)
        if (w->invocation[i] < 0 || (uint32_t)w->invocation[i] >= l->shape->vocab)
            return rc_fail(RC_INVALID_ARGUMENT, l->msg,
                           "'%.200s': invocation token %d is outside the vocabulary of "
                           "%u",
                           l->config_path, w->invocation[i], l->shape->vocab);
    return RC_OK;
}

static void sort_modules(loader *l)
{
    const adapter_module *m = l->shape->modules;
    for (uint32_t i = 0; i < l->shape->modules_count; i++) {
        uint32_t at = i;
        for (; at > 0; at--) {
            const adapter_module *left = &m[l->order[at - 1]];
            if (left->linear < m[i].linear ||
                (left->linear == m[i].linear && left->out_offset < m[i].out_offset))
                break;
            l->order[at] = l->order[at - 1];
        }
        l->order[at] = i;
    }
}

/* The tensor of one matrix, which must be there with this shape. */
static rc_code find_matrix(loader *l, const char *path, const char *matrix, uint64_t rows, uint64_t columns,
                           const adapter_tensor **out)
{
    char name[512];
    snprintf(name, sizeof name, TENSOR_PREFIX "%s.%s.weight", path, matrix);
    const adapter_tensor *t = adapter_st_find(l->st, name);
    if (!t)
        return rc_fail(RC_INVALID_ARGUMENT, l->msg,
                       "'%.200s': tensor '%s' is missing: the config targets its module", l->tensors_path,
                       name);
    if (!t->dtype)
        return rc_fail(RC_INVALID_ARGUMENT, l->msg,
                       "'%.200s': tensor '%s' is %.20s, expected F32, F16 or BF16", l->tensors_path, name,
                       t->dtype_name);
    if (t->dims != 2 || t->shape[0] != rows || t->shape[1] != columns)
        return rc_fail(RC_INVALID_ARGUMENT, l->msg,
                       "'%.200s': tensor '%s' has the shape [%llu, %llu]%s, expected "
                       "[%llu, %llu]",
                       l->tensors_path, name, (unsigned long long)(t->dims > 0 ? t->shape[0] : 0),
                       (unsigned long long)(t->dims > 1 ? t->shape[1] : 0),
                       t->dims == 2 ? "" : " (not a matrix)", (unsigned long long)rows,
                       (unsigned long long)columns);
    l->tensor_used[t - adapter_st_at(l->st, 0)] = true;
    *out = t;
    return RC_OK;
}

static rc_code check_rank(const loader *l, const char *path, uint32_t rank)
{
    uint32_t max = l->shape->rank_max < ADAPTER_RANK_MAX ? l->shape->rank_max : ADAPTER_RANK_MAX;
    if (rank <= max) return RC_OK;
    return rc_fail(RC_INVALID_ARGUMENT, l->msg,
                   "'%.200s': rank %u of '%.200s' is above the largest that is served, %u "
                   "(--max-lora-rank)",
                   l->config_path, rank, path, max);
}

/* Adds the delta of one module of one layer, if the config targets it. */
static rc_code add_delta(loader *l, uint32_t layer, const adapter_module *module, adapter_weights *w)
{
    char path[256];
    adapter_match match;
    matrices *found = &l->found[w->deltas_count];
    snprintf(path, sizeof path, "%s%u.%s", l->shape->layer_prefix, layer, module->name);
    RC_TRY(adapter_config_match(l->config, path, &match, l->msg));
    if (!match.targeted) return RC_OK;
    RC_TRY(check_rank(l, path, match.rank));
    RC_TRY(find_matrix(l, path, "lora_A", match.rank, module->in, &found->a));
    RC_TRY(find_matrix(l, path, "lora_B", module->out, match.rank, &found->b));
    w->deltas[w->deltas_count++] = (adapter_delta){
        .layer = layer,
        .linear = module->linear,
        .in = module->in,
        .out = module->out,
        .out_offset = module->out_offset,
        .rank = match.rank,
        .scaling = match.scaling,
        .dtype = found->a->dtype == found->b->dtype ? found->a->dtype : RC_F32,
    };
    if (match.rank > w->rank_max) w->rank_max = match.rank;
    return RC_OK;
}

/* A name that the model does not have is idle, as in PEFT; a module that Mica cannot adapt is not. */
static rc_code check_targets(const loader *l)
{
    for (uint32_t i = 0; i < adapter_config_targets_count(l->config); i++)
        if (adapter_config_target_names(l->config, i, "lm_head") ||
            adapter_config_target_names(l->config, i, "model.embed_tokens"))
            return rc_fail(RC_INVALID_ARGUMENT, l->msg,
                           "'%.200s': target_modules names '%.100s', which is no adaptable "
                           "module of the model",
                           l->config_path, adapter_config_target(l->config, i));
    return RC_OK;
}

/* The layer that a tensor's name gives, or UINT64_MAX. */
static uint64_t layer_of(const loader *l, const char *name)
{
    size_t prefix = strlen(TENSOR_PREFIX), layers = strlen(l->shape->layer_prefix);
    if (strncmp(name, TENSOR_PREFIX, prefix) != 0 ||
        strncmp(name + prefix, l->shape->layer_prefix, layers) != 0)
        return UINT64_MAX;
    name += prefix + layers;
    return *name >= '0' && *name <= '9' ? strtoull(name, NULL, 10) : UINT64_MAX;
}

static rc_code check_leftovers(const loader *l)
{
    for (size_t i = 0; i < adapter_st_count(l->st); i++) {
        const char *name = adapter_st_at(l->st, i)->name;
        uint64_t layer = layer_of(l, name);
        if (l->tensor_used[i]) continue;
        if (layer != UINT64_MAX && layer >= l->shape->layers)
            return rc_fail(RC_INVALID_ARGUMENT, l->msg,
                           "'%.200s': tensor '%.200s' is of layer %llu, the model has %u", l->tensors_path,
                           name, (unsigned long long)layer, l->shape->layers);
        return rc_fail(RC_INVALID_ARGUMENT, l->msg,
                       "'%.200s': tensor '%.200s' belongs to no module that the config "
                       "targets and the model has",
                       l->tensors_path, name);
    }
    return RC_OK;
}

static rc_code find_deltas(loader *l, adapter_weights *w)
{
    size_t deltas_max = (size_t)l->shape->layers * l->shape->modules_count;
    w->deltas = calloc(deltas_max + 1, sizeof *w->deltas);
    l->found = calloc(deltas_max + 1, sizeof *l->found);
    if (!w->deltas || !l->found) return fail_memory(l);
    sort_modules(l);
    for (uint32_t layer = 0; layer < l->shape->layers; layer++)
        for (uint32_t m = 0; m < l->shape->modules_count; m++)
            RC_TRY(add_delta(l, layer, &l->shape->modules[l->order[m]], w));
    RC_TRY(check_targets(l));
    RC_TRY(check_leftovers(l));
    if (w->deltas_count == 0)
        return rc_fail(RC_INVALID_ARGUMENT, l->msg, "'%.300s': it targets no module of the model",
                       l->config_path);
    return RC_OK;
}

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static size_t matrix_bytes(const adapter_tensor *t, rc_dtype dtype)
{
    return (size_t)(t->shape[0] * t->shape[1]) * rc_dtype_bytes(dtype);
}

static void copy_matrix(const adapter_tensor *t, rc_dtype dtype, void *out)
{
    if (dtype == t->dtype) {
        memcpy(out, t->data, t->bytes);
        return;
    }
    float *values = out;
    for (size_t i = 0; i < t->bytes / rc_dtype_bytes(t->dtype); i++)
        values[i] = rc_load_f32(t->data, t->dtype, i);
}

static rc_code copy_deltas(const loader *l, adapter_weights *w)
{
    size_t total = 0;
    for (uint32_t i = 0; i < w->deltas_count; i++) {
        size_t a = matrix_bytes(l->found[i].a, w->deltas[i].dtype),
               b = matrix_bytes(l->found[i].b, w->deltas[i].dtype);
        w->bytes += a + b;
        total += aligned(a) + aligned(b);
    }
    unsigned char *at = w->storage = aligned_alloc(ALIGNMENT, total);
    if (!at) return fail_memory(l);
    for (uint32_t i = 0; i < w->deltas_count; i++) {
        adapter_delta *d = &w->deltas[i];
        copy_matrix(l->found[i].a, d->dtype, at);
        d->a = at;
        at += aligned(matrix_bytes(l->found[i].a, d->dtype));
        copy_matrix(l->found[i].b, d->dtype, at);
        d->b = at;
        at += aligned(matrix_bytes(l->found[i].b, d->dtype));
    }
    return RC_OK;
}

static rc_code load(loader *l, const char *path, adapter_tokenize tokenize, void *ctx, adapter_weights *w)
{
    RC_TRY(open_files(l, path));
    RC_TRY(check_layers(l));
    RC_TRY(set_invocation(l, tokenize, ctx, w));
    RC_TRY(find_deltas(l, w));
    return copy_deltas(l, w);
}

rc_code adapter_weights_load(const char *path, const adapter_shape *shape, adapter_tokenize tokenize,
                             void *tokenize_ctx, adapter_weights **out, rc_msg *msg)
{
    RC_ASSERT(shape->modules_count <= ADAPTER_MODULES_MAX);
    loader *l = calloc(1, sizeof *l);
    adapter_weights *w = calloc(1, sizeof *w);
    rc_code code = RC_RESOURCE_EXHAUSTED;
    if (l && w) {
        l->shape = shape;
        l->msg = msg;
        code = load(l, path, tokenize, tokenize_ctx, w);
    } else {
        rc_fail(code, msg, "'%.300s': no memory for the adapter", path);
    }
    if (l) {
        adapter_config_free(l->config);
        adapter_st_close(l->st);
        free(l->tensor_used);
        free(l->found);
        free(l);
    }
    if (code != RC_OK) {
        adapter_weights_free(w);
        return code;
    }
    *out = w;
    return RC_OK;
}

void adapter_weights_free(adapter_weights *w)
{
    if (!w) return;
    free(w->deltas);
    free(w->storage);
    free(w);
}
