/* runtime/backend/quant.h - quantised weight formats: GGUF's, and how panels keep them.
 *
 * Every format stores integer codes, and for each run of 16 or 32 k a scale and perhaps a minimum:
 *
 *     w = scale * (code + offset) + minimum
 *
 * A panel keeps 32 columns together, group after group of k, in as many bits as the file does:
 *
 *     codes    [group / 32] blocks of 32 k, each
 *                4 bits  [8 lines][32 words]: word (column, k parity) of 16 columns; its four nibbles are
 *                        (pair 2l, columns 0-15), (pair 2l, 16-31), (pair 2l + 1, 0-15), (pair 2l + 1, 16-31)
 *                5 bits  the same, then 2 lines of words whose bit o is the fifth bit of operand o
 *                6 bits  the same, then 4 lines of words whose two bits o are the upper ones of operand o
 *                8 bits  [32 operands][32] bytes
 *     d        [32] float16; then the minimum's [32] where the format has one
 *     factors  [group / run][32] bytes, then the minimum's, where scales are d * factor (K formats)
 *
 * where operand o = 2 * pair + half is what one bf16 dot takes: 16 columns x 2 consecutive k, so that the
 * words of a line, shifted, index a table of values. All families share the layout.
 *
 * Source  ggml-common.h, block_q8_0 .. block_q6_K; ggml-quants.c, quantize_row_q8_0_ref, _q4_0_ref.
 */
#ifndef RUNTIME_BACKEND_QUANT_H
#define RUNTIME_BACKEND_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RT_QUANT_BLOCK = 32, RT_QUANT_GROUP_MAX = 256, RT_QUANT_RUN_MIN = 16,
       RT_QUANT_RUNS_MAX = RT_QUANT_GROUP_MAX / RT_QUANT_RUN_MIN };

typedef struct rt_quant {
    const char *name;
    uint32_t ggml_type;
    uint32_t block_bytes; /* of `group` elements of one row in a file */
    uint32_t group;       /* k that share d: 32 or 256 */
    uint32_t run;         /* k that share a scale: 32 or 16 */
    uint32_t bits;        /* of a code: 4, 5, 6 or 8 */
    int offset;
    bool has_min;
    bool has_factors;     /* scale = d * factor, minimum = -dmin * factor */
    bool signed_factors;
} rt_quant;

/* One row's group, taken apart. */
typedef struct rt_quant_group {
    uint8_t codes[RT_QUANT_GROUP_MAX]; /* 8 bits: an int8 */
    uint16_t d, min;                   /* float16 */
    uint8_t factors[RT_QUANT_RUNS_MAX], min_factors[RT_QUANT_RUNS_MAX];
} rt_quant_group;

const rt_quant *rt_quant_find(uint32_t ggml_type); /* NULL: panels do not keep this type */
const rt_quant *rt_quant_named(const char *name);  /* "q8_0", ...; NULL: unknown */

size_t rt_quant_codes_bytes(const rt_quant *q); /* of a panel's block of 32 k */
size_t rt_quant_group_bytes(const rt_quant *q); /* of a panel's group */

/* A file's block of one row. Any alignment. */
void rt_quant_unpack(const rt_quant *q, const uint8_t *block, rt_quant_group *out);
/* Column `column` of a panel's group, and back. put needs the column to be zero before. */
void rt_quant_put(const rt_quant *q, uint8_t *group, uint32_t column, const rt_quant_group *g);
void rt_quant_get(const rt_quant *q, const uint8_t *group, uint32_t column, rt_quant_group *out);
/* Its values, the same bits as ggml's dequantize_row. */
void rt_quant_values(const rt_quant *q, const rt_quant_group *g, float *out);

/* Rounds a row as ggml's reference quantisers do. q: Q8_0 or Q4_0; k: a multiple of 32. */
void rt_quant_row(const rt_quant *q, const float *x, uint32_t k, uint8_t *blocks);

#endif
