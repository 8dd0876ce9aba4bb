/* vllm.Control but for adapters: what is served here, and the end of requests by name. */
#include <stdlib.h>

#include "control.pb-c.h"
#include "runtime/server/server_internal.h"
#include "runtime/server/wire_text.h"

/* These requests have no fields, so any message of theirs is as good as an empty one. */
void rt__get_server_info(rpc_call *c, void *server)
{
    rt_server *s = server;
    rt_caller caller;
    if (!rt__enter(c, s, &caller)) return;
    rt__access_leave(s->access, &caller);
    Vllm__ServerInfo info = VLLM__SERVER_INFO__INIT;
    Vllm__ParallelismInfo one = VLLM__PARALLELISM_INFO__INIT;
    one.tensor_parallel_size = one.world_size = s->info.ranks;
    one.pipeline_parallel_size = one.data_parallel_size = 1;
    one.decode_context_parallel_size = 1;
    info.engine_version = rt__wire_text_of("mica " MICA_VERSION);
    info.api_version = rt__wire_text_of("vllm");
    info.instance_id = rt__wire_text_of(s->instance_id);
    info.parallelism = &one;
    info.max_model_len = s->info.max_model_len;
    info.kv_block_size = s->info.block_size;
    info.total_kv_blocks = s->info.blocks;
    info.max_running_requests = s->info.max_num_seqs;
    info.max_batched_tokens = s->info.max_num_batched_tokens;
    info.max_loras = s->info.max_loras;
    rt__answer(c, &info);
}

void rt__get_model_info(rpc_call *c, void *server)
{
    rt_server *s = server;
    rt_caller caller;
    if (!rt__enter(c, s, &caller)) return;
    rt__access_leave(s->access, &caller);
    Vllm__ModelInfo info = VLLM__MODEL_INFO__INIT;
    int32_t *ids;
    size_t count;
    info.model_id = info.served_model_name = rt__wire_text_of(s->info.model_name);
    info.supports_token_ids_input = true;
    info.supports_lora = true;
    info.vocab_size = s->info.vocab;
    if (mica_tokenize(s->m, "", 0, false, &ids, &count, NULL) == RC_OK) {
        info.supports_text_input = true;
        free(ids);
    }
    rt__answer(c, &info);
}

static void abort_all(rpc_call *c, rt_server *s, const rt_caller *caller)
{
    Vllm__AbortResponse done = VLLM__ABORT_RESPONSE__INIT;
    size_t bytes;
    const uint8_t *message = rpc_call_message(c, &bytes);
    Vllm__AbortRequest *q = vllm__abort_request__unpack(NULL, bytes, message);
    enum { IDS_MAX = 1024 };
    if (!q || q->n_request_ids > IDS_MAX) {
        if (q) vllm__abort_request__free_unpacked(q, NULL);
        rpc_call_finish(c, RC_INVALID_ARGUMENT, "request_ids: expected at most 1024 strings", NULL, 0);
        return;
    }
    for (size_t i = 0; i < q->n_request_ids; i++)
        rt__generations_abort(s, caller, (const char *)q->request_ids[i].data, q->request_ids[i].len);
    vllm__abort_request__free_unpacked(q, NULL);
    rt__answer(c, &done);
}

void rt__abort(rpc_call *c, void *server)
{
    rt_server *s = server;
    rt_caller caller;
    if (!rt__enter(c, s, &caller)) return;
    abort_all(c, s, &caller);
    rt__access_leave(s->access, &caller);
}

/* Those that the caller may see move to the front. */
static size_t keep_visible(mica_adapter *list, size_t count, const rt_caller *caller)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (rt__caller_sees(caller, list[i].name)) list[kept++] = list[i];
    return kept;
}

static void list_loras(rpc_call *c, const rt_server *s, const rt_caller *caller)
{
    Vllm__ListLorasResponse list = VLLM__LIST_LORAS_RESPONSE__INIT;
    mica_adapter *adapters;
    size_t count;
    rc_msg msg;
    rc_code code = mica_adapter_list(s->m, &adapters, &count, &msg);
    if (code != RC_OK) {
        rt__refuse(c, code, &msg);
        return;
    }
    list.n_adapters = keep_visible(adapters, count, caller);
    Vllm__LoraAdapter *each = calloc(list.n_adapters + 1, sizeof *each);
    list.adapters = calloc(list.n_adapters + 1, sizeof(Vllm__LoraAdapter *));
    for (size_t i = 0; each && list.adapters && i < list.n_adapters; i++) {
        vllm__lora_adapter__init(&each[i]);
        each[i].lora_id = adapters[i].id;
        each[i].lora_name = rt__wire_text_of(adapters[i].name);
        each[i].source_path = rt__wire_text_of(adapters[i].path);
        list.adapters[i] = &each[i];
    }
    if (each && list.adapters)
        rt__answer(c, &list);
    else
        rpc_call_finish(c, RC_RESOURCE_EXHAUSTED, "no memory for the answer", NULL, 0);
    free(each);
    free(list.adapters);
    free(adapters);
}

void rt__list_loras(rpc_call *c, void *server)
{
    rt_server *s = server;
    rt_caller caller;
    if (!rt__enter(c, s, &caller)) return;
    list_loras(c, s, &caller);
    rt__access_leave(s->access, &caller);
}

/* Events hold everyone's tokens, so a tenant is not told where they are. */
void rt__get_kv_event_sources(rpc_call *c, void *server)
{
    Vllm__GetKvEventSourcesResponse sources = VLLM__GET_KV_EVENT_SOURCES_RESPONSE__INIT;
    Vllm__KvEventSource source = VLLM__KV_EVENT_SOURCE__INIT, *list[] = {&source};
    rt_server *s = server;
    const rt_kv_config *config = &s->o.kv_events;
    rt_caller caller;
    if (!rt__enter(c, s, &caller)) return;
    if (s->kv_publisher && rt__caller_is_admin(&caller)) {
        source.transport = rt__wire_text_of("zmq");
        source.endpoint = rt__wire_text_of(rt__kv_publisher_endpoint(s->kv_publisher));
        source.topic = rt__wire_text_of(config->topic);
        source.replay_endpoint = rt__wire_text_of(rt__kv_publisher_replay_endpoint(s->kv_publisher));
        source.has_data_parallel_rank_case = VLLM__KV_EVENT_SOURCE__HAS_DATA_PARALLEL_RANK_DATA_PARALLEL_RANK;
        source.encoding = rt__wire_text_of("msgpack");
        source.schema_version = 1;
        source.buffer_steps = config->buffer_steps;
        source.hwm = config->hwm;
        source.max_queue_size = config->max_queue_size;
        sources.sources = list;
        sources.n_sources = 1;
    }
    rt__access_leave(s->access, &caller);
    rt__answer(c, &sources);
}
