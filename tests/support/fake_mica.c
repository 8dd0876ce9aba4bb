#include "tests/support/fake_mica.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

fake_facts fake;
mica_options fake_options;

typedef struct fake_request {
    uint64_t id;
    struct fake_request *next;
    mica_request r;
    char *text;
    int32_t *ids;
    uint32_t count, made[64];
    bool ended[64], cancelled;
    uint32_t turn;
    char stop;
    const char *adapter;
    uint32_t activation;
    mica_token *prompt_logprobs;
    mica_top *prompt_tops;
} fake_request;

struct mica {
    char names[16][64];
    size_t names_count;
    char base[256];
    fake_request *first;
    fake_request *gone; /* what the last event points into */
    uint64_t ids;
    uint32_t inside;
    uint32_t max_num_seqs;
    int fd;
    mica_stats stats;
    mica_prompt prompt;
    mica_token token;
    mica_top tops[20];
    char text[8];
    char stop[2];
    rc_msg error;
};

rc_code mica_open(const mica_options *options, mica **out, rc_msg *err)
{
    if (strstr(options->model, "missing"))
        return rc_fail(RC_NOT_FOUND, err, "no model at '%s'", options->model);
    for (size_t i = 0; i < options->adapters_count; i++)
        if (strstr(options->adapters[i].path, "missing"))
            return rc_fail(RC_NOT_FOUND, err, "no adapter at '%s'", options->adapters[i].path);
    mica *m = calloc(1, sizeof *m);
    if (!m) return rc_fail(RC_RESOURCE_EXHAUSTED, err, "no memory");
    snprintf(m->base, sizeof m->base, "%s",
             options->served_model_name ? options->served_model_name : options->model);
    for (size_t i = 0; i < options->adapters_count; i++)
        snprintf(m->names[m->names_count++], sizeof m->names[0], "%s", options->adapters[i].name);
    m->max_num_seqs = options->max_num_seqs ? options->max_num_seqs : 256;
    m->fd = open("/dev/zero", O_RDONLY);
    if (options->log) options->log(options->log_ctx, 'I', "weights 1.0 MiB");
    fake.opened++;
    fake_options = *options;
    *out = m;
    return RC_OK;
}

static void destroy(fake_request *r)
{
    free(r->text);
    free(r->ids);
    free(r->prompt_logprobs);
    free(r->prompt_tops);
    free(r);
}

void mica_close(mica *m)
{
    if (!m) return;
    while (m->first) {
        fake_request *r = m->first;
        m->first = r->next;
        destroy(r);
    }
    if (m->gone) destroy(m->gone);
    close(m->fd);
    fake.closed++;
    free(m);
}

rc_code mica_adapter_synthetic(mica *m, const char *name, uint32_t rank, bool qkv_only, bool alora,
                               uint64_t seed, rc_msg *err)
{
    (void)rank, (void)qkv_only, (void)alora, (void)seed, (void)err;
    snprintf(m->names[m->names_count++], sizeof m->names[0], "%s", name);
    return RC_OK;
}

static const char *find_model(mica *m, const char *name, bool *is_known)
{
    *is_known = !name || !strcmp(name, m->base);
    for (size_t i = 0; i < m->names_count && !*is_known; i++)
        if (!strcmp(m->names[i], name)) {
            *is_known = true;
            return m->names[i];
        }
    return NULL;
}

static void make_prompt_logprobs(fake_request *f)
{
    uint32_t k = (uint32_t)f->r.prompt_logprobs;
    f->prompt_logprobs = calloc(f->count, sizeof *f->prompt_logprobs);
    f->prompt_tops = calloc(f->count * (k + 1), sizeof *f->prompt_tops);
    for (uint32_t i = 0; i < f->count; i++) {
        mica_top *tops = f->prompt_tops + i * (k + 1);
        for (uint32_t j = 0; j < k; j++) tops[j] = (mica_top){(int32_t)('A' + j), -0.25f - (float)j, j + 1};
        f->prompt_logprobs[i] = (mica_token){.id = f->ids[i],
                                             .logprob = i % 2 ? -__builtin_inff() : -0.1f,
                                             .rank = 9,
                                             .top = tops,
                                             .top_count = i ? k : 0};
    }
}

static bool begins(const fake_request *f, const char *with)
{
    return f->text && !strncmp(f->text, with, strlen(with));
}

static void take_prompt(fake_request *f, const mica_request *r)
{
    if (r->prompt_text) {
        f->text = calloc(1, r->prompt_text_bytes + 1);
        memcpy(f->text, r->prompt_text, r->prompt_text_bytes);
        f->count = (uint32_t)r->prompt_text_bytes + r->add_special_tokens;
        f->ids = calloc(f->count + 1, sizeof *f->ids);
        f->ids[0] = FAKE_BEGIN;
        for (size_t i = 0; i < r->prompt_text_bytes; i++)
            f->ids[i + r->add_special_tokens] = (unsigned char)r->prompt_text[i];
    } else {
        f->count = (uint32_t)r->prompt_ids_count;
        f->ids = calloc(f->count + 1, sizeof *f->ids);
        memcpy(f->ids, r->prompt_ids, f->count * sizeof *f->ids);
    }
}

rc_code mica_submit(mica *m, const mica_request *r, uint64_t *id, rc_msg *err)
{
    bool is_known;
    const char *adapter = find_model(m, r->model, &is_known);
    if (!is_known)
        return rc_about(rc_fail(RC_NOT_FOUND, err, "The model `%s` does not exist.", r->model), err, "model");
    fake_request *f = calloc(1, sizeof *f);
    f->r = *r;
    take_prompt(f, r);
    bool is_busy = begins(f, "!busy") && m->inside;
    if (!f->count || begins(f, "!huge") || is_busy || r->n > 64) {
        destroy(f);
        if (is_busy) return rc_fail(RC_RESOURCE_EXHAUSTED, err, "busy");
        return rc_about(rc_fail(RC_INVALID_ARGUMENT, err, "the prompt is empty or too long"), err, "prompt");
    }
    f->adapter = adapter;
    f->activation = adapter ? 0 : MICA_NEVER;
    if (adapter && !strncmp(adapter, "alora", 5)) {
        f->activation = MICA_NEVER;
        for (uint32_t i = 0; i < f->count; i++)
            if (f->ids[i] == '|') f->activation = i;
    }
    if (r->has_activation) f->activation = r->activation;
    if (r->prompt_logprobs >= 0) make_prompt_logprobs(f);
    if (r->stop_count) f->stop = r->stop[0].bytes[0];
    f->id = *id = ++m->ids;
    fake_request **last = &m->first;
    while (*last) last = &(*last)->next;
    *last = f;
    m->inside += r->n;
    m->stats.prompt_tokens += f->count;
    if (++fake.submitted == fake.sigint_at) raise(SIGINT);
    if (m->inside > fake.inside_max) fake.inside_max = m->inside;
    size_t used = strlen(fake.keys);
    if (r->key) snprintf(fake.keys + used, sizeof fake.keys - used, "%s ", r->key);
    return RC_OK;
}

rc_code mica_check(mica *m, const mica_request *request, rc_msg *err)
{
    (void)m, (void)request, (void)err;
    return RC_OK;
}

uint32_t mica_cached_tokens(mica *m, const mica_request *request)
{
    (void)m, (void)request;
    return 0;
}

void mica_cancel(mica *m, uint64_t id)
{
    for (fake_request *f = m->first; f; f = f->next)
        if (f->id == id) f->cancelled = true;
}

static void make_token(mica *m, fake_request *f, uint32_t choice, mica_event *e)
{
    uint32_t i = f->made[choice]++;
    bool is_odd = begins(f, "!bytes") && i == 0;
    int32_t id = is_odd ? 0xff : (int32_t)('a' + (f->r.first_choice + choice + f->count + i) % 26);
    m->token = (mica_token){.id = id, .logprob = -(float)(i + 1) / 8, .rank = 1, .text_offset = i};
    m->text[0] = (char)id;
    for (int32_t k = 0; k < f->r.logprobs; k++)
        m->tops[k] = (mica_top){id + k, m->token.logprob - (float)k, (uint32_t)k + 1};
    if (f->r.logprobs > 0) {
        m->token.top = m->tops;
        m->token.top_count = (uint32_t)f->r.logprobs;
    }
    m->stats.generated_tokens++;
    e->text = m->text;
    e->text_bytes = 1;
    e->tokens = &m->token;
    e->tokens_count = 1;
    if (f->r.max_tokens && i + 1 == f->r.max_tokens) e->finish = MICA_LENGTH;
    if (begins(f, "!eos") && i == 1) e->finish = MICA_STOP;
    if (f->stop && f->stop == (char)id) {
        m->stop[0] = f->stop;
        e->finish = MICA_STOP;
        e->stop_text = m->stop;
        e->stop_text_bytes = 1;
        e->text_bytes = f->r.include_stop_str_in_output ? 1 : 0;
    }
    if (i == 0 && !fake.is_silent && begins(f, "!sigint")) raise(SIGINT);
    if (i == 0 && !fake.is_silent && begins(f, "!sigterm")) raise(SIGTERM);
    if (begins(f, "!fail") && i == 1) {
        rc_fail(RC_INTERNAL, &m->error, "the device was lost");
        e->finish = MICA_FAILED;
        e->error = &m->error;
    }
}

static void unlink_request(mica *m, fake_request *f)
{
    fake_request **at = &m->first;
    while (*at != f) at = &(*at)->next;
    *at = f->next;
}

bool mica_poll(mica *m, int timeout_ms, mica_event *e)
{
    (void)timeout_ms;
    fake_request *f = m->first;
    if (m->gone) destroy(m->gone);
    m->gone = NULL;
    if (!f) return false;
    while (f->ended[f->turn % f->r.n]) f->turn++;
    uint32_t choice = f->turn++ % f->r.n;
    *e = (mica_event){
        .request = f->id, .user = f->r.user, .choice = f->r.first_choice + choice, .stop_token = -1};
    m->prompt = (mica_prompt){.ids = f->ids,
                              .count = f->count,
                              .cached_tokens = 1,
                              .adapter = f->adapter,
                              .activation = f->activation,
                              .logprobs = f->prompt_logprobs};
    e->prompt = &m->prompt;
    if (f->cancelled)
        e->finish = MICA_CANCELLED;
    else
        make_token(m, f, choice, e);
    unlink_request(m, f);
    f->next = NULL;
    if (e->finish != MICA_RUNNING) f->ended[choice] = true;
    bool is_done = true;
    for (uint32_t c = 0; c < f->r.n; c++) is_done = is_done && f->ended[c];
    e->request_done = is_done;
    if (is_done) {
        m->inside -= f->r.n;
        m->gone = f;
        return true;
    }
    fake_request **last = &m->first; /* to the end of the queue: requests take turns */
    while (*last) last = &(*last)->next;
    *last = f;
    return true;
}

rc_code mica_adapter_load(mica *m, const char *name, const char *path, rc_msg *err)
{
    (void)m, (void)path;
    return rc_fail(RC_UNIMPLEMENTED, err, "'%s': the script has no loading", name);
}

rc_code mica_adapter_unload(mica *m, const char *name, rc_msg *err)
{
    (void)m;
    return rc_fail(RC_UNIMPLEMENTED, err, "'%s': the script has no unloading", name);
}

rc_code mica_adapter_pin(mica *m, const char *name, rc_msg *err)
{
    bool is_known;
    (void)find_model(m, name, &is_known);
    return is_known ? RC_OK : rc_fail(RC_NOT_FOUND, err, "adapter '%s' is not loaded", name);
}

rc_code mica_adapter_list(const mica *m, mica_adapter **out, size_t *count, rc_msg *err)
{
    *count = m->names_count;
    *out = calloc(m->names_count + 1, sizeof **out);
    if (!*out) return rc_fail(RC_RESOURCE_EXHAUSTED, err, "no memory");
    for (size_t i = 0; i < m->names_count; i++)
        (*out)[i] = (mica_adapter){.id = (int64_t)i + 1, .name = m->names[i], .path = "script"};
    return RC_OK;
}

rc_code mica_tokenize(const mica *m, const char *text, size_t bytes, bool add_special, int32_t **ids,
                      size_t *count, rc_msg *err)
{
    (void)m, (void)text, (void)bytes, (void)add_special, (void)ids, (void)count;
    return rc_fail(RC_UNIMPLEMENTED, err, "the script tokenizes in mica_submit() only");
}

rc_code mica_prompt_ids(mica *m, const mica_request *request, int32_t **ids, size_t *count, rc_msg *err)
{
    (void)m, (void)request, (void)ids, (void)count;
    return rc_fail(RC_UNIMPLEMENTED, err, "the script tokenizes in mica_submit() only");
}

bool mica_kv_poll(mica *m, mica_kv_change *change)
{
    (void)m, (void)change;
    return false;
}

int mica_kv_fd(const mica *m)
{
    (void)m;
    return -1;
}

int mica_fd(const mica *m)
{
    return m->fd;
}

size_t mica_token_text(const mica *m, int32_t id, char *out, size_t out_max)
{
    (void)m;
    const char *text = id >= 256 ? "" : id >= 128 ? "\xef\xbf\xbd" : NULL;
    char one = (char)id;
    size_t bytes = text ? strlen(text) : 1;
    if (bytes <= out_max) memcpy(out, text ? text : &one, bytes);
    return bytes;
}

rc_code mica_detokenize(const mica *m, const int32_t *ids, size_t count, bool skip_special, char **text,
                        size_t *bytes, size_t *offsets, rc_msg *err)
{
    (void)m;
    char *out = malloc(3 * count + 1);
    size_t at = 0;
    if (!out) return rc_fail(RC_RESOURCE_EXHAUSTED, err, "no memory");
    for (size_t i = 0; i < count; i++) {
        if (offsets) offsets[i] = at;
        if (ids[i] < 256)
            out[at++] = (char)ids[i];
        else if (!skip_special)
            at += (size_t)sprintf(out + at, "<s>");
    }
    out[at] = 0;
    *text = out;
    *bytes = at;
    return RC_OK;
}

rc_code mica_follow(const mica_options *options, bool *follows, rc_msg *err)
{
    (void)options, (void)err;
    *follows = false;
    return RC_OK;
}

rc_code mica_status(const mica *m, rc_msg *err)
{
    (void)m, (void)err;
    return RC_OK;
}

mica_stats mica_get_stats(const mica *m)
{
    return m->stats;
}

mica_info mica_get_info(const mica *m)
{
    return (mica_info){.model_name = m->base,
                       .vocab = FAKE_VOCAB,
                       .max_model_len = 4096,
                       .block_size = 16,
                       .blocks = 1024,
                       .max_num_seqs = m->max_num_seqs,
                       .max_num_batched_tokens = 512,
                       .dtype = "float32",
                       .device = "fake"};
}
