/* Products with codes. A thread block has a panel of 16 rows of W. Its warps take some blocks of 32 k in
 * turn, and ask for all of those before they use the first, so that enough loads are under way; their sums
 * are added in the order of the warps. */
#include "proto/cuda_port.cuh"
#include "runtime/backend/cuda_quant.h"

enum { THREADS = 256, WARPS = THREADS / 32, PANEL = RT_CUDA_PANEL, TILE = 8 /* rows of x */ };
enum { STEP = 4 /* blocks at a time */ };

/* What a lane has of a block, for rows l / 4 and l / 4 + 8 of the panel: pairs of code + offset as bf16, two
 * of the first 16 k and two of the others. */
struct lane_codes {
    uint32_t pairs[2][4];
};

__device__ __forceinline__ uint32_t pair_of(float low, float high)
{
    uint32_t a = __bfloat16_as_ushort(__float2bfloat16_rn(low));
    uint32_t b = __bfloat16_as_ushort(__float2bfloat16_rn(high));
    return a | b << 16;
}

/* Codes below 64, as 128 + code, less 128 - offset: all are integers that bf16 holds. */
__device__ __forceinline__ uint32_t narrow_pair(uint32_t codes, uint32_t less)
{
    __nv_bfloat162 a, b;
    uint32_t above = codes | 0x43004300u, out;
    memcpy((void *)&a, &above, sizeof a);
    memcpy((void *)&b, &less, sizeof b);
    a = __hsub2(a, b);
    memcpy(&out, &a, sizeof out);
    return out;
}

__device__ __forceinline__ float byte_value(uint32_t bytes, int i)
{
    return (float)(int8_t)(bytes >> 8 * i);
}

template <int BITS> __device__ __forceinline__ uint32_t upper_bits(uint32_t more, int i)
{
    if (BITS == 5) return (more >> i & 1) << 4 | (more >> i & 0x10) << 16;
    if (BITS == 6) return (more >> 2 * i & 3) << 4 | (more >> 2 * i & 0x300) << 12;
    return 0;
}

/* A lane's share of a block as it lies there: nibbles, then what is above them; or bytes. */
template <int BITS> __device__ __forceinline__ uint4 load_codes(const uint8_t *block, uint32_t lane)
{
    if (BITS == 8) return ((const uint4 *)block)[lane];
    uint2 nibbles = ((const uint2 *)block)[lane];
    const uint8_t *plane = block + 32 * sizeof(uint2);
    uint32_t more[2] = {0, 0};
    if (BITS == 5) {
        uint32_t both = ((const uint16_t *)plane)[lane];
        more[0] = both & 0xff;
        more[1] = both >> 8;
    } else if (BITS == 6) {
        uint32_t both = ((const uint32_t *)plane)[lane];
        more[0] = both & 0xffff;
        more[1] = both >> 16;
    }
    return make_uint4(nibbles.x, nibbles.y, more[0], more[1]);
}

template <int BITS> __device__ __forceinline__ lane_codes codes_of(uint4 raw, uint32_t less)
{
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
    lane_codes out;
    for (int i = 0; i < 8; i++) {
        int half = i / 4, at = i % 4;
        if (BITS == 8)
            out.pairs[half][at] =
                pair_of(byte_value(words[i / 2], i % 2 * 2), byte_value(words[i / 2], i % 2 * 2 + 1));
        else
            out.pairs[half][at] = narrow_pair(
                (words[half] >> 4 * at & 0x000f000fu) | upper_bits<BITS>(words[2 + half], at), less);
    }
    return out;
}

/* Code j of a lane's share, without the offset. */
__device__ __forceinline__ int code_of(const rt_cuda_codes &c, const uint8_t *block, uint32_t share,
                                       uint32_t j)
{
    const uint8_t *more = block + 32 * sizeof(uint2);
    if (c.bits == 8) return (int8_t)block[share * 8 + j];
    int code = ((const uint32_t *)block)[share] >> (4 * (j / 2) + 16 * (j % 2)) & 15;
    if (c.bits == 5) code |= (more[share] >> (j / 2 + 4 * (j % 2)) & 1) << 4;
    if (c.bits == 6) code |= (((const uint16_t *)more)[share] >> (2 * (j / 2) + 8 * (j % 2)) & 3) << 4;
    return code;
}

/* 128 - offset twice as bf16 */
__device__ __forceinline__ uint32_t less_of(const rt_cuda_codes &c)
{
    float less = (float)(128 - c.offset);
    return pair_of(less, less);
}

__device__ __forceinline__ float half_value(uint16_t bits)
{
    return __half2float(__ushort_as_half(bits));
}

struct run_scale {
    float scale, low;
};

/* Of row `row` of the panel in run r of a group. */
__device__ __forceinline__ run_scale scale_of(const rt_cuda_codes &c, const uint8_t *group, uint32_t row,
                                              uint32_t r)
{
    const uint16_t *d = (const uint16_t *)group;
    uint32_t runs = c.group / c.run;
    const uint8_t *factors = group + (c.has_min ? 2 : 1) * PANEL * sizeof *d + r * PANEL + row;
    run_scale s = {half_value(d[row]), c.has_min ? half_value(d[PANEL + row]) : 0};
    if (!c.has_factors) return s;
    s.scale *= c.signed_factors ? (float)(int8_t)*factors : (float)*factors;
    if (c.has_min) s.low *= -(float)factors[runs * PANEL];
    return s;
}

__device__ __forceinline__ const uint8_t *group_at(const rt_cuda_codes &c, uint32_t panel, uint32_t group)
{
    return c.panels + ((size_t)panel * (c.k / c.group) + group) * c.group_bytes;
}

/* Groups are 32 k or 256. */
__device__ __forceinline__ uint32_t blocks_of_group(const rt_cuda_codes &c)
{
    return c.group == RT_QUANT_BLOCK ? 1 : 8;
}

/* Four k of a row, if there is one. */
__device__ __forceinline__ uint2 x_of(const rt_cuda_codes_product &p, uint32_t row, uint32_t k)
{
    return row < p.rows ? *(const uint2 *)(p.x + row * p.x_stride + k) : make_uint2(0, 0);
}

/* A block of W as a lane has it; scales of its runs (6 bits: two, else one) for the lane's two rows. */
template <int BITS> struct lane_block {
    enum { RUNS = BITS == 6 ? 2 : 1 };
    uint4 raw;
    run_scale scales[RUNS][2];
};

template <int BITS>
__device__ __forceinline__ lane_block<BITS> load_block(const rt_cuda_codes &c, uint32_t panel, uint32_t b,
                                                       uint32_t lane)
{
    const int RUNS = lane_block<BITS>::RUNS;
    uint32_t blocks = blocks_of_group(c), in_group = b % blocks;
    const uint8_t *group = group_at(c, panel, b / blocks);
    lane_block<BITS> w;
    w.raw = load_codes<BITS>(group + c.blocks_at + in_group * c.block_bytes, lane);
    for (int r = 0; r < RUNS; r++)
        for (int half = 0; half < 2; half++)
            w.scales[r][half] = scale_of(c, group, lane / 4 + 8 * half, in_group * RUNS + r);
    return w;
}

/* sums: of each tile of x the fragment of mma_m16n8k16_bf16. */
template <int BITS, int TILES>
__device__ __forceinline__ void add_block(const rt_cuda_codes &c, const rt_cuda_codes_product &p,
                                          const lane_block<BITS> &block, uint32_t k, uint32_t lane,
                                          float (*sums)[4])
{
    const uint32_t all_ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
    const int RUNS = lane_block<BITS>::RUNS;
    lane_codes w = codes_of<BITS>(block.raw, less_of(c));
    for (int t = 0; t < TILES; t++) {
        float part[4] = {}, ones[4] = {};
        for (int h = 0; h < 2; h++) { /* 16 k each */
            const uint32_t a[4] = {w.pairs[0][2 * h], w.pairs[1][2 * h], w.pairs[0][2 * h + 1],
                                   w.pairs[1][2 * h + 1]};
            uint2 x = x_of(p, t * TILE + lane / 4, k + 16 * h + 4 * (lane % 4));
            const uint32_t of_x[2] = {x.x, x.y};
            mma_m16n8k16_bf16(part, a, of_x);
            if (c.has_min) mma_m16n8k16_bf16(ones, all_ones, of_x);
            if (RUNS == 1 && h == 0) continue;
            for (int i = 0; i < 4; i++) { /* the run is over */
                run_scale s = block.scales[RUNS == 1 ? 0 : h][i / 2];
                sums[t][i] += s.scale * part[i];
                if (c.has_min) sums[t][i] += s.low * ones[i];
                part[i] = 0;
            }
        }
    }
}

template <int BITS, int TILES>
__device__ __forceinline__ void add_blocks(const rt_cuda_codes &c, const rt_cuda_codes_product &p,
                                           uint32_t panel, uint32_t first, uint32_t lane, float (*sums)[4])
{
    uint32_t blocks = c.k / RT_QUANT_BLOCK;
    lane_block<BITS> w[STEP];
#pragma unroll
    for (uint32_t i = 0; i < STEP; i++)
        w[i] = load_block<BITS>(c, panel, first + i < blocks ? first + i : blocks - 1, lane);
#pragma unroll
    for (uint32_t i = 0; i < STEP; i++)
        if (first + i < blocks) add_block<BITS, TILES>(c, p, w[i], (first + i) * RT_QUANT_BLOCK, lane, sums);
}

template <int BITS, int TILES>
__device__ __forceinline__ void multiply(const rt_cuda_codes &c, const rt_cuda_codes_product &p,
                                         float *shared) /* [WARPS][TILES * 4][32] */
{
    const int EACH = TILES * 4 * 32;
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, panel = blockIdx.x;
    float sums[TILES][4] = {};
    for (uint32_t b = warp * STEP; b < c.k / RT_QUANT_BLOCK; b += WARPS * STEP)
        add_blocks<BITS, TILES>(c, p, panel, b, lane, sums);
    for (int i = 0; i < TILES * 4; i++) shared[warp * EACH + i * 32 + lane] = sums[i / 4][i % 4];
    __syncthreads();
    for (uint32_t at = threadIdx.x; at < EACH; at += THREADS) {
        uint32_t i = at / 32, of = at % 32;
        uint32_t n = panel * PANEL + of / 4 + i % 4 / 2 * 8, row = i / 4 * TILE + of % 4 * 2 + i % 2;
        float sum = 0;
        for (int w = 0; w < WARPS; w++) sum += shared[w * EACH + at];
        if (n < c.n && row < p.rows) p.y[row * p.y_stride + n] = p.bias ? sum + p.bias[n] : sum;
    }
}

#define MULTIPLY(BITS, TILES)                                                                                \
    __global__ void __launch_bounds__(THREADS, TILES == 1 ? 3 : 2)                                           \
        multiply_codes_##BITS##_##TILES(rt_cuda_codes c, rt_cuda_codes_product p)                            \
    {                                                                                                        \
        KSMEM_DYN(float, shared);                                                                            \
        multiply<BITS, TILES>(c, p, shared);                                                                 \
    }                                                                                                        \
    KREGISTER(multiply_codes_##BITS##_##TILES)
#define MULTIPLY_ALL(BITS)                                                                                   \
    MULTIPLY(BITS, 1);                                                                                       \
    MULTIPLY(BITS, 2);                                                                                       \
    MULTIPLY(BITS, 4)
MULTIPLY_ALL(4);
MULTIPLY_ALL(5);
MULTIPLY_ALL(6);
MULTIPLY_ALL(8);

/* Codes as numbers, rounded once. */
__device__ __forceinline__ uint32_t number_pair(uint32_t codes, run_scale s, bool has_min)
{
    float low = __uint_as_float(codes << 16) * s.scale, high = __uint_as_float(codes & 0xffff0000u) * s.scale;
    return has_min ? pair_of(__fadd_rn(low, s.low), __fadd_rn(high, s.low)) : pair_of(low, high);
}

/* A warp has a group of a panel. */
template <int BITS>
__device__ void expand(const rt_cuda_codes &c, uint32_t first, uint32_t rows, uint16_t *out)
{
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = blockIdx.x * WARPS + warp;
    if (g >= c.k / c.group) return;
    const uint8_t *group = group_at(c, first / PANEL + blockIdx.y, g);
    for (uint32_t b = 0; b < blocks_of_group(c); b++) {
        uint4 raw = load_codes<BITS>(group + c.blocks_at + b * c.block_bytes, lane);
        lane_codes w = codes_of<BITS>(raw, less_of(c));
        for (int i = 0; i < 4; i++) { /* rows l / 4 and + 8, of the first 16 k and of the others */
            uint32_t row = lane / 4 + 8 * (i / 2), to = blockIdx.y * PANEL + row;
            uint32_t k = b * RT_QUANT_BLOCK + i % 2 * 16 + 4 * (lane % 4);
            run_scale s = scale_of(c, group, row, k / c.run);
            uint2 four = make_uint2(number_pair(w.pairs[i / 2][i % 2 * 2], s, c.has_min),
                                    number_pair(w.pairs[i / 2][i % 2 * 2 + 1], s, c.has_min));
            if (to < rows) *(uint2 *)(out + (size_t)to * c.k + g * c.group + k) = four;
        }
    }
}

#define EXPAND(BITS)                                                                                         \
    __global__ void __launch_bounds__(THREADS)                                                               \
        expand_codes_##BITS(rt_cuda_codes c, uint32_t first, uint32_t rows, uint16_t *out)                   \
    {                                                                                                        \
        expand<BITS>(c, first, rows, out);                                                                   \
    }                                                                                                        \
    KREGISTER(expand_codes_##BITS)
EXPAND(4);
EXPAND(5);
EXPAND(6);
EXPAND(8);

__device__ __forceinline__ float number_of(const rt_cuda_codes &c, uint32_t n, uint32_t k)
{
    uint32_t row = n % PANEL, in_group = k % c.group, in_block = k % RT_QUANT_BLOCK;
    uint32_t lane = row % 8 * 4 + in_block % 16 / 4, j = in_block / 16 * 4 + in_block % 4;
    const uint8_t *group = group_at(c, n / PANEL, k / c.group);
    const uint8_t *block = group + c.blocks_at + in_group / RT_QUANT_BLOCK * c.block_bytes;
    run_scale s = scale_of(c, group, row, in_group / c.run);
    float number = (float)(code_of(c, block, lane * 2 + row / 8, j) + c.offset) * s.scale;
    return c.has_min ? __fadd_rn(number, s.low) : number;
}

__global__ void __launch_bounds__(THREADS) embed_codes(rt_cuda_codes c, rt_cuda_rows r, const int32_t *tokens,
                                                       const int32_t *before, uint32_t first, float scale)
{
    uint32_t row = blockIdx.y, i = blockIdx.x * THREADS + threadIdx.x;
    int32_t token = tokens[row] < 0 ? before[~tokens[row]] : tokens[row];
    uint32_t at = (uint32_t)token - first;
    if (i < r.width) r.y[row * r.y_stride + i] = at < c.n ? scale * number_of(c, at, i) : 0;
}
KREGISTER(embed_codes);

cudaError_t rt_cuda_codes_embed(const rt_cuda_codes *c, const rt_cuda_rows *r, const int32_t *tokens,
                                const int32_t *before, uint32_t first, float scale, cudaStream_t stream)
{
    dim3 grid((r->width + THREADS - 1) / THREADS, r->rows);
    return kl(embed_codes, grid, dim3(THREADS), 0, stream, *c, *r, tokens, before, first, scale);
}

#define LAUNCH(BITS, TILES)                                                                                  \
    kl(multiply_codes_##BITS##_##TILES, grid, dim3(THREADS), THREADS *TILES * 4 * sizeof(float), stream, *c, \
       *p)
#define LAUNCH_ROWS(BITS)                                                                                    \
    p->rows <= TILE ? LAUNCH(BITS, 1) : p->rows <= 2 * TILE ? LAUNCH(BITS, 2) : LAUNCH(BITS, 4)
#define BY_BITS(LAUNCH)                                                                                      \
    c->bits == 4 ? LAUNCH(4) : c->bits == 5 ? LAUNCH(5) : c->bits == 6 ? LAUNCH(6) : LAUNCH(8)

cudaError_t rt_cuda_codes_multiply(const rt_cuda_codes *c, const rt_cuda_codes_product *p,
                                   cudaStream_t stream)
{
    dim3 grid((c->n + PANEL - 1) / PANEL);
    return BY_BITS(LAUNCH_ROWS);
}

#define LAUNCH_EXPAND(BITS) kl(expand_codes_##BITS, grid, dim3(THREADS), 0, stream, *c, first, rows, out)

cudaError_t rt_cuda_codes_expand(const rt_cuda_codes *c, uint32_t first, uint32_t rows, uint16_t *out,
                                 cudaStream_t stream)
{
    uint32_t groups = c->k / c->group;
    dim3 grid((groups + WARPS - 1) / WARPS, (rows + PANEL - 1) / PANEL);
    return BY_BITS(LAUNCH_EXPAND);
}
