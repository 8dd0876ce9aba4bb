#include "runtime/cli/completion_reply.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/json_out.h"
#include "runtime/cli/token_log.h"

typedef struct choice {
    rt_bytes text;
    rt_bytes ids; /* int32_t */
    rt_token_log log;
    uint32_t tokens;
    mica_finish finish;
    int32_t stop_token;
    rt_bytes stop_text;
    bool has_stop_text;
} choice;

typedef struct prompt {
    rt_bytes text; /* where it is echoed and came as text */
    bool is_text;
    bool is_known; /* an event has told what follows */
    rt_bytes ids;
    rt_token_log log;
    uint32_t count, cached, activation;
} prompt;

struct rt_completion_reply {
    const mica *m;
    rt_bytes model, adapter;
    bool has_adapter;
    bool echo, return_token_ids, as_token_ids;
    int32_t logprobs, prompt_logprobs;
    uint32_t n;
    size_t prompts_count, choices_count;
    prompt *prompts;
    choice *choices;
};

static rc_code fail_memory(rc_msg *msg)
{
    return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the answer");
}

rc_code rt_completion_reply_create(rt_completion_reply **out, const rt_completion_request *r, const mica *m,
                                   rc_msg *msg)
{
    rt_completion_reply *reply = calloc(1, sizeof *reply);
    if (!reply) return fail_memory(msg);
    reply->m = m;
    reply->echo = r->echo;
    reply->return_token_ids = r->return_token_ids;
    reply->as_token_ids = r->return_tokens_as_token_ids;
    reply->logprobs = r->common.logprobs;
    reply->prompt_logprobs = r->prompt_logprobs;
    reply->n = r->common.n;
    reply->prompts_count = r->prompts_count;
    reply->choices_count = r->prompts_count * r->common.n;
    reply->prompts = calloc(reply->prompts_count, sizeof *reply->prompts);
    reply->choices = calloc(reply->choices_count, sizeof *reply->choices);
    rt_bytes_add_text(&reply->model, r->common.model ? r->common.model : mica_get_info(m).model_name);
    bool failed = !reply->prompts || !reply->choices || reply->model.failed;
    for (size_t i = 0; !failed && i < reply->prompts_count; i++) {
        prompt *p = &reply->prompts[i];
        p->is_text = r->prompts[i].text != NULL;
        p->activation = MICA_NEVER;
        if (p->is_text && r->echo) rt_bytes_add(&p->text, r->prompts[i].text, r->prompts[i].text_bytes);
        failed = p->text.failed;
    }
    if (failed) {
        rt_completion_reply_destroy(reply);
        return fail_memory(msg);
    }
    *out = reply;
    return RC_OK;
}

void rt_completion_reply_destroy(rt_completion_reply *reply)
{
    if (!reply) return;
    for (size_t i = 0; reply->prompts && i < reply->prompts_count; i++) {
        rt_bytes_deinit(&reply->prompts[i].text);
        rt_bytes_deinit(&reply->prompts[i].ids);
        rt__token_log_deinit(&reply->prompts[i].log);
    }
    for (size_t i = 0; reply->choices && i < reply->choices_count; i++) {
        rt_bytes_deinit(&reply->choices[i].text);
        rt_bytes_deinit(&reply->choices[i].ids);
        rt_bytes_deinit(&reply->choices[i].stop_text);
        rt__token_log_deinit(&reply->choices[i].log);
    }
    rt_bytes_deinit(&reply->model);
    rt_bytes_deinit(&reply->adapter);
    free(reply->prompts);
    free(reply->choices);
    free(reply);
}

uint32_t rt_completion_reply_choices(const rt_completion_reply *reply)
{
    return (uint32_t)reply->choices_count;
}

static bool shows_prompt_logprobs(const rt_completion_reply *reply)
{
    return reply->prompt_logprobs >= 0 || (reply->echo && reply->logprobs >= 0);
}

static bool add_prompt(rt_completion_reply *reply, prompt *p, const mica_prompt *news)
{
    if (p->is_known) return true;
    p->is_known = true;
    p->count = news->count;
    p->cached = news->cached_tokens;
    p->activation = news->activation;
    if (news->adapter && !reply->has_adapter) {
        rt_bytes_add_text(&reply->adapter, news->adapter);
        reply->has_adapter = true;
    }
    if (reply->echo || reply->return_token_ids)
        rt_bytes_add(&p->ids, news->ids, news->count * sizeof *news->ids);
    if (shows_prompt_logprobs(reply) && news->logprobs)
        rt__token_log_add(&p->log, news->logprobs, news->count);
    return !p->ids.failed && !p->log.tokens.failed && !p->log.tops.failed && !reply->adapter.failed;
}

rc_code rt_completion_reply_add(rt_completion_reply *reply, const mica_event *e, rc_msg *msg)
{
    RC_ASSERT(e->choice < reply->choices_count);
    choice *c = &reply->choices[e->choice];
    rt_bytes_add(&c->text, e->text, e->text_bytes);
    c->tokens += e->tokens_count;
    if (reply->logprobs >= 0) rt__token_log_add(&c->log, e->tokens, e->tokens_count);
    for (uint32_t i = 0; reply->return_token_ids && i < e->tokens_count; i++)
        rt_bytes_add(&c->ids, &e->tokens[i].id, sizeof e->tokens[i].id);
    bool failed = c->text.failed || c->ids.failed || c->log.tokens.failed || c->log.tops.failed;
    /* Log probabilities of the prompt are complete once a choice has tokens or has ended. */
    bool is_prompt_ready = e->prompt && (e->tokens_count || e->finish != MICA_RUNNING);
    if (is_prompt_ready && !add_prompt(reply, &reply->prompts[e->choice / reply->n], e->prompt))
        failed = true;
    if (e->finish != MICA_RUNNING) {
        c->finish = e->finish;
        c->stop_token = e->stop_token;
        c->has_stop_text = e->stop_text != NULL;
        if (e->stop_text) rt_bytes_add(&c->stop_text, e->stop_text, e->stop_text_bytes);
        failed = failed || c->stop_text.failed;
    }
    return failed ? fail_memory(msg) : RC_OK;
}

/* A prompt as it is echoed: its text, and where in it each of its tokens begins. */
typedef struct echo {
    const char *text;
    size_t bytes;
    char *owned;
    size_t *offsets; /* [count]; NULL without logprobs */
} echo;

/* The tokens' text may hold more in front (a begin token) than the text that was sent, or differ from it
 * (a normalizer): offsets are moved to the text that is shown, and kept inside it. */
static void move_offsets(echo *e, size_t count, const char *sent, size_t sent_bytes)
{
    size_t before = 0;
    if (e->bytes > sent_bytes && !memcmp(e->text + e->bytes - sent_bytes, sent, sent_bytes))
        before = e->bytes - sent_bytes;
    for (size_t i = 0; i < count; i++) {
        size_t at = e->offsets[i] > before ? e->offsets[i] - before : 0;
        e->offsets[i] = at < sent_bytes ? at : sent_bytes;
    }
}

static rc_code make_echo(const rt_completion_reply *reply, const prompt *p, echo *e, rc_msg *msg)
{
    const char *sent = p->text.data ? p->text.data : "";
    *e = (echo){sent, p->text.count, NULL, NULL};
    bool needs_offsets = reply->logprobs >= 0;
    if (!reply->echo || (p->is_text && !needs_offsets)) return RC_OK;
    size_t bytes = 0;
    e->offsets = needs_offsets ? calloc(p->count ? p->count : 1, sizeof *e->offsets) : NULL;
    if (needs_offsets && !e->offsets) return fail_memory(msg);
    rc_code code = mica_detokenize(reply->m, (const int32_t *)(const void *)p->ids.data, p->count, false,
                                   &e->owned, &bytes, e->offsets, msg);
    if (code != RC_OK) {
        free(e->offsets);
        e->offsets = NULL;
        return code;
    }
    e->text = e->owned;
    e->bytes = bytes;
    if (!p->is_text) return RC_OK;
    move_offsets(e, p->count, sent, p->text.count);
    e->text = sent;
    e->bytes = p->text.count;
    return RC_OK;
}

static void write_ids(const char *key, const rt_bytes *ids, bool are_shown, rt_bytes *out)
{
    rt_json_key(out, key);
    if (!are_shown) {
        rt_json_null(out);
        return;
    }
    const int32_t *id = (const int32_t *)(const void *)ids->data;
    rt_json_open(out, '[');
    for (size_t i = 0; i < ids->count / sizeof *id; i++) rt_json_i64(out, id[i]);
    rt_json_close(out, ']');
}

static void write_logprobs(const rt_completion_reply *reply, const prompt *p, const choice *c, const echo *e,
                           rt_bytes *out)
{
    rt_logprobs_columns columns = {0};
    rt_logprobs_style style = {reply->m, reply->as_token_ids, (uint32_t)reply->logprobs};
    rt_offsets own = {.text = c->text.data ? c->text.data : "", .bytes = c->text.count};
    size_t base = 0;
    if (reply->echo) {
        rt_offsets echoed = {.text = e->text, .bytes = e->bytes};
        rt__logprobs_columns_add(&columns, &p->log, &style, true, e->offsets, 0, &echoed);
        base = rt__offsets_characters(&echoed, e->bytes);
    }
    rt__logprobs_columns_add(&columns, &c->log, &style, false, NULL, base, &own);
    rt__logprobs_columns_write(&columns, out);
    if (rt__logprobs_columns_failed(&columns)) out->failed = true;
    rt__logprobs_columns_deinit(&columns);
}

static void write_end(const choice *c, rt_bytes *out)
{
    static const char *const reasons[] = {NULL, "stop", "length", "abort", "error"};
    rt_json_key(out, "finish_reason");
    rt_json_text(out, reasons[c->finish]);
    rt_json_key(out, "stop_reason");
    if (c->has_stop_text)
        rt_json_string(out, c->stop_text.data ? c->stop_text.data : "", c->stop_text.count);
    else if (c->finish == MICA_STOP && c->stop_token >= 0)
        rt_json_i64(out, c->stop_token);
    else
        rt_json_null(out);
}

static void write_choice(const rt_completion_reply *reply, size_t index, const echo *e, rt_bytes *out)
{
    const choice *c = &reply->choices[index];
    const prompt *p = &reply->prompts[index / reply->n];
    rt_bytes text = {0};
    rt_bytes_add(&text, e->text, reply->echo ? e->bytes : 0);
    rt_bytes_add(&text, c->text.data, c->text.count);
    rt_json_open(out, '{');
    rt_json_key(out, "index");
    rt_json_u64(out, index);
    rt_json_key(out, "text");
    rt_json_string(out, text.data ? text.data : "", text.count);
    rt_json_key(out, "logprobs");
    if (reply->logprobs >= 0)
        write_logprobs(reply, p, c, e, out);
    else
        rt_json_null(out);
    write_end(c, out);
    rt_json_key(out, "prompt_logprobs");
    if (reply->prompt_logprobs >= 0)
        rt__prompt_logprobs_write(
            &p->log, &(rt_logprobs_style){reply->m, false, (uint32_t)reply->prompt_logprobs}, out);
    else
        rt_json_null(out);
    write_ids("token_ids", &c->ids, reply->return_token_ids, out);
    write_ids("prompt_token_ids", &p->ids, reply->return_token_ids, out);
    rt_json_close(out, '}');
    if (text.failed) out->failed = true;
    rt_bytes_deinit(&text);
}

static void write_usage(const rt_completion_reply *reply, rt_bytes *out)
{
    uint64_t prompt_tokens = 0, cached = 0, completion_tokens = 0;
    for (size_t i = 0; i < reply->prompts_count; i++) {
        prompt_tokens += reply->prompts[i].count;
        cached += reply->prompts[i].cached;
    }
    for (size_t i = 0; i < reply->choices_count; i++) completion_tokens += reply->choices[i].tokens;
    rt_json_key(out, "usage");
    rt_json_open(out, '{');
    rt_json_key(out, "prompt_tokens");
    rt_json_u64(out, prompt_tokens);
    rt_json_key(out, "completion_tokens");
    rt_json_u64(out, completion_tokens);
    rt_json_key(out, "total_tokens");
    rt_json_u64(out, prompt_tokens + completion_tokens);
    rt_json_key(out, "prompt_tokens_details");
    rt_json_open(out, '{');
    rt_json_key(out, "cached_tokens");
    rt_json_u64(out, cached);
    rt_json_close(out, '}');
    rt_json_close(out, '}');
}

static void write_activation(const prompt *p, rt_bytes *out)
{
    if (p->activation == MICA_NEVER)
        rt_json_null(out);
    else
        rt_json_u64(out, p->activation);
}

/* Of a list of prompts `activation` is the first one's, and `activations` are all of them. */
static void write_adapter(const rt_completion_reply *reply, rt_bytes *out)
{
    rt_json_key(out, "adapter");
    if (!reply->has_adapter) {
        rt_json_null(out);
        return;
    }
    rt_json_open(out, '{');
    rt_json_key(out, "name");
    rt_json_string(out, reply->adapter.data, reply->adapter.count);
    rt_json_key(out, "activation");
    write_activation(&reply->prompts[0], out);
    if (reply->prompts_count > 1) {
        rt_json_key(out, "activations");
        rt_json_open(out, '[');
        for (size_t i = 0; i < reply->prompts_count; i++) write_activation(&reply->prompts[i], out);
        rt_json_close(out, ']');
    }
    rt_json_close(out, '}');
}

static rc_code write_choices(const rt_completion_reply *reply, rt_bytes *out, rc_msg *msg)
{
    rt_json_key(out, "choices");
    rt_json_open(out, '[');
    for (size_t i = 0; i < reply->prompts_count; i++) {
        echo e;
        RC_TRY(make_echo(reply, &reply->prompts[i], &e, msg));
        for (size_t k = 0; k < reply->n; k++) write_choice(reply, i * reply->n + k, &e, out);
        free(e.owned);
        free(e.offsets);
    }
    rt_json_close(out, ']');
    return RC_OK;
}

rc_code rt_completion_reply_write(const rt_completion_reply *reply, const char *id, int64_t created,
                                  rt_bytes *out, rc_msg *msg)
{
    rt_json_open(out, '{');
    rt_json_key(out, "id");
    rt_json_text(out, id);
    rt_json_key(out, "object");
    rt_json_text(out, "text_completion");
    rt_json_key(out, "created");
    rt_json_i64(out, created);
    rt_json_key(out, "model");
    rt_json_string(out, reply->model.data, reply->model.count);
    RC_TRY(write_choices(reply, out, msg));
    write_usage(reply, out);
    write_adapter(reply, out);
    rt_json_close(out, '}');
    return out->failed ? fail_memory(msg) : RC_OK;
}
