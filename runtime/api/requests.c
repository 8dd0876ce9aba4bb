/* Requests come in: made of the caller's, on its thread, and queued for the engine's. */
#include <stdlib.h>
#include <string.h>

#include "adapters/activation.h"
#include "runtime/api/mica_internal.h"

/* Of a prompt that may be cut all is tokenized: there are at most as many tokens as bytes, and a few special
 * ones. */
static rc_code tokenize_prompt(mica *m, const mica_request *q, int32_t **ids, size_t *count, rc_msg *err)
{
    enum { SPECIAL_MAX = 64 };
    const char *text = q->prompt_text ? q->prompt_text : "";
    if (!q->truncate_prompt_tokens || !m->tokenizer)
        return mica_tokenize(m, text, q->prompt_text_bytes, q->add_special_tokens, ids, count, err);
    rc_code code = rt_tokenizer_encode(m->tokenizer, text, q->prompt_text_bytes, q->add_special_tokens,
                                       q->prompt_text_bytes + SPECIAL_MAX, ids, count, err);
    return code == RC_OK ? code : rc_about(code, err, "prompt");
}

/* A request's prompt, cut where it says so. */
typedef struct prompt {
    const int32_t *ids;
    size_t count;
    int32_t *made; /* of text: whoever found it frees it; else NULL */
} prompt;

static rc_code find_prompt(mica *m, const mica_request *q, prompt *p, rc_msg *err)
{
    size_t kept = q->truncate_prompt_tokens;
    *p = (prompt){.ids = q->prompt_ids, .count = q->prompt_ids_count};
    if (!q->prompt_ids) RC_TRY(tokenize_prompt(m, q, &p->made, &p->count, err));
    if (p->made) p->ids = p->made;
    if (!kept || p->count <= kept) return RC_OK;
    p->ids += p->count - kept;
    p->count = kept;
    return RC_OK;
}

static rc_code make_request(mica *m, const mica_request *q, rt_request **out, rc_msg *err)
{
    prompt p;
    rc_code code;
    RC_TRY(rt_request_validate(q, &m->limits, err));
    RC_TRY(find_prompt(m, q, &p, err));
    code = rt_request_create(q, p.ids, p.count, &m->limits, out, err);
    free(p.made);
    return code;
}

/* What a request names, NULL: base. Under the lock. */
static rc_code find_adapter(mica *m, const mica_request *q, adapter_content **adapter, rc_msg *err)
{
    *adapter = NULL;
    if (!q->model || !strcmp(q->model, m->model_name)) return RC_OK;
    *adapter = mica__find_name(m, q->model);
    if (*adapter) return RC_OK;
    return rc_about(rc_fail(RC_NOT_FOUND, err, "the model '%.300s' does not exist", q->model), err, "model");
}

static rc_code give_adapter(mica *m, const mica_request *q, rt_request *r, rc_msg *err)
{
    adapter_content *adapter;
    RC_TRY(find_adapter(m, q, &adapter, err));
    return rt_request_set_adapter(r, q, adapter, &m->limits, err);
}

/* Finds the adapter and queues the request under one hold of the lock. */
static rc_code queue_request(mica *m, const mica_request *q, rt_request *r, rc_msg *err)
{
    if (m->is_lost) {
        if (err) *err = m->why_lost;
        return RC_UNAVAILABLE;
    }
    RC_TRY(give_adapter(m, q, r, err));
    if (m->open_choices + r->choices_count > m->plan.engine.seqs_max)
        return rc_fail(RC_RESOURCE_EXHAUSTED, err, "%u sequences are waiting or running, which is the most",
                       m->open_choices);
    r->id = m->next_id++;
    r->next_by_id = m->by_id[r->id % MICA__ID_BUCKETS];
    m->by_id[r->id % MICA__ID_BUCKETS] = r;
    m->open_requests++;
    m->open_choices += r->choices_count;
    r->wants_submit = true;
    mica__queue_command(m, r);
    return RC_OK;
}

/* The caller's request, which may be of an older and smaller kind. */
static rc_code take_request(const mica_request *request, mica_request *q, rc_msg *err)
{
    *q = (mica_request)MICA_REQUEST_INIT;
    if (request->size > sizeof *q)
        return rc_fail(RC_INVALID_ARGUMENT, err, "mica_request.size is %zu: use MICA_REQUEST_INIT",
                       request->size);
    memcpy(q, request, request->size);
    return RC_OK;
}

rc_code mica_submit(mica *m, const mica_request *request, uint64_t *id, rc_msg *err)
{
    mica_request q;
    rt_request *r;
    RC_TRY(take_request(request, &q, err));
    RC_TRY(make_request(m, &q, &r, err));
    pthread_mutex_lock(&m->lock);
    rc_code code = queue_request(m, &q, r, err);
    if (code == RC_OK) *id = r->id;
    pthread_mutex_unlock(&m->lock);
    if (code != RC_OK) rt_request_free(r);
    return code;
}

rc_code mica_check(mica *m, const mica_request *request, rc_msg *err)
{
    mica_request q;
    rt_request *r;
    RC_TRY(take_request(request, &q, err));
    RC_TRY(make_request(m, &q, &r, err));
    pthread_mutex_lock(&m->lock);
    rc_code code = give_adapter(m, &q, r, err);
    pthread_mutex_unlock(&m->lock);
    rt_request_free(r);
    return code;
}

void mica_cancel(mica *m, uint64_t id)
{
    pthread_mutex_lock(&m->lock);
    for (rt_request *r = m->by_id[id % MICA__ID_BUCKETS]; r; r = r->next_by_id)
        if (r->id == id && !r->engine_done) {
            r->wants_cancel = true;
            mica__queue_command(m, r);
        }
    pthread_mutex_unlock(&m->lock);
}

/* ---- asked before ---- */

/* Whose K/V the request could use. False: it would be refused. */
static bool whose_kv(mica *m, const mica_request *q, const int32_t *ids, uint32_t count, uint64_t *id,
                     uint32_t *adapted_from)
{
    adapter_content *adapter;
    pthread_mutex_lock(&m->lock);
    bool is_fine = find_adapter(m, q, &adapter, NULL) == RC_OK &&
                   rt_request_activation(q, adapter, ids, count, &m->limits, adapted_from, NULL) == RC_OK;
    *id = is_fine && *adapted_from != ADAPTER_NEVER ? adapter_content_id(adapter) : 0;
    pthread_mutex_unlock(&m->lock);
    return is_fine;
}

static uint32_t cached_of(mica *m, const mica_request *q, const int32_t *ids, size_t count)
{
    uint64_t adapter;
    uint32_t adapted_from;
    if (count > m->limits.max_model_len || !whose_kv(m, q, ids, (uint32_t)count, &adapter, &adapted_from))
        return 0;
    pthread_mutex_lock(&m->engine_lock);
    uint32_t cached = rt_engine_find(m->engine, ids, (uint32_t)count, q->cache_salt ? q->cache_salt : "",
                                     adapter, adapted_from);
    pthread_mutex_unlock(&m->engine_lock);
    return cached;
}

uint32_t mica_cached_tokens(mica *m, const mica_request *request)
{
    mica_request q;
    prompt p;
    if (take_request(request, &q, NULL) != RC_OK) return 0;
    if (q.prompt_logprobs >= 0 || find_prompt(m, &q, &p, NULL) != RC_OK) return 0;
    uint32_t cached = cached_of(m, &q, p.ids, p.count);
    free(p.made);
    return cached;
}

rc_code mica_prompt_ids(mica *m, const mica_request *request, int32_t **ids, size_t *count, rc_msg *err)
{
    mica_request q;
    prompt p;
    RC_TRY(take_request(request, &q, err));
    RC_TRY(find_prompt(m, &q, &p, err));
    *ids = malloc(p.count * sizeof **ids + 1);
    *count = p.count;
    if (*ids && p.count) memcpy(*ids, p.ids, p.count * sizeof **ids);
    free(p.made);
    return *ids ? RC_OK : rc_fail(RC_RESOURCE_EXHAUSTED, err, "no memory for %zu tokens", p.count);
}
