#include "runtime/api/kv_queue.h"

#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "runtime/base/clock.h"

enum { TEXT_BYTES_MAX = 256, ALIGNMENT = 8 };

/* Followed by tokens, then adapter and salt, each with its end. */
typedef struct record {
    uint32_t bytes; /* of all, a multiple of ALIGNMENT */
    uint8_t
        kind; /* mica_kv_kind; 0: the rest of the ring is not used, and nothing but these fields is there */
    bool has_parent, ends_batch;
    uint64_t hash, parent, batch;
    int64_t time_ns, adapter_id;
    uint32_t tokens_count, first_adapted;
    uint32_t adapter_bytes, salt_bytes; /* 0: none; with their ends */
} record;

/* Places are counted from the beginning of time; modulo `bytes` they are offsets. */
struct mica__kv_queue {
    size_t bytes;
    uint32_t block_tokens;
    char *ring;
    int fd;
    /* the writer's */
    uint64_t batch, begun, written; /* the batch's number, where it begins, where it ends as yet */
    int64_t time_ns;
    record *last;
    bool is_dropping;
    /* the reader's */
    uint64_t taken;
    /* both's */
    _Alignas(64) _Atomic uint64_t ended; /* what is before may be read */
    _Alignas(64) _Atomic uint64_t freed; /* what is before may be written */
};

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
}

static size_t record_bytes(uint32_t tokens, size_t texts)
{
    return aligned(sizeof(record) + tokens * sizeof(int32_t) + texts);
}

static size_t ring_bytes(uint32_t changes, uint32_t block_tokens)
{
    return changes * record_bytes(block_tokens, 0) + record_bytes(block_tokens, 2 * (TEXT_BYTES_MAX + 1));
}

size_t mica__kv_queue_bytes(uint32_t changes, uint32_t block_tokens)
{
    return sizeof(mica__kv_queue) + ring_bytes(changes, block_tokens);
}

rc_code mica__kv_queue_create(uint32_t changes, uint32_t block_tokens, mica__kv_queue **out, rc_msg *msg)
{
    mica__kv_queue *q = aligned_alloc(64, sizeof *q);
    size_t bytes = ring_bytes(changes, block_tokens);
    if (q) *q = (mica__kv_queue){.bytes = bytes, .block_tokens = block_tokens, .fd = -1};
    if (q) q->ring = malloc(bytes);
    if (q && q->ring) q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!q || !q->ring || q->fd < 0) {
        mica__kv_queue_destroy(q);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for %u changes of the K/V cache: %zu bytes",
                       changes, bytes);
    }
    *out = q;
    return RC_OK;
}

void mica__kv_queue_destroy(mica__kv_queue *q)
{
    if (!q) return;
    if (q->fd >= 0) close(q->fd);
    free(q->ring);
    free(q);
}

static uint32_t text_bytes(const char *text)
{
    return text ? (uint32_t)strlen(text) + 1 : 0;
}

/* Room for a record in one piece, or NULL. */
static record *make_room(mica__kv_queue *q, size_t bytes)
{
    size_t at = q->written % q->bytes, rest = q->bytes - at, unused = rest < bytes ? rest : 0;
    uint64_t freed = atomic_load_explicit(&q->freed, memory_order_acquire);
    if (q->written + unused + bytes - freed > q->bytes) return NULL;
    if (unused) {
        record *end = (record *)(q->ring + at);
        end->bytes = (uint32_t)unused;
        end->kind = 0;
        q->written += unused;
        at = 0;
    }
    q->written += bytes;
    return (record *)(q->ring + at);
}

static void fill(const mica__kv_queue *q, record *r, const mica_kv_change *c)
{
    r->kind = (uint8_t)c->kind;
    r->has_parent = c->has_parent;
    r->ends_batch = false;
    r->hash = c->hash;
    r->parent = c->parent;
    r->batch = q->batch;
    r->time_ns = q->time_ns;
    r->adapter_id = c->adapter_id;
    r->first_adapted = c->first_adapted;
    char *at = (char *)(r + 1);
    if (r->tokens_count) memcpy(at, c->tokens, r->tokens_count * sizeof *c->tokens);
    at += r->tokens_count * sizeof *c->tokens;
    if (r->adapter_bytes) memcpy(at, c->adapter, r->adapter_bytes);
    if (r->salt_bytes) memcpy(at + r->adapter_bytes, c->cache_salt, r->salt_bytes);
}

void mica__kv_queue_add(mica__kv_queue *q, const mica_kv_change *c)
{
    uint32_t adapter_bytes = text_bytes(c->adapter), salt_bytes = text_bytes(c->cache_salt);
    RC_ASSERT(adapter_bytes <= TEXT_BYTES_MAX + 1 && salt_bytes <= TEXT_BYTES_MAX + 1);
    RC_ASSERT(c->tokens_count <= q->block_tokens);
    if (q->is_dropping) return;
    if (q->written == q->begun) q->time_ns = rt_unix_ns();
    size_t bytes = record_bytes(c->tokens_count, adapter_bytes + salt_bytes);
    record *r = make_room(q, bytes);
    if (!r) {
        q->is_dropping = true;
        return;
    }
    r->bytes = (uint32_t)bytes;
    r->tokens_count = c->tokens_count;
    r->adapter_bytes = adapter_bytes;
    r->salt_bytes = salt_bytes;
    fill(q, r, c);
    q->last = r;
}

void mica__kv_queue_end(mica__kv_queue *q)
{
    const uint64_t one = 1;
    if (q->written == q->begun && !q->is_dropping) return;
    q->batch++;
    if (q->is_dropping) {
        q->is_dropping = false;
        q->written = q->begun;
        return;
    }
    q->last->ends_batch = true;
    q->begun = q->written;
    atomic_store_explicit(&q->ended, q->written, memory_order_release);
    ssize_t n = write(q->fd, &one, sizeof one);
    (void)n; /* fails only where it is readable already, and more than readable it need not be */
}

/* Whether there is anything; where there is not, the descriptor is not readable until there is. */
static bool is_there(mica__kv_queue *q)
{
    uint64_t count;
    if (atomic_load_explicit(&q->ended, memory_order_acquire) != q->taken) return true;
    ssize_t n = read(q->fd, &count, sizeof count);
    (void)n;
    return atomic_load_explicit(&q->ended, memory_order_acquire) != q->taken;
}

bool mica__kv_queue_take(mica__kv_queue *q, mica_kv_change *c)
{
    atomic_store_explicit(&q->freed, q->taken, memory_order_release);
    if (!is_there(q)) return false;
    const record *r = (const record *)(q->ring + q->taken % q->bytes);
    q->taken += r->bytes;
    if (!r->kind) {
        r = (const record *)q->ring;
        q->taken += r->bytes;
    }
    const char *tokens = (const char *)(r + 1), *texts = tokens + r->tokens_count * sizeof(int32_t);
    *c = (mica_kv_change){.kind = (mica_kv_kind)r->kind,
                          .batch = r->batch,
                          .ends_batch = r->ends_batch,
                          .time_ns = r->time_ns,
                          .hash = r->hash,
                          .has_parent = r->has_parent,
                          .parent = r->parent,
                          .tokens = r->tokens_count ? (const int32_t *)tokens : NULL,
                          .tokens_count = r->tokens_count,
                          .adapter = r->adapter_bytes ? texts : NULL,
                          .adapter_id = r->adapter_id,
                          .first_adapted = r->first_adapted,
                          .cache_salt = r->salt_bytes ? texts + r->adapter_bytes : NULL};
    return true;
}

int mica__kv_queue_fd(const mica__kv_queue *q)
{
    return q->fd;
}
