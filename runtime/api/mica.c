#include "runtime/mica.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/api/mica_internal.h"

/* ---- opening ---- */

static uint64_t resident_bytes(void)
{
    unsigned long long total, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%llu %llu", &total, &resident) != 2) resident = 0;
    if (f) fclose(f);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* A dummy model may come without a tokenizer: then prompts are token ids and there is no text. */
static rc_code open_tokenizer(mica *m, rc_msg *err)
{
    char path[4096];
    struct stat st;
    snprintf(path, sizeof path, "%s/tokenizer.json", m->o.model);
    if (m->o.load_dummy && stat(path, &st)) return RC_OK;
    RC_TRY(rt_tokenizer_open(m->o.model, &m->tokenizer, err));
    m->limits.piece_max = rt_tokenizer_piece_max(m->tokenizer);
    return RC_OK;
}

static rc_code open_model(mica *m, rc_msg *err)
{
    mica__plan *p = &m->plan;
    char ranks[32] = "";
    RC_TRY(mica__plan_open(&m->o, &m->device, &m->processes, p, &m->ranks, &m->exec, err));
    if (p->info.shard.world > 1) snprintf(ranks, sizeof ranks, ", each of %u ranks", p->info.shard.world);
    snprintf(m->device_text, sizeof m->device_text, "%s %s%s", m->device.backend->name,
             m->device.backend->describe(m->ranks.models[0].device), ranks);
    if (!m->processes.mesh) return RC_OK;
    rt_exec_lead_options lead = {.own = m->exec,
                                 .mesh = m->processes.mesh,
                                 .watch = m->processes.watch,
                                 .limits = mica__plan_wire(p),
                                 .wake = mica__wake,
                                 .wake_ctx = m};
    return rt_exec_lead_create(&lead, &m->lead, &m->exec, err);
}

static void set_limits(mica *m)
{
    const mica__plan *p = &m->plan;
    m->limits.vocab = p->info.config.vocab;
    m->limits.max_model_len = p->max_model_len;
    m->limits.engine_seed = m->o.seed;
    m->limits.eos = p->info.config.eos;
    m->limits.eos_count = p->info.config.eos_count;
    m->limits.require_activation = m->o.require_activation;
    mica__plan_shape(p, &m->shape);
}

static rc_code start(mica *m, rc_msg *err)
{
    m->plan.engine.exec = m->exec;
    m->plan.engine.device_works = mica__device_works;
    m->plan.engine.device_works_ctx = m;
    RC_TRY(mica__kv_watch(m, err));
    RC_TRY(rt_engine_create(&m->plan.engine, &m->engine, err));
    if (m->kv_queue) mica__kv_queue_end(m->kv_queue);
    RC_TRY(rt_loader_create(&m->exec, m->plan.engine.slots_max, mica__wake, m, &m->loader, err));
    m->names = calloc(MICA__ADAPTERS_MAX, sizeof *m->names);
    m->event_text = malloc(MICA__EVENT_TEXT_BYTES);
    m->event_tokens = malloc(MICA__EVENT_TOKENS * sizeof *m->event_tokens);
    if (!m->names || !m->event_text || !m->event_tokens)
        return rc_fail(RC_RESOURCE_EXHAUSTED, err, "no memory for the adapters' names");
    if (pthread_create(&m->thread, NULL, mica__run, m))
        return rc_fail(RC_INTERNAL, err, "the engine's thread could not be started");
    m->thread_runs = true;
    return RC_OK;
}

static rc_code load_adapters(mica *m, rc_msg *err)
{
    for (size_t i = 0; i < m->o.adapters_count; i++)
        RC_TRY(mica_adapter_load(m, m->o.adapters[i].name, m->o.adapters[i].path, err));
    return RC_OK;
}

static rc_code open_parts(mica *m, rc_msg *err)
{
    uint64_t program;
    RC_TRY(mica__processes_find(&m->o, &m->processes, err));
    if (m->processes.launch.process)
        return rc_fail(RC_FAILED_PRECONDITION, err, "this is process %u, which can only follow process 0",
                       m->processes.launch.process);
    RC_TRY(mica__processes_meet(&m->o, &m->processes, err));
    RC_TRY(mica__device_choose(&m->o, &m->device, err));
    RC_TRY(mica__plan_make(&m->o, &m->device, &m->processes, &m->plan, err));
    RC_TRY(open_tokenizer(m, err));
    program = resident_bytes();
    RC_TRY(open_model(m, err));
    set_limits(m);
    RC_TRY(start(m, err));
    RC_TRY(load_adapters(m, err));
    m->planned_bytes = mica__plan_bytes(&m->plan) + 2 * m->bytes_adapters + program;
    if (m->o.log && *m->device.why) m->o.log(m->o.log_ctx, 'I', m->device.why);
    mica__plan_print(m, program);
    return RC_OK;
}

/* An older caller's struct is shorter: what it does not have stays at the default. */
rc_code mica__options_copy(const mica_options *from, mica_options *to, rc_msg *err)
{
    if (from->size < offsetof(mica_options, load_dummy) || from->size > sizeof *from)
        return rc_fail(RC_INVALID_ARGUMENT, err, "mica_options.size is %zu: use MICA_OPTIONS_INIT",
                       from->size);
    memcpy(to, from, from->size);
    if (to->model) return RC_OK;
    return rc_about(rc_fail(RC_INVALID_ARGUMENT, err, "--model is missing"), err, "--model");
}

static rc_code copy_options(mica *m, const mica_options *options, rc_msg *err)
{
    RC_TRY(mica__options_copy(options, &m->o, err));
    m->model_name = strdup(m->o.served_model_name ? m->o.served_model_name : m->o.model);
    m->o.model = strdup(m->o.model);
    if (m->model_name && m->o.model) return RC_OK;
    return rc_fail(RC_RESOURCE_EXHAUSTED, err, "no memory to open a model");
}

/* line: why it could not begin, which other processes are told; else NULL. */
static void close_all(mica *m, const char *line)
{
    if (!m) return;
    if (m->thread_runs) {
        pthread_mutex_lock(&m->lock);
        m->stopping = true;
        pthread_cond_signal(&m->work);
        pthread_mutex_unlock(&m->lock);
        pthread_join(m->thread, NULL);
    }
    rt_loader_destroy(m->loader);
    rt_engine_destroy(m->engine);
    mica__kv_queue_destroy(m->kv_queue);
    for (uint32_t i = 0; i < MICA__ID_BUCKETS; i++)
        for (rt_request *r = m->by_id[i], *next; r; r = next) {
            next = r->next_by_id;
            rt_request_free(r);
        }
    if (!line) rt_exec_lead_end(m->lead);
    rt_exec_lead_destroy(m->lead);
    mica__processes_end(&m->processes, line);
    mica__ranks_close(&m->ranks);
    mica__processes_close(&m->processes);
    mica__plan_free(&m->plan);
    rt_tokenizer_close(m->tokenizer);
    if (m->news_fd >= 0) close(m->news_fd);
    pthread_mutex_destroy(&m->lock);
    pthread_mutex_destroy(&m->engine_lock);
    pthread_cond_destroy(&m->news_came);
    pthread_cond_destroy(&m->work);
    pthread_cond_destroy(&m->op_ended);
    free(m->event_text);
    free(m->event_tokens);
    for (uint32_t i = 0; i < m->names_count; i++) free(m->names[i].path);
    free(m->names);
    free(m->model_name);
    if (m->o.model) free((char *)m->o.model);
    free(m);
}

rc_code mica_open(const mica_options *options, mica **out, rc_msg *err)
{
    pthread_condattr_t monotonic;
    mica *m = calloc(1, sizeof *m);
    rc_msg why;
    rc_code code;
    if (!m) return rc_fail(RC_RESOURCE_EXHAUSTED, err, "no memory to open a model");
    m->limits.piece_max = 1;
    m->next_id = 1;
    m->news_fd = eventfd(0, EFD_CLOEXEC);
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->engine_lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&m->news_came, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_cond_init(&m->work, NULL);
    pthread_cond_init(&m->op_ended, NULL);
    code = m->news_fd < 0 ? rc_fail(RC_INTERNAL, &why, "no file descriptor for events")
                          : copy_options(m, options, &why);
    if (code == RC_OK) code = open_parts(m, &why);
    if (code == RC_OK) {
        *out = m;
        return RC_OK;
    }
    close_all(m, why.text);
    if (err) *err = why;
    return code;
}

void mica_close(mica *m) { close_all(m, NULL); }

/* ---- queries ---- */

rc_code mica_status(const mica *m, rc_msg *err)
{
    mica *unlocked = (mica *)m;
    pthread_mutex_lock(&unlocked->lock);
    rc_code code = m->is_lost ? RC_UNAVAILABLE : RC_OK;
    if (m->is_lost && err) *err = m->why_lost;
    pthread_mutex_unlock(&unlocked->lock);
    return code;
}

mica_stats mica_get_stats(const mica *m)
{
    mica *unlocked = (mica *)m;
    mica_stats stats;
    pthread_mutex_lock(&unlocked->lock);
    stats = m->stats;
    pthread_mutex_unlock(&unlocked->lock);
    return stats;
}

mica_info mica_get_info(const mica *m)
{
    const mica__plan *p = &m->plan;
    return (mica_info){.model_name = m->model_name,
                       .vocab = p->info.config.vocab,
                       .max_model_len = p->max_model_len,
                       .block_size = p->block_size,
                       .blocks = p->engine.blocks_max,
                       .max_num_seqs = p->engine.running_max,
                       .max_num_batched_tokens = p->engine.rows_max,
                       .dtype = p->info.dtype == RC_F32 ? "float32" : "bfloat16",
                       .device = m->device_text,
                       .planned_bytes = m->planned_bytes,
                       .max_loras = p->engine.slots_max,
                       .ranks = p->info.shard.world};
}
