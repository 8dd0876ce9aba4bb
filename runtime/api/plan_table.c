/* What is planned, in bytes, and the table of it that is printed before anything is loaded. */
#include "runtime/api/mica_internal.h"

uint64_t mica__rank_bytes(const mica__rank_plan *r)
{
    return r->info.weight_bytes + r->kv_bytes + r->device_bytes + r->activation_bytes;
}

uint64_t mica__plan_bytes(const mica__plan *p)
{
    uint64_t bytes = rt_engine_bytes(&p->engine) + p->kv_queue_bytes;
    for (uint32_t i = 0; i < p->ranks_count; i++) bytes += mica__rank_bytes(&p->ranks[i]);
    return bytes;
}

static const char *kv_name(uint32_t element_bytes)
{
    return element_bytes == 4 ? "float32" : element_bytes == 2 ? "bfloat16" : "int8";
}

static void print_row(const mica *m, const char *what, uint64_t bytes, const char *detail)
{
    char line[256];
    snprintf(line, sizeof line, "  %-12s %10.1f MiB  %s", what, (double)bytes / (1 << 20), detail);
    m->o.log(m->o.log_ctx, 'I', line);
}

/* What each rank has, where there are several. */
static void print_ranks(const mica *m)
{
    const mica__plan *p = &m->plan;
    for (uint32_t i = 0; p->info.shard.world > 1 && i < p->ranks_count; i++) {
        const mica__rank_plan *r = &p->ranks[i];
        const rt_shard *s = &r->info.shard;
        char name[32], detail[160];
        snprintf(name, sizeof name, "  rank %u", s->rank);
        snprintf(detail, sizeof detail, "weights %.1f, K/V %.1f; heads %u-%u, K/V heads %u-%u; threads %u",
                 (double)r->info.weight_bytes / (1 << 20), (double)r->kv_bytes / (1 << 20), s->heads.first,
                 s->heads.first + s->heads.count - 1, s->kv_heads.first,
                 s->kv_heads.first + s->kv_heads.count - 1, r->device.threads);
        print_row(m, name, mica__rank_bytes(r), detail);
    }
}

void mica__plan_print(const mica *m, uint64_t program_bytes)
{
    const mica__plan *p = &m->plan;
    uint64_t weights = 0, kv_bytes = 0, others = 0;
    char detail[128];
    if (!m->o.log) return;
    for (uint32_t i = 0; i < p->ranks_count; i++) {
        weights += p->ranks[i].info.weight_bytes;
        kv_bytes += p->ranks[i].kv_bytes;
        others += p->ranks[i].activation_bytes + p->ranks[i].device_bytes;
    }
    m->o.log(m->o.log_ctx, 'I', "planned memory:");
    snprintf(detail, sizeof detail, "%s, %u layers", p->info.dtype == RC_F32 ? "float32" : "bfloat16",
             p->info.config.layers);
    print_row(m, "weights", weights, detail);
    snprintf(detail, sizeof detail, "%u blocks of %u tokens, %s", p->engine.blocks_max, p->block_size,
             kv_name(p->kv_element_bytes));
    print_row(m, "K/V cache", kv_bytes, detail);
    snprintf(detail, sizeof detail, "%u known, %u slots", m->names_count, p->engine.slots_max);
    print_row(m, "adapters", 2 * m->bytes_adapters, detail);
    snprintf(detail, sizeof detail, "%u rows a step", p->engine.rows_max);
    print_row(m, "activations", others, detail);
    print_ranks(m);
    snprintf(detail, sizeof detail, "cache, scheduler and batch of %u sequences", p->engine.running_max);
    print_row(m, "bookkeeping", rt_engine_bytes(&p->engine) + p->kv_queue_bytes, detail);
    print_row(m, "program", program_bytes, "code, tokenizer, libraries");
    print_row(m, "in all", m->planned_bytes, m->device_text);
}
