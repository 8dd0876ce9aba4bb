/* runtime/cli/bench.h - what `mica bench` measures, and how.
 *
 * An iteration makes fresh random prompts, lets base serve their common prefix, and then starts the clock:
 * all prompts are submitted at once, greedy and without end of text, and every token's arrival is noted.
 */
#ifndef RUNTIME_CLI_BENCH_H
#define RUNTIME_CLI_BENCH_H

#include "runtime/base/bytes.h"
#include "runtime/base/samples.h"
#include "runtime/cli/console.h"
#include "runtime/cli/engine_flags.h"

typedef struct rt_bench_flags {
    rt_engine_flags engine;
    uint32_t input_len, output_len, batch_size, num_iters, num_prompts, prefix_len;
    uint32_t synthetic_loras, synthetic_lora_rank;
    const char *synthetic_lora_targets, *synthetic_lora_kind;
    const char *output_json;
} rt_bench_flags;

typedef struct rt_bench_result {
    rt_samples prefill_s; /* per iteration: from the start to all first tokens */
    rt_samples decode_s;  /* from there to the last token */
    rt_samples total_s;
    rt_samples ttft_ms, itl_ms; /* per request, per token */
} rt_bench_result;

typedef struct rt_bench {
    const rt_bench_flags *flags;
    mica *m;
    mica_info info;
    bool is_throughput;
    uint32_t prompts; /* of an iteration */
    uint64_t random;  /* state of the prompts' generator */
    int32_t *prefix;  /* [prefix_len] */
    int32_t *prompt;  /* [prefix_len + input_len] */
    int64_t *last_ns; /* [prompts] when each got its last token; 0: none yet */
} rt_bench;

/* Adds one iteration to `result`; NULL: warms up. Errors: the engine's; CANCELLED after a signal. */
RC_MUST_CHECK rc_code rt__bench_iterate(rt_bench *b, rt_bench_result *result, rc_msg *msg);
/* Needs flags, m, is_throughput and prompts set. */
RC_MUST_CHECK rc_code rt__bench_init(rt_bench *b, rc_msg *msg);
void rt__bench_deinit(rt_bench *b);

void rt__bench_print(const rt_bench *b, rt_bench_result *r);
void rt__bench_write(const rt_bench *b, rt_bench_result *r, rt_bytes *out);

/* `mica bench serve`: a client of a server, without an engine. */
int rt__bench_serve(int argc, char **argv);

#endif
