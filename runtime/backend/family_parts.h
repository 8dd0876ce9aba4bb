/* runtime/backend/family_parts.h - what the kernel files of this folder give to their family's table
 * (family_table.c). Only for files that mica_kernels() compiles. */
#ifndef RUNTIME_BACKEND_FAMILY_PARTS_H
#define RUNTIME_BACKEND_FAMILY_PARTS_H

#include "proto/vec.h"

#include "runtime/backend/kernels.h"

#ifdef RC_KERNELS
void RC_FAMILY(rt_dense_pack)(const rt_dense *d, uint32_t part, uint32_t parts);
void RC_FAMILY(rt_dense_run)(const rt_dense *d, uint32_t part, uint32_t parts);
void RC_FAMILY(rt_quant_pack)(const rt_dense *d, uint32_t part, uint32_t parts);
void RC_FAMILY(rt_quant_run)(const rt_dense *d, uint32_t part, uint32_t parts);
void RC_FAMILY(rt_matrix_fill)(rt_matrix *m, const rt_fill *f);
void RC_FAMILY(rt_matrix_row)(const rt_matrix *m, uint32_t row, float scale, float *out);
void RC_FAMILY(rt_rms_norm)(const rt_rows *r, uint32_t part, uint32_t parts);
void RC_FAMILY(rt_swiglu)(const rt_rows *r, uint32_t part, uint32_t parts);
void RC_FAMILY(rt_add_scaled)(const rt_rows *r, uint32_t part, uint32_t parts);
void RC_FAMILY(rt_divide)(const rt_rows *r, uint32_t part, uint32_t parts);
void RC_FAMILY(rt_rope_rotate)(const rt_rope *r, uint32_t part, uint32_t parts);
#endif

#endif
