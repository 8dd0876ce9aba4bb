#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/api/mica_internal.h"
#include "runtime/backend/pool.h"

enum {
    ROWS_OF_CPU = 512,
    ROWS_OF_PLUGIN = 2048, /* of fewer a GPU's products do not use all of it */
    BLOCKS_MAX = 1 << 24,
    BLOCKS_DEFAULT_MAX = 1 << 18, /* what small models get: 4 M positions at 16 a block */
    LOGIT_ROWS_MAX = 64,          /* rows of logits at a time: 64 * 100k * 4 bytes are 25 MB */
    LISTS_MAX = 8192,             /* words of one row's biases, history and masked ids on a device */
    ALL_LISTS_MAX = 1 << 21,      /* and of a whole step's */
    QUEUE_MAX = 16384             /* sequences waiting beyond those that run */
};

static uint64_t free_memory(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
    if (f) fclose(f);
    return kib ? kib << 10 : 4ull << 30;
}

static rc_code refuse(rc_msg *msg, const char *flag, uint64_t value, const char *expected)
{
    rc_fail(RC_INVALID_ARGUMENT, msg, "%s must be %s, got %llu", flag, expected, (unsigned long long)value);
    return rc_about(RC_INVALID_ARGUMENT, msg, flag);
}

static rc_code choose_sizes(const mica_options *o, const mica__device *device, mica__plan *p, rc_msg *msg)
{
    uint32_t rows = device->plugin ? ROWS_OF_PLUGIN : ROWS_OF_CPU; /* by default */
    uint32_t block = o->block_size ? o->block_size : 16;
    if (block < 8 || block > 256 || (block & (block - 1)))
        return refuse(msg, "--block-size", block, "a power of two from 8 to 256");
    if (o->max_num_seqs > 65536) return refuse(msg, "--max-num-seqs", o->max_num_seqs, "at most 65536");
    if (o->max_num_batched_tokens > 65536)
        return refuse(msg, "--max-num-batched-tokens", o->max_num_batched_tokens, "at most 65536");
    if (o->max_loras > 4096) return refuse(msg, "--max-loras", o->max_loras, "at most 4096");
    if (o->max_lora_rank > ADAPTER_RANK_MAX)
        return refuse(msg, "--max-lora-rank", o->max_lora_rank, "at most 4096");
    if (o->threads > 1024) return refuse(msg, "--threads", o->threads, "at most 1024");
    p->lora_rank_max = o->max_lora_rank ? o->max_lora_rank : 64;
    p->block_size = block;
    p->engine.running_max = o->max_num_seqs ? o->max_num_seqs : 256;
    p->engine.rows_max = o->max_num_batched_tokens ? o->max_num_batched_tokens : rows;
    p->engine.seqs_max = p->engine.running_max + QUEUE_MAX;
    p->engine.slots_max = o->max_loras ? o->max_loras : MICA_MAX_LORAS_DEFAULT;
    p->engine.contents_max = MICA__ADAPTERS_MAX;
    p->engine.block_tokens = block;
    p->engine.enable_prefix_cache = !o->disable_prefix_caching;
    p->engine.by_priority = o->priority_scheduling;
    p->engine.in_order = o->admit_in_order;
    p->engine.prefill_first = o->prefill_first;
    p->engine.eos = p->info.config.eos;
    p->engine.eos_count = p->info.config.eos_count;
    return RC_OK;
}

/* Blocks have the same numbers on every rank: the rank with most K/V heads bounds them. */
static uint32_t most_kv_heads(const mica__plan *p)
{
    uint32_t most = 0, world = p->ranks[0].info.shard.world;
    for (uint32_t rank = 0; rank < world; rank++) {
        rt_shard s;
        if (rt_shard_make(&p->info.config, rank, world, &s, NULL) == RC_OK && s.kv_heads.count > most)
            most = s.kv_heads.count;
    }
    return most;
}

/* A rank's share of the process's threads. */
static uint32_t threads_of(uint32_t threads, uint32_t i, uint32_t ranks)
{
    uint32_t first, end;
    rt_group_share(threads, i, ranks, &first, &end);
    return end > first ? end - first : 1;
}

/* The i-th rank's sizes with `positions` a sequence at most; without K/V where the blocks are not known yet.
 */
static void size_rank(const mica_options *o, const rt_backend *backend, const mica__processes *processes,
                      const mica__plan *p, uint32_t i, uint32_t positions)
{
    uint32_t threads = mica__processes_threads(o, processes);
    mica__rank_plan *r = &p->ranks[i];
    const rt_model_config *c = &r->info.own;
    kv_layout layout = {c->layers, c->kv_heads, c->head_dim, p->block_size, p->kv_element_bytes};
    uint32_t rows = p->engine.rows_max, logits = rows < LOGIT_ROWS_MAX ? rows : LOGIT_ROWS_MAX;
    uint32_t draws = p->engine.running_max < rows ? p->engine.running_max : rows;
    uint32_t lists = ALL_LISTS_MAX / draws;
    size_t table = (positions + p->block_size - 1) / p->block_size;
    r->limits = (rt_model_limits){rows, logits, positions, layout};
    r->device = (rt_device_options){.threads = threads_of(threads, i, p->ranks_count),
                                    .kernels = o->cpu_kernels ? o->cpu_kernels : "auto",
                                    .rows_max = rows,
                                    .width_max = rt_model_width_max(c),
                                    .sums_width = c->hidden,
                                    .slots_max = p->engine.slots_max,
                                    .layers = c->layers,
                                    .linears = RT_LINEARS,
                                    .lora_rank_max = p->lora_rank_max,
                                    .kv = layout,
                                    .kv_blocks = p->kv_is_measured ? 0 : p->engine.blocks_max,
                                    .heads = c->heads,
                                    .table_words_max = (uint32_t)(table * p->engine.running_max),
                                    .host_floats = (size_t)logits * c->vocab,
                                    .draws_max = draws,
                                    .lists_max = lists < LISTS_MAX ? lists : LISTS_MAX,
                                    .world = r->info.shard.world,
                                    .plain_sums = o->disable_custom_all_reduce,
                                    .batch_invariant = o->batch_invariant,
                                    .eager = o->enforce_eager,
                                    .ordinal = processes->launch.local * p->ranks_count + i};
    r->kv_bytes = (uint64_t)p->engine.blocks_max * kv_block_bytes(&layout);
    r->device_bytes = backend->bytes(&r->device) - r->device.kv_blocks * kv_block_bytes(&layout);
    r->activation_bytes = rt_model_activation_bytes(c, &r->limits);
}

/* As if every slot had an adapter of the largest rank for every linear. */
static uint64_t adapters_bytes(const mica__plan *p, const mica__rank_plan *r)
{
    adapter_shape shape;
    uint64_t elements = 0;
    rt_model_adapter_shape(&r->info.own, &shape);
    for (uint32_t i = 0; i < shape.modules_count; i++) elements += shape.modules[i].in + shape.modules[i].out;
    return elements * p->lora_rank_max * r->info.own.layers * rc_dtype_bytes(p->info.dtype) *
           p->engine.slots_max;
}

/* What the devices of all ranks here have left for K/V, beside adapters, and beside the rest of what is
 * planned unless that is there already. */
static rc_code room_on_devices(const mica_options *o, const mica__device *device, const mica__plan *p,
                               bool is_open, uint64_t *bytes, rc_msg *msg)
{
    *bytes = UINT64_MAX;
    for (uint32_t i = 0; i < p->ranks_count; i++) {
        const mica__rank_plan *r = &p->ranks[i];
        uint64_t room, others = adapters_bytes(p, r) + (is_open ? 0 : mica__rank_bytes(r));
        RC_TRY(mica__device_room(device, o, r->device.ordinal, others, &room, msg));
        if (room < *bytes) *bytes = room;
    }
    return RC_OK;
}

/* Before blocks are known. */
static rc_code planned_room(const mica_options *o, const mica__device *device,
                            const mica__processes *processes, mica__plan *p, uint64_t *bytes, rc_msg *msg)
{
    uint32_t positions = p->info.config.positions_max;
    if (o->max_model_len && o->max_model_len < positions) positions = o->max_model_len;
    p->kv_is_measured = device->backend->kv_create != NULL;
    for (uint32_t i = 0; i < p->ranks_count; i++)
        size_rank(o, device->backend, processes, p, i, positions);
    return room_on_devices(o, device, p, false, bytes, msg);
}

static rc_code choose_kv_bytes(const mica_options *o, const mica__device *device,
                               const mica__processes *processes, mica__plan *p, uint64_t *bytes, rc_msg *msg)
{
    *bytes = o->kv_cache_memory_bytes;
    if (*bytes) return RC_OK;
    if (device->plugin && !o->num_gpu_blocks) return planned_room(o, device, processes, p, bytes, msg);
    *bytes = free_memory() / 4;
    if (*bytes > 4ull << 30) *bytes = 4ull << 30;
    *bytes /= p->ranks_count;
    return RC_OK;
}

/* As many blocks as are asked for, or as `bytes` hold. */
static rc_code count_blocks(const mica_options *o, mica__plan *p, uint64_t bytes, rc_msg *msg)
{
    uint64_t blocks = bytes / p->kv_block_bytes;
    if (!o->kv_cache_memory_bytes && blocks > BLOCKS_DEFAULT_MAX) blocks = BLOCKS_DEFAULT_MAX;
    if (o->num_gpu_blocks) blocks = o->num_gpu_blocks;
    if (!blocks)
        return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg,
                                "--kv-cache-memory-bytes %llu does not hold one block of %zu bytes",
                                (unsigned long long)bytes, p->kv_block_bytes),
                        msg, "--kv-cache-memory-bytes");
    if (blocks > BLOCKS_MAX)
        return refuse(msg, "the number of K/V blocks", blocks,
                      "at most 16777216; use larger blocks or less memory");
    p->engine.blocks_max = (uint32_t)blocks;
    return RC_OK;
}

static rc_code choose_blocks(const mica_options *o, const mica__device *device,
                             const mica__processes *processes, mica__plan *p, rc_msg *msg)
{
    const rt_model_config *c = &p->info.config;
    uint32_t element_bytes = p->info.dtype == RC_F32 ? 4 : 2;
    if (o->kv_cache_dtype && strcmp(o->kv_cache_dtype, "auto")) {
        if (strcmp(o->kv_cache_dtype, "int8")) {
            rc_fail(RC_INVALID_ARGUMENT, msg, "--kv-cache-dtype must be auto or int8, got '%.100s'",
                    o->kv_cache_dtype);
            return rc_about(RC_INVALID_ARGUMENT, msg, "--kv-cache-dtype");
        }
        element_bytes = 1;
    }
    kv_layout layout = {c->layers, most_kv_heads(p), c->head_dim, p->block_size, element_bytes};
    uint64_t bytes;
    p->kv_element_bytes = element_bytes;
    p->kv_block_bytes = kv_block_bytes(&layout);
    RC_TRY(choose_kv_bytes(o, device, processes, p, &bytes, msg));
    return count_blocks(o, p, bytes, msg);
}

static rc_code choose_length(const mica_options *o, mica__plan *p, rc_msg *msg)
{
    uint32_t positions = p->info.config.positions_max;
    uint64_t room = (uint64_t)p->engine.blocks_max * p->block_size;
    if (o->max_model_len > positions) {
        rc_fail(RC_INVALID_ARGUMENT, msg,
                "--max-model-len %u is above the model's max_position_embeddings of %u", o->max_model_len,
                positions);
        return rc_about(RC_INVALID_ARGUMENT, msg, "--max-model-len");
    }
    if (o->max_model_len > room) {
        rc_fail(RC_INVALID_ARGUMENT, msg,
                "--max-model-len %u does not fit the K/V memory, which holds %llu tokens (%u blocks of %u)",
                o->max_model_len, (unsigned long long)room, p->engine.blocks_max, p->block_size);
        return rc_about(RC_INVALID_ARGUMENT, msg, "--max-model-len");
    }
    p->max_model_len = o->max_model_len ? o->max_model_len : positions < room ? positions : (uint32_t)room;
    p->engine.max_model_len = p->max_model_len;
    return RC_OK;
}

static void tell_length(const mica_options *o, const mica__plan *p)
{
    uint32_t positions = p->info.config.positions_max;
    char line[160];
    if (p->max_model_len == positions || o->max_model_len || !o->log) return;
    snprintf(line, sizeof line, "max-model-len is %u, not the model's %u: that is what the K/V memory holds",
             p->max_model_len, positions);
    o->log(o->log_ctx, 'W', line);
}

static rc_code choose_quantization(const mica_options *o, const rt_quant **out, rc_msg *msg)
{
    const char *name = o->quantization;
    *out = NULL;
    if (!name || !strcmp(name, "auto") || !strcmp(name, "none")) return RC_OK;
    if (!strcmp(name, "q8_0") || !strcmp(name, "q4_0")) *out = rt_quant_named(name);
    if (*out) return RC_OK;
    rc_fail(RC_INVALID_ARGUMENT, msg, "--quantization must be auto, q8_0 or q4_0, got '%.100s'", name);
    return rc_about(RC_INVALID_ARGUMENT, msg, "--quantization");
}

static rc_code choose_dtype(const mica_options *o, rt_model_options *model, rc_msg *msg)
{
    model->dtype_auto = !o->dtype || !strcmp(o->dtype, "auto");
    if (model->dtype_auto) return RC_OK;
    model->dtype = !strcmp(o->dtype, "float32") ? RC_F32 : RC_BF16;
    if (model->dtype == RC_F32 || !strcmp(o->dtype, "bfloat16")) return RC_OK;
    rc_fail(RC_INVALID_ARGUMENT, msg, "--dtype must be auto, float32 or bfloat16, got '%.100s'", o->dtype);
    return rc_about(RC_INVALID_ARGUMENT, msg, "--dtype");
}

/* Each rank's part of the model; the first one's refusals are everyone's. */
static rc_code probe_ranks(const mica_options *o, const rt_backend *backend, const mica__processes *processes,
                           mica__plan *p, rc_msg *msg)
{
    rt_model_options model = {.path = o->model, .dummy = o->load_dummy, .seed = o->seed, .quant = p->quant};
    uint32_t world = o->tensor_parallel_size ? o->tensor_parallel_size : 1;
    if (world > RT_WORLD_MAX) return refuse(msg, "--tensor-parallel-size", world, "at most 1024");
    RC_TRY(choose_dtype(o, &model, msg));
    p->ranks_count = processes->ranks_each;
    p->ranks = calloc(p->ranks_count, sizeof *p->ranks);
    if (!p->ranks) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for %u ranks", p->ranks_count);
    for (uint32_t i = 0; i < p->ranks_count; i++) {
        model.rank = processes->launch.process * p->ranks_count + i;
        model.world = world;
        RC_TRY(rt_model_probe(&model, backend, &p->ranks[i].info, msg));
    }
    p->info = p->ranks[0].info;
    return RC_OK;
}

/* What all processes must have the same of, in one number. */
static uint64_t fingerprint(const mica_options *o, const mica__device *device, const mica__plan *p)
{
    const rt_model_config *c = &p->info.config;
    const uint64_t parts[] = {p->info.shard.world,
                              c->layers,
                              c->hidden,
                              c->heads,
                              c->kv_heads,
                              c->head_dim,
                              c->ffn,
                              c->vocab,
                              c->tied_head,
                              p->info.is_gguf,
                              p->info.dtype,
                              p->block_size,
                              p->kv_element_bytes,
                              p->engine.rows_max,
                              p->engine.running_max,
                              p->engine.slots_max,
                              p->lora_rank_max,
                              p->quant ? p->quant->ggml_type + 1 : 0,
                              device->plugin != NULL,
                              o->batch_invariant,
                              o->disable_custom_all_reduce};
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) hash = (hash ^ parts[i]) * 0x100000001b3u;
    return hash;
}

/* Blocks have the same numbers in every process: as many as the poorest holds. */
static rc_code agree_on_blocks(rt_mesh *m, mica__plan *p, rc_msg *msg)
{
    uint64_t blocks = p->engine.blocks_max;
    if (m && !rt_mesh_least(m, &blocks)) return rt_mesh_status(m, msg);
    p->engine.blocks_max = (uint32_t)blocks;
    return RC_OK;
}

static rc_code agree(const mica_options *o, const mica__device *device, const mica__processes *processes,
                     mica__plan *p, rc_msg *msg)
{
    uint64_t least = fingerprint(o, device, p), most = ~least;
    rt_mesh *m = processes->mesh;
    if (!m) return RC_OK;
    if (!rt_mesh_least(m, &least) || !rt_mesh_least(m, &most)) return rt_mesh_status(m, msg);
    if (least != ~most)
        return rc_fail(RC_INVALID_ARGUMENT, msg,
                       "the processes were started with different flags, models or devices");
    return agree_on_blocks(m, p, msg);
}

rc_code mica__plan_make(const mica_options *o, const mica__device *device, const mica__processes *processes,
                        mica__plan *p, rc_msg *msg)
{
    RC_TRY(choose_quantization(o, &p->quant, msg));
    RC_TRY(probe_ranks(o, device->backend, processes, p, msg));
    RC_TRY(choose_sizes(o, device, p, msg));
    RC_TRY(choose_blocks(o, device, processes, p, msg));
    RC_TRY(agree(o, device, processes, p, msg));
    RC_TRY(choose_length(o, p, msg));
    for (uint32_t i = 0; i < p->ranks_count; i++)
        size_rank(o, device->backend, processes, p, i, p->max_model_len);
    return RC_OK;
}

/* What libraries and kernels take of a device shows when weights are loaded, ranks have met and products were
 * tried: K/V gets what is left then, if that is less than was planned. */
static rc_code settle_blocks(const mica_options *o, const mica__device *device,
                             const mica__processes *processes, mica__plan *p, const mica__ranks *ranks,
                             rc_msg *msg)
{
    uint32_t planned = p->engine.blocks_max;
    uint64_t bytes;
    if (p->kv_is_measured) {
        RC_TRY(room_on_devices(o, device, p, true, &bytes, msg));
        RC_TRY(count_blocks(o, p, bytes, msg));
        if (p->engine.blocks_max > planned) p->engine.blocks_max = planned;
    }
    RC_TRY(agree_on_blocks(processes->mesh, p, msg));
    RC_TRY(choose_length(o, p, msg));
    tell_length(o, p);
    for (uint32_t i = 0; p->kv_is_measured && i < p->ranks_count; i++) {
        mica__rank_plan *r = &p->ranks[i];
        r->kv_bytes = (uint64_t)p->engine.blocks_max * kv_block_bytes(&r->device.kv);
        RC_TRY(device->backend->kv_create(ranks->models[i].device, p->engine.blocks_max, msg));
    }
    return RC_OK;
}

rc_code mica__plan_open(const mica_options *o, const mica__device *device, const mica__processes *processes,
                        mica__plan *p, mica__ranks *ranks, rt_exec *exec, rc_msg *msg)
{
    const rt_model_config *c = &p->info.config;
    size_t rows = (size_t)p->engine.rows_max * c->hidden;
    size_t columns = ((size_t)c->vocab / p->info.shard.world + 1) * p->ranks_count;
    size_t logits = columns * p->ranks[0].limits.logits_max;
    mica__ranks_options r = {.backend = device->backend,
                             .mesh = processes->mesh,
                             .floats_max = rows > logits ? rows : logits,
                             .plans = p->ranks,
                             .count = p->ranks_count,
                             .model = {.path = o->model,
                                       .dummy = o->load_dummy,
                                       .seed = o->seed,
                                       .dtype = p->info.dtype,
                                       .quant = p->quant,
                                       .threads = mica__processes_threads(o, processes),
                                       .progress = o->progress,
                                       .progress_ctx = o->progress_ctx}};
    uint64_t ready = 0;
    if (processes->mesh) RC_TRY(rt_mesh_reserve(processes->mesh, rows, msg));
    RC_TRY(mica__ranks_open(ranks, &r, exec, msg));
    RC_TRY(settle_blocks(o, device, processes, p, ranks, msg));
    if (!processes->mesh || rt_mesh_least(processes->mesh, &ready)) return RC_OK;
    return rt_mesh_status(processes->mesh, msg);
}

void mica__plan_shape(const mica__plan *p, adapter_shape *shape)
{
    rt_model_adapter_shape(&p->info.config, shape);
    shape->rank_max = p->lora_rank_max;
}

rt_wire_limits mica__plan_wire(const mica__plan *p)
{
    return (rt_wire_limits){.rows_max = p->engine.rows_max,
                            .seqs_max = p->engine.running_max,
                            .slots_max = p->engine.slots_max,
                            .blocks_max = p->engine.blocks_max,
                            .block_tokens = p->block_size,
                            .positions_max = p->max_model_len,
                            .vocab = p->info.config.vocab,
                            .logits_max = p->ranks[0].limits.logits_max};
}

void mica__plan_free(mica__plan *p)
{
    free(p->ranks);
    p->ranks = NULL;
}
