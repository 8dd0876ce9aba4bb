#include "runtime/server/generate_reply.h"

#include <stdlib.h>

#include "inference.pb-c.h"
#include "runtime/server/wire_text.h"

static rc_code fail_memory(rc_msg *msg)
{
    return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the answer");
}

/* ---- columns ---- */

static void columns_clear(rt_token_columns *c)
{
    rt_bytes_clear(&c->ids);
    rt_bytes_clear(&c->ranks);
    rt_bytes_clear(&c->logprobs);
    rt_bytes_clear(&c->top);
    rt_bytes_clear(&c->top_counts);
    c->count = 0;
}

static void columns_deinit(rt_token_columns *c)
{
    rt_bytes_deinit(&c->ids);
    rt_bytes_deinit(&c->ranks);
    rt_bytes_deinit(&c->logprobs);
    rt_bytes_deinit(&c->top);
    rt_bytes_deinit(&c->top_counts);
}

static bool columns_failed(const rt_token_columns *c)
{
    return c->ids.failed || c->ranks.failed || c->logprobs.failed || c->top.failed || c->top_counts.failed;
}

static void add_number(rt_bytes *column, uint32_t number)
{
    rt_bytes_add(column, &number, sizeof number);
}

static void add_top(rt_token_columns *c, const mica_token *t)
{
    for (uint32_t i = 0; i < t->top_count; i++) {
        Vllm__TokenInfo info = VLLM__TOKEN_INFO__INIT;
        info.id = (uint32_t)t->top[i].token;
        info.logprob = t->top[i].logprob;
        info.rank = t->top[i].rank;
        rt_bytes_add(&c->top, &info, sizeof info);
    }
    add_number(&c->top_counts, t->top_count);
}

/* is_valueless: a prompt's first token, which nothing came before. */
static void add_token(rt_token_columns *c, const mica_token *t, bool is_valueless, bool ids, bool logprobs,
                      bool candidates)
{
    static const mica_token none;
    const mica_token *shown = is_valueless ? &none : t;
    if (ids) add_number(&c->ids, (uint32_t)t->id);
    if (logprobs) {
        rt_bytes_add(&c->logprobs, &shown->logprob, sizeof shown->logprob);
        add_number(&c->ranks, shown->rank);
    }
    if (candidates) add_top(c, shown);
    c->count++;
}

/* The generated messages of the candidates: four arrays in one allocation, which `memory` keeps. */
static Vllm__CandidateTokenInfo **make_candidates(const rt_token_columns *c, void **memory)
{
    const uint32_t *counts = (const uint32_t *)(const void *)c->top_counts.data;
    size_t tokens = c->top_counts.count / sizeof *counts, tops = c->top.count / sizeof(Vllm__TokenInfo);
    Vllm__CandidateTokenInfo **list, *infos;
    Vllm__TokenInfo **pointers, *top = (Vllm__TokenInfo *)(void *)c->top.data;
    *memory = malloc(tokens * (sizeof *list + sizeof *infos) + tops * sizeof *pointers);
    if (!*memory) return NULL;
    infos = *memory;
    list = (Vllm__CandidateTokenInfo **)(infos + tokens);
    pointers = (Vllm__TokenInfo **)(list + tokens);
    for (size_t i = 0; i < tops; i++) pointers[i] = top + i;
    for (size_t i = 0; i < tokens; i++) {
        vllm__candidate_token_info__init(&infos[i]);
        infos[i].n_tokens = counts[i];
        infos[i].tokens = pointers;
        pointers += counts[i];
        list[i] = &infos[i];
    }
    return list;
}

#define COLUMN(bytes, type) ((type *)(void *)(bytes).data)

/* The same four fields of a PromptInfo and a SequenceOutput. */
#define SHOW_COLUMNS(message, columns, list)                                                                 \
    do {                                                                                                     \
        (message)->n_token_ids = (columns)->ids.count / sizeof(uint32_t);                                    \
        (message)->token_ids = COLUMN((columns)->ids, uint32_t);                                             \
        (message)->n_logprobs = (columns)->logprobs.count / sizeof(float);                                   \
        (message)->logprobs = COLUMN((columns)->logprobs, float);                                            \
        (message)->n_ranks = (columns)->ranks.count / sizeof(uint32_t);                                      \
        (message)->ranks = COLUMN((columns)->ranks, uint32_t);                                               \
        (message)->n_candidate_tokens = (columns)->top_counts.count / sizeof(uint32_t);                      \
        (message)->candidate_tokens = (list);                                                                \
    } while (0)

/* ---- gathering ---- */

void rt__generate_reply_init(rt_generate_reply *r, const rt_generate_wants *wants)
{
    *r = (rt_generate_reply){.wants = *wants, .activation = MICA_NEVER, .stop_token = -1, .last_token = -1};
}

void rt__generate_reply_deinit(rt_generate_reply *r)
{
    columns_deinit(&r->prompt);
    columns_deinit(&r->output);
    rt_bytes_deinit(&r->text);
    rt_bytes_deinit(&r->stop_text);
}

static void add_prompt(rt_generate_reply *r, const mica_prompt *p)
{
    const rt_generate_wants *w = &r->wants;
    r->knows_prompt = true;
    r->prompt_tokens = p->count;
    r->cached_tokens = p->cached_tokens;
    r->activation = p->activation;
    for (uint32_t i = 0; w->prompt_ids && i < p->count; i++) add_number(&r->prompt.ids, (uint32_t)p->ids[i]);
    for (uint32_t i = 0; p->logprobs && i < p->count; i++)
        add_token(&r->prompt, &p->logprobs[i], i == 0, false, w->prompt_logprobs, w->prompt_candidates);
}

static void add_end(rt_generate_reply *r, const mica_event *e)
{
    r->finish = e->finish;
    r->stop_token = e->stop_token;
    r->has_stop_text = e->stop_text != NULL;
    if (e->stop_text) rt_bytes_add(&r->stop_text, e->stop_text, e->stop_text_bytes);
}

rc_code rt__generate_reply_add(rt_generate_reply *r, const mica_event *e, rc_msg *msg)
{
    const rt_generate_wants *w = &r->wants;
    /* Log probabilities of the prompt are complete once there are tokens, or an end. */
    bool is_prompt_ready = e->prompt && (e->tokens_count || e->finish != MICA_RUNNING);
    if (is_prompt_ready && !r->knows_prompt) add_prompt(r, e->prompt);
    if (w->text) rt__wire_text_add(&r->text, e->text, e->text_bytes);
    for (uint32_t i = 0; i < e->tokens_count; i++)
        add_token(&r->output, &e->tokens[i], false, w->ids, w->logprobs, w->candidates);
    r->output_tokens += e->tokens_count;
    if (e->tokens_count) r->last_token = e->tokens[e->tokens_count - 1].id;
    if (e->finish != MICA_RUNNING) add_end(r, e);
    bool failed =
        r->text.failed || r->stop_text.failed || columns_failed(&r->prompt) || columns_failed(&r->output);
    return failed ? fail_memory(msg) : RC_OK;
}

/* ---- packing ---- */

bool rt__generate_reply_has_prompt(const rt_generate_reply *r)
{
    return r->knows_prompt && !r->has_packed_prompt;
}

bool rt__generate_reply_has_output(const rt_generate_reply *r)
{
    return r->output.count || r->text.count || r->finish != MICA_RUNNING;
}

static void make_finish(const rt_generate_reply *r, Vllm__FinishInfo *f)
{
    f->num_output_tokens = r->output_tokens;
    f->finish_reason = VLLM__FINISH_INFO__FINISH_REASON__LENGTH;
    if (r->finish == MICA_CANCELLED) f->finish_reason = VLLM__FINISH_INFO__FINISH_REASON__ABORTED;
    if (r->finish != MICA_STOP) return;
    f->finish_reason = VLLM__FINISH_INFO__FINISH_REASON__STOP;
    if (r->has_stop_text) {
        f->stop_reason_case = VLLM__FINISH_INFO__STOP_REASON_STOP_STRING;
        f->stop_string = (ProtobufCBinaryData){r->stop_text.count, (uint8_t *)r->stop_text.data};
    } else if (r->stop_token >= 0) {
        f->stop_reason_case = VLLM__FINISH_INFO__STOP_REASON_STOP_TOKEN_ID;
        f->stop_token_id = (uint32_t)r->stop_token;
    } else if (r->last_token >= 0) {
        f->stop_reason_case = VLLM__FINISH_INFO__STOP_REASON_EOS_TOKEN_ID;
        f->eos_token_id = (uint32_t)r->last_token;
    }
}

static void pack(const Vllm__GenerateResponse *message, rt_bytes *out)
{
    size_t bytes = vllm__generate_response__get_packed_size(message);
    char *to = rt_bytes_reserve(out, bytes);
    if (!to) return;
    vllm__generate_response__pack(message, (uint8_t *)to);
    out->count += bytes;
}

rc_code rt__generate_reply_pack(rt_generate_reply *r, bool prompt, bool output, rt_bytes *out, rc_msg *msg)
{
    Vllm__GenerateResponse message = VLLM__GENERATE_RESPONSE__INIT;
    Vllm__PromptInfo info = VLLM__PROMPT_INFO__INIT;
    Vllm__SequenceOutput sequence = VLLM__SEQUENCE_OUTPUT__INIT;
    Vllm__FinishInfo finish;
    void *prompt_memory = NULL, *output_memory = NULL;
    bool failed = false;
    vllm__finish_info__init(&finish);
    if (prompt) {
        message.has_prompt_info_case = VLLM__GENERATE_RESPONSE__HAS_PROMPT_INFO_PROMPT_INFO;
        message.prompt_info = &info;
        info.num_prompt_tokens = r->prompt_tokens;
        SHOW_COLUMNS(&info, &r->prompt, make_candidates(&r->prompt, &prompt_memory));
        failed = !prompt_memory && info.n_candidate_tokens;
    }
    if (output) {
        message.outputs = &sequence;
        sequence.num_tokens = r->output.count;
        sequence.text = (ProtobufCBinaryData){r->text.count, (uint8_t *)r->text.data};
        SHOW_COLUMNS(&sequence, &r->output, make_candidates(&r->output, &output_memory));
        failed = failed || (!output_memory && sequence.n_candidate_tokens);
        if (r->finish != MICA_RUNNING) {
            sequence.has_finish_info_case = VLLM__SEQUENCE_OUTPUT__HAS_FINISH_INFO_FINISH_INFO;
            sequence.finish_info = &finish;
            make_finish(r, &finish);
        }
    }
    if (!failed) pack(&message, out);
    free(prompt_memory);
    free(output_memory);
    if (prompt) {
        columns_clear(&r->prompt);
        r->has_packed_prompt = true;
    }
    if (output) {
        columns_clear(&r->output);
        rt_bytes_clear(&r->text);
    }
    return failed || out->failed ? fail_memory(msg) : RC_OK;
}
