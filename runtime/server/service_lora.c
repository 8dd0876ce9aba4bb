/* LoadLora, UnloadLora and requests that wait for an adapter: jobs of a few threads, taken in the order in
 * which they came. Those of one name are carried out one after the other. */
#include <stdlib.h>

#include "control.pb-c.h"
#include "runtime/base/background.h"
#include "runtime/server/lora_root.h"
#include "runtime/server/server_internal.h"
#include "runtime/server/wire_text.h"

enum { JOBS_MAX = 64, THREADS = 4, NAME_MAX_BYTES = 256, PATH_MAX_BYTES = 4096 };

typedef struct lora_job {
    struct lora_job *next;
    rpc_call *call;    /* held */
    char *name, *path; /* path NULL: unload */
    rt_generation *waits; /* for an adapter of this name; NULL: LoadLora or UnloadLora */
} lora_job;

struct rt_lora_jobs {
    pthread_t threads[THREADS];
    unsigned threads_count;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    lora_job *first, **end;
    const lora_job *running[THREADS]; /* NULL: nothing */
    unsigned count, threads_begun;
    bool is_ending;
};

static void free_job(lora_job *j)
{
    free(j->name);
    free(j->path);
    free(j);
}

static void end(lora_job *j, rc_code code, const rc_msg *msg)
{
    if (j->waits)
        rt__generation_loaded(j->waits, code, msg);
    else if (code != RC_OK)
        rt__refuse(j->call, code, msg);
    rpc_call_release(j->call);
}

/* What ListLoras says of one name; false: it is not there. */
static bool find(const rt_server *s, const char *name, mica_adapter **list, const mica_adapter **found)
{
    size_t count;
    *found = NULL;
    if (mica_adapter_list(s->m, list, &count, NULL) != RC_OK) return false;
    for (size_t i = 0; i < count; i++)
        if (!strcmp((*list)[i].name, name)) *found = &(*list)[i];
    if (*found) return true;
    free(*list);
    return false;
}

static void fill(Vllm__LoraAdapter *to, const mica_adapter *from)
{
    vllm__lora_adapter__init(to);
    to->lora_id = from->id;
    to->lora_name = rt__wire_text_of(from->name);
    to->source_path = rt__wire_text_of(from->path);
}

/* What is wrong with the directory's contents is the caller's to put right, whatever reading it ran into. */
static rc_code load_code(rc_code code)
{
    bool is_own = code == RC_OK || code == RC_ALREADY_EXISTS || code == RC_RESOURCE_EXHAUSTED;
    return is_own ? code : RC_INVALID_ARGUMENT;
}

static rc_code load(rt_server *s, lora_job *j, rc_msg *msg)
{
    Vllm__LoadLoraResponse answer = VLLM__LOAD_LORA_RESPONSE__INIT;
    Vllm__LoraAdapter adapter;
    mica_adapter *list;
    const mica_adapter *found;
    char *path;
    RC_TRY(rt__lora_root_resolve(s->o.lora_root, j->path, &path, msg));
    rc_code code = load_code(mica_adapter_load(s->m, j->name, path, msg));
    free(path);
    RC_TRY(code);
    if (!find(s, j->name, &list, &found))
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the answer");
    fill(&adapter, found);
    answer.adapter = &adapter;
    rt__answer(j->call, &answer);
    free(list);
    return RC_OK;
}

static rc_code unload(rt_server *s, lora_job *j, rc_msg *msg)
{
    Vllm__UnloadLoraResponse answer = VLLM__UNLOAD_LORA_RESPONSE__INIT;
    Vllm__LoraAdapter adapter;
    mica_adapter *list;
    const mica_adapter *found;
    if (!find(s, j->name, &list, &found))
        return rc_fail(RC_NOT_FOUND, msg, "lora_name: no adapter '%.300s' is loaded", j->name);
    rc_code code = mica_adapter_unload(s->m, j->name, msg);
    if (code == RC_OK) {
        fill(&adapter, found);
        answer.adapter = &adapter;
        rt__answer(j->call, &answer);
    }
    free(list);
    return code;
}

/* For a request that names it; whoever asked first has loaded it for all. */
static rc_code bring(rt_server *s, lora_job *j, rc_msg *msg)
{
    char *path;
    if (!rt__lora_is_due(s, j->name)) return RC_OK;
    RC_TRY(rt__lora_root_find(s->o.lora_root, j->name, &path, msg));
    rc_code code = load_code(mica_adapter_load(s->m, j->name, path, msg));
    free(path);
    return code;
}

static void carry_out(rt_server *s, lora_job *j)
{
    rc_msg msg;
    rc_code code = j->waits ? bring(s, j, &msg) : j->path ? load(s, j, &msg) : unload(s, j, &msg);
    end(j, code, &msg);
}

/* ---- the threads ---- */

/* The lock is held. */
static bool is_running(const rt_lora_jobs *jobs, const char *name)
{
    for (unsigned i = 0; i < THREADS; i++)
        if (jobs->running[i] && !strcmp(jobs->running[i]->name, name)) return true;
    return false;
}

/* The first job whose name no thread is at; NULL: none. The lock is held. */
static lora_job *take_first(rt_lora_jobs *jobs)
{
    for (lora_job **link = &jobs->first, *j; (j = *link); link = &j->next) {
        if (is_running(jobs, j->name)) continue;
        *link = j->next;
        if (!j->next) jobs->end = link;
        jobs->count--;
        return j;
    }
    return NULL;
}

/* NULL: it is the end. */
static lora_job *take(rt_lora_jobs *jobs, const lora_job **running)
{
    lora_job *j = NULL;
    pthread_mutex_lock(&jobs->lock);
    while (!jobs->is_ending && !(j = take_first(jobs))) pthread_cond_wait(&jobs->changed, &jobs->lock);
    *running = j;
    pthread_mutex_unlock(&jobs->lock);
    return j;
}

/* Others of its name may have waited. */
static void leave(rt_lora_jobs *jobs, const lora_job **running)
{
    pthread_mutex_lock(&jobs->lock);
    *running = NULL;
    pthread_cond_broadcast(&jobs->changed);
    pthread_mutex_unlock(&jobs->lock);
}

static void *run(void *arg)
{
    rt_server *s = arg;
    rt_lora_jobs *jobs = s->lora_jobs;
    pthread_setname_np(pthread_self(), "adapters");
    rt_work_in_background();
    pthread_mutex_lock(&jobs->lock);
    const lora_job **running = &jobs->running[jobs->threads_begun++];
    pthread_mutex_unlock(&jobs->lock);
    for (lora_job *j; (j = take(jobs, running));) {
        carry_out(s, j);
        leave(jobs, running);
        free_job(j);
    }
    return NULL;
}

rc_code rt__lora_jobs_create(rt_server *s, rc_msg *msg)
{
    rt_lora_jobs *jobs = calloc(1, sizeof *jobs);
    if (!jobs) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory to serve");
    pthread_mutex_init(&jobs->lock, NULL);
    pthread_cond_init(&jobs->changed, NULL);
    jobs->end = &jobs->first;
    s->lora_jobs = jobs;
    for (; jobs->threads_count < THREADS; jobs->threads_count++)
        if (pthread_create(&jobs->threads[jobs->threads_count], NULL, run, s))
            return rc_fail(RC_INTERNAL, msg, "a thread of the server could not be started");
    return RC_OK;
}

void rt__lora_jobs_end(rt_server *s)
{
    rt_lora_jobs *jobs = s->lora_jobs;
    rc_msg msg;
    if (!jobs) return;
    pthread_mutex_lock(&jobs->lock);
    jobs->is_ending = true;
    pthread_cond_broadcast(&jobs->changed);
    pthread_mutex_unlock(&jobs->lock);
    for (unsigned i = 0; i < jobs->threads_count; i++) pthread_join(jobs->threads[i], NULL);
    rc_fail(RC_UNAVAILABLE, &msg, "the server is shutting down");
    for (lora_job *j = jobs->first, *next; j; j = next) {
        next = j->next;
        end(j, RC_UNAVAILABLE, &msg);
        free_job(j);
    }
    jobs->first = NULL;
}

void rt__lora_jobs_destroy(rt_server *s)
{
    if (!s->lora_jobs) return;
    pthread_mutex_destroy(&s->lora_jobs->lock);
    pthread_cond_destroy(&s->lora_jobs->changed);
    free(s->lora_jobs);
}

/* ---- calls ---- */

static bool queue(rt_server *s, lora_job *j)
{
    rt_lora_jobs *jobs = s->lora_jobs;
    pthread_mutex_lock(&jobs->lock);
    bool has_room = jobs->count < JOBS_MAX && !jobs->is_ending;
    if (has_room) {
        rpc_call_hold(j->call);
        *jobs->end = j;
        jobs->end = &j->next;
        jobs->count++;
        pthread_cond_signal(&jobs->changed);
    }
    pthread_mutex_unlock(&jobs->lock);
    return has_room;
}

static rc_code fail_full(rc_msg *msg)
{
    return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "%d adapters are being loaded, which is the most", JOBS_MAX);
}

bool rt__lora_is_due(const rt_server *s, const char *name)
{
    mica_adapter *list;
    const mica_adapter *found;
    if (!s->o.lora_lazy_load || !name) return false;
    if (!find(s, name, &list, &found)) return true;
    free(list);
    return false;
}

rc_code rt__lora_bring(rt_server *s, const char *name, rpc_call *c, rt_generation *g, rc_msg *msg)
{
    lora_job *j = calloc(1, sizeof *j);
    if (j) *j = (lora_job){.call = c, .name = strdup(name), .waits = g};
    if (j && j->name && queue(s, j)) return RC_OK;
    bool is_full = j && j->name;
    if (j) free_job(j);
    return is_full ? fail_full(msg) : rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the request");
}

static void queue_or_refuse(rpc_call *c, rt_server *s, lora_job *j, rc_code code, rc_msg *msg)
{
    if (code == RC_OK && queue(s, j)) return;
    if (code == RC_OK) code = fail_full(msg);
    free_job(j);
    rt__refuse(c, code, msg);
}

/* A name is shown in lists and logs: no control characters. */
static rc_code take_name(const ProtobufCBinaryData *from, char **name, rc_msg *msg)
{
    RC_TRY(rt__wire_text_copy(from, NAME_MAX_BYTES, "lora_name", name, msg));
    if (!*name) return rc_fail(RC_INVALID_ARGUMENT, msg, "lora_name is missing");
    for (const char *at = *name; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            return rc_fail(RC_INVALID_ARGUMENT, msg, "lora_name must not hold control characters");
    return RC_OK;
}

static rc_code read_load(rpc_call *c, lora_job *j, rc_msg *msg)
{
    size_t bytes;
    const uint8_t *message = rpc_call_message(c, &bytes);
    Vllm__LoadLoraRequest *q = vllm__load_lora_request__unpack(NULL, bytes, message);
    if (!q) return rc_fail(RC_INVALID_ARGUMENT, msg, "the message is no vllm.LoadLoraRequest");
    rc_code code = take_name(&q->lora_name, &j->name, msg);
    if (code == RC_OK)
        code = rt__wire_text_copy(&q->source_path, PATH_MAX_BYTES, "source_path", &j->path, msg);
    if (code == RC_OK && !j->path) code = rc_fail(RC_INVALID_ARGUMENT, msg, "source_path is missing");
    vllm__load_lora_request__free_unpacked(q, NULL);
    return code;
}

static rc_code read_unload(rpc_call *c, lora_job *j, rc_msg *msg)
{
    size_t bytes;
    const uint8_t *message = rpc_call_message(c, &bytes);
    Vllm__UnloadLoraRequest *q = vllm__unload_lora_request__unpack(NULL, bytes, message);
    if (!q) return rc_fail(RC_INVALID_ARGUMENT, msg, "the message is no vllm.UnloadLoraRequest");
    rc_code code = take_name(&q->lora_name, &j->name, msg);
    vllm__unload_lora_request__free_unpacked(q, NULL);
    return code;
}

/* Whether the caller may change adapters here, and this one. */
static rc_code check_caller(const rt_server *s, const rt_caller *caller, bool is_admin_port, rc_msg *msg)
{
    if (caller->tenant && (is_admin_port || !caller->tenant->may_load))
        return rc_fail(RC_PERMISSION_DENIED, msg, "adapters are loaded and unloaded with the admin's key");
    if (!caller->tenant && !is_admin_port && s->o.has_admin_port)
        return rc_fail(RC_PERMISSION_DENIED, msg, "adapters are loaded and unloaded on the admin's port");
    if (!s->o.lora_root)
        return rc_fail(RC_FAILED_PRECONDITION, msg,
                       "adapters cannot be loaded or unloaded here: the server runs without --lora-root");
    return RC_OK;
}

/* What a tenant cannot see is not there when it unloads, and cannot be made by it. */
static rc_code check_name(const lora_job *j, const rt_caller *caller, rc_msg *msg)
{
    if (rt__caller_sees(caller, j->name)) return RC_OK;
    if (!j->path) return rc_fail(RC_NOT_FOUND, msg, "lora_name: no adapter '%.300s' is loaded", j->name);
    return rc_fail(RC_PERMISSION_DENIED, msg, "lora_name: '%.300s' is none of this tenant's adapters",
                   j->name);
}

static void change(rpc_call *c, rt_server *s, bool is_admin_port,
                   rc_code (*read)(rpc_call *, lora_job *, rc_msg *))
{
    rt_caller caller;
    rc_msg msg;
    if (!rt__enter(c, s, &caller)) return;
    rc_code code = check_caller(s, &caller, is_admin_port, &msg);
    lora_job *j = code == RC_OK ? calloc(1, sizeof *j) : NULL;
    if (code == RC_OK && !j) code = rc_fail(RC_RESOURCE_EXHAUSTED, &msg, "no memory for the request");
    if (j) {
        j->call = c;
        code = read(c, j, &msg);
        if (code == RC_OK) code = check_name(j, &caller, &msg);
        queue_or_refuse(c, s, j, code, &msg);
    } else {
        rt__refuse(c, code, &msg);
    }
    rt__access_leave(s->access, &caller);
}

void rt__load_lora(rpc_call *c, void *server)
{
    change(c, server, false, read_load);
}
void rt__unload_lora(rpc_call *c, void *server)
{
    change(c, server, false, read_unload);
}
void rt__admin_load_lora(rpc_call *c, void *server)
{
    change(c, server, true, read_load);
}
void rt__admin_unload_lora(rpc_call *c, void *server)
{
    change(c, server, true, read_unload);
}
