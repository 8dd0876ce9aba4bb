/* A model in parts, on ranks of one group, gives what the whole model gives. */
#include "model_support.h"

#include <dirent.h>
#include <stdio.h>

#include "checkpoint_files.h"
#include "runtime/backend/group_local.h"
#include "runtime/backend/pool.h"

#define MODELS MICA_SOURCE_DIR "/tests/golden/models/"

static const char *const models[] = {"granite",    "granite-odd",  "hybrid",       "hybrid-nope",
                                     "llama-bias", "llama-linear", "llama-llama3", "llama-odd"};
static const int32_t prompt[] = {3, 17, 90, 201, 44, 5, 131, 8, 260, 9, 77, 100, 31, 7, 7, 250, 12};
enum { MODELS_COUNT = sizeof models / sizeof *models, PROMPT = sizeof prompt / sizeof *prompt };
enum { RANKS_MAX = 4 };

typedef struct ranks {
    uint32_t count, rows, activation;
    rt_group_local *group;
    rt_pool *team;
    run runs[RANKS_MAX];
    float *logits[RANKS_MAX];
} ranks;

static rc_code open_ranks(const rt_model_options *o, uint32_t count, ranks *r, rc_msg *msg)
{
    rt_group_local_options group = {.ranks = count, .threads = count};
    *r = (ranks){.count = count, .rows = 5, .activation = UINT32_MAX};
    assert_int_equal(rt_group_local_create(&group, &r->group, NULL), RC_OK);
    for (uint32_t i = 0; i < count; i++) {
        rt_model_options own = *o;
        own.rank = i;
        own.world = count;
        rc_code code = try_open_rank(&own, rt_group_local_rank(r->group, i), &r->runs[i], msg);
        if (code != RC_OK) {
            for (uint32_t j = 0; j < i; j++) close_run(&r->runs[j]);
            rt_group_local_destroy(r->group);
            return code;
        }
        r->logits[i] = malloc((size_t)PROMPT * r->runs[i].info.config.vocab * sizeof(float));
        assert_non_null(r->logits[i]);
    }
    assert_int_equal(rt_pool_create(count, &r->team, NULL), RC_OK);
    return RC_OK;
}

static void close_ranks(ranks *r)
{
    for (uint32_t i = 0; i < r->count; i++) {
        close_run(&r->runs[i]);
        free(r->logits[i]);
    }
    rt_pool_destroy(r->team);
    rt_group_local_destroy(r->group);
}

static void run_rank(void *arg, uint32_t rank, uint32_t count)
{
    ranks *r = arg;
    (void)count;
    run_tokens(&r->runs[rank], prompt, PROMPT, r->rows, r->activation, r->logits[rank]);
}

static double worst_difference(const float *a, const float *b, uint32_t vocab)
{
    double worst = 0;
    for (uint32_t row = 0; row < PROMPT; row++, a += vocab, b += vocab) {
        double sums = (log_probability(a, vocab, 0) - a[0]) - (log_probability(b, vocab, 0) - b[0]);
        for (uint32_t v = 0; v < vocab; v++) {
            double off = fabs((double)a[v] - b[v] + sums);
            if (!(off <= worst)) worst = off; /* NaN too */
        }
    }
    return worst;
}

/* The ranks against the whole model, which ran already; then in other chunks, for the same bits. */
static void check_ranks(const char *what, ranks *r, const float *whole, double allowed)
{
    uint32_t vocab = r->runs[0].info.config.vocab;
    size_t bytes = (size_t)PROMPT * vocab * sizeof(float);
    rt_pool_run(r->team, run_rank, r);
    double off = worst_difference(whole, r->logits[0], vocab);
    if (!(off <= allowed)) fail_msg("%s on %u ranks: off by %g", what, r->count, off);
    float *before = malloc(bytes);
    memcpy(before, r->logits[0], bytes);
    r->rows = 3;
    rt_pool_run(r->team, run_rank, r);
    assert_memory_equal(before, r->logits[0], bytes);
    free(before);
}

static float *whole_logits(const rt_model_options *o, const adapter_weights *w, uint32_t activation)
{
    run r = open_run(o);
    float *logits = malloc((size_t)PROMPT * r.info.config.vocab * sizeof *logits);
    assert_non_null(logits);
    if (w) assert_int_equal(rt_backend_cpu()->adapter_attach(r.device, 0, w, r.info.dtype, NULL), RC_OK);
    run_tokens(&r, prompt, PROMPT, 5, activation, logits);
    close_run(&r);
    return logits;
}

static void check_model(const char *what, const rt_model_options *o, double allowed)
{
    float *whole = whole_logits(o, NULL, UINT32_MAX);
    for (uint32_t count = 2; count <= RANKS_MAX; count++) {
        ranks r;
        rc_msg msg = {0};
        rt_model_info info;
        assert_int_equal(rt_model_probe(o, rt_backend_cpu(), &info, &msg), RC_OK);
        if (count > info.config.heads) continue;
        if (open_ranks(o, count, &r, &msg) != RC_OK) fail_msg("%s: %s", what, msg.text);
        check_ranks(what, &r, whole, allowed);
        close_ranks(&r);
    }
    free(whole);
}

static void two_to_four_ranks_are_within_1e_4_of_one(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODELS_COUNT; i++) {
        char path[512];
        snprintf(path, sizeof path, MODELS "%s", models[i]);
        rt_model_options o = options_of(path, RC_F32);
        check_model(models[i], &o, 1e-4);
    }
}

static void dummies_are_the_same_model_on_any_number_of_ranks(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODELS_COUNT; i++) {
        char path[512];
        snprintf(path, sizeof path, MODELS "%s", models[i]);
        rt_model_options o = options_of(path, RC_F32);
        o.dummy = true;
        check_model(models[i], &o, 1e-4);
    }
}

static void a_gguf_splits_like_the_directory(void **state)
{
    static const char *const archs[][2] = {{"granite-odd", "granite"}, {"llama-odd", "llama"}};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        char directory[256], file[256], path[512];
        temp_dir d = make_temp_dir();
        adapter_st *st;
        rt_model_info info;
        rc_msg msg = {0};
        snprintf(directory, sizeof directory, MODELS "%s", archs[i][0]);
        snprintf(path, sizeof path, "%s/model.safetensors", directory);
        snprintf(file, sizeof file, "%s/m.gguf", d.path);
        if (adapter_st_open(path, &st, &msg) != RC_OK) fail_msg("%s", msg.text);
        rt_model_options o = options_of(directory, RC_F32), g = options_of(file, RC_F32);
        assert_int_equal(rt_model_probe(&o, rt_backend_cpu(), &info, &msg), RC_OK);
        write_gguf(d.path, "m.gguf", st, &info.config, archs[i][1]);
        check_model(file, &g, 1e-4);
        adapter_st_close(st);
        remove_temp_dir(&d);
    }
}

static void attach_to_ranks(ranks *r, const adapter_weights *w)
{
    for (uint32_t i = 0; i < r->count; i++) {
        const rt_model_info *info = &r->runs[i].info;
        adapter_weights *own;
        assert_int_equal(rt_shard_adapter(&info->config, &info->shard, w, &own, NULL), RC_OK);
        assert_int_equal(rt_backend_cpu()->adapter_attach(r->runs[i].device, 0, own, RC_F32, NULL), RC_OK);
        adapter_weights_free(own);
    }
}

static void check_adapter(const rt_model_options *o, const char *path, const adapter_shape *shape)
{
    adapter_weights *w;
    rc_msg msg = {0};
    if (adapter_weights_load(path, shape, NULL, NULL, &w, &msg) != RC_OK) fail_msg("%s: %s", path, msg.text);
    float *whole = whole_logits(o, w, 6), *base = whole_logits(o, NULL, UINT32_MAX);
    for (uint32_t count = 2; count <= RANKS_MAX; count++) {
        ranks r;
        if (open_ranks(o, count, &r, &msg) != RC_OK) continue; /* fewer heads */
        attach_to_ranks(&r, w);
        r.activation = 6;
        check_ranks(path, &r, whole, 1e-4);
        assert_true(worst_difference(base, r.logits[0], r.runs[0].info.config.vocab) > 1e-2);
        close_ranks(&r);
    }
    free(whole);
    free(base);
    adapter_weights_free(w);
}

static void adapters_split_with_their_linears(void **state)
{
    (void)state;
    uint32_t checked = 0;
    for (size_t i = 0; i < MODELS_COUNT; i++) {
        char path[512], adapters[600];
        rt_model_info info;
        snprintf(path, sizeof path, MODELS "%s", models[i]);
        snprintf(adapters, sizeof adapters, "%s/adapters", path);
        rt_model_options o = options_of(path, RC_F32);
        assert_int_equal(rt_model_probe(&o, rt_backend_cpu(), &info, NULL), RC_OK);
        adapter_shape shape = {.rank_max = 64};
        rt_model_adapter_shape(&info.config, &shape);
        DIR *d = opendir(adapters);
        assert_non_null(d);
        for (struct dirent *e; (e = readdir(d));) {
            char adapter[900];
            if (e->d_name[0] == '.' || strstr(e->d_name, "legacy")) continue; /* legacy: needs a tokenizer */
            snprintf(adapter, sizeof adapter, "%s/%s", adapters, e->d_name);
            check_adapter(&o, adapter, &shape);
            checked++;
        }
        closedir(d);
    }
    assert_true(checked > 20);
}

static rt_model_config config_of(uint32_t heads, uint32_t kv_heads, uint32_t ffn, uint32_t vocab)
{
    return (rt_model_config){.heads = heads, .kv_heads = kv_heads, .head_dim = 8, .hidden = 64, .ffn = ffn,
                             .vocab = vocab, .layers = 1};
}

static void shares_cover_everything_and_keep_queries_with_their_kv_head(void **state)
{
    (void)state;
    for (uint32_t kv = 1; kv <= 6; kv++)
        for (uint32_t queries = 1; queries <= 5; queries++)
            for (uint32_t world = 1; world <= kv * queries; world++) {
                rt_model_config c = config_of(kv * queries, kv, 70, 101);
                uint32_t head = 0, ffn = 0, vocab = 0, kv_end = 0;
                for (uint32_t r = 0; r < world; r++) {
                    rt_shard s;
                    assert_int_equal(rt_shard_make(&c, r, world, &s, NULL), RC_OK);
                    assert_true(s.heads.count && s.kv_heads.count && s.ffn.count && s.vocab.count);
                    assert_int_equal(s.heads.first, head);
                    assert_int_equal(s.ffn.first, ffn);
                    assert_int_equal(s.vocab.first, vocab);
                    assert_int_equal(s.heads.count % s.kv_heads.count, 0);
                    assert_int_equal(s.heads.first / queries, s.kv_heads.first);
                    uint32_t last = s.heads.first + s.heads.count - 1;
                    assert_int_equal(last / queries, s.kv_heads.first + s.kv_heads.count - 1);
                    head += s.heads.count;
                    ffn += s.ffn.count;
                    vocab += s.vocab.count;
                    kv_end = s.kv_heads.first + s.kv_heads.count;
                }
                assert_int_equal(head, c.heads);
                assert_int_equal(kv_end, kv);
                assert_int_equal(ffn, 70);
                assert_int_equal(vocab, 101);
            }
}

static void cuts_fall_between_groups_where_there_are_enough(void **state)
{
    (void)state;
    rt_model_config c = config_of(8, 8, 1280, 100);
    rt_shard s;
    assert_int_equal(rt_shard_make(&c, 1, 3, &s, NULL), RC_OK);
    assert_int_equal(s.ffn.first, 256);
    assert_int_equal(s.ffn.count, 512);
    c.ffn = 96;
    assert_int_equal(rt_shard_make(&c, 2, 3, &s, NULL), RC_OK);
    assert_int_equal(s.ffn.first, 64);
    assert_int_equal(rt_shard_make(&c, 2, 5, &s, NULL), RC_OK);
    assert_int_equal(s.ffn.first, 38);
}

static void what_cannot_be_split_is_refused_in_a_line(void **state)
{
    (void)state;
    rt_model_config c = config_of(4, 2, 64, 100);
    rt_shard s;
    rc_msg msg;
    assert_int_equal(rt_shard_make(&c, 0, 5, &s, &msg), RC_INVALID_ARGUMENT);
    assert_string_equal(msg.text, "--tensor-parallel-size 5: the model has 4 attention heads, which can't be "
                                  "split further");
    assert_string_equal(msg.param, "--tensor-parallel-size");

    rt_model_options o = options_of(MODELS "llama-llama3", RC_F32);
    ranks r;
    o.quant = rt_quant_named("q8_0");
    assert_int_equal(open_ranks(&o, 4, &r, &msg), RC_INVALID_ARGUMENT); /* four heads of 16 */
    assert_string_equal(msg.text, "--tensor-parallel-size: a rank would have columns 0 to 16 of "
                                  "model.layers.0.self_attn.o_proj, expected whole groups of 32 (Q8_0)");
}

static void quantised_matrices_split_between_groups(void **state)
{
    (void)state;
    rt_model_options o = options_of(MODELS "llama-llama3", RC_F32); /* two heads of 16 are a group */
    float *whole, *exact = whole_logits(&o, NULL, UINT32_MAX);
    ranks r;
    o.quant = rt_quant_named("q4_0");
    whole = whole_logits(&o, NULL, UINT32_MAX);
    assert_int_equal(open_ranks(&o, 2, &r, NULL), RC_OK);
    check_ranks("q4_0", &r, whole, 1e-4);
    assert_true(worst_difference(exact, r.logits[0], r.runs[0].info.config.vocab) > 1e-2);
    close_ranks(&r);
    free(whole);
    free(exact);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_to_four_ranks_are_within_1e_4_of_one),
        cmocka_unit_test(dummies_are_the_same_model_on_any_number_of_ranks),
        cmocka_unit_test(a_gguf_splits_like_the_directory),
        cmocka_unit_test(quantised_matrices_split_between_groups),
        cmocka_unit_test(adapters_split_with_their_linears),
        cmocka_unit_test(shares_cover_everything_and_keep_queries_with_their_kv_head),
        cmocka_unit_test(cuts_fall_between_groups_where_there_are_enough),
        cmocka_unit_test(what_cannot_be_split_is_refused_in_a_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
