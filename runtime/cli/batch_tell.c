/* What a batch says of itself: a bar and vLLM's line of numbers on a terminal, one line at the end. */
#include "runtime/cli/batch_run.h"

static const int64_t tell_ns = 5000000000;

static double share_of(uint64_t part, uint64_t whole)
{
    return whole ? 100.0 * (double)part / (double)whole : 0;
}

static void tell_stats(rt_batch *b, int64_t now_ns)
{
    mica_stats s = mica_get_stats(b->m);
    double seconds = (double)(now_ns - b->told_ns) / 1e9;
    uint64_t prompt = s.prompt_tokens - b->told.prompt_tokens;
    uint64_t generated = s.generated_tokens - b->told.generated_tokens;
    uint64_t cached = s.cached_prompt_tokens - b->told.cached_prompt_tokens;
    rt_progress_line(
        &b->console->progress,
        "Avg prompt throughput: %.1f tokens/s, Avg generation throughput: %.1f tokens/s, Running: %u reqs, "
        "Waiting: %u reqs, KV cache usage: %.1f%%, Prefix cache hit rate: %.1f%%",
        (double)prompt / seconds, (double)generated / seconds, s.running, s.waiting,
        share_of(s.blocks_live, s.blocks_total), share_of(cached, prompt));
    b->told = s;
    b->told_ns = now_ns;
}

/* How many requests the whole input has, judged by the part that has been read. */
static uint64_t expected_requests(const rt_batch *b)
{
    if (b->is_input_over || !b->input_bytes || !b->input.offset) return b->answers + b->skipped + b->jobs;
    return (uint64_t)((double)b->input.number * (double)b->input_bytes / (double)b->input.offset);
}

void rt__batch_tell(rt_batch *b, int64_t now_ns)
{
    char text[80];
    if (now_ns - b->told_ns >= tell_ns) tell_stats(b, now_ns);
    uint64_t done = b->answers + b->skipped;
    snprintf(text, sizeof text, "%llu done, %llu failed", (unsigned long long)done,
             (unsigned long long)b->failed);
    rt_progress_draw(&b->console->progress, now_ns, "requests", done,
                     b->input_bytes ? expected_requests(b) : 0, text);
}

void rt__batch_tell_end(rt_batch *b, int64_t now_ns)
{
    mica_stats s = mica_get_stats(b->m);
    double seconds = (double)(now_ns - b->started_ns) / 1e9;
    rt_progress_line(
        &b->console->progress,
        "%llu answered, %llu failed, %llu done before; %llu prompt tokens (%.1f%% cached) and %llu generated "
        "in %.1f s",
        (unsigned long long)b->succeeded, (unsigned long long)b->failed, (unsigned long long)b->skipped,
        (unsigned long long)s.prompt_tokens, share_of(s.cached_prompt_tokens, s.prompt_tokens),
        (unsigned long long)s.generated_tokens, seconds);
}
