/* The CUDA kernels on the emulated device: attention against its definition, the same bits however a step is
 * cut, K/V written as the CPU writes it, RoPE, copied rows. Device memory of the emulator is the host's. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "paged_kv/paged_attn_cuda.h"
#include "tests/paged_kv/attn_scene.h"

enum { ROWS_MAX = 4096, TABLE_MAX = 4096, NOBODYS = 3 /* rows behind those of each step */ };

static kv_cuda_limits limits_of(const kv_layout *l, uint32_t heads)
{
    return (kv_cuda_limits){ROWS_MAX, TABLE_MAX, heads, l->kv_heads, l->head_dim};
}

static uint32_t *pack(const kv_cuda_limits *l, const kv_layout *layout, const kv_plan *plan,
                      kv_cuda_plan *out)
{
    uint32_t *words = malloc(kv_cuda_plan_words(l) * sizeof *words), rows = NOBODYS;
    for (uint32_t i = 0; i < plan->spans_count; i++) rows += plan->spans[i].rows;
    kv_cuda_pack(l, layout->block_tokens, plan, rows, words, out);
    assert_true(out->words <= kv_cuda_plan_words(l));
    return words;
}

static void run(cudaError_t launched)
{
    assert_int_equal(launched, cudaSuccess);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
}

static void attn(const kv_attn *a, uint32_t part, uint32_t parts, void *unused)
{
    kv_cuda_limits l = limits_of(a->layout, a->heads);
    kv_cuda_plan plan;
    uint32_t *words = pack(&l, a->layout, a->plan, &plan);
    void *scratch = malloc(kv_cuda_scratch_bytes(&l));
    (void)part, (void)unused;
    assert_int_equal(parts, 1);
    memset(scratch, 0xff, kv_cuda_scratch_bytes(&l));
    run(kv_cuda_attention(a, &plan, words, scratch, NULL));
    free(scratch);
    free(words);
}

static void write_rows(const kv_write *w, uint32_t part, uint32_t parts)
{
    kv_cuda_limits l = limits_of(w->layout, w->layout->kv_heads);
    kv_cuda_plan plan;
    uint32_t *words = pack(&l, w->layout, w->plan, &plan);
    (void)part;
    assert_int_equal(parts, 1);
    run(kv_cuda_write(w, &(kv_cuda_rope){0}, &plan, words, NULL));
    free(words);
}

static const kv_cpu_kernels cuda = {"cuda", attn, write_rows};

typedef struct shape {
    uint32_t kv_heads, heads, dim;
} shape;
static const shape shapes[] = {{1, 1, 16},  {2, 8, 64},  {3, 9, 22},  {1, 4, 80},
                               {1, 2, 128}, {1, 100, 8}, {1, 3, 256}, {1, 1, 200}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static scene make(shape h, uint32_t block_tokens, uint32_t element_bytes, uint32_t shared)
{
    scene s = {.layout = {2, h.kv_heads, h.dim, block_tokens, element_bytes},
               .heads = h.heads,
               .layer = 1,
               .seqs = 3,
               .lengths = {shared + 1, shared + 70, shared + 131},
               .shared = shared,
               .seed = h.dim};
    scene_create(&s);
    return s;
}

static void agrees_with_the_definition_in_double_precision(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SHAPES; i++)
        for (uint32_t bytes = 1; bytes <= 4; bytes *= 2) {
            scene s = make(shapes[i], 16, bytes, 0);
            scene_run runs[3];
            for (uint32_t q = 0; q < s.seqs; q++) runs[q] = (scene_run){q, 0, s.lengths[q]};
            scene_write(&s, &cuda, runs, s.seqs, 1);
            scene_attend(&s, &cuda, runs, s.seqs, 0, 1);
            scene_check_naive(&s);
            scene_destroy(&s);
        }
}

/* Sequences over more than a segment, written first; then the last rows of each at once, as `most` a step,
 * and in groups, must agree bit for bit. */
static float *attend_tail(scene *s, uint32_t tail, uint32_t most, int grouped)
{
    size_t bytes = (size_t)s->seqs * s->longest * s->heads * s->layout.head_dim * sizeof *s->out;
    memset(s->out, 0, bytes);
    for (uint32_t done = 0; done < tail; done += most) {
        scene_run runs[3];
        for (uint32_t q = 0; q < s->seqs; q++)
            runs[q] = (scene_run){q, s->lengths[q] - tail + done, tail - done < most ? tail - done : most};
        scene_attend(s, &cuda, runs, s->seqs, grouped, 1);
    }
    float *copy = malloc(bytes);
    memcpy(copy, s->out, bytes);
    return copy;
}

static void no_bit_depends_on_chunks_groups_or_blocks(void **state)
{
    (void)state;
    enum { TAIL = 9, SHARED = 1088 }; /* two segments and a tile */
    for (uint32_t bytes = 1; bytes <= 4; bytes *= 2) {
        float *first = NULL;
        for (uint32_t block = 16; block <= 64; block *= 4) {
            scene s = {.layout = {1, 2, 32, block, bytes},
                       .heads = 6,
                       .layer = 0,
                       .seqs = 3,
                       .lengths = {SHARED + TAIL, SHARED + 40, SHARED + 500},
                       .shared = SHARED,
                       .seed = 5};
            scene_create(&s);
            scene_run all[3];
            for (uint32_t q = 0; q < 3; q++)
                all[q] = (scene_run){q, q ? SHARED : 0, s.lengths[q] - (q ? SHARED : 0)};
            scene_write(&s, &cuda, all, 3, 1);
            size_t size = (size_t)s.seqs * s.longest * s.heads * s.layout.head_dim * sizeof *s.out;
            static const uint32_t most[] = {1, 4, TAIL};
            for (int m = 0; m < 3; m++)
                for (int grouped = 0; grouped <= 1; grouped++) {
                    float *got = attend_tail(&s, TAIL, most[m], grouped);
                    if (first) assert_memory_equal(got, first, size);
                    if (first)
                        free(got);
                    else
                        first = got;
                }
            scene_destroy(&s);
        }
        free(first);
    }
}

static void prefill_gives_the_bits_of_decode(void **state)
{
    (void)state;
    scene s = {.layout = {1, 1, 64, 16, 2}, .heads = 4, .layer = 0, .seqs = 1, .lengths = {640}, .seed = 9};
    scene_create(&s);
    scene_run all = {0, 0, 640}, last = {0, 639, 1};
    scene_write(&s, &cuda, &all, 1, 1);
    scene_attend(&s, &cuda, &all, 1, 0, 1);
    float want[256], *at = s.out + 639 * 256;
    memcpy(want, at, sizeof want);
    memset(at, 0, sizeof want);
    scene_attend(&s, &cuda, &last, 1, 0, 1);
    assert_memory_equal(at, want, sizeof want);
    scene_destroy(&s);
}

static void writes_what_the_cpu_writes(void **state)
{
    (void)state;
    const kv_cpu_kernels *portable = kv_cpu_kernels_of("portable");
    for (uint32_t i = 0; i < SHAPES; i++)
        for (uint32_t bytes = 1; bytes <= 4; bytes *= 2) {
            scene a = make(shapes[i], 8, bytes, 0), b = make(shapes[i], 8, bytes, 0);
            scene_run runs[2] = {{1, 3, 40}, {2, 0, 131}};
            scene_write(&a, portable, runs, 2, 1);
            scene_write(&b, &cuda, runs, 2, 1);
            scene_to_strips(&b.layout, b.kv, b.kv_bytes);
            assert_memory_equal(a.kv, b.kv, a.kv_bytes);
            scene_destroy(&a);
            scene_destroy(&b);
        }
}

static float noise(uint32_t i) { return (float)(i * 2654435761u >> 8) / (1 << 23) - 1; }

/* Rows of q | k | v, and what RoPE makes of q and k. */
enum { TURNED = 5, FIRST = 14 };
static void turn(const float *x, float *want, uint32_t width, uint32_t heads, uint32_t dim,
                 const float *angles)
{
    uint32_t half = dim / 2;
    memcpy(want, x, TURNED * width * sizeof *x);
    for (uint32_t i = 0; i < TURNED * heads * half; i++) {
        uint32_t row = i / (heads * half), at = row * width + i / half % heads * dim + i % half;
        const float *a = &angles[2 * ((FIRST + row) * half + i % half)];
        want[at] = x[at] * a[0] - x[at + half] * a[1];
        want[at + half] = x[at + half] * a[0] + x[at] * a[1];
    }
}

static void check_turned(shape h, uint32_t bytes)
{
    kv_layout layout = {2, h.kv_heads, h.dim, 16, bytes};
    uint32_t width = (h.heads + 2 * h.kv_heads) * h.dim, half = h.dim / 2, table[] = {2, 0};
    float *x = malloc(TURNED * width * sizeof *x), *want = malloc(TURNED * width * sizeof *x);
    float *cosines = malloc(32 * half * sizeof *x), *sines = malloc(32 * half * sizeof *x);
    float *angles = malloc(2 * 32 * half * sizeof *x);
    for (uint32_t i = 0; i < TURNED * width; i++) x[i] = noise(i);
    for (uint32_t i = 0; i < 32 * half; i++) {
        angles[2 * i] = cosines[i] = noise(i + 7777);
        angles[2 * i + 1] = sines[i] = noise(i + 9999);
    }
    turn(x, want, width, h.heads + h.kv_heads, h.dim, angles);
    kv_span span = {0, TURNED, FIRST, 0};
    kv_plan plan = {&span, 1, NULL, 0, table};
    kv_cuda_limits l = limits_of(&layout, h.heads);
    kv_cuda_plan packed;
    uint32_t *words = pack(&l, &layout, &plan, &packed);
    size_t all = 3 * kv_block_bytes(&layout);
    unsigned char *kv = calloc(1, all), *of_turned = calloc(1, all);
    float *k = x + h.heads * h.dim;
    kv_write w = {&layout, &plan, 1, k, k + h.kv_heads * h.dim, width, kv};
    packed.rows = TURNED; /* as in a step without rows that are nobody's: x has no more */
    run(kv_cuda_write(&w, &(kv_cuda_rope){x, k, h.heads, cosines, sines}, &packed, words, NULL));
    for (uint32_t i = 0; i < TURNED * width; i++) assert_true(fabsf(x[i] - want[i]) < 1e-6f);
    w.kv = of_turned;
    run(kv_cuda_write(&w, &(kv_cuda_rope){0}, &packed, words, NULL));
    assert_memory_equal(kv, of_turned, all);
    void *mine[] = {x, want, cosines, sines, angles, words, kv, of_turned};
    for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) free(mine[i]);
}

static void rotates_q_and_k_before_it_writes(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SHAPES; i++)
        for (uint32_t bytes = 1; bytes <= 4; bytes *= 2) check_turned(shapes[i], bytes);
}

static void copies_rows_of_a_block(void **state)
{
    (void)state;
    for (uint32_t bytes = 1; bytes <= 4; bytes *= 2) {
        scene s = make(shapes[1], 16, bytes, 0);
        kv_layout *l = &s.layout;
        unsigned char *before;
        for (size_t i = 0; i < s.kv_bytes; i++) s.kv[i] = (unsigned char)(i * 7 + i / 251);
        before = malloc(s.kv_bytes);
        memcpy(before, s.kv, s.kv_bytes);
        run(kv_cuda_copy_rows(l, s.kv, 2, 5, 11, NULL));
        for (uint32_t layer = 0; layer < l->layers; layer++)
            for (uint32_t h = 0; h < 2 * l->kv_heads; h++) {
                size_t from = kv_head_offset(l, 2, layer, h >= l->kv_heads, h % l->kv_heads);
                size_t to = kv_head_offset(l, 5, layer, h >= l->kv_heads, h % l->kv_heads);
                memcpy(before + to, before + from, 11 * kv_row_bytes(l));
                if (bytes == 1)
                    memcpy(before + to + kv_scale_offset(l, 0), before + from + kv_scale_offset(l, 0),
                           11 * sizeof(float));
            }
        assert_memory_equal(s.kv, before, s.kv_bytes);
        free(before);
        scene_destroy(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_definition_in_double_precision),
        cmocka_unit_test(no_bit_depends_on_chunks_groups_or_blocks),
        cmocka_unit_test(prefill_gives_the_bits_of_decode),
        cmocka_unit_test(writes_what_the_cpu_writes),
        cmocka_unit_test(rotates_q_and_k_before_it_writes),
        cmocka_unit_test(copies_rows_of_a_block),
    };
    if (kv_cuda_prepare() != cudaSuccess) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
