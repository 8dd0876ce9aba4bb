/* tests/paged_kv/kv_model.h - what blocks really hold, told row by row by whoever writes or copies them.
 *
 * A row's full name is (salt, every row before it, its token, the adapter that computed it): a node of
 * a trie, by number. The model keeps the name in every row of every physical block. It knows nothing of
 * hashes, trees, lists or references; of the block manager it reads only which blocks are free.
 */
#ifndef TESTS_PAGED_KV_KV_MODEL_H
#define TESTS_PAGED_KV_KV_MODEL_H

#include "paged_kv/block_manager.h"

enum { KV_MODEL_SALTS = 6, KV_MODEL_UNKNOWN = 0 };

typedef struct kv_model kv_model;

kv_model *kv_model_create(const kv_options *options);
void kv_model_destroy(kv_model *model);

uint32_t kv_model_root(uint32_t salt_number);
/* The row that follows `row` for a token at this position, or KV_MODEL_UNKNOWN where there is none yet. */
uint32_t kv_model_next(const kv_model *model, uint32_t row, int32_t token, uint32_t position,
                       kv_identity identity);
uint32_t kv_model_add(kv_model *model, uint32_t row, int32_t token, uint32_t position, kv_identity identity);

/* A block's rows: written in order, copied, or forgotten from one on. */
void kv_model_write(kv_model *model, uint32_t block, uint32_t at, uint32_t row);
uint32_t kv_model_read(const kv_model *model, uint32_t block, uint32_t at);
void kv_model_forget(kv_model *model, uint32_t block, uint32_t from);

/* Reads off which rows can be found now: those of all blocks that are not free. The set of before
 * is kept; kv_model_lost() says whether a row was in it and is not in the new one. */
void kv_model_look(kv_model *model, const kv *m);
bool kv_model_lost(const kv_model *model);

/* Longest prefix of tokens[0..limit) whose rows can all be found. */
uint32_t kv_model_longest(const kv_model *model, const int32_t *tokens, uint32_t limit, uint32_t salt_number,
                          kv_identity identity);

#endif
