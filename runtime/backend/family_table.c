/* runtime/backend/family_table.c - one family's kernels as a table; compiled once per family. */
#include "proto/vec.h"

#include "paged_kv/paged_attn_cpu.h"
#include "runtime/backend/family_parts.h"

#define NAME_(family) #family
#define NAME(family) NAME_(family)

const rt_kernels *RC_FAMILY(rt_kernels)(void)
{
    static const rt_kernels kernels = {
        .name = NAME(RC_KERNELS),
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
