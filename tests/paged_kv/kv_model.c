#include "tests/paged_kv/kv_model.h"

#include "paged_kv/block_manager_internal.h"

typedef struct trie_row {
    uint32_t first_child, next_sibling;
    int32_t token;
    uint64_t adapter;
} trie_row;

struct kv_model {
    kv_options options;
    trie_row *trie;
    uint8_t *found, *found_before; /* by trie row */
    uint32_t rows_count, rows_max;
    uint32_t *held;   /* [blocks_max][block_tokens] trie rows */
    uint32_t *filled; /* [blocks_max] */
};

static void *checked(void *memory)
{
    RC_ASSERT(memory != NULL);
    return memory;
}

kv_model *kv_model_create(const kv_options *options)
{
    kv_model *model = checked(calloc(1, sizeof *model));
    model->options = *options;
    model->rows_max = 4096;
    model->rows_count = 1 + KV_MODEL_SALTS;
    model->trie = checked(calloc(model->rows_max, sizeof *model->trie));
    model->found = checked(calloc(model->rows_max, 1));
    model->found_before = checked(calloc(model->rows_max, 1));
    model->held = checked(calloc((size_t)options->blocks_max * options->block_tokens, sizeof *model->held));
    model->filled = checked(calloc(options->blocks_max, sizeof *model->filled));
    return model;
}

void kv_model_destroy(kv_model *model)
{
    free(model->trie);
    free(model->found);
    free(model->found_before);
    free(model->held);
    free(model->filled);
    free(model);
}

uint32_t kv_model_root(uint32_t salt_number) { return 1 + salt_number; }

static uint64_t adapter_at(uint32_t position, kv_identity identity)
{
    return position >= identity.adapted_from ? identity.adapter : 0;
}

uint32_t kv_model_next(const kv_model *model, uint32_t row, int32_t token, uint32_t position,
                       kv_identity identity)
{
    uint64_t adapter = adapter_at(position, identity);
    for (uint32_t c = model->trie[row].first_child; c != KV_MODEL_UNKNOWN; c = model->trie[c].next_sibling)
        if (model->trie[c].token == token && model->trie[c].adapter == adapter) return c;
    return KV_MODEL_UNKNOWN;
}

static void grow(kv_model *model)
{
    uint32_t before = model->rows_max;
    model->rows_max *= 2;
    model->trie = checked(realloc(model->trie, model->rows_max * sizeof *model->trie));
    model->found = checked(realloc(model->found, model->rows_max));
    model->found_before = checked(realloc(model->found_before, model->rows_max));
    memset(model->trie + before, 0, before * sizeof *model->trie);
    memset(model->found + before, 0, before);
    memset(model->found_before + before, 0, before);
}

uint32_t kv_model_add(kv_model *model, uint32_t row, int32_t token, uint32_t position, kv_identity identity)
{
    uint32_t next = kv_model_next(model, row, token, position, identity);
    if (next != KV_MODEL_UNKNOWN) return next;
    if (model->rows_count == model->rows_max) grow(model);
    next = model->rows_count++;
    model->trie[next] = (trie_row){0, model->trie[row].first_child, token, adapter_at(position, identity)};
    model->trie[row].first_child = next;
    return next;
}

void kv_model_write(kv_model *model, uint32_t block, uint32_t at, uint32_t row)
{
    RC_ASSERT(at == model->filled[block]);
    model->held[(size_t)block * model->options.block_tokens + at] = row;
    model->filled[block] = at + 1;
}

uint32_t kv_model_read(const kv_model *model, uint32_t block, uint32_t at)
{
    if (at >= model->filled[block]) return KV_MODEL_UNKNOWN;
    return model->held[(size_t)block * model->options.block_tokens + at];
}

void kv_model_forget(kv_model *model, uint32_t block, uint32_t from)
{
    if (model->filled[block] > from) model->filled[block] = from;
}

void kv_model_look(kv_model *model, const kv *m)
{
    uint8_t *found = model->found_before;
    model->found_before = model->found;
    model->found = found;
    memset(found, 0, model->rows_count);
    for (uint32_t b = 0; b < model->options.blocks_max; b++) {
        if (m->nodes[b].state == KV_FREE) kv_model_forget(model, b, 0);
        for (uint32_t i = 0; i < model->filled[b]; i++) found[kv_model_read(model, b, i)] = 1;
    }
}

bool kv_model_lost(const kv_model *model)
{
    for (uint32_t i = 0; i < model->rows_count; i++)
        if (model->found_before[i] && !model->found[i]) return true;
    return false;
}

uint32_t kv_model_longest(const kv_model *model, const int32_t *tokens, uint32_t limit, uint32_t salt_number,
                          kv_identity identity)
{
    uint32_t row = kv_model_root(salt_number);
    for (uint32_t i = 0; i < limit; i++) {
        row = kv_model_next(model, row, tokens[i], i, identity);
        if (row == KV_MODEL_UNKNOWN || !model->found[row]) return i;
    }
    return limit;
}
