/* runtime/backend/row_kernels.c - what is done to each row by itself; compiled once per family.
 *
 * Elements are independent but for one sum (rms_norm), whose order follows from the width alone; tails have
 * the bits of full vectors (proto/vec.h). */
#include "proto/vec.h"

#include "runtime/backend/family_parts.h"
#include "runtime/backend/gate.h"
#include "runtime/backend/pool.h"

#include <math.h>

enum { COLUMNS = 512 }; /* of a unit of elementwise work */

static inline uint32_t lanes_at(uint32_t i, uint32_t width) { return width - i < 16 ? width - i : 16; }

/* Four running vectors, folded in one tree. */
static float sum_of_squares(const float *x, uint32_t width)
{
    rc_vf acc[4] = {rc_vf_zero(), rc_vf_zero(), rc_vf_zero(), rc_vf_zero()};
    uint32_t i = 0;
    for (; i + 64 <= width; i += 64)
        for (int v = 0; v < 4; v++) {
            rc_vf a = rc_vf_load(x + i + 16 * v);
            acc[v] = rc_vf_fma(a, a, acc[v]);
        }
    for (int v = 0; i < width; v++, i += 16) {
        rc_vf a = rc_vf_load_n(x + i, lanes_at(i, width));
        acc[v] = rc_vf_fma(a, a, acc[v]);
    }
    return rc_vf_sum(rc_vf_add(rc_vf_add(acc[0], acc[1]), rc_vf_add(acc[2], acc[3])));
}

/* weight * (x * 1/sqrt(mean(x^2) + epsilon)), rounded in that order. */
static void norm_row(const rt_rows *r, const float *x, float *y)
{
    float mean = sum_of_squares(x, r->width) / (float)r->width;
    rc_vf factor = rc_vf_set1(1.0f / sqrtf(mean + r->factor));
    uint32_t i = 0;
    for (; i + 16 <= r->width; i += 16)
        rc_vf_store(y + i, rc_vf_mul(rc_vf_load(r->weight + i), rc_vf_mul(rc_vf_load(x + i), factor)));
    uint32_t n = r->width - i;
    rc_vf last = rc_vf_mul(rc_vf_load_n(r->weight + i, n), rc_vf_mul(rc_vf_load_n(x + i, n), factor));
    rc_vf_store_n(y + i, last, n);
}

void RC_FAMILY(rt_rms_norm)(const rt_rows *r, uint32_t part, uint32_t parts)
{
    uint32_t row, end;
    for (rt_share(r->rows, part, parts, &row, &end); row < end; row++)
        norm_row(r, r->x + row * r->x_stride, r->y + row * r->y_stride);
}

typedef rc_vf (*element_fn)(const rt_rows *r, const float *x, rc_vf y, uint32_t n);

static inline rc_vf silu_times(const rt_rows *r, const float *x, rc_vf y, uint32_t n)
{
    (void)y;
    return rt_gate(rc_vf_load_n(x, n), rc_vf_load_n(x + r->width, n));
}

static inline rc_vf plus_scaled(const rt_rows *r, const float *x, rc_vf y, uint32_t n)
{
    return rc_vf_add(y, rc_vf_mul(rc_vf_set1(r->factor), rc_vf_load_n(x, n)));
}

static inline rc_vf divided(const rt_rows *r, const float *x, rc_vf y, uint32_t n)
{
    (void)x;
    (void)n;
    return rc_vf_div(y, rc_vf_set1(r->factor));
}

/* Elements of all rows are dealt out in runs of COLUMNS, so that one wide row is shared too. */
static inline __attribute__((always_inline)) void each_element(const rt_rows *r, element_fn f, bool reads_y,
                                                               uint32_t part, uint32_t parts)
{
    uint32_t runs = (r->width + COLUMNS - 1) / COLUMNS;
    uint64_t units = (uint64_t)r->rows * runs, end = units * (part + 1) / parts;
    for (uint64_t u = units * part / parts; u < end; u++) {
        uint32_t row = (uint32_t)(u / runs), i = (uint32_t)(u % runs) * COLUMNS;
        uint32_t stop = r->width - i < COLUMNS ? r->width : i + COLUMNS;
        const float *x = r->x ? r->x + row * r->x_stride : NULL;
        float *y = r->y + row * r->y_stride;
        for (; i < stop; i += 16) {
            uint32_t n = lanes_at(i, r->width);
            rc_vf old = reads_y ? rc_vf_load_n(y + i, n) : rc_vf_zero();
            rc_vf_store_n(y + i, f(r, x ? x + i : NULL, old, n), n);
        }
    }
}

void RC_FAMILY(rt_swiglu)(const rt_rows *r, uint32_t part, uint32_t parts)
{
    each_element(r, silu_times, false, part, parts);
}

void RC_FAMILY(rt_add_scaled)(const rt_rows *r, uint32_t part, uint32_t parts)
{
    each_element(r, plus_scaled, true, part, parts);
}

void RC_FAMILY(rt_divide)(const rt_rows *r, uint32_t part, uint32_t parts)
{
    each_element(r, divided, true, part, parts);
}

/* x[i], x[i + D/2]  ->  x[i] cos - x[i + D/2] sin, x[i + D/2] cos + x[i] sin; products rounded first. */
static void rotate_head(float *x, const float *cos, const float *sin, uint32_t half)
{
    for (uint32_t i = 0; i < half; i += 16) {
        uint32_t n = lanes_at(i, half);
        rc_vf a = rc_vf_load_n(x + i, n), b = rc_vf_load_n(x + half + i, n);
        rc_vf c = rc_vf_load_n(cos + i, n), s = rc_vf_load_n(sin + i, n);
        rc_vf_store_n(x + i, rc_vf_sub(rc_vf_mul(a, c), rc_vf_mul(b, s)), n);
        rc_vf_store_n(x + half + i, rc_vf_add(rc_vf_mul(b, c), rc_vf_mul(a, s)), n);
    }
}

void RC_FAMILY(rt_rope_rotate)(const rt_rope *r, uint32_t part, uint32_t parts)
{
    uint32_t half = r->head_dim / 2, row, end;
    for (rt_share(r->rows, part, parts, &row, &end); row < end; row++) {
        const float *cos = r->cos + (size_t)r->positions[row] * half;
        const float *sin = r->sin + (size_t)r->positions[row] * half;
        for (uint32_t h = 0; h < r->heads; h++)
            rotate_head(r->q + row * r->stride + h * r->head_dim, cos, sin, half);
        for (uint32_t h = 0; h < r->kv_heads; h++)
            rotate_head(r->k + row * r->stride + h * r->head_dim, cos, sin, half);
    }
}
