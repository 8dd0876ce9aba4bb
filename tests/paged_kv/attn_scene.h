/* tests/paged_kv/attn_scene.h - sequences with known q, k, v, laid out in blocks; steps over them.
 *
 * Everything that must not be read or written holds NaN: unused blocks, rows past a sequence's end, the
 * padding between rows of q, k, v and out.
 */
#ifndef TESTS_PAGED_KV_ATTN_SCENE_H
#define TESTS_PAGED_KV_ATTN_SCENE_H

#include <stdbool.h>

#include "paged_kv/paged_attn_cpu.h"

typedef struct scene {
    kv_layout layout;
    uint32_t heads, layer;
    uint32_t seqs;
    uint32_t lengths[16];
    uint32_t shared;           /* leading positions that all sequences have in common, in the same blocks */
    uint64_t seed;
    uint32_t table_entries;    /* of each sequence */
    uint32_t *tables;          /* [seqs][table_entries] */
    unsigned char *kv;
    size_t kv_bytes;
    float *out;                /* [seqs][longest][heads * dim], as the last steps computed it */
    uint32_t longest;
    bool in_pairs;             /* the last steps' products were dots of bf16 pairs */
} scene;

/* A run of rows of one sequence that a step computes. */
typedef struct scene_run {
    uint32_t seq, from, rows;
} scene_run;

/* Lengths, heads, layer, shared, seed and layout are set; makes the rest. */
void scene_create(scene *s);
void scene_destroy(scene *s);

/* One element of the q, k or v ('q', 'k', 'v') of a row. */
float scene_value(const scene *s, char which, uint32_t seq, uint32_t position, uint32_t i);

/* What an int8 row holds of `dim` finite floats. */
void scene_int8(const float *from, uint32_t dim, int8_t *row, float *scale);

/* Turns a K/V buffer in which a head's elements are rows [B][D], as CUDA has them, into the CPU's order. */
void scene_to_strips(const kv_layout *l, unsigned char *kv, size_t bytes);

/* Writes K/V of the runs, and/or attends; `grouped`: runs past `shared` in one group with it. */
void scene_write(scene *s, const kv_cpu_kernels *kernels, const scene_run *runs, uint32_t count,
                 uint32_t parts);
void scene_attend(scene *s, const kv_cpu_kernels *kernels, const scene_run *runs, uint32_t count, int grouped,
                  uint32_t parts);

/* Whether a family rounds queries and weights to bf16 for K/V of this layout. */
bool scene_in_pairs(const scene *s, const kv_cpu_kernels *kernels);

/* Aborts the test where out is not the softmax attention of what is stored, in double precision. */
void scene_check_naive(const scene *s);

/* Families that this build has and this CPU runs, portable first. */
uint32_t scene_families(const kv_cpu_kernels *out[4]);

#endif
