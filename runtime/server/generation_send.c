/* A generation's messages.
 *
 * Many streams at once are sent to less often each, so that sending takes no more than a part of a core: a
 * message costs the same with one token and with two. What comes sooner is deferred; the poller sends it when
 * it is due. */
#include <inttypes.h>

#include "runtime/base/clock.h"
#include "runtime/server/generation.h"

/* Between two messages of a stream passes twice what sending one to each stream takes, so that it takes half
 * of a core; less than LEAST is left out. What one takes is a moving mean. */
enum { SPACING_LEAST_NS = 1000000, SPACING_MOST_NS = 20000000, MEAN_OF = 64, SEND_MOST_NS = 100000 };

void rt__generation_cancel(rt_generation *g)
{
    if (g->id && g->reply.finish == MICA_RUNNING) mica_cancel(g->server->m, g->id);
}

void rt__generation_fail(rt_generation *g, rc_code code, const char *text)
{
    if (g->is_over) return;
    rt__access_end(g->server->access, &g->item); /* before the status is sent */
    g->is_over = true;
    g->is_end_due = g->is_writing;
    g->end_code = code;
    rc_fail(code, &g->end_msg, "%s", text);
    if (!g->is_end_due) rt__refuse(g->call, code, &g->end_msg);
}

static void add_trailers(const rt_generation *g)
{
    char number[16];
    snprintf(number, sizeof number, "%" PRIu32, g->reply.cached_tokens);
    rpc_call_trailer(g->call, "mica-cached-tokens", number);
    snprintf(number, sizeof number, "%" PRIu32, g->reply.activation);
    rpc_call_trailer(g->call, "mica-activation", g->reply.activation == MICA_NEVER ? "none" : number);
}

/* One that the kernel interrupted says little about the others. */
static void count_send(rt_server *s, int64_t ns)
{
    int mean = atomic_load(&s->send_ns), took = ns < SEND_MOST_NS ? (int)ns : SEND_MOST_NS;
    atomic_store(&s->send_ns, mean + (took - mean) / MEAN_OF);
}

/* Sends what there is. A stream has the prompt's facts in a message of their own; a single answer is one. */
static void send(rt_generation *g, rt_bytes *message)
{
    rt_generate_reply *r = &g->reply;
    bool ended = r->finish != MICA_RUNNING;
    bool prompt = rt__generate_reply_has_prompt(r), alone = prompt && g->is_stream;
    rc_msg msg;
    if (!g->is_stream && !ended) return;
    if (!prompt && !rt__generate_reply_has_output(r)) return;
    if (rt__generate_reply_pack(r, prompt, !alone, message, &msg) != RC_OK) {
        rt__generation_fail(g, RC_RESOURCE_EXHAUSTED, msg.text);
        rt__generation_cancel(g);
    } else if (ended && !alone) {
        add_trailers(g);
        g->is_over = true;
        rpc_call_finish(g->call, RC_OK, NULL, message->data, message->count);
    } else {
        g->is_writing = true;
        g->sent_ns = rt_now_ns();
        rpc_call_write(g->call, message->data, message->count);
        count_send(g->server, rt_now_ns() - g->sent_ns);
    }
}

void rt__generation_send(rt_generation *g)
{
    rt_bytes message = {0};
    if (g->is_over || g->is_writing) return;
    send(g, &message);
    rt_bytes_deinit(&message);
}

/* Nanoseconds that have to pass between two messages of a stream. */
static int64_t least_interval(const rt_server *s)
{
    int64_t ns = (int64_t)atomic_load(&s->send_ns) * atomic_load(&s->generations_count) * 2;
    if (ns < SPACING_LEAST_NS) return 0;
    return ns < SPACING_MOST_NS ? ns : SPACING_MOST_NS;
}

/* On the poller. */
static void send_or_defer(rt_generation *g)
{
    rt_server *s = g->server;
    int64_t now = rt_now_ns(), due = g->sent_ns + least_interval(s);
    bool is_last = g->reply.finish != MICA_RUNNING;
    if (!is_last && g->is_deferred) return;
    if (is_last || !g->is_stream || !g->sent_ns || due <= now) {
        rt__generation_send(g);
        return;
    }
    rpc_call_hold(g->call);
    g->is_deferred = true;
    rt__send_wheel_add(&s->later, &g->later, now, due);
}

void rt__generations_send_due(rt_server *s, int64_t now_ns)
{
    rt_send_item *item;
    while ((item = rt__send_wheel_take(&s->later, now_ns))) {
        rt_generation *g = (rt_generation *)((char *)item - offsetof(rt_generation, later));
        pthread_mutex_lock(&g->lock);
        g->is_deferred = false;
        rt__generation_send(g);
        pthread_mutex_unlock(&g->lock);
        rpc_call_release(g->call);
    }
}

static void observe(rt_generation *g, const mica_event *e)
{
    rt_request_times *t = &g->facts.times;
    int64_t now = rt_now_ns(), before = t->last_token;
    t->admitted = e->prompt->admitted_ns;
    g->facts.generated_tokens += e->tokens_count;
    if (e->tokens_count) t->last_token = now;
    if (e->tokens_count && !before) {
        t->first_token = now;
        rt__metrics_first_token(g->server->metrics, (double)(now - t->arrived) * 1e-9);
    } else if (e->tokens_count) {
        rt__metrics_next_tokens(g->server->metrics, (double)(now - before) * 1e-9);
    }
    if (e->finish == MICA_RUNNING) return;
    t->ended = now;
    g->facts.prompt_tokens = e->prompt->count;
    g->facts.finish = e->finish;
    rt__metrics_ended(g->server->metrics, &g->facts);
}

void rt__generation_gather(rt_generation *g, const mica_event *e)
{
    rt_access *access = g->server->access;
    rc_msg msg;
    observe(g, e);
    rt__access_progress(access, &g->item, e->tokens_count, e->prompt->cached_tokens);
    if (e->finish != MICA_RUNNING) rt__access_end(access, &g->item); /* before the status is sent */
    rc_code code = rt__generate_reply_add(&g->reply, e, &msg);
    if (e->finish == MICA_FAILED) {
        rt__generation_fail(g, RC_INTERNAL, e->error ? e->error->text : "the engine failed");
    } else if (e->finish == MICA_CANCELLED && !g->is_aborted) {
        rt__generation_fail(g, RC_UNAVAILABLE, "the server is shutting down");
    } else if (code != RC_OK) {
        rt__generation_fail(g, code, msg.text);
        rt__generation_cancel(g);
    } else {
        send_or_defer(g);
    }
}
