#include "runtime/server/kv_batch.h"

#include <msgpack.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/utf8.h"

/* Changes that will be one event. */
typedef struct run {
    mica_kv_kind kind; /* 0: there is none */
    bool has_parent;
    uint64_t parent;
    int64_t adapter_id;     /* 0: base */
    rt_bytes hashes;        /* [count] uint64_t */
    rt_bytes tokens;        /* [count * block_size] int32_t */
    rt_bytes adapter, salt; /* of the first block; empty: none */
} run;

struct rt_kv_batch {
    bool as_arrays;
    uint32_t block_size, events_count;
    int64_t time_ns;
    rt_bytes events;
    run run;
    bool failed;
};

rt_kv_batch *rt__kv_batch_create(bool as_arrays, uint32_t block_size)
{
    rt_kv_batch *b = calloc(1, sizeof *b);
    if (b) *b = (rt_kv_batch){.as_arrays = as_arrays, .block_size = block_size};
    return b;
}

void rt__kv_batch_destroy(rt_kv_batch *b)
{
    if (!b) return;
    rt_bytes_deinit(&b->events);
    rt_bytes_deinit(&b->run.hashes);
    rt_bytes_deinit(&b->run.tokens);
    rt_bytes_deinit(&b->run.adapter);
    rt_bytes_deinit(&b->run.salt);
    free(b);
}

/* ---- msgpack ---- */

static int write_bytes(void *bytes, const char *data, size_t count)
{
    rt_bytes *b = bytes;
    rt_bytes_add(b, data, count);
    return b->failed ? -1 : 0;
}

/* A string, or where it is none that a consumer would take, bytes. */
static void pack_text(msgpack_packer *p, const char *text, size_t bytes)
{
    if (rt_utf8_valid(text, bytes) == bytes)
        msgpack_pack_str_with_body(p, text, bytes);
    else
        msgpack_pack_bin_with_body(p, text, bytes);
}

static void pack_bytes_or_nil(msgpack_packer *p, const rt_bytes *text)
{
    if (text->count)
        pack_text(p, text->data, text->count);
    else
        msgpack_pack_nil(p);
}

/* A field's name, where fields have names. */
static void pack_key(const rt_kv_batch *b, msgpack_packer *p, const char *key)
{
    if (!b->as_arrays) msgpack_pack_str_with_body(p, key, strlen(key));
}

static void pack_word(msgpack_packer *p, const char *word)
{
    msgpack_pack_str_with_body(p, word, strlen(word));
}

static void begin_event(const rt_kv_batch *b, msgpack_packer *p, const char *type, size_t fields)
{
    if (b->as_arrays)
        msgpack_pack_array(p, fields);
    else
        msgpack_pack_map(p, fields);
    pack_key(b, p, "type");
    pack_word(p, type);
}

static size_t blocks_of(const run *r)
{
    return r->hashes.count / sizeof(uint64_t);
}

static void pack_hashes(const rt_kv_batch *b, msgpack_packer *p, const run *r)
{
    const uint64_t *hashes = (const uint64_t *)r->hashes.data;
    pack_key(b, p, "block_hashes");
    msgpack_pack_array(p, blocks_of(r));
    for (size_t i = 0; i < blocks_of(r); i++) msgpack_pack_uint64(p, hashes[i]);
}

static void pack_tokens(const rt_kv_batch *b, msgpack_packer *p, const run *r)
{
    const int32_t *tokens = (const int32_t *)r->tokens.data;
    size_t count = r->tokens.count / sizeof *tokens;
    pack_key(b, p, "token_ids");
    msgpack_pack_array(p, count);
    for (size_t i = 0; i < count; i++) msgpack_pack_int32(p, tokens[i]);
}

static void pack_extra_keys(const rt_kv_batch *b, msgpack_packer *p, const run *r)
{
    pack_key(b, p, "extra_keys");
    msgpack_pack_array(p, blocks_of(r));
    for (size_t i = 0; i < blocks_of(r); i++) {
        bool has_salt = i == 0 && r->salt.count, has_adapter = r->adapter.count > 0;
        if (!has_salt && !has_adapter) {
            msgpack_pack_nil(p);
            continue;
        }
        msgpack_pack_array(p, (size_t)has_salt + has_adapter);
        if (has_adapter) pack_text(p, r->adapter.data, r->adapter.count);
        if (has_salt) pack_text(p, r->salt.data, r->salt.count);
    }
}

static void pack_stored(const rt_kv_batch *b, msgpack_packer *p, const run *r)
{
    begin_event(b, p, "BlockStored", b->as_arrays ? 12 : 11);
    pack_hashes(b, p, r);
    pack_key(b, p, "parent_block_hash");
    if (r->has_parent)
        msgpack_pack_uint64(p, r->parent);
    else
        msgpack_pack_nil(p);
    pack_tokens(b, p, r);
    pack_key(b, p, "block_size");
    msgpack_pack_uint32(p, b->block_size);
    pack_key(b, p, "lora_id");
    if (r->adapter_id)
        msgpack_pack_int64(p, r->adapter_id);
    else
        msgpack_pack_nil(p);
    pack_key(b, p, "medium");
    pack_word(p, "GPU");
    pack_key(b, p, "lora_name");
    pack_bytes_or_nil(p, &r->adapter);
    pack_extra_keys(b, p, r);
    pack_key(b, p, "group_idx");
    msgpack_pack_uint32(p, 0);
    pack_key(b, p, "kv_cache_spec_kind");
    pack_word(p, "full_attention");
    if (b->as_arrays) msgpack_pack_nil(p);
}

static void pack_removed(const rt_kv_batch *b, msgpack_packer *p, const run *r)
{
    begin_event(b, p, "BlockRemoved", 4);
    pack_hashes(b, p, r);
    pack_key(b, p, "medium");
    pack_word(p, "GPU");
    pack_key(b, p, "group_idx");
    msgpack_pack_uint32(p, 0);
}

/* ---- runs ---- */

static void end_run(rt_kv_batch *b)
{
    run *r = &b->run;
    msgpack_packer p;
    if (!r->kind) return;
    msgpack_packer_init(&p, &b->events, write_bytes);
    if (r->kind == MICA_KV_STORED)
        pack_stored(b, &p, r);
    else if (r->kind == MICA_KV_REMOVED)
        pack_removed(b, &p, r);
    else
        begin_event(b, &p, "AllBlocksCleared", 1);
    b->failed |= r->hashes.failed || r->tokens.failed || r->adapter.failed || r->salt.failed;
    b->events_count++;
    r->kind = 0;
}

static void begin_run(rt_kv_batch *b, const mica_kv_change *c)
{
    run *r = &b->run;
    r->kind = c->kind;
    r->has_parent = c->has_parent;
    r->parent = c->parent;
    r->adapter_id = c->adapter ? c->adapter_id : 0;
    rt_bytes_clear(&r->hashes);
    rt_bytes_clear(&r->tokens);
    rt_bytes_clear(&r->adapter);
    rt_bytes_clear(&r->salt);
    if (c->adapter) rt_bytes_add_text(&r->adapter, c->adapter);
    if (c->cache_salt) rt_bytes_add_text(&r->salt, c->cache_salt);
}

static bool continues(const run *r, const mica_kv_change *c)
{
    if (r->kind != c->kind || c->kind == MICA_KV_CLEARED) return false;
    if (c->kind == MICA_KV_REMOVED) return true;
    if (!c->has_parent || r->adapter_id != (c->adapter ? c->adapter_id : 0) || !blocks_of(r)) return false;
    return ((const uint64_t *)r->hashes.data)[blocks_of(r) - 1] == c->parent;
}

void rt__kv_batch_add(rt_kv_batch *b, const mica_kv_change *c)
{
    if (!continues(&b->run, c)) {
        end_run(b);
        begin_run(b, c);
    }
    b->time_ns = c->time_ns;
    if (c->kind == MICA_KV_CLEARED) return;
    rt_bytes_add(&b->run.hashes, &c->hash, sizeof c->hash);
    rt_bytes_add(&b->run.tokens, c->tokens, c->tokens_count * sizeof *c->tokens);
}

/* The next batch finds memory, if there is some by then. */
static void forget(rt_kv_batch *b)
{
    rt_kv_batch next = {.as_arrays = b->as_arrays, .block_size = b->block_size};
    rt_bytes *parts[] = {&b->events, &b->run.hashes, &b->run.tokens, &b->run.adapter, &b->run.salt};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) rt_bytes_deinit(parts[i]);
    *b = next;
}

bool rt__kv_batch_take(rt_kv_batch *b, rt_bytes *payload)
{
    msgpack_packer p;
    end_run(b);
    *payload = (rt_bytes){0};
    msgpack_packer_init(&p, payload, write_bytes);
    msgpack_pack_array(&p, 3);
    msgpack_pack_double(&p, (double)b->time_ns / 1e9);
    msgpack_pack_array(&p, b->events_count);
    rt_bytes_add(payload, b->events.data, b->events.count);
    msgpack_pack_uint32(&p, 0);
    if (b->failed || b->events.failed || payload->failed) {
        rt_bytes_deinit(payload);
        forget(b);
        return false;
    }
    rt_bytes_clear(&b->events);
    b->events_count = 0;
    return true;
}
