#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/base/random.h"
#include "runtime/cli/bench.h"
#include "runtime/cli/interrupt.h"

enum { POLL_MS = 250 }; /* a signal is seen this much later */

static void fill_random(rt_bench *b, int32_t *ids, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) ids[i] = (int32_t)(rt_random_next(&b->random) % b->info.vocab);
}

static void adapter_name(uint32_t index, char *out, size_t max)
{
    snprintf(out, max, "synthetic-%u", index);
}

rc_code rt__bench_init(rt_bench *b, rc_msg *msg)
{
    const rt_bench_flags *f = b->flags;
    char name[32];
    b->info = mica_get_info(b->m);
    b->random = f->engine.options.seed;
    b->prefix = calloc(f->prefix_len + 1, sizeof *b->prefix);
    b->prompt = calloc((size_t)f->prefix_len + f->input_len, sizeof *b->prompt);
    b->last_ns = calloc(b->prompts, sizeof *b->last_ns);
    if (!b->prefix || !b->prompt || !b->last_ns)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the prompts");
    for (uint32_t i = 0; i < f->synthetic_loras; i++) {
        adapter_name(i, name, sizeof name);
        RC_TRY(mica_adapter_synthetic(b->m, name, f->synthetic_lora_rank,
                                      !strcmp(f->synthetic_lora_targets, "qkv"),
                                      !strcmp(f->synthetic_lora_kind, "alora"), i + 1, msg));
    }
    return RC_OK;
}

void rt__bench_deinit(rt_bench *b)
{
    free(b->prefix);
    free(b->prompt);
    free(b->last_ns);
}

static mica_request make_request(const int32_t *ids, size_t count, uint32_t max_tokens)
{
    mica_request r = MICA_REQUEST_INIT;
    r.prompt_ids = ids;
    r.prompt_ids_count = count;
    r.max_tokens = max_tokens;
    r.temperature = 0;
    r.ignore_eos = true;
    return r;
}

/* Waits for it. Errors: CANCELLED once a signal came; INTERNAL where the engine failed. */
static rc_code next_event(rt_bench *b, mica_event *e, rc_msg *msg)
{
    while (!rt__interrupt_signal()) {
        if (!mica_poll(b->m, POLL_MS, e)) continue;
        if (e->finish != MICA_FAILED && e->finish != MICA_CANCELLED) return RC_OK;
        return rc_fail(RC_INTERNAL, msg, "%s", e->error ? e->error->text : "a request was cancelled");
    }
    return rc_fail(RC_CANCELLED, msg, "interrupted; no figures");
}

/* Base serves the prefix, so that the iteration finds it in the cache. */
static rc_code serve_prefix(rt_bench *b, rc_msg *msg)
{
    mica_event e;
    uint64_t id;
    uint32_t count = b->flags->prefix_len;
    if (!count) return RC_OK;
    fill_random(b, b->prefix, count);
    mica_request r = make_request(b->prefix, count, 1);
    RC_TRY(mica_submit(b->m, &r, &id, msg));
    do RC_TRY(next_event(b, &e, msg));
    while (!e.request_done);
    return RC_OK;
}

static rc_code submit(rt_bench *b, uint32_t index, rc_msg *msg)
{
    const rt_bench_flags *f = b->flags;
    char name[32];
    uint64_t id;
    memcpy(b->prompt, b->prefix, f->prefix_len * sizeof *b->prefix);
    fill_random(b, b->prompt + f->prefix_len, f->input_len);
    mica_request r = make_request(b->prompt, (size_t)f->prefix_len + f->input_len, f->output_len);
    r.user = &b->last_ns[index];
    if (f->synthetic_loras) {
        adapter_name(index % f->synthetic_loras, name, sizeof name);
        r.model = name;
        r.has_activation = !strcmp(f->synthetic_lora_kind, "alora");
        r.activation = f->prefix_len;
    }
    return mica_submit(b->m, &r, &id, msg);
}

/* Tokens that came together are told apart by no clock: each gets its share of the time since the last. */
static void note_tokens(const mica_event *e, int64_t now, int64_t started, rt_bench_result *result,
                        uint32_t *firsts)
{
    int64_t *last = e->user;
    uint32_t later = e->tokens_count;
    if (!later) return;
    if (!*last) {
        if (result) rt_samples_add(&result->ttft_ms, (double)(now - started) / 1e6);
        ++*firsts;
        later--;
    }
    double gap = later ? (double)(now - (*last ? *last : now)) / 1e6 / later : 0;
    for (uint32_t i = 0; result && i < later; i++) rt_samples_add(&result->itl_ms, gap);
    *last = now;
}

rc_code rt__bench_iterate(rt_bench *b, rt_bench_result *result, rc_msg *msg)
{
    mica_event e;
    uint32_t firsts = 0, done = 0;
    RC_TRY(serve_prefix(b, msg));
    memset(b->last_ns, 0, b->prompts * sizeof *b->last_ns);
    int64_t started = rt_now_ns(), all_first = 0, now = started;
    for (uint32_t i = 0; i < b->prompts; i++) RC_TRY(submit(b, i, msg));
    while (done < b->prompts) {
        RC_TRY(next_event(b, &e, msg));
        now = rt_now_ns();
        note_tokens(&e, now, started, result, &firsts);
        if (firsts == b->prompts && !all_first) all_first = now;
        done += e.request_done;
    }
    if (!result) return RC_OK;
    rt_samples_add(&result->prefill_s, (double)(all_first - started) / 1e9);
    rt_samples_add(&result->decode_s, (double)(now - all_first) / 1e9);
    rt_samples_add(&result->total_s, (double)(now - started) / 1e9);
    return RC_OK;
}
