/* runtime/backend/fill_kernels.c - row-major checkpoint rows into panels, and a row out of them.
 *
 * Sixteen rows by sixteen words (floats, or pairs of bf16) are transposed in registers, so that a bf16
 * checkpoint is packed at about the speed of a copy. */
#include "proto/vec.h"

#include "runtime/backend/family_parts.h"
#include "runtime/backend/quant.h"
#include "runtime/backend/tile_shape.h"

enum { HALF = 16 }; /* columns of one line of a bf16 panel */

/* Sixteen elements as float32. */
static inline rc_vf load_source(const char *p, rc_dtype type)
{
    if (type == RC_F32) return rc_vf_load_bits(p);
    if (type == RC_F16) return load_f16(p);
    uint16_t h[16];
    memcpy(h, p, sizeof h);
    return rc_vf_load_bf16(h);
}

/* Sixteen words of one row, as the matrix stores them: floats, or pairs of bf16 (32 elements). */
static inline rc_vf load_words(const char *p, rc_dtype type, rc_dtype stored)
{
    if (stored == RC_F32) return load_source(p, type);
    if (type == RC_BF16) return rc_vf_load_bits(p);
    uint16_t pairs[32];
    rc_vf_store_bf16(pairs, load_source(p, type));
    rc_vf_store_bf16(pairs + 16, load_source(p + 16 * rc_dtype_bytes(type), type));
    return rc_vf_load_bits(pairs);
}

/* The last words of a row: `left` elements, then zeros. */
static rc_vf load_last_words(const char *p, rc_dtype type, rc_dtype stored, uint32_t left)
{
    char copy[32 * sizeof(float)] = {0};
    memcpy(copy, p, left * rc_dtype_bytes(type));
    return load_words(copy, type, stored);
}

/* Sixteen whole rows: half `half` of a panel that starts at `panel`. */
static inline void fill_half(char *panel, uint32_t half, const char *src, size_t row_bytes, rc_dtype type,
                             rc_dtype stored, uint32_t k)
{
    uint32_t step = stored == RC_F32 ? 16 : 32, line = RT_PANEL * sizeof(float);
    for (uint32_t k0 = 0; k0 < k; k0 += step) {
        rc_vf r[16];
        const char *at = src + k0 * rc_dtype_bytes(type);
        char *out = panel + (size_t)(stored == RC_F32 ? k0 : k0 / 2) * line + half * HALF * sizeof(float);
        uint32_t left = k - k0, words = 16;
        if (left >= step) {
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) r[i] = load_words(at + i * row_bytes, type, stored);
        } else {
            words = stored == RC_F32 ? left : (left + 1) / 2;
            for (int i = 0; i < 16; i++) r[i] = load_last_words(at + i * row_bytes, type, stored, left);
        }
        rc_vf_transpose(r);
        if (words == 16) {
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) rc_vf_store((float *)(void *)(out + i * line), r[i]);
        } else {
            for (uint32_t i = 0; i < words; i++) rc_vf_store((float *)(void *)(out + i * line), r[i]);
        }
    }
}

/* One row of a half that is not filled as a whole: touches that row's elements only. */
static void fill_row(rt_matrix *m, uint32_t row, const char *src, rc_dtype type)
{
    char *panel = (char *)m->data + row / RT_PANEL * rt_matrix_panel_bytes(m->k, m->stored);
    uint32_t column = row % RT_PANEL;
    for (uint32_t k = 0; k < m->k; k++) {
        float value = rc_load_f32(src, type, k);
        if (m->stored == RC_F32) ((float *)(void *)panel)[(size_t)k * RT_PANEL + column] = value;
        else
            ((uint16_t *)(void *)panel)[((size_t)(k / 2) * RT_PANEL + column) * 2 + k % 2] =
                rc_f32_to_bf16(value);
    }
}

static void fill_whole_half(rt_matrix *m, uint32_t row, const char *src, size_t row_bytes, rc_dtype type)
{
    char *panel = (char *)m->data + row / RT_PANEL * rt_matrix_panel_bytes(m->k, m->stored);
    uint32_t half = row % RT_PANEL / HALF;
    if (m->stored == RC_F32) fill_half(panel, half, src, row_bytes, type, RC_F32, m->k);
    else if (type == RC_BF16) fill_half(panel, half, src, row_bytes, RC_BF16, RC_BF16, m->k);
    else fill_half(panel, half, src, row_bytes, type, RC_BF16, m->k);
}

void RC_FAMILY(rt_matrix_fill)(rt_matrix *m, const rt_fill *f)
{
    size_t row_bytes = f->src_stride * rc_dtype_bytes(f->src_type);
    const char *src = f->src;
    for (uint32_t done = 0; done < f->rows;) {
        uint32_t row = f->row + done;
        if (row % HALF == 0 && f->rows - done >= HALF) {
            fill_whole_half(m, row, src + done * row_bytes, row_bytes, f->src_type);
            done += HALF;
        } else {
            fill_row(m, row, src + done * row_bytes, f->src_type);
            done++;
        }
    }
}

static void quant_row(const uint8_t *group, const rt_matrix *m, uint32_t column, float scale, float *out)
{
    rt_quant_group g;
    for (uint32_t k = 0; k < m->k; k += m->quant->group, group += rt_quant_group_bytes(m->quant)) {
        rt_quant_get(m->quant, group, column, &g);
        rt_quant_values(m->quant, &g, out + k);
    }
    for (uint32_t k = 0; k < m->k; k++) out[k] *= scale;
}

void RC_FAMILY(rt_matrix_row)(const rt_matrix *m, uint32_t row, float scale, float *out)
{
    const char *panel = rt_matrix_panel(m, row / RT_PANEL);
    uint32_t column = row % RT_PANEL;
    if (m->quant) {
        quant_row((const uint8_t *)panel, m, column, scale, out);
        return;
    }
    if (m->stored == RC_F32) {
        const float *w = (const float *)(const void *)panel + column;
        for (uint32_t k = 0; k < m->k; k++) out[k] = w[(size_t)k * RT_PANEL] * scale;
        return;
    }
    const uint16_t *w = (const uint16_t *)(const void *)panel + 2 * column;
    for (uint32_t k = 0; k < m->k; k++)
        out[k] = rc_bf16_to_f32(w[(size_t)(k / 2) * 2 * RT_PANEL + k % 2]) * scale;
}
