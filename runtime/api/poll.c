#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "runtime/api/mica_internal.h"

/* ---- handing over; the lock is held ---- */

void mica__queue_command(mica *m, rt_request *r)
{
    if (!r->in_commands) {
        r->in_commands = true;
        r->next_command = NULL;
        if (m->commands_tail) m->commands_tail->next_command = r;
        else m->commands = r;
        m->commands_tail = r;
    }
    pthread_cond_signal(&m->work);
}

static void queue_news(mica *m, rt_request *r)
{
    if (r->in_news) return;
    if (!m->news) {
        uint64_t one = 1;
        while (write(m->news_fd, &one, sizeof one) < 0 && errno == EINTR) continue;
    }
    r->in_news = true;
    r->next_news = NULL;
    if (m->news_tail) m->news_tail->next_news = r;
    else m->news = r;
    m->news_tail = r;
    pthread_cond_signal(&m->news_came);
}

static rt_request *take_news(mica *m)
{
    rt_request *r = m->news;
    m->news = r->next_news;
    r->in_news = false;
    if (!m->news) {
        uint64_t all;
        m->news_tail = NULL;
        while (read(m->news_fd, &all, sizeof all) < 0 && errno == EINTR) continue;
    }
    return r;
}

void mica__forget_if_over(mica *m, rt_request *r)
{
    rt_request **link = &m->by_id[r->id % MICA__ID_BUCKETS];
    if (!r->engine_done || r->choices_open || r->in_commands || r->in_news || m->current == r) return;
    while (*link != r) link = &(*link)->next_by_id;
    *link = r->next_by_id;
    rt_request_free(r);
}

void mica__publish(mica *m, rt_choice *news)
{
    rt_request *done = NULL; /* whose last choice is in this list */
    for (rt_choice *c = news; c; c = c->next_news) {
        rt_request *r = c->request;
        c->published_count = c->generated_count;
        c->published_finish = c->finish;
        r->cached_published = r->cached_tokens;
        r->admitted_published = r->admitted_ns;
        if (!c->ended) queue_news(m, r);
        if (r->choices_alive == 0 && !r->engine_done) {
            r->engine_done = true;
            r->next_done = done;
            done = r;
        }
    }
    for (rt_request *next; done; done = next) {
        next = done->next_done;
        mica__forget_if_over(m, done);
    }
}

/* ---- one event ---- */

static rt_choice *choice_with_news(rt_request *r)
{
    for (uint32_t i = 0; i < r->choices_count; i++) {
        rt_choice *c = &r->choices[i];
        if (!c->ended && (c->consumed < c->published_count || c->published_finish != MICA_RUNNING)) return c;
    }
    return NULL;
}

/* The choice's i-th token with what is known of it. */
static mica_token token_of(const rt_choice *c, uint32_t i)
{
    if (c->request->logprobs >= 0) return c->generated[i];
    return (mica_token){.id = c->tokens[c->request->prompt_count + i]};
}

/* Turns tokens [consumed, count) into an event's tokens and text, as far as it has room. Gives the stop
 * string met or -1. */
static int take_tokens(mica *m, rt_choice *c, uint32_t count, mica_finish finish, rt_text *text)
{
    const rt_stops *stops = &c->request->stops;
    size_t room = rt_output_room(stops, m->limits.piece_max);
    mica_token *t = m->event_tokens, *end = t + MICA__EVENT_TOKENS;
    int stop = -1;
    for (; c->consumed < count && stop < 0 && t < end && text->max - text->count >= 2 * room; t++) {
        *t = token_of(c, c->consumed++);
        bool silent = finish == MICA_STOP && c->consumed == count && !stops->include_in_output;
        t->text_offset = c->output.text_bytes;
        stop = rt_output_push(&c->output, m->tokenizer, stops, t->id, silent, text);
    }
    return stop;
}

static void end_choice(mica *m, rt_choice *c, mica_event *event)
{
    rt_request *r = c->request;
    c->ended = true;
    m->open_choices--;
    event->request_done = --r->choices_open == 0;
    if (event->request_done) m->open_requests--;
}

/* Makes the event; the lock is let go while text is made. */
static void make_event(mica *m, rt_choice *c, mica_event *event)
{
    rt_request *r = c->request;
    uint32_t from = c->consumed, count = c->published_count;
    mica_finish finish = c->published_finish;
    rt_text text = { m->event_text, 0, MICA__EVENT_TEXT_BYTES };
    int stop;
    r->prompt_view.cached_tokens = r->cached_published;
    r->prompt_view.admitted_ns = r->admitted_published;
    pthread_mutex_unlock(&m->lock);
    stop = take_tokens(m, c, count, finish, &text);
    if (stop < 0 && c->consumed < count) finish = MICA_RUNNING; /* the rest comes with the next event */
    if (stop < 0 && finish != MICA_RUNNING) rt_output_finish(&c->output, m->tokenizer, &text);
    *event = (mica_event){ .request = r->id, .user = r->user, .choice = c->index, .prompt = &r->prompt_view,
                           .text = text.bytes, .text_bytes = text.count, .tokens = m->event_tokens,
                           .tokens_count = c->consumed - from, .finish = stop < 0 ? finish : MICA_STOP,
                           .stop_token = stop < 0 && finish == MICA_STOP ? c->stop_token : -1 };
    if (stop >= 0) {
        event->stop_text = r->stops.texts[stop].bytes;
        event->stop_text_bytes = r->stops.texts[stop].count;
    }
    if (event->finish == MICA_FAILED) event->error = &r->error;
    pthread_mutex_lock(&m->lock);
    if (event->finish != MICA_RUNNING) end_choice(m, c, event);
    if (stop >= 0 && !r->engine_done) {
        c->wants_cancel = true;
        mica__queue_command(m, r);
    }
}

/* False: the time ran out, or nothing is unfinished. */
static bool wait_for_news(mica *m, int timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += timeout_ms % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    while (!m->news) {
        if (timeout_ms == 0 || (timeout_ms < 0 && m->open_requests == 0)) return false;
        if (timeout_ms < 0) pthread_cond_wait(&m->news_came, &m->lock);
        else if (pthread_cond_timedwait(&m->news_came, &m->lock, &until) == ETIMEDOUT && !m->news)
            return false;
    }
    return true;
}

bool mica_poll(mica *m, int timeout_ms, mica_event *event)
{
    bool any = false;
    pthread_mutex_lock(&m->lock);
    if (m->current) {
        rt_request *last = m->current;
        m->current = NULL;
        mica__forget_if_over(m, last);
    }
    while (!any && wait_for_news(m, timeout_ms)) {
        rt_request *r = take_news(m);
        rt_choice *c = choice_with_news(r);
        if (!c) { /* its last choice ended while more was published */
            mica__forget_if_over(m, r);
            continue;
        }
        m->current = r;
        make_event(m, c, event);
        if (choice_with_news(r)) queue_news(m, r);
        any = true;
    }
    pthread_mutex_unlock(&m->lock);
    return any;
}

int mica_fd(const mica *m) { return m->news_fd; }
