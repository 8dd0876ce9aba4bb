/* tests/runtime/model/checkpoint_files.h - writes checkpoints out of golden ones: the same tensors with one
 * changed, spread over files, or as GGUF in llama.cpp's names and row order. */
#ifndef TESTS_RUNTIME_MODEL_CHECKPOINT_FILES_H
#define TESTS_RUNTIME_MODEL_CHECKPOINT_FILES_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adapters/safetensors.h"
#include "runtime/model/model_config.h"

typedef struct temp_dir {
    char path[64];
} temp_dir;

static inline temp_dir make_temp_dir(void)
{
    temp_dir d = {"/tmp/mica_model_XXXXXX"};
    assert_non_null(mkdtemp(d.path));
    return d;
}

static inline void remove_temp_dir(const temp_dir *d)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", d->path);
    assert_int_equal(system(command), 0);
}

static inline FILE *create_file(const char *directory, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    return f;
}

static inline void write_text(const char *directory, const char *name, const char *text)
{
    FILE *f = create_file(directory, name);
    fputs(text, f);
    fclose(f);
}

static inline void copy_file(const char *from, const char *to, const char *name)
{
    char path[512], bytes[4096];
    snprintf(path, sizeof path, "%s/%s", from, name);
    FILE *in = fopen(path, "rb"), *out = create_file(to, name);
    assert_non_null(in);
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, in)) > 0;) fwrite(bytes, 1, n, out);
    fclose(in);
    fclose(out);
}

static inline void write_safetensors(const char *directory, const char *name, const adapter_tensor *tensors,
                                     uint32_t count)
{
    char *header = calloc(1, 256 * (count + 1));
    size_t at = 0, data = 0;
    assert_non_null(header);
    at += (size_t)sprintf(header, "{");
    for (uint32_t i = 0; i < count; i++) {
        const adapter_tensor *t = &tensors[i];
        at += (size_t)sprintf(header + at, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", t->name,
                              t->dtype_name);
        for (uint32_t d = 0; d < t->dims; d++)
            at += (size_t)sprintf(header + at, "%s%llu", d ? "," : "", (unsigned long long)t->shape[d]);
        at += (size_t)sprintf(header + at, "],\"data_offsets\":[%zu,%zu]}", data, data + t->bytes);
        data += t->bytes;
    }
    at += (size_t)sprintf(header + at, "}");
    FILE *f = create_file(directory, name);
    uint64_t header_bytes = at;
    fwrite(&header_bytes, sizeof header_bytes, 1, f);
    fwrite(header, 1, at, f);
    for (uint32_t i = 0; i < count; i++) fwrite(tensors[i].data, 1, tensors[i].bytes, f);
    fclose(f);
    free(header);
}

static inline void gguf_string(FILE *f, const char *s)
{
    uint64_t n = strlen(s);
    fwrite(&n, sizeof n, 1, f);
    fwrite(s, 1, n, f);
}

enum { GGUF_U32 = 4, GGUF_F32 = 6, GGUF_STR = 8 };

static inline void gguf_key(FILE *f, const char *arch, const char *name, uint32_t type)
{
    char key[128];
    snprintf(key, sizeof key, "%s%s%s", arch, *arch ? "." : "", name);
    gguf_string(f, key);
    fwrite(&type, sizeof type, 1, f);
}

static inline void gguf_u32(FILE *f, const char *arch, const char *name, uint32_t v)
{
    gguf_key(f, arch, name, GGUF_U32);
    fwrite(&v, sizeof v, 1, f);
}

static inline void gguf_f32(FILE *f, const char *arch, const char *name, double value)
{
    float v = (float)value;
    gguf_key(f, arch, name, GGUF_F32);
    fwrite(&v, sizeof v, 1, f);
}

static inline void write_gguf_metadata(FILE *f, const rt_model_config *c, const char *arch)
{
    gguf_key(f, "general", "architecture", GGUF_STR);
    gguf_string(f, arch);
    gguf_u32(f, arch, "block_count", c->layers);
    gguf_u32(f, arch, "embedding_length", c->hidden);
    gguf_u32(f, arch, "feed_forward_length", c->ffn);
    gguf_u32(f, arch, "attention.head_count", c->heads);
    gguf_u32(f, arch, "attention.head_count_kv", c->kv_heads);
    gguf_u32(f, arch, "attention.key_length", c->head_dim);
    gguf_u32(f, arch, "attention.value_length", c->head_dim);
    gguf_u32(f, arch, "context_length", c->positions_max);
    gguf_f32(f, arch, "attention.layer_norm_rms_epsilon", c->rms_epsilon);
    gguf_f32(f, arch, "rope.freq_base", c->rope_theta);
    gguf_f32(f, arch, "rope.scaling.factor", c->rope_factor);
    gguf_f32(f, arch, "embedding_scale", c->embedding_multiplier);
    gguf_f32(f, arch, "attention.scale", c->attention_multiplier);
    gguf_f32(f, arch, "residual_scale", c->residual_multiplier);
    gguf_f32(f, arch, "logit_scale", c->logits_scaling);
    gguf_u32(f, "", "tokenizer.ggml.eos_token_id", 2);
}
enum { GGUF_METADATA = 17 };

/* "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight" */
static inline void gguf_name(const char *name, char out[128])
{
    static const char *const pairs[][2] = {{"model.embed_tokens", "token_embd"},
                                           {"lm_head", "output"},
                                           {"model.norm", "output_norm"},
                                           {"self_attn.q_proj", "attn_q"},
                                           {"self_attn.k_proj", "attn_k"},
                                           {"self_attn.v_proj", "attn_v"},
                                           {"self_attn.o_proj", "attn_output"},
                                           {"mlp.gate_proj", "ffn_gate"},
                                           {"mlp.up_proj", "ffn_up"},
                                           {"mlp.down_proj", "ffn_down"},
                                           {"input_layernorm", "attn_norm"},
                                           {"post_attention_layernorm", "ffn_norm"}};
    unsigned layer = 0;
    int skip = 0;
    char prefix[32] = "";
    if (sscanf(name, "model.layers.%u.%n", &layer, &skip) == 1 && skip)
        snprintf(prefix, sizeof prefix, "blk.%u.", layer);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        size_t n = strlen(pairs[i][0]);
        if (strncmp(name + skip, pairs[i][0], n) != 0) continue;
        snprintf(out, 128, "%s%s%s", prefix, pairs[i][1], name + skip + n);
        return;
    }
    fail_msg("no GGUF name for %s", name);
}

/* llama.cpp's converter: rows of each head [2][half] -> [half][2], of q and k, weight and bias alike. */
static inline void write_paired_rows(FILE *f, const adapter_tensor *t, uint32_t head_dim)
{
    size_t rows = t->shape[0], row_bytes = t->bytes / rows, half = head_dim / 2;
    for (size_t row = 0; row < rows; row++) {
        size_t head = row / head_dim, within = row % head_dim;
        size_t from = head * head_dim + within % 2 * half + within / 2;
        fwrite((const char *)t->data + from * row_bytes, 1, row_bytes, f);
    }
}

static inline void write_gguf_data(FILE *f, const adapter_st *st, uint32_t head_dim)
{
    static const char zeros[32];
    for (size_t i = 0; i < adapter_st_count(st); i++) {
        const adapter_tensor *t = adapter_st_at(st, i);
        long at = ftell(f);
        if (at % 32) fwrite(zeros, 1, (size_t)(32 - at % 32), f);
        if (strstr(t->name, "q_proj") || strstr(t->name, "k_proj"))
            write_paired_rows(f, t, head_dim);
        else
            fwrite(t->data, 1, t->bytes, f);
    }
}

static inline void write_gguf(const char *directory, const char *name, const adapter_st *st,
                              const rt_model_config *c, const char *arch)
{
    FILE *f = create_file(directory, name);
    uint32_t version = 3;
    uint64_t counts[2] = {adapter_st_count(st), GGUF_METADATA}, offset = 0;
    fwrite("GGUF", 1, 4, f);
    fwrite(&version, sizeof version, 1, f);
    fwrite(counts, sizeof *counts, 2, f);
    write_gguf_metadata(f, c, arch);
    for (size_t i = 0; i < adapter_st_count(st); i++) {
        const adapter_tensor *t = adapter_st_at(st, i);
        char mapped[128];
        uint32_t type = t->dtype == RC_F32 ? 0 : t->dtype == RC_F16 ? 1 : 30;
        gguf_name(t->name, mapped);
        gguf_string(f, mapped);
        fwrite(&t->dims, sizeof t->dims, 1, f);
        for (uint32_t d = t->dims; d-- > 0;) fwrite(&t->shape[d], sizeof *t->shape, 1, f);
        fwrite(&type, sizeof type, 1, f);
        fwrite(&offset, sizeof offset, 1, f);
        offset = (offset + t->bytes + 31) / 32 * 32;
    }
    write_gguf_data(f, st, c->head_dim);
    fclose(f);
}

#endif
