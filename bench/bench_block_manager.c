/* What the block manager costs a step: finding a prefix, one token for each running sequence, opening,
 * evicting. Medians, printed in ns.
 *
 *     bench_block_manager [blocks_max]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "paged_kv/block_manager.h"

enum { BLOCK = 16, PROMPT = 8192, SEQS = 256, RUNS = 401 };

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint64_t random_state = 1;

static uint32_t random_u32(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static void fill(int32_t *tokens, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) tokens[i] = (int32_t)(random_u32() % 49155);
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Sorts what was measured and prints its median and ends. */
static void report(const char *what, int64_t *ns, int count)
{
    qsort(ns, (size_t)count, sizeof *ns, by_value);
    printf("%-62s %8lld ns  (best %lld, p90 %lld)\n", what, (long long)ns[count / 2], (long long)ns[0],
           (long long)ns[count * 9 / 10]);
}

static void must(rc_code code)
{
    if (code == RC_OK) return;
    fprintf(stderr, "out of room\n");
    exit(1);
}

static const kv_identity base = {0, 0, KV_NEVER};

/* Leaves the rows of `tokens` in the cache, computed in chunks as by an engine. */
static void serve(kv *m, const int32_t *tokens, uint32_t count)
{
    kv_seq seq;
    kv_hit hit;
    must(kv_seq_open(m, tokens, count, base, UINT32_MAX, &seq, &hit));
    if (hit.copy_rows > 0) kv_seq_copied(m, seq);
    for (uint32_t at = hit.tokens; at < count;) {
        uint32_t chunk = count - at < 512 ? count - at : 512;
        must(kv_seq_reserve(m, seq, at + chunk));
        kv_seq_commit(m, seq, tokens + at, chunk);
        at += chunk;
    }
    kv_seq_close(m, seq);
}

static void bench_find(kv *m, int32_t (*prompts)[PROMPT], int prompts_count)
{
    int64_t warm[RUNS], cold[RUNS], open[RUNS], missing[RUNS];
    int32_t *other = malloc(PROMPT * sizeof *other);
    for (int i = 0; i < RUNS; i++) {
        int64_t start = now_ns();
        uint32_t found = kv_find(m, prompts[i % prompts_count], PROMPT, base);
        cold[i] = now_ns() - start;
        if (found != PROMPT - 1) exit(1);
    }
    for (int i = 0; i < RUNS; i++) {
        int64_t start = now_ns();
        kv_find(m, prompts[prompts_count / 2], PROMPT, base);
        warm[i] = now_ns() - start;
    }
    for (int i = 0; i < RUNS; i++) {
        fill(other, 64);
        int64_t start = now_ns();
        kv_find(m, other, 64, base);
        missing[i] = now_ns() - start;
    }
    for (int i = 0; i < RUNS; i++) {
        kv_seq seq;
        kv_hit hit;
        int64_t start = now_ns();
        must(kv_seq_open(m, prompts[i % prompts_count], PROMPT, base, UINT32_MAX, &seq, &hit));
        if (hit.copy_rows > 0) kv_seq_copied(m, seq);
        kv_seq_close(m, seq);
        open[i] = now_ns() - start;
    }
    report("longest prefix of 8192 tokens, the same prompt again", warm, RUNS);
    report("longest prefix of 8192 tokens, another prompt each time", cold, RUNS);
    report("longest prefix where nothing is found", missing, RUNS);
    report("open and close with 8191 tokens found", open, RUNS);
    free(other);
}

/* Every sequence at a place of its own in its block, as in a running batch. */
static void bench_step(kv *m, bool evicts)
{
    static int64_t ns[RUNS];
    static kv_seq seqs[SEQS];
    int32_t prompt[64];
    kv_hit hit;
    for (int s = 0; s < SEQS; s++) {
        fill(prompt, 64);
        must(kv_seq_open(m, prompt, 64, base, 0, &seqs[s], &hit));
        must(kv_seq_reserve(m, seqs[s], 32u + (uint32_t)s % BLOCK));
        kv_seq_commit(m, seqs[s], prompt, 32u + (uint32_t)s % BLOCK);
    }
    for (int i = 0; i < RUNS; i++) {
        int32_t tokens[SEQS];
        fill(tokens, SEQS);
        int64_t start = now_ns();
        for (int s = 0; s < SEQS; s++) {
            must(kv_seq_reserve(m, seqs[s], kv_seq_length(m, seqs[s]) + 1));
            kv_seq_commit(m, seqs[s], &tokens[s], 1);
        }
        ns[i] = now_ns() - start;
    }
    for (int s = 0; s < SEQS; s++) kv_seq_close(m, seqs[s]);
    const char *where = "one token each for 256 sequences";
    if (evicts) where = "one token each for 256 sequences, cache full";
    report(where, ns, RUNS);
}

int main(int argc, char **argv)
{
    uint32_t blocks = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 100000;
    kv_options o = {.blocks_max = blocks, .block_tokens = BLOCK, .seqs_max = SEQS, .seq_tokens_max = 131072,
                    .enable_prefix_cache = true};
    kv *m, *empty;
    rc_msg msg;
    must(kv_create(&o, &m, &msg));
    must(kv_create(&o, &empty, &msg));
    double mib = (double)kv_bytes(&o) / 1048576;
    printf("%u blocks of %d tokens: %.1f MiB of bookkeeping\n", blocks, BLOCK, mib);
    bench_step(empty, false);
    kv_destroy(empty);

    /* A cache as it is after a while: short conversations and long prompts, until it is full. */
    int prompts_count = (int)(blocks / 2 / (PROMPT / BLOCK));
    if (prompts_count < 1) return fprintf(stderr, "too few blocks\n"), 1;
    int32_t(*prompts)[PROMPT] = malloc((size_t)prompts_count * sizeof *prompts), chat[320];
    for (kv_stats s = kv_get_stats(m); s.blocks_free > blocks / 2; s = kv_get_stats(m)) {
        fill(chat, 320);
        serve(m, chat, 20 + random_u32() % 300);
    }
    for (int i = 0; i < prompts_count; i++) {
        fill(prompts[i], PROMPT);
        serve(m, prompts[i], PROMPT);
    }
    bench_find(m, prompts, prompts_count);
    while (kv_get_stats(m).blocks_free > 0) {
        fill(chat, 320);
        serve(m, chat, 320);
    }
    bench_step(m, true);
    free(prompts);
    kv_destroy(m);
    return 0;
}
