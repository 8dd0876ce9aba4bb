#include "bench/demo_ask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { END_OF_TURN = 2 }; /* <|im_end|> of SmolLM2 */

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void give_up(const char *why)
{
    fprintf(stderr, "demo: %s\n", why);
    exit(1);
}

void demo_talk_add_ids(demo_talk *talk, const int32_t *ids, size_t count)
{
    int32_t *grown = realloc(talk->ids, (talk->count + count + 1) * sizeof *grown);
    if (!grown) give_up("out of memory");
    memcpy(grown + talk->count, ids, count * sizeof *ids);
    talk->ids = grown;
    talk->count += count;
}

void demo_talk_add(mica *m, demo_talk *talk, const char *text)
{
    rc_msg msg;
    int32_t *ids;
    size_t count;
    if (mica_tokenize(m, text, strlen(text), false, &ids, &count, &msg)) give_up(msg.text);
    demo_talk_add_ids(talk, ids, count);
    free(ids);
}

void demo_talk_add_answer(mica *m, demo_talk *talk, const demo_ask *ask)
{
    bool ended = ask->ids_count && ask->ids[ask->ids_count - 1] == END_OF_TURN;
    demo_talk_add_ids(talk, ask->ids, ask->ids_count);
    demo_talk_add(m, talk, ended ? "\n" : "<|im_end|>\n");
}

void demo_talk_free(demo_talk *talk)
{
    free(talk->ids);
    *talk = (demo_talk){0};
}

static rc_code submit(mica *m, demo_ask *ask, rc_msg *msg)
{
    mica_request r = MICA_REQUEST_INIT;
    uint64_t id;
    RC_ASSERT(ask->max_tokens <= DEMO_TOKENS_MAX);
    r.user = ask;
    r.model = ask->model;
    r.prompt_ids = ask->prompt;
    r.prompt_ids_count = ask->prompt_count;
    r.max_tokens = ask->max_tokens;
    r.temperature = 0;
    return mica_submit(m, &r, &id, msg);
}

static rc_code take(const mica_event *event, double seconds, rc_msg *msg)
{
    demo_ask *ask = event->user;
    if (event->finish == MICA_FAILED)
        return rc_fail(RC_INTERNAL, msg, "%s", event->error ? event->error->text : "a request failed");
    if (event->tokens_count && !ask->ids_count) {
        ask->first_s = seconds;
        ask->cached = event->prompt->cached_tokens;
        ask->activation = event->prompt->activation;
    }
    for (uint32_t i = 0; i < event->tokens_count && ask->ids_count < DEMO_TOKENS_MAX; i++)
        ask->ids[ask->ids_count++] = event->tokens[i].id;
    size_t had = strlen(ask->text), more = event->text_bytes;
    if (more > DEMO_TEXT_BYTES - 1 - had) more = DEMO_TEXT_BYTES - 1 - had;
    if (more) memcpy(ask->text + had, event->text, more);
    if (ask->streams) {
        fwrite(event->text, 1, event->text_bytes, stdout);
        fflush(stdout);
    }
    ask->last_s = seconds;
    return RC_OK;
}

rc_code demo_ask_all(mica *m, demo_ask *asks, size_t count, double *seconds, rc_msg *msg)
{
    double start = now_s();
    size_t open = 0;
    rc_code code = RC_OK;
    for (; open < count && !code; open += !code) code = submit(m, &asks[open], msg);
    /* Those that were accepted are waited for even where a later one was not. */
    mica_event event;
    while (open && mica_poll(m, -1, &event)) {
        rc_code failed = take(&event, now_s() - start, code ? NULL : msg);
        if (!code) code = failed;
        open -= event.request_done;
    }
    *seconds = now_s() - start;
    return code;
}
