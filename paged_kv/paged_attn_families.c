#include <string.h>

#include "paged_kv/paged_attn_cpu.h"
#include "paged_kv/paged_attn_split.h"

const kv_cpu_kernels *kv_cpu_kernels_of(const char *family)
{
    static const kv_cpu_kernels table[] = {
#if MICA_HAVE_portable
        {"portable", kv_attn_cpu_portable, kv_write_cpu_portable},
#endif
#if MICA_HAVE_avx2
        {"avx2", kv_attn_cpu_avx2, kv_write_cpu_avx2},
#endif
#if MICA_HAVE_avx512
        {"avx512", kv_attn_cpu_avx512, kv_write_cpu_avx512},
#endif
#if MICA_HAVE_avx512_bf16
        {"avx512_bf16", kv_attn_cpu_avx512_bf16, kv_write_cpu_avx512_bf16},
#endif
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(table[i].family, family) == 0) return &table[i];
    return NULL;
}

/* One more vector of floats for each array, of which there are seven, and for alignment; some need less. */
size_t kv_attn_cpu_scratch_bytes(const kv_layout *layout)
{
    size_t dim = layout->head_dim + 15, tile = KV_TILE;
    size_t floats = 2 * dim * tile + (2 * dim + tile + 16 + 1) * KV__UNIT_QUERIES + 8 * 16;
    return floats * sizeof(float);
}
