/* Rows of a file as panels, on the host. */
#include <string.h>

#include "proto/rc.h"
#include "runtime/backend/cuda_quant.h"

enum { LANES = 32, LANE_K = 8, HALF = RT_QUANT_BLOCK / 2, ROWS = RT_CUDA_PANEL };

rt_cuda_codes rt_cuda_codes_of(const rt_quant *q, uint32_t n, uint32_t k)
{
    /* What the kernels count on. */
    RC_ASSERT(q->run == (q->bits == 6 ? 16 : 32) && (q->group == 32 || q->group == 256));
    rt_cuda_codes c = {.n = n,
                       .k = k,
                       .bits = q->bits,
                       .run = q->run,
                       .group = q->group,
                       .has_min = q->has_min,
                       .has_factors = q->has_factors,
                       .signed_factors = q->signed_factors,
                       .offset = q->offset,
                       .block_bytes = RT_QUANT_BLOCK * ROWS * q->bits / 8};
    uint32_t scales = (q->has_min ? 2 : 1) * ROWS;
    c.blocks_at = scales * (uint32_t)sizeof(uint16_t) + (q->has_factors ? scales * (q->group / q->run) : 0);
    c.group_bytes = c.blocks_at + q->group / RT_QUANT_BLOCK * c.block_bytes;
    return c;
}

static size_t panel_bytes(const rt_cuda_codes *c)
{
    return (size_t)(c->k / c->group) * c->group_bytes;
}

size_t rt_cuda_codes_bytes(const rt_cuda_codes *c)
{
    return (c->n + ROWS - 1) / ROWS * panel_bytes(c);
}

/* `width` bits at `bit` of a row's share of a plane; the device reads its bytes as words, the lowest first.
 */
static void put_bits(uint8_t *share, uint32_t bit, uint32_t width, uint32_t value)
{
    share[bit / 8] |= (uint8_t)((value & ((1u << width) - 1)) << bit % 8);
}

static void put_code(const rt_cuda_codes *c, uint8_t *block, uint32_t row, uint32_t k, uint32_t code)
{
    uint32_t lane = row % 8 * 4 + k % HALF / 4, j = k / HALF * 4 + k % 4, share = lane * 2 + row / 8;
    if (c->bits == 8) {
        block[share * LANE_K + j] = (uint8_t)code;
        return;
    }
    put_bits(block + share * sizeof(uint32_t), 4 * (j / 2) + 16 * (j % 2), 4, code);
    uint8_t *more = block + LANES * 2 * sizeof(uint32_t);
    if (c->bits == 5) put_bits(more + share, j / 2 + 4 * (j % 2), 1, code >> 4);
    if (c->bits == 6) put_bits(more + 2 * (size_t)share, 2 * (j / 2) + 8 * (j % 2), 2, code >> 4);
}

static void put_group(const rt_cuda_codes *c, const rt_quant_group *g, uint32_t row, uint8_t *group)
{
    uint32_t runs = c->group / c->run, halves = c->has_min ? 2 : 1;
    uint8_t *factors = group + halves * ROWS * sizeof(uint16_t);
    memcpy(group + row * sizeof g->d, &g->d, sizeof g->d);
    if (c->has_min) memcpy(group + (ROWS + row) * sizeof g->min, &g->min, sizeof g->min);
    for (uint32_t r = 0; c->has_factors && r < runs; r++) {
        factors[r * ROWS + row] = g->factors[r];
        if (c->has_min) factors[(runs + r) * ROWS + row] = g->min_factors[r];
    }
    for (uint32_t k = 0; k < c->group; k++)
        put_code(c, group + c->blocks_at + k / RT_QUANT_BLOCK * c->block_bytes, row, k % RT_QUANT_BLOCK,
                 g->codes[k]);
}

void rt_cuda_codes_put(const rt_cuda_codes *c, const rt_quant *q, uint32_t row, const void *blocks,
                       uint8_t *panels)
{
    const uint8_t *block = blocks;
    uint8_t *group = panels + row / ROWS * panel_bytes(c);
    for (uint32_t k = 0; k < c->k; k += c->group, block += q->block_bytes, group += c->group_bytes) {
        rt_quant_group g;
        rt_quant_unpack(q, block, &g);
        put_group(c, &g, row % ROWS, group);
    }
}
