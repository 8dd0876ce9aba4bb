/* vllm.Inference: calls become generations, which wait for their turn, go to the engine and end. */
#include <inttypes.h>
#include <stdlib.h>

#include "runtime/base/clock.h"
#include "runtime/server/generation.h"
#include "runtime/server/request_log.h"

/* ---- the list of those in the engine ---- */

static void enlist(rt_generation *g)
{
    rt_server *s = g->server;
    rpc_call_hold(g->call);
    pthread_mutex_lock(&s->lock);
    g->next = s->generations;
    g->link = &s->generations;
    if (g->next) g->next->link = &g->next;
    s->generations = g;
    atomic_fetch_add(&s->generations_count, 1);
    pthread_mutex_unlock(&s->lock);
}

static void delist(rt_generation *g)
{
    rt_server *s = g->server;
    pthread_mutex_lock(&s->lock);
    *g->link = g->next;
    if (g->next) g->next->link = g->link;
    atomic_fetch_sub(&s->generations_count, 1);
    pthread_mutex_unlock(&s->lock);
    rpc_call_release(g->call);
}

void rt__generation_event(rt_server *s, const mica_event *e)
{
    rt_generation *g = e->user;
    pthread_mutex_lock(&g->lock);
    rt__generation_gather(g, e);
    pthread_mutex_unlock(&g->lock);
    if (e->request_done) delist(g);
    rt__generations_admit(s);
}

bool rt__generations_left(rt_server *s)
{
    pthread_mutex_lock(&s->lock);
    bool any = s->generations != NULL;
    pthread_mutex_unlock(&s->lock);
    return any;
}

/* ---- a call ---- */

void rt__generation_written(rpc_call *c)
{
    rt_generation *g = rpc_call_state(c);
    pthread_mutex_lock(&g->lock);
    g->is_writing = false;
    if (g->is_end_due) {
        g->is_end_due = false;
        rt__refuse(c, g->end_code, &g->end_msg);
    }
    if (!g->is_deferred || g->reply.finish != MICA_RUNNING) rt__generation_send(g);
    pthread_mutex_unlock(&g->lock);
}

void rt__generation_closed(rpc_call *c, bool cancelled)
{
    rt_generation *g = rpc_call_state(c);
    pthread_mutex_lock(&g->lock);
    bool was_held = cancelled && rt__access_end(g->server->access, &g->item);
    if (cancelled) rt__generation_cancel(g);
    if (cancelled && !g->is_over) g->end_code = RC_CANCELLED;
    if (cancelled) g->is_over = true;
    pthread_mutex_unlock(&g->lock);
    rt_server *s = g->server;
    if (was_held) delist(g);
    if (cancelled) rt__generations_admit(s);
}

/* ---- what is told of it elsewhere ---- */

/* A value of metadata that passes a check; nothing is said about one that does not. */
static mica_text id_of(const rt_generation *g, const char *key, bool (*check)(const char *, size_t))
{
    mica_text id = {0};
    if (!rpc_call_metadata(g->call, key, &id.bytes, &id.count) || !check(id.bytes, id.count)) id.count = 0;
    return id;
}

/* The client's x-request-id, else its request_id. */
static mica_text x_request_id(const rt_generation *g)
{
    mica_text id = id_of(g, "x-request-id", rt__is_echoable);
    if (!id.count && g->request_id && rt__is_echoable(g->request_id, strlen(g->request_id)))
        id = (mica_text){g->request_id, strlen(g->request_id)};
    return id;
}

/* Once, before the call's end. */
static void echo_id(rt_generation *g)
{
    mica_text id = x_request_id(g);
    char text[RT_GENERATE_ID_MAX + 1];
    if (g->is_echoed || !id.count) return;
    g->is_echoed = true;
    snprintf(text, sizeof text, "%.*s", (int)id.count, id.bytes);
    rpc_call_trailer(g->call, "x-request-id", text);
}

static char *copy_text(const char *text)
{
    return text ? strdup(text) : NULL;
}

/* The call is over and nobody else has it. */
static void log_end(const rt_generation *g)
{
    rt_server *s = g->server;
    rt_bytes line = {0};
    rt_request_record r = {.unix_ns = rt_unix_ns(), .now_ns = rt_now_ns(), .request_id = g->request_id,
                           .model = s->info.model_name, .adapter = g->adapter, .tenant = g->tenant,
                           .x_request_id = x_request_id(g),
                           .traceparent = id_of(g, "traceparent", rt__is_traceparent), .code = g->end_code,
                           .cached_tokens = g->reply.cached_tokens, .facts = &g->facts};
    if (!s->request_log) return;
    rt__request_log_add(&line, &r);
    if (!line.failed) rt__line_log_add(s->request_log, line.data, line.count);
    rt_bytes_deinit(&line);
}

void rt__generation_freed(void *generation)
{
    rt_generation *g = generation;
    log_end(g);
    rt__generate_request_deinit(&g->request);
    rt__generate_reply_deinit(&g->reply);
    pthread_mutex_destroy(&g->lock);
    free(g->request_id);
    free(g->adapter);
    free(g->tenant);
    free(g);
}

static rt_generation *create(rpc_call *c, rt_server *s, bool is_stream)
{
    rt_generation *g = calloc(1, sizeof *g);
    if (!g) return NULL;
    g->server = s;
    g->call = c;
    g->is_stream = is_stream;
    g->facts.times.arrived = rt_now_ns();
    pthread_mutex_init(&g->lock, NULL);
    rpc_call_set_state(c, g);
    return g;
}

/* What the request's names must be. An adapter that a tenant cannot see does not exist for it. */
static rc_code check_names(const rt_server *s, const rt_caller *caller, const rt_generate_request *r,
                           rc_msg *msg)
{
    const char *base = s->info.model_name, *lora = r->q.model;
    if (r->served_name && strcmp(r->served_name, base))
        return rc_fail(RC_NOT_FOUND, msg, "model: '%.200s' is not served here; '%.200s' is", r->served_name,
                       base);
    if (lora && !strcmp(lora, base))
        return rc_fail(RC_NOT_FOUND, msg, "lora_name: '%.200s' is the base model: leave it empty", lora);
    if (lora && !rt__caller_sees(caller, lora))
        return rc_fail(RC_NOT_FOUND, msg, "lora_name: no adapter '%.300s' is loaded", lora);
    return RC_OK;
}

/* The engine's refusal in the words of a call. */
static void explain(rc_code code, const char *model, rc_msg *msg)
{
    if (code == RC_NOT_FOUND && model)
        rc_fail(code, msg, "lora_name: no adapter '%.300s' is loaded", model);
    else if (code != RC_OK)
        rt__generate_request_explain(msg);
}

/* Gives the engine a listed generation; events may come before mica_submit() has returned, and wait for the
 * lock. On failure it is listed no more. */
static rc_code submit(rt_generation *g, rc_msg *msg)
{
    pthread_mutex_lock(&g->lock);
    const char *model = g->request.q.model;
    g->request.q.user = g;
    g->facts.max_tokens = g->request.q.max_tokens;
    rc_code code = mica_submit(g->server->m, &g->request.q, &g->id, msg);
    if (code == RC_OK && (g->is_aborted || g->is_over)) rt__generation_cancel(g);
    explain(code, model, msg);
    rt__generate_request_deinit(&g->request);
    if (code != RC_OK) rt__access_end(g->server->access, &g->item);
    pthread_mutex_unlock(&g->lock);
    if (code != RC_OK) delist(g);
    return code;
}

/* One that was held is answered here where the engine refuses it. */
static void submit_held(rt_generation *g)
{
    rc_msg msg;
    rpc_call *c = g->call;
    rpc_call_hold(c);
    rc_code code = submit(g, &msg);
    pthread_mutex_lock(&g->lock);
    if (code != RC_OK) rt__generation_fail(g, code, msg.text);
    pthread_mutex_unlock(&g->lock);
    rpc_call_release(c);
}

static rt_generation *generation_of(const rt_share_item *item)
{
    return (rt_generation *)((char *)item - offsetof(rt_generation, item));
}

static uint32_t cached_tokens(const rt_share_item *item)
{
    const rt_generation *g = generation_of(item);
    return mica_cached_tokens(g->server->m, &g->request.q);
}

void rt__generations_admit(rt_server *s)
{
    rt_share_item *item;
    while ((item = rt__access_next(s->access, cached_tokens))) submit_held(generation_of(item));
}

static bool is_named(const rt_generation *g, const rt_caller *caller, const char *request_id, size_t bytes)
{
    if (!g->request_id || strlen(g->request_id) != bytes || memcmp(g->request_id, request_id, bytes))
        return false;
    return !caller->tenant || g->item.share == caller->tenant->share;
}

/* One that is held goes to the engine, whose answer is that it was aborted. */
void rt__generations_abort(rt_server *s, const rt_caller *caller, const char *request_id, size_t bytes)
{
    rt_generation *held = NULL;
    pthread_mutex_lock(&s->lock);
    for (rt_generation *g = s->generations; g; g = g->next) {
        if (!is_named(g, caller, request_id, bytes)) continue;
        pthread_mutex_lock(&g->lock);
        g->is_aborted = true;
        if (rt__access_end(s->access, &g->item)) {
            g->next_aborted = held;
            held = g;
        } else {
            rt__generation_cancel(g);
        }
        pthread_mutex_unlock(&g->lock);
    }
    pthread_mutex_unlock(&s->lock);
    for (rt_generation *next; held; held = next) {
        next = held->next_aborted;
        submit_held(held);
    }
    rt__generations_admit(s);
}

/* MiB that must be read before it can run. */
static uint32_t missing_mib(const rt_server *s, const char *adapter)
{
    mica_adapter *list;
    size_t count;
    uint32_t mib = 0;
    if (!adapter || mica_adapter_list(s->m, &list, &count, NULL) != RC_OK) return 0;
    for (size_t i = 0; i < count; i++)
        if (!strcmp(list[i].name, adapter) && !list[i].is_resident) mib = (uint32_t)(list[i].bytes >> 20);
    free(list);
    return mib;
}

/* The prompt as ids, since what a request costs must be known before it waits. */
static rc_code tokenize(const rt_server *s, rt_generate_request *r, rc_msg *msg)
{
    mica_request *q = &r->q;
    int32_t *ids;
    rc_code code = mica_prompt_ids(s->m, q, &ids, &q->prompt_ids_count, msg);
    explain(code, q->model, msg);
    if (code != RC_OK) return code;
    free(r->prompt_ids);
    q->prompt_ids = r->prompt_ids = ids;
    q->prompt_text = NULL;
    q->truncate_prompt_tokens = 0;
    return RC_OK;
}

/* The tenant's part of a request: its K/V is named by its group, and it waits for its turn. */
static rc_code wait_for_turn(rt_generation *g, const rt_tenant *tenant, rc_msg *msg)
{
    rt_server *s = g->server;
    rt_generate_request *r = &g->request;
    char salt[RT_SALT_TEXT_BYTES], seconds[24];
    int64_t retry_us;
    RC_TRY(tokenize(s, r, msg));
    rt__tenant_salt(tenant, r->salt, salt);
    free(r->salt);
    r->salt = strdup(salt);
    if (!r->salt) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the request");
    r->q.cache_salt = r->salt;
    rc_code code = mica_check(s->m, &r->q, msg); /* what would be refused inside neither waits nor counts */
    explain(code, r->q.model, msg);
    if (code != RC_OK) return code;
    g->item.prompt_tokens = (uint32_t)r->q.prompt_ids_count;
    g->item.adapter_mib = missing_mib(s, r->q.model);
    code = rt__access_arrive(s->access, &g->item, &retry_us, msg);
    if (code == RC_OK) return RC_OK;
    snprintf(seconds, sizeof seconds, "%" PRId64, (retry_us + 999999) / 1000000);
    if (retry_us) rpc_call_trailer(g->call, "retry-after", seconds);
    return code;
}

/* Its adapter is there, if it has one. On failure it is listed no more. */
static rc_code go_in(rt_generation *g, const rt_caller *caller, rc_msg *msg)
{
    if (!g->server->access) return submit(g, msg);
    rc_code code = wait_for_turn(g, caller->tenant, msg);
    if (code != RC_OK) delist(g);
    return code;
}

static rc_code wait_for_adapter(rt_generation *g, const rt_caller *caller, rc_msg *msg)
{
    rt_server *s = g->server;
    if (!rt__lora_is_due(s, g->request.q.model)) return go_in(g, caller, msg);
    g->caller = *caller;
    g->waits_for_adapter = true;
    rc_code code = rt__lora_bring(s, g->request.q.model, g->call, g, msg);
    if (code == RC_OK) return code;
    g->waits_for_adapter = false;
    delist(g);
    return code;
}

/* One whose client has gone meanwhile is not given to anybody. */
void rt__generation_loaded(rt_generation *g, rc_code code, const rc_msg *msg)
{
    rt_server *s = g->server;
    rc_msg own = {0};
    pthread_mutex_lock(&g->lock);
    bool is_over = g->is_over;
    pthread_mutex_unlock(&g->lock);
    if (is_over || code != RC_OK) {
        if (!is_over) own = *msg;
        delist(g);
    } else {
        code = go_in(g, &g->caller, &own);
    }
    pthread_mutex_lock(&g->lock);
    if (code != RC_OK) rt__generation_fail(g, code, own.text);
    pthread_mutex_unlock(&g->lock);
    rt__access_leave(s->access, &g->caller);
    rt__generations_admit(s);
}

static rc_code begin_for(rt_generation *g, const rt_caller *caller, rc_msg *msg)
{
    rt_server *s = g->server;
    size_t bytes;
    const uint8_t *message = rpc_call_message(g->call, &bytes);
    if (atomic_load(&s->is_draining)) return rc_fail(RC_UNAVAILABLE, msg, "the server is shutting down");
    if (s->access && rt__caller_is_admin(caller))
        return rc_fail(RC_PERMISSION_DENIED, msg, "the admin's key generates nothing: expected a tenant's");
    RC_TRY(rt__generate_request_decode(&g->request, message, bytes, s->info.vocab, msg));
    rt__generate_reply_init(&g->reply, &g->request.wants);
    g->request_id = copy_text(g->request.key);
    g->adapter = copy_text(g->request.q.model);
    echo_id(g);
    RC_TRY(check_names(s, caller, &g->request, msg));
    if (s->access) g->item.share = caller->tenant->share;
    enlist(g);
    return wait_for_adapter(g, caller, msg);
}

static rc_code begin(rt_generation *g, rc_msg *msg)
{
    rt_server *s = g->server;
    rt_caller caller;
    RC_TRY(rt__access_enter(s->access, g->call, &caller, msg));
    g->tenant = copy_text(caller.tenant ? caller.tenant->name : NULL);
    rc_code code = begin_for(g, &caller, msg);
    if (code == RC_OK && g->waits_for_adapter) return RC_OK; /* the caller is let go when it goes in */
    rt__access_leave(s->access, &caller);
    if (code == RC_OK) rt__generations_admit(s);
    return code;
}

static void generate(rpc_call *c, rt_server *s, bool is_stream)
{
    rt_generation *g = create(c, s, is_stream);
    rc_msg msg;
    rc_code code = g ? begin(g, &msg) : rc_fail(RC_RESOURCE_EXHAUSTED, &msg, "no memory for the request");
    if (code == RC_OK) return;
    if (g) {
        echo_id(g);
        g->end_code = code;
        g->is_over = true;
    }
    rt__refuse(c, code, &msg);
}

void rt__generate(rpc_call *c, void *server)
{
    generate(c, server, false);
}
void rt__generate_stream(rpc_call *c, void *server)
{
    generate(c, server, true);
}
