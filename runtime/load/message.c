#include "runtime/load/message.h"

#include "inference.pb-c.h"

static ProtobufCBinaryData text_of(const char *text)
{
    return (ProtobufCBinaryData){strlen(text), (uint8_t *)(uintptr_t)text};
}

static void pack(const Vllm__GenerateRequest *q, rt_bytes *out)
{
    size_t bytes = vllm__generate_request__get_packed_size(q);
    char *room = rt_bytes_reserve(out, bytes);
    if (!room) return;
    vllm__generate_request__pack(q, (uint8_t *)room);
    out->count += bytes;
}

void rt_load_request_write(const rt_load_request *r, rt_bytes *out)
{
    Vllm__GenerateRequest q;
    Vllm__TokenIds ids = VLLM__TOKEN_IDS__INIT;
    Vllm__StoppingCriteria stopping = VLLM__STOPPING_CRITERIA__INIT;
    Vllm__ResponseOptions response = VLLM__RESPONSE_OPTIONS__INIT;
    vllm__generate_request__init(&q);
    ids.n_ids = r->count;
    ids.ids = (uint32_t *)(uintptr_t)r->ids;
    stopping.max_new_tokens = r->output_len;
    stopping.ignore_eos = true;
    response.output_token_ids = r->wants_ids;
    q.prompt_case = VLLM__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    q.token_ids = &ids;
    q.stopping = &stopping;
    q.response = &response;
    q.lora_name = text_of(r->lora);
    q.has_session_id_case = VLLM__GENERATE_REQUEST__HAS_SESSION_ID_SESSION_ID;
    q.session_id = text_of(r->session);
    pack(&q, out);
}

bool rt_load_news_read(const uint8_t *message, size_t bytes, rt_load_news *out)
{
    Vllm__GenerateResponse *m = vllm__generate_response__unpack(NULL, bytes, message);
    *out = (rt_load_news){.message = m};
    if (!m) return false;
    const Vllm__SequenceOutput *o = m->outputs;
    if (!o) return true;
    out->tokens = o->num_tokens;
    out->ids = o->token_ids;
    out->ids_count = o->n_token_ids;
    out->is_last = o->has_finish_info_case == VLLM__SEQUENCE_OUTPUT__HAS_FINISH_INFO_FINISH_INFO;
    out->is_whole =
        out->is_last && o->finish_info->finish_reason != VLLM__FINISH_INFO__FINISH_REASON__ABORTED;
    return true;
}

void rt_load_news_free(rt_load_news *n)
{
    if (n->message) vllm__generate_response__free_unpacked(n->message, NULL);
    n->message = NULL;
}
