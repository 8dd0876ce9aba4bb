/* bench/demo_run.c - what an activated LoRA changes, on a real model: see bench/README.md.
 *
 *     mica_demo MODEL ADAPTERS HELDOUT     (bench/demo makes all three)
 *
 * A client of runtime/mica.h alone. Part one is one conversation: base answers, the adapter is called on it,
 * base goes on. Part two is many conversations at once, and counts what is right.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/demo_ask.h"
#include "bench/demo_set.h"

static const char TEAM[] = "<|im_start|>team\n";
static const char ASSISTANT[] = "<|im_start|>assistant\n";
static const char IN_WORDS[] =
    "<|im_start|>user\nWhich team should take over this conversation: account, billing, delivery, returns, "
    "sales or technical? Answer with one word.<|im_end|>\n<|im_start|>assistant\n";
static const char LORA[] = "triage-lora", ALORA[] = "triage-alora";
enum { REPLY_TOKENS = 32, TEAM_TOKENS = 6, WORDS_TOKENS = 12 };

static const char *const CUSTOMER[] = {
    "Hello, my name is Ines and I have a question.",
    "My dishwasher stops working after a minute and blinks red. We have just moved into a new flat.",
    "Error E24 comes up whenever I start it. What happens next?",
};

/* What one way of answering the whole batch came to. */
typedef struct demo_result {
    const char *name;
    uint64_t prompt, cached;
    double seconds, first_median_s;
    uint32_t right;
} demo_result;

static void log_line(void *ctx, char level, const char *line)
{
    (void)ctx;
    if (level != 'I') fprintf(stderr, "%s\n", line);
}

static rc_code open_engine(const char *model, const char *adapters, mica **m, rc_msg *msg)
{
    char lora[4096], alora[4096];
    snprintf(lora, sizeof lora, "%s/%s", adapters, LORA);
    snprintf(alora, sizeof alora, "%s/%s", adapters, ALORA);
    mica_adapter_ref refs[] = {{LORA, lora}, {ALORA, alora}};
    mica_options o = MICA_OPTIONS_INIT;
    o.model = model;
    o.served_model_name = "base";
    o.max_model_len = 2048;
    o.kv_cache_memory_bytes = 1ull << 30;
    o.adapters = refs;
    o.adapters_count = 2;
    o.log = log_line;
    return mica_open(&o, m, msg);
}

/* The first request on an adapter brings its weights in: that is done before anything is measured. */
static rc_code warm_up(mica *m, rc_msg *msg)
{
    const char *models[] = {NULL, LORA, ALORA};
    int32_t ids[] = {100, 200, 300};
    for (size_t i = 0; i < 3; i++) {
        demo_ask ask = {.model = models[i], .prompt = ids, .prompt_count = 3, .max_tokens = 2};
        double seconds;
        RC_TRY(demo_ask_all(m, &ask, 1, &seconds, msg));
    }
    return RC_OK;
}

static void print_heads(void)
{
    printf("%-30s %8s %8s %9s %13s %11s\n", "", "prompt", "cached", "computed", "first token", "then");
}

static void print_step(const char *who, const demo_ask *ask)
{
    double rest = ask->last_s - ask->first_s;
    printf("  %-28s %8zu %8u %9zu %10.1f ms", who, ask->prompt_count, ask->cached,
           ask->prompt_count - ask->cached, 1e3 * ask->first_s);
    if (ask->ids_count > 1 && rest > 0) printf(" %5.0f tok/s", (ask->ids_count - 1) / rest);
    printf("\n");
}

/* Says the customer's next line and lets base answer it. */
static rc_code base_turn(mica *m, demo_talk *talk, const char *line, rc_msg *msg)
{
    double seconds;
    char turn[512];
    printf("\n  customer: %s\n  base: ", line);
    fflush(stdout);
    snprintf(turn, sizeof turn, "<|im_start|>user\n%s<|im_end|>\n%s", line, ASSISTANT);
    demo_talk_add(m, talk, turn);
    demo_ask ask = {.prompt = talk->ids, .prompt_count = talk->count, .max_tokens = REPLY_TOKENS,
                    .streams = true};
    RC_TRY(demo_ask_all(m, &ask, 1, &seconds, msg));
    printf("%s\n", ask.ids_count == REPLY_TOKENS ? " ..." : "");
    print_step("base", &ask);
    demo_talk_add_answer(m, talk, &ask);
    return RC_OK;
}

static rc_code adapter_turn(mica *m, const demo_talk *talk, const char *model, demo_ask *ask, rc_msg *msg)
{
    demo_talk with = {0};
    double seconds;
    demo_talk_add_ids(&with, talk->ids, talk->count);
    demo_talk_add(m, &with, TEAM);
    *ask = (demo_ask){.model = model, .prompt = with.ids, .prompt_count = with.count,
                      .max_tokens = TEAM_TOKENS};
    rc_code code = demo_ask_all(m, ask, 1, &seconds, msg);
    demo_talk_free(&with);
    ask->prompt = NULL;
    if (code) return code;
    printf("\n  %s: %s\n", model, ask->text);
    print_step(model, ask);
    return RC_OK;
}

static rc_code one_conversation(mica *m, const demo_set *set, rc_msg *msg)
{
    demo_talk talk = {0};
    demo_ask alora, lora;
    rc_code code = RC_OK;
    printf("\nOne conversation: base answers, an adapter names the team that should take over, base goes on."
           "\n\n");
    print_heads();
    demo_talk_add(m, &talk, set->system);
    for (size_t i = 0; i < 2 && !code; i++) code = base_turn(m, &talk, CUSTOMER[i], msg);
    if (!code) code = adapter_turn(m, &talk, ALORA, &alora, msg);
    if (!code) code = adapter_turn(m, &talk, LORA, &lora, msg);
    if (!code) code = base_turn(m, &talk, CUSTOMER[2], msg);
    if (!code) {
        printf("\n  The aLoRA read %u of %zu prompt tokens from base's cache and computed %zu; the LoRA"
               " computed %zu.\n  Its first token came %.1f times as fast.\n",
               alora.cached, alora.prompt_count, alora.prompt_count - alora.cached,
               lora.prompt_count - lora.cached, lora.first_s / alora.first_s);
    }
    demo_talk_free(&talk);
    return code;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_first(const demo_ask *asks, size_t count)
{
    double *all = malloc(count * sizeof *all), median = 0;
    if (!all) return 0;
    for (size_t i = 0; i < count; i++) all[i] = asks[i].first_s;
    qsort(all, count, sizeof *all, compare_doubles);
    median = all[count / 2];
    free(all);
    return median;
}

/* Asks `model` about every talk, each ended by `tail`. With add, the answers become part of the talks. */
static rc_code ask_batch(mica *m, const demo_set *set, demo_talk *talks, const char *model, const char *tail,
                         uint32_t max_tokens, bool add, demo_result *result, rc_msg *msg)
{
    size_t count = set->examples_count;
    demo_ask *asks = calloc(count, sizeof *asks);
    demo_talk *with = calloc(count, sizeof *with);
    rc_code code = asks && with ? RC_OK : rc_fail(RC_RESOURCE_EXHAUSTED, msg, "out of memory");
    for (size_t i = 0; i < count && !code; i++) {
        demo_talk_add_ids(&with[i], talks[i].ids, talks[i].count);
        demo_talk_add(m, &with[i], tail);
        asks[i] = (demo_ask){.model = model, .prompt = with[i].ids, .prompt_count = with[i].count,
                             .max_tokens = max_tokens};
    }
    if (!code) code = demo_ask_all(m, asks, count, &result->seconds, msg);
    for (size_t i = 0; i < count && !code; i++) {
        const char *team = demo_set_team_in(set, asks[i].text);
        result->prompt += asks[i].prompt_count;
        result->cached += asks[i].cached;
        result->right += team && !strcmp(team, set->examples[i].team);
        if (add) demo_talk_add_answer(m, &talks[i], &asks[i]);
    }
    if (!code) result->first_median_s = median_first(asks, count);
    for (size_t i = 0; with && i < count; i++) demo_talk_free(&with[i]);
    free(with);
    free(asks);
    return code;
}

static void print_result(const demo_result *r, size_t count, bool scored)
{
    printf("  %-28s %8lu %8lu %9lu %10.1f ms %9.3f s", r->name, (unsigned long)r->prompt,
           (unsigned long)r->cached, (unsigned long)(r->prompt - r->cached), 1e3 * r->first_median_s,
           r->seconds);
    if (scored) printf("   %u of %zu", r->right, count);
    printf("\n");
    fflush(stdout);
}

static rc_code many_conversations(mica *m, const demo_set *set, demo_result *lora, demo_result *alora,
                                  rc_msg *msg)
{
    size_t count = set->examples_count;
    demo_result base = {.name = "base answers"}, words = {.name = "base, asked in words"};
    demo_talk *talks = calloc(count, sizeof *talks);
    rc_code code = talks ? RC_OK : rc_fail(RC_RESOURCE_EXHAUSTED, msg, "out of memory");
    printf("\n%zu held-out conversations at once: base answers each, then each way names the team.\n\n",
           count);
    printf("%-30s %8s %8s %9s %13s %11s   %s\n", "", "prompt", "cached", "computed", "first token",
           "all done", "right");
    for (size_t i = 0; i < count && !code; i++) demo_talk_add(m, &talks[i], set->examples[i].text);
    if (!code) code = ask_batch(m, set, talks, NULL, "", REPLY_TOKENS, true, &base, msg);
    if (!code) print_result(&base, count, false);
    if (!code) code = ask_batch(m, set, talks, NULL, IN_WORDS, WORDS_TOKENS, false, &words, msg);
    if (!code) print_result(&words, count, true);
    if (!code) code = ask_batch(m, set, talks, LORA, TEAM, TEAM_TOKENS, false, lora, msg);
    if (!code) print_result(lora, count, true);
    if (!code) code = ask_batch(m, set, talks, ALORA, TEAM, TEAM_TOKENS, false, alora, msg);
    if (!code) print_result(alora, count, true);
    for (size_t i = 0; talks && i < count; i++) demo_talk_free(&talks[i]);
    free(talks);
    return code;
}

static rc_code demo(const char *model, const char *adapters, const demo_set *set, rc_msg *msg)
{
    mica *m;
    demo_result lora = {.name = LORA}, alora = {.name = ALORA};
    RC_TRY(open_engine(model, adapters, &m, msg));
    mica_info info = mica_get_info(m);
    printf("SmolLM2-135M-Instruct, %s, %s\n", info.dtype, info.device);
    rc_code code = warm_up(m, msg);
    if (!code) code = one_conversation(m, set, msg);
    if (!code) code = many_conversations(m, set, &lora, &alora, msg);
    mica_close(m);
    if (code) return code;
    printf("\ndemo: passed. aLoRA: %u of %zu right in %.2f s; LoRA: %u of %zu right in %.2f s (%.1f times as"
           " long).\n", alora.right, set->examples_count, alora.seconds, lora.right, set->examples_count,
           lora.seconds, lora.seconds / alora.seconds);
    return RC_OK;
}

int main(int argc, char **argv)
{
    demo_set set;
    rc_msg msg;
    if (argc != 4) {
        fprintf(stderr, "usage: mica_demo MODEL ADAPTERS HELDOUT\n");
        return 2;
    }
    rc_code code = demo_set_read(argv[3], &set, &msg);
    if (!code) {
        code = demo(argv[1], argv[2], &set, &msg);
        demo_set_free(&set);
    }
    if (code) fprintf(stderr, "demo: failed: %s\n", msg.text);
    return code ? 1 : 0;
}
