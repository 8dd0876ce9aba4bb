#include <inttypes.h>

#include "control.pb-c.h"
#include "runtime/base/clock.h"
#include "runtime/load/load.h"
#include "runtime/load/message.h"
#include "runtime/load/prompt.h"

enum {
    CONNECTIONS = 8,
    ASK_MS = 10000,
    BEARER_MAX = RT_LOAD_KEY_MAX + 8,
    SESSION_MAX = 48,
    ABORTED = 10,
    UNAUTHENTICATED = 16
};
static const int64_t look_ns = 100000000; /* a signal is seen this much later; the bar moves this often */

typedef struct talk {
    rt_bytes said; /* uint32_t: prompts and answers up to now */
    bool is_whole; /* the running request's answer */
} talk;

typedef struct run {
    rt_load *l;
    talk *talks;     /* [arrivals] */
    uint32_t *queue; /* [count] records that are due, each once in a run */
    size_t head, tail;
    size_t next; /* arrival */
    uint32_t live;
    size_t ended, failed;
    int64_t start_ns;
    rt_bytes message;
    char *bearer; /* [BEARER_MAX] */
} run;

static rc_code fail_memory(rc_msg *msg)
{
    return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the requests");
}

/* ---- before the run ---- */

/* One call without fields, waited for. *answer is the message, if one came; false: it is over without. */
static rc_code ask(rt_load *l, const char *method, const rt_load_choice *tenant, rt_bytes *answer,
                   uint32_t *status, rc_msg *msg)
{
    char value[BEARER_MAX];
    rpc_header header = {"authorization", value};
    snprintf(value, sizeof value, "Bearer %s", tenant->key ? tenant->key : "");
    rpc_start start = {.method = method,
                       .headers = &header,
                       .headers_count = tenant->key != NULL,
                       .message = "",
                       .timeout_ms = ASK_MS};
    rpc_client_event e;
    RC_TRY(rpc_client_start(l->client, &start, msg));
    for (;;) {
        if (l->o->stopped()) return rc_fail(RC_CANCELLED, msg, "interrupted; no figures");
        if (!rpc_client_next(l->client, look_ns, &e)) continue;
        if (!e.message) break;
        rt_bytes_add(answer, e.message, e.bytes);
    }
    *status = e.status;
    if (!e.status) return answer->failed ? fail_memory(msg) : RC_OK;
    if (e.status == UNAUTHENTICATED && tenant->key)
        return rc_fail(RC_UNAVAILABLE, msg, "%s refuses the key of tenant '%s': %s", l->o->target,
                       tenant->name, e.text);
    if (e.status == UNAUTHENTICATED)
        return rc_fail(RC_UNAVAILABLE, msg, "%s wants a key: expected --tenant-keys NAME=KEY", l->o->target);
    return rc_fail(RC_UNAVAILABLE, msg, "%s: expected a running 'mica serve' there: %s: %s", l->o->target,
                   rpc_status_name(e.status), e.text);
}

static rc_code read_model(rt_load *l, const rt_bytes *answer, rc_msg *msg)
{
    Vllm__ModelInfo *info = vllm__model_info__unpack(NULL, answer->count, (const uint8_t *)answer->data);
    if (!info) return rc_fail(RC_UNAVAILABLE, msg, "%s: GetModelInfo's answer cannot be read", l->o->target);
    l->vocab = l->o->vocab ? l->o->vocab : info->vocab_size;
    snprintf(l->model, sizeof l->model, "%.*s", (int)info->served_model_name.len,
             info->served_model_name.len ? (const char *)info->served_model_name.data : "");
    vllm__model_info__free_unpacked(info, NULL);
    if (!l->vocab)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%s does not tell its vocabulary: expected --vocab-size N",
                       l->o->target);
    return RC_OK;
}

static rc_code read_server(rt_load *l, const rt_bytes *answer, rc_msg *msg)
{
    Vllm__ServerInfo *info = vllm__server_info__unpack(NULL, answer->count, (const uint8_t *)answer->data);
    if (!info) return rc_fail(RC_UNAVAILABLE, msg, "%s: GetServerInfo's answer cannot be read", l->o->target);
    l->max_model_len = info->max_model_len;
    vllm__server_info__free_unpacked(info, NULL);
    return RC_OK;
}

static rc_code ask_server(rt_load *l, rc_msg *msg)
{
    const rt_load_mix *tenants = l->o->tenants;
    uint32_t status;
    rc_code code = RC_OK;
    for (size_t i = 0; i < tenants->count && code == RC_OK; i++) {
        rt_bytes answer = {0};
        code = ask(l, "/vllm.Control/GetModelInfo", &tenants->choices[i], &answer, &status, msg);
        if (code == RC_OK && !i) code = read_model(l, &answer, msg);
        rt_bytes_deinit(&answer);
    }
    rt_bytes answer = {0};
    if (code == RC_OK)
        code = ask(l, "/vllm.Control/GetServerInfo", &tenants->choices[0], &answer, &status, msg);
    if (code == RC_OK) code = read_server(l, &answer, msg);
    rt_bytes_deinit(&answer);
    return code;
}

static rc_code check_plan(const rt_load *l, rc_msg *msg)
{
    const rt_load_options *o = l->o;
    for (size_t i = 0; i < o->loras->count; i++)
        for (size_t k = 0; k < o->loras->choices[i].tail_count; k++)
            if (o->loras->choices[i].tail[k] >= l->vocab)
                return rc_fail(RC_INVALID_ARGUMENT, msg, "--alora-invocations: id %u of '%s' is not below %u",
                               o->loras->choices[i].tail[k], o->loras->choices[i].name, l->vocab);
    for (size_t i = 0; i < o->plan->count; i++) {
        const rt_load_arrival *a = &o->plan->arrivals[i];
        uint64_t turn = (uint64_t)a->input_len + o->loras->choices[a->lora].tail_count + a->output_len;
        uint64_t tokens = o->prefix_len + o->turns * turn;
        if (l->max_model_len && tokens > l->max_model_len)
            return rc_fail(RC_INVALID_ARGUMENT, msg,
                           "prompt %zu and its answers have %" PRIu64
                           " tokens: expected at most the server's "
                           "--max-model-len, %u",
                           i + 1, tokens, l->max_model_len);
    }
    return RC_OK;
}

rc_code rt_load_open(rt_load *l, const rt_load_options *o, rc_msg *msg)
{
    *l = (rt_load){.o = o};
    rpc_client_options client = {o->target, o->ca_file, CONNECTIONS};
    uint64_t count = (uint64_t)o->plan->count * o->turns;
    if (count > INT32_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "%" PRIu64 " requests: expected fewer than 2^31", count);
    RC_TRY(rpc_client_open(&client, &l->client, msg));
    RC_TRY(ask_server(l, msg));
    RC_TRY(check_plan(l, msg));
    l->records = calloc(count, sizeof *l->records);
    if (!l->records) return fail_memory(msg);
    l->count = count;
    return RC_OK;
}

void rt_load_close(rt_load *l)
{
    rpc_client_close(l->client);
    for (size_t i = 0; i < l->count; i++) rt_bytes_deinit(&l->records[i].gaps);
    free(l->records);
    *l = (rt_load){0};
}

/* ---- the run ---- */

static int64_t now_of(const run *r)
{
    return rt_now_ns() - r->start_ns;
}

static void make_due(run *r, size_t index, int64_t due_ns)
{
    r->l->records[index].due_ns = due_ns;
    r->queue[r->tail++] = (uint32_t)index;
}

static void make_prompt(run *r, size_t conversation, uint32_t turn)
{
    const rt_load_options *o = r->l->o;
    const rt_load_arrival *a = &o->plan->arrivals[conversation];
    const rt_load_choice *lora = &o->loras->choices[a->lora];
    rt_bytes *said = &r->talks[conversation].said;
    if (!turn) rt_load_prompt_add(said, o->seed, RT_LOAD_PREFIX, a->prefix, 0, o->prefix_len, r->l->vocab);
    rt_load_prompt_add(said, o->seed, RT_LOAD_TURN, conversation, turn, a->input_len, r->l->vocab);
    if (lora->tail_count) rt_bytes_add(said, lora->tail, lora->tail_count * sizeof *lora->tail);
}

static rc_code start_call(run *r, size_t index, const char *session, rc_msg *msg)
{
    const rt_load_options *o = r->l->o;
    rt_load_record *record = &r->l->records[index];
    const char *key = o->tenants->choices[record->tenant].key;
    rpc_header headers[] = {{"x-session", session}, {"authorization", r->bearer}};
    snprintf(r->bearer, BEARER_MAX, "Bearer %s", key ? key : "");
    rpc_start start = {.method = "/vllm.Inference/GenerateStream",
                       .headers = headers,
                       .headers_count = key ? 2 : 1,
                       .message = r->message.data,
                       .bytes = r->message.count,
                       .connection = (uint32_t)(index / o->turns),
                       .user = record};
    record->sent_ns = now_of(r);
    record->end = RT_LOAD_RUNNING;
    return rpc_client_start(r->l->client, &start, msg);
}

static rc_code send_one(run *r, size_t index, rc_msg *msg)
{
    const rt_load_options *o = r->l->o;
    size_t conversation = index / o->turns;
    uint32_t turn = (uint32_t)(index % o->turns);
    const rt_load_arrival *a = &o->plan->arrivals[conversation];
    const char *lora = o->loras->choices[a->lora].name;
    rt_load_record *record = &r->l->records[index];
    talk *t = &r->talks[conversation];
    char session[SESSION_MAX];
    snprintf(session, sizeof session, "bench-%" PRIx64 "-%zu", o->seed, conversation);
    make_prompt(r, conversation, turn);
    rt_load_request q = {.lora = strcmp(lora, "base") ? lora : "",
                         .session = session,
                         .ids = (const uint32_t *)(const void *)t->said.data,
                         .count = t->said.count / sizeof(uint32_t),
                         .output_len = a->output_len,
                         .wants_ids = turn + 1 < o->turns};
    rt_bytes_clear(&r->message);
    rt_load_request_write(&q, &r->message);
    if (t->said.failed || r->message.failed) return fail_memory(msg);
    record->prompt_tokens = (uint32_t)q.count;
    t->is_whole = false;
    if (!q.wants_ids) rt_bytes_deinit(&t->said);
    RC_TRY(start_call(r, index, session, msg));
    r->live++;
    if (r->live > r->l->peak) r->l->peak = r->live;
    return RC_OK;
}

static void on_news(run *r, rt_load_record *record, const rpc_client_event *e)
{
    size_t index = (size_t)(record - r->l->records);
    talk *t = &r->talks[index / r->l->o->turns];
    rt_load_news news;
    if (rt_load_news_read(e->message, e->bytes, &news)) {
        rt_load_record_tokens(record, news.tokens, now_of(r));
        if (index % r->l->o->turns + 1 < r->l->o->turns && news.ids_count)
            rt_bytes_add(&t->said, news.ids, news.ids_count * sizeof *news.ids);
        t->is_whole = t->is_whole || news.is_whole;
    }
    rt_load_news_free(&news);
}

static uint32_t cached_of(const rpc_client_event *e)
{
    const char *value;
    size_t bytes;
    char text[16];
    if (!rpc_client_trailer(e, "mica-cached-tokens", &value, &bytes) || bytes >= sizeof text) return 0;
    memcpy(text, value, bytes);
    text[bytes] = 0;
    return (uint32_t)strtoul(text, NULL, 10);
}

static void on_end(run *r, rt_load_record *record, const rpc_client_event *e)
{
    size_t index = (size_t)(record - r->l->records);
    uint32_t turns = r->l->o->turns, left = turns - (uint32_t)(index % turns) - 1;
    talk *t = &r->talks[index / turns];
    bool is_done = !e->status && t->is_whole;
    r->live--;
    r->ended++;
    record->ended_ns = r->l->duration_ns = now_of(r);
    record->end = is_done ? RT_LOAD_DONE : RT_LOAD_FAILED;
    record->status = is_done ? 0 : !e->status ? ABORTED : e->status < RPC_STATUSES ? e->status : 2;
    record->cached_tokens = cached_of(e);
    if (is_done && left) {
        make_due(r, index + 1, record->ended_ns);
    } else if (!is_done) {
        char *said = r->l->said[record->status];
        if (!said[0]) snprintf(said, RT_LOAD_TEXT_MAX, "%s", e->status ? e->text : "the answer has no end");
        r->failed++;
        r->ended += left;
    }
    if (!is_done || !left) rt_bytes_deinit(&t->said);
}

static void draw(const run *r)
{
    char text[80];
    snprintf(text, sizeof text, "%zu of %zu, %u in flight, %zu failed", r->ended, r->l->count, r->live,
             r->failed);
    rt_progress_draw(r->l->o->progress, rt_now_ns(), "bench", r->ended, r->l->count, text);
}

/* Until the next arrival is due; no time at all while requests wait that may be sent. */
static int64_t wait_of(const run *r)
{
    const rt_load_options *o = r->l->o;
    if (r->head < r->tail && (!o->max_concurrency || r->live < o->max_concurrency)) return 0;
    if (r->next == o->plan->count) return look_ns;
    int64_t wait = (int64_t)(o->plan->arrivals[r->next].at_s * 1e9) - now_of(r);
    return wait < 0 ? 0 : wait < look_ns ? wait : look_ns;
}

/* What is due now joins the queue, and one request is sent: answers that come meanwhile are not kept waiting
 * for their time to be noted. */
static rc_code send_due(run *r, rc_msg *msg)
{
    const rt_load_options *o = r->l->o;
    int64_t now = now_of(r);
    for (; r->next < o->plan->count; r->next++) {
        int64_t due = (int64_t)(o->plan->arrivals[r->next].at_s * 1e9);
        if (due > now) break;
        make_due(r, r->next * o->turns, due);
    }
    if (r->head == r->tail || (o->max_concurrency && r->live >= o->max_concurrency)) return RC_OK;
    return send_one(r, r->queue[r->head++], msg);
}

static rc_code loop(run *r, rc_msg *msg)
{
    const rt_load_options *o = r->l->o;
    rpc_client_event e;
    r->start_ns = rt_now_ns();
    while (r->next < o->plan->count || r->head < r->tail || r->live) {
        if (o->stopped()) return rc_fail(RC_CANCELLED, msg, "interrupted; no figures");
        RC_TRY(send_due(r, msg));
        draw(r);
        if (!rpc_client_next(r->l->client, wait_of(r), &e)) continue;
        if (e.message)
            on_news(r, e.user, &e);
        else
            on_end(r, e.user, &e);
    }
    return RC_OK;
}

static void name_records(rt_load *l)
{
    for (size_t i = 0; i < l->count; i++) {
        const rt_load_arrival *a = &l->o->plan->arrivals[i / l->o->turns];
        l->records[i].lora = a->lora;
        l->records[i].tenant = a->tenant;
    }
}

rc_code rt_load_run(rt_load *l, rc_msg *msg)
{
    run r = {.l = l};
    r.talks = calloc(l->o->plan->count, sizeof *r.talks);
    r.queue = calloc(l->count, sizeof *r.queue);
    r.bearer = malloc(BEARER_MAX);
    name_records(l);
    rc_code code = r.talks && r.queue && r.bearer ? loop(&r, msg) : fail_memory(msg);
    rt_progress_clear(l->o->progress);
    for (size_t i = 0; r.talks && i < l->o->plan->count; i++) rt_bytes_deinit(&r.talks[i].said);
    free(r.talks);
    free(r.queue);
    free(r.bearer);
    rt_bytes_deinit(&r.message);
    return code;
}
