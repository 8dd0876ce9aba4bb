/* runtime/backend/family_table.c - one family's kernels as a table; compiled once per family. */
#include "proto/vec.h"

#include "paged_kv/paged_attn_cpu.h"
#include "runtime/backend/family_parts.h"
#include "runtime/backend/tile_shape.h"

#define NAME_(family) #family
#define NAME(family) NAME_(family)

/* On Zen 3 x in L2, two depth blocks of so many rows, is worth 4 % of 512 rows against x in L3, though each
 * pass reads the weights from memory again. Wider registers ask for more of them in less time. */
#if SIXTEEN_REGISTERS
enum { PASS_ROWS = 45 };
#else
enum { PASS_ROWS = RT_ROWS_BLOCK };
#endif

const rt_kernels *RC_FAMILY(rt_kernels)(void)
{
    static const rt_kernels kernels = {
        .name = NAME(RC_KERNELS),
        .pass_rows = PASS_ROWS,
        .pack = RC_FAMILY(rt_dense_pack),
        .dense = RC_FAMILY(rt_dense_run),
        .quant_pack = RC_FAMILY(rt_quant_pack),
        .quant = RC_FAMILY(rt_quant_run),
        .fill = RC_FAMILY(rt_matrix_fill),
        .row = RC_FAMILY(rt_matrix_row),
        .rms_norm = RC_FAMILY(rt_rms_norm),
        .swiglu = RC_FAMILY(rt_swiglu),
        .add_scaled = RC_FAMILY(rt_add_scaled),
        .divide = RC_FAMILY(rt_divide),
        .rope = RC_FAMILY(rt_rope_rotate),
        .lora_shrink = RC_FAMILY(adapter_lora_shrink),
        .lora_expand = RC_FAMILY(adapter_lora_expand),
        .kv_write = RC_FAMILY(kv_write_cpu),
        .attention = RC_FAMILY(kv_attn_cpu),
    };
    return &kernels;
}
