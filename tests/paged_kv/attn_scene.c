#include "tests/paged_kv/attn_scene.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/dtype.h"

enum { PADDING = 5 };

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

float scene_value(const scene *s, char which, uint32_t seq, uint32_t position, uint32_t i)
{
    if (which != 'q' && position < s->shared) seq = 0;
    uint64_t x = mix(s->seed + (uint64_t)which * 0x9e3779b97f4a7c15u + seq);
    x = mix(x + position * 0x100000001b3u + i);
    return (float)((double)(x >> 11) * 0x1p-52 - 1);
}

void scene_int8(const float *from, uint32_t dim, int8_t *row, float *scale)
{
    float top = 0;
    for (uint32_t d = 0; d < dim; d++) top = fmaxf(top, fabsf(from[d]));
    *scale = top / 127 < 0x1p-126f ? 0 : top / 127;
    for (uint32_t d = 0; d < dim; d++) row[d] = *scale > 0 ? (int8_t)rintf(from[d] * (127 / top)) : 0;
}

/* A head's row of K or V as the K/V buffer holds it, and as it enters the products. */
static void stored(const scene *s, char which, uint32_t seq, uint32_t position, uint32_t head, float *row)
{
    uint32_t dim = s->layout.head_dim;
    int8_t q[256];
    float scale;
    for (uint32_t d = 0; d < dim; d++) row[d] = scene_value(s, which, seq, position, head * dim + d);
    if (s->layout.element_bytes == 2)
        for (uint32_t d = 0; d < dim; d++) row[d] = rc_bf16_to_f32(rc_f32_to_bf16(row[d]));
    if (s->layout.element_bytes > 1) return;
    scene_int8(row, dim, q, &scale);
    for (uint32_t d = 0; d < dim; d++) {
        row[d] = scale * (float)q[d];
        if (s->in_pairs) row[d] = rc_bf16_to_f32(rc_f32_to_bf16(row[d]));
    }
}

/* Where element d of row `row` lies in a head, counted in elements (the picture in kv_strip.h). */
static size_t strip_place(const kv_layout *l, bool is_value, uint32_t row, uint32_t d)
{
    uint32_t strip = l->block_tokens < 16 ? l->block_tokens : 16, pair = l->element_bytes == 2 ? 2 : 1;
    if (is_value) return (row / pair * l->head_dim + d) * pair + row % pair;
    return row / strip * strip * l->head_dim + (d / pair * strip + row % strip) * pair + d % pair;
}

void scene_to_strips(const kv_layout *l, unsigned char *kv, size_t bytes)
{
    size_t rows_bytes = l->block_tokens * kv_row_bytes(l), element = l->element_bytes;
    unsigned char *rows = malloc(rows_bytes), *head = kv;
    for (size_t h = 0; h < bytes / kv_head_bytes(l); h++, head += kv_head_bytes(l)) {
        memcpy(rows, head, rows_bytes);
        for (uint32_t r = 0; r < l->block_tokens; r++)
            for (uint32_t d = 0; d < l->head_dim; d++)
                memcpy(head + strip_place(l, h % 2, r, d) * element, rows + (r * l->head_dim + d) * element,
                       element);
    }
    free(rows);
}

static uint32_t entries(uint32_t positions, uint32_t block_tokens)
{
    return (positions + block_tokens - 1) / block_tokens;
}

void scene_create(scene *s)
{
    s->longest = 0;
    for (uint32_t i = 0; i < s->seqs; i++)
        if (s->lengths[i] > s->longest) s->longest = s->lengths[i];
    s->table_entries = entries(s->longest, s->layout.block_tokens);
    uint32_t blocks = s->seqs * s->table_entries + 3, shared = s->shared / s->layout.block_tokens;
    uint32_t *shuffled = malloc(blocks * sizeof *shuffled);
    for (uint32_t i = 0; i < blocks; i++) {
        uint32_t j = (uint32_t)(mix(s->seed + i) % (i + 1));
        shuffled[i] = shuffled[j];
        shuffled[j] = i;
    }
    s->tables = malloc((size_t)s->seqs * s->table_entries * sizeof *s->tables);
    for (uint32_t i = 0, next = 0; i < s->seqs; i++)
        for (uint32_t e = 0; e < s->table_entries; e++)
            s->tables[i * s->table_entries + e] = i && e < shared ? s->tables[e] : shuffled[next++];
    free(shuffled);
    s->kv_bytes = blocks * kv_block_bytes(&s->layout);
    s->kv = malloc(s->kv_bytes);
    memset(s->kv, 0xff, s->kv_bytes);
    s->out = calloc((size_t)s->seqs * s->longest * s->heads * s->layout.head_dim, sizeof *s->out);
}

void scene_destroy(scene *s)
{
    free(s->tables);
    free(s->kv);
    free(s->out);
}

static float *rows_of(const scene *s, char which, const scene_run *runs, uint32_t count, uint32_t width)
{
    size_t rows = 0, at = 0;
    for (uint32_t i = 0; i < count; i++) rows += runs[i].rows;
    float *x = malloc(rows * (width + PADDING) * sizeof *x);
    for (size_t i = 0; i < rows * (width + PADDING); i++) x[i] = NAN;
    for (uint32_t i = 0; which && i < count; i++)
        for (uint32_t r = 0; r < runs[i].rows; r++, at += width + PADDING)
            for (uint32_t j = 0; j < width; j++)
                x[at + j] = scene_value(s, which, runs[i].seq, runs[i].from + r, j);
    return x;
}

/* Spans of the runs; where grouped, those past what is shared become one group. */
static kv_plan plan_of(const scene *s, const scene_run *runs, uint32_t count, int grouped)
{
    kv_span *spans = malloc(count * sizeof *spans);
    kv_group *groups = malloc(count * sizeof *groups);
    uint32_t row = 0, groups_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        spans[i] = (kv_span){row, runs[i].rows, runs[i].from, runs[i].seq * s->table_entries};
        row += runs[i].rows;
        int joins = grouped && s->shared && runs[i].from >= s->shared;
        if (joins && groups_count && groups[groups_count - 1].shared_tokens)
            groups[groups_count - 1].spans++;
        else
            groups[groups_count++] = (kv_group){i, 1, joins ? s->shared : 0};
    }
    return (kv_plan){spans, count, groups, groups_count, s->tables};
}

static void plan_free(kv_plan *p)
{
    free((void *)p->spans);
    free((void *)p->groups);
}

void scene_write(scene *s, const kv_cpu_kernels *kernels, const scene_run *runs, uint32_t count,
                 uint32_t parts)
{
    uint32_t width = s->layout.kv_heads * s->layout.head_dim;
    kv_plan plan = plan_of(s, runs, count, 0);
    float *k = rows_of(s, 'k', runs, count, width), *v = rows_of(s, 'v', runs, count, width);
    kv_write w = {&s->layout, &plan, s->layer, k, v, width + PADDING, s->kv};
    for (uint32_t p = 0; p < parts; p++) kernels->write(&w, p, parts);
    free(k);
    free(v);
    plan_free(&plan);
}

void scene_attend(scene *s, const kv_cpu_kernels *kernels, const scene_run *runs, uint32_t count, int grouped,
                  uint32_t parts)
{
    uint32_t width = s->heads * s->layout.head_dim;
    kv_plan plan = plan_of(s, runs, count, grouped);
    float *q = rows_of(s, 'q', runs, count, width), *out = rows_of(s, 0, runs, count, width);
    float scale = 1 / sqrtf((float)s->layout.head_dim);
    size_t stride = width + PADDING;
    s->in_pairs = scene_in_pairs(s, kernels);
    kv_attn a = {&s->layout, &plan, s->layer, s->heads, scale, q, stride, out, stride, s->kv};
    size_t bytes = kv_attn_cpu_scratch_bytes(&s->layout);
    for (uint32_t p = 0; p < parts; p++) {
        void *scratch = malloc(bytes);
        memset(scratch, 0xff, bytes);
        kernels->attn(&a, p, parts, scratch);
        free(scratch);
    }
    const float *row = out;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t r = 0; r < runs[i].rows; r++, row += width + PADDING) {
            size_t to = ((size_t)runs[i].seq * s->longest + runs[i].from + r) * width;
            memcpy(s->out + to, row, width * sizeof *row);
            for (uint32_t j = width; j < width + PADDING; j++) assert_true(isnan(row[j]));
        }
    free(q);
    free(out);
    plan_free(&plan);
}

bool scene_in_pairs(const scene *s, const kv_cpu_kernels *kernels)
{
    bool dots = strcmp(kernels->family, "avx512_bf16") == 0 || strcmp(kernels->family, "cuda") == 0;
    return dots && s->layout.element_bytes <= 2;
}

/* An element of the query as it enters the products, times the scale. */
static double scaled_query(const scene *s, uint32_t seq, uint32_t position, uint32_t i)
{
    float scale = 1 / sqrtf((float)s->layout.head_dim), x = scene_value(s, 'q', seq, position, i);
    if (!s->in_pairs) return (double)x * scale;
    return rc_bf16_to_f32(rc_f32_to_bf16(x * (scale * (float)M_LOG2E))) / M_LOG2E;
}

static void check_head(const scene *s, uint32_t seq, uint32_t position, uint32_t head, double *p)
{
    uint32_t dim = s->layout.head_dim, g = head / (s->heads / s->layout.kv_heads);
    double top = -INFINITY, sum = 0, squares = 0, want[256] = {0};
    float row[256];
    for (uint32_t t = 0; t <= position; t++) {
        p[t] = 0;
        stored(s, 'k', seq, t, g, row);
        for (uint32_t d = 0; d < dim; d++) p[t] += scaled_query(s, seq, position, head * dim + d) * row[d];
        if (p[t] > top) top = p[t];
    }
    for (uint32_t t = 0; t <= position; t++) sum += p[t] = exp(p[t] - top);
    for (uint32_t t = 0; t <= position; t++) {
        stored(s, 'v', seq, t, g, row);
        squares += p[t] / sum * p[t] / sum;
        for (uint32_t d = 0; d < dim; d++) want[d] += p[t] / sum * row[d];
    }
    /* Weights rounded to bf16 are off by up to 2^-9 of themselves, each another way; seven times what such
     * errors add up to, and the error of the short 2^x. */
    double tolerance = s->in_pairs ? 4 * 0x1p-9 * sqrt(squares) + 2e-4 : 2e-6;
    for (uint32_t d = 0; d < dim; d++) {
        float got = s->out[((size_t)seq * s->longest + position) * s->heads * dim + head * dim + d];
        if (!(fabs(got - want[d]) <= tolerance))
            fail_msg("seq %u position %u head %u dim %u: %.9g, expected %.9g", seq, position, head, d, got,
                     want[d]);
    }
}

void scene_check_naive(const scene *s)
{
    double *p = malloc(s->longest * sizeof *p);
    for (uint32_t seq = 0; seq < s->seqs; seq++)
        for (uint32_t position = 0; position < s->lengths[seq]; position += 1 + position / 8)
            for (uint32_t head = 0; head < s->heads; head++) check_head(s, seq, position, head, p);
    free(p);
}

uint32_t scene_families(const kv_cpu_kernels *out[4])
{
    uint32_t count = 0;
    const kv_cpu_kernels *k;
    if ((k = kv_cpu_kernels_of("portable"))) out[count++] = k;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && (k = kv_cpu_kernels_of("avx2")))
        out[count++] = k;
    int has_avx512 = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                     __builtin_cpu_supports("avx512dq");
    if (has_avx512 && (k = kv_cpu_kernels_of("avx512"))) out[count++] = k;
    if (has_avx512 && __builtin_cpu_supports("avx512bf16") && (k = kv_cpu_kernels_of("avx512_bf16")))
        out[count++] = k;
#endif
    return count;
}
