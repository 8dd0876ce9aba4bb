/* One thread block a row. Passes over the vocabulary, each ending in one value that all threads have:
 *
 *     the best     a key that orders (logit, lower id first); the next best is the best below it
 *     top_k        the fewest best tokens whose number reaches k        keep_best
 *     top_p        the fewest best tokens whose weights reach a goal    keep_best
 *     the draw     the first id at which weights reach a goal           first_to_reach
 *
 * Nothing is sorted. keep_best finds the order of the last token that is kept by one digit of it after the
 * other, and which of its equals are kept by their ids. first_to_reach looks where the goal is reached among
 * as many parts as there are warps, then among the parts of that one.
 */
#include <float.h>

#include "proto/cuda_port.cuh"
#include "runtime/backend/cuda_pick.h"

enum { THREADS = 512, WARPS = THREADS / 32, DIGIT = 8, BINS = 1 << DIGIT };

/* A float weight in (0, 1] as an integer. */
#define UNIT 0x1p42f

struct pick_shared {
    uint64_t sums[WARPS];
    double parts[WARPS];
    unsigned long long bins[BINS];
    uint64_t before;
    uint32_t digit;
};

struct pick_row {
    const rt_cuda_pick *pick;
    const uint32_t *lists;
    const int32_t *before;
    const float *logits; /* as they came */
    float *x, *weights;  /* adjusted; then less the highest, over the temperature. weights: 0 is ruled out */
    uint32_t vocab;
};

template <class T, class F> __device__ __forceinline__ T over_warp(T mine, F join)
{
    for (int lanes = 16; lanes; lanes /= 2) mine = join(mine, __shfl_xor_sync(~0u, mine, lanes));
    return mine;
}

/* All threads get the same, joined in one order. */
template <class T, class F> __device__ __forceinline__ T over_block(T mine, T *shared, F join)
{
    mine = over_warp(mine, join);
    __syncthreads(); /* what was there may still be read */
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = mine;
    __syncthreads();
    T all = shared[0];
    for (int w = 1; w < WARPS; w++) all = join(all, shared[w]);
    return all;
}

struct add {
    template <class T> __device__ T operator()(T a, T b) const { return a + b; }
};
struct larger {
    __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a > b ? a : b; }
};

template <class F> __device__ __forceinline__ void each_id(uint32_t vocab, F f)
{
    for (uint32_t i = threadIdx.x; i < vocab; i += THREADS) f(i);
}

/* ---- the best ---- */

/* Larger for a larger number, which is none, and for a lower id of equal ones. */
__device__ __forceinline__ uint64_t key_of(float x, uint32_t id)
{
    uint32_t bits = __float_as_uint(x + 0.0f); /* -0 equals 0 */
    bits = bits >> 31 ? ~bits : bits | 1u << 31;
    return (uint64_t)bits << 32 | (uint32_t)~id;
}

__device__ __forceinline__ uint32_t id_of(uint64_t key)
{
    return ~(uint32_t)key;
}

__device__ __forceinline__ float value_of(uint64_t key)
{
    uint32_t bits = (uint32_t)(key >> 32);
    return __uint_as_float(bits >> 31 ? bits & ~(1u << 31) : ~bits);
}

/* Of the numbers f(id) the best whose key is below `limit`. */
template <class F>
__device__ __forceinline__ uint64_t best_below(uint64_t limit, uint32_t vocab, pick_shared &s, F f)
{
    uint64_t best = 0;
    each_id(vocab, [&](uint32_t i) {
        uint64_t key = key_of(f(i), i);
        if (key < limit && key > best) best = key;
    });
    return over_block(best, s.sums, larger());
}

/* ---- what is drawn from ---- */

/* NaN becomes the lowest finite number, so that it is drawn only where all else is banned. */
__device__ __forceinline__ float finite(float x)
{
    x = x != x ? -FLT_MAX : x;
    return x > FLT_MAX ? FLT_MAX : x;
}

/* The first of the entries that name a token adds what they all say, in their order. */
__device__ void add_biases(const pick_row &r)
{
    const uint32_t *list = r.lists;
    uint32_t count = r.pick->biases;
    for (uint32_t i = threadIdx.x; i < count; i += THREADS) {
        uint32_t id = list[2 * i];
        bool is_first = id < r.vocab;
        for (uint32_t j = 0; j < i; j++) is_first = is_first && list[2 * j] != id;
        for (uint32_t j = i; is_first && j < count; j++)
            if (list[2 * j] == id) r.x[id] += __uint_as_float(list[2 * j + 1]);
    }
    __syncthreads();
}

/* Each token of the history once. seen: how often it was generated; the upper bit: it is in the history. */
__device__ void penalize(const pick_row &r)
{
    const uint32_t *history = r.lists + 2 * r.pick->biases;
    uint32_t *seen = (uint32_t *)r.weights, prompt = r.pick->prompt, count = prompt + r.pick->generated;
    each_id(r.vocab, [&](uint32_t i) { seen[i] = 0; });
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < count; i += THREADS) {
        uint32_t id = (int32_t)history[i] < 0 ? (uint32_t)r.before[~history[i]] : history[i];
        if (id >= r.vocab) continue;
        if (i < prompt)
            atomicOr(&seen[id], 1u << 31);
        else
            atomicAdd(&seen[id], 1u);
    }
    __syncthreads();
    each_id(r.vocab, [&](uint32_t i) {
        if (!seen[i]) return;
        uint32_t times = seen[i] & ~(1u << 31);
        float x = r.x[i];
        x = x > 0 ? x / r.pick->repetition_penalty : x * r.pick->repetition_penalty;
        x = __fsub_rn(x, __fmul_rn(r.pick->frequency_penalty, (float)times));
        r.x[i] = times ? x - r.pick->presence_penalty : x;
    });
    __syncthreads();
}

__device__ void adjust(const pick_row &r)
{
    const rt_cuda_pick &p = *r.pick;
    const uint32_t *banned = r.lists + 2 * p.biases + p.prompt + p.generated;
    each_id(r.vocab, [&](uint32_t i) { r.x[i] = finite(r.logits[i]); });
    __syncthreads();
    if (p.biases) add_biases(r);
    if (p.prompt + p.generated) penalize(r);
    for (uint32_t i = threadIdx.x; i < p.banned; i += THREADS)
        if (banned[i] < r.vocab) r.x[banned[i]] = -INFINITY;
    __syncthreads();
}

/* ---- reaching a goal ---- */

/* The first id at which amount(id), added up in order of ids, reaches `goal`, which all together do. */
template <class F> __device__ uint32_t first_to_reach(uint64_t goal, uint32_t vocab, pick_shared &s, F amount)
{
    uint32_t begin = 0, end = vocab, warp = threadIdx.x / 32;
    uint64_t before = 0;
    while (end - begin > 1) {
        uint32_t part = (end - begin + WARPS - 1) / WARPS, last = (end - begin - 1) / part, at = 0;
        uint32_t from = begin + warp * part, to = from + part < end ? from + part : end;
        uint64_t sum = 0;
        for (uint32_t i = from + threadIdx.x % 32; i < to; i += 32) sum += amount(i);
        sum = over_warp(sum, add());
        __syncthreads();
        if (threadIdx.x % 32 == 0) s.sums[warp] = sum;
        __syncthreads();
        while (at < last && before + s.sums[at] < goal) before += s.sums[at++];
        begin += at * part;
        end = begin + part < end ? begin + part : end;
    }
    return begin;
}

/* x is at most 0, so that the bits of its negative order tokens, the best first. */
__device__ __forceinline__ uint32_t order_of(float x)
{
    return __float_as_uint(0.0f - x);
}

/* Rules out all tokens but the fewest best ones whose amount(weight) reach `goal`. */
template <class F> __device__ void keep_best(const pick_row &r, uint64_t goal, pick_shared &s, F amount)
{
    uint32_t order = 0;
    uint64_t before = 0; /* what is better than all tokens whose order begins with these digits */
    for (int shift = 32 - DIGIT; shift >= 0; shift -= DIGIT) {
        each_id(BINS, [&](uint32_t i) { s.bins[i] = 0; });
        __syncthreads();
        each_id(r.vocab, [&](uint32_t i) {
            uint32_t mine = order_of(r.x[i]);
            if (r.weights[i] > 0 && ((uint64_t)mine >> (shift + DIGIT)) == order)
                atomicAdd(&s.bins[mine >> shift & (BINS - 1)], amount(r.weights[i]));
        });
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t digit = 0;
            while (digit < BINS - 1 && before + s.bins[digit] < goal) before += s.bins[digit++];
            s.digit = digit;
            s.before = before;
        }
        __syncthreads();
        order = order << DIGIT | s.digit;
        before = s.before;
    }
    uint32_t last = first_to_reach(goal - before, r.vocab, s, [&](uint32_t i) {
        return r.weights[i] > 0 && order_of(r.x[i]) == order ? (uint64_t)amount(r.weights[i]) : 0;
    });
    each_id(r.vocab, [&](uint32_t i) {
        uint32_t mine = order_of(r.x[i]);
        if (mine > order || (mine == order && i > last)) r.weights[i] = 0;
    });
    __syncthreads();
}

__device__ __forceinline__ unsigned long long fixed(float weight)
{
    return (unsigned long long)(weight * UNIT);
}

__device__ uint64_t total_of(const pick_row &r, pick_shared &s)
{
    uint64_t sum = 0;
    each_id(r.vocab, [&](uint32_t i) { sum += fixed(r.weights[i]); });
    return over_block(sum, s.sums, add());
}

__device__ void truncate(const pick_row &r, pick_shared &s)
{
    const rt_cuda_pick &p = *r.pick;
    if (p.top_k > 0 && p.top_k < r.vocab) keep_best(r, p.top_k, s, [](float) { return 1ull; });
    if (p.top_p < 1) {
        uint64_t goal = (uint64_t)ceil((double)p.top_p * (double)total_of(r, s));
        keep_best(r, goal, s, [](float weight) { return fixed(weight); });
    }
}

/* ---- rows ---- */

__device__ int32_t draw(const pick_row &r, pick_shared &s)
{
    const rt_cuda_pick &p = *r.pick;
    bool is_greedy = p.temperature < RT_GREEDY_BELOW;
    if (is_greedy && !(p.biases + p.prompt + p.generated + p.banned))
        return (int32_t)id_of(
            best_below(UINT64_MAX, r.vocab, s, [&](uint32_t i) { return finite(r.logits[i]); }));
    adjust(r);
    uint64_t best = best_below(UINT64_MAX, r.vocab, s, [&](uint32_t i) { return r.x[i]; });
    float highest = value_of(best);
    if (is_greedy || fabsf(highest) > FLT_MAX) return (int32_t)id_of(best);
    each_id(r.vocab, [&](uint32_t i) {
        float x = (r.x[i] - highest) / p.temperature, weight = expf(x);
        r.x[i] = x;
        r.weights[i] = weight < fminf(p.min_p, 1) ? 0 : weight;
    });
    __syncthreads();
    truncate(r, s);
    double uniform = (double)((uint64_t)p.uniform_high << 32 | p.uniform_low) * 0x1p-53;
    uint64_t total = total_of(r, s), goal = (uint64_t)(uniform * (double)total) + 1;
    return (int32_t)first_to_reach(goal < total ? goal : total, r.vocab, s,
                                   [&](uint32_t i) { return (uint64_t)fixed(r.weights[i]); });
}

/* Log probabilities are of the logits as they came; NaN counts as -inf, infinity as the highest number. */
__device__ __forceinline__ float clean(float x)
{
    return x > FLT_MAX ? FLT_MAX : x == x ? x : -INFINITY;
}

__device__ void tell(const pick_row &r, int32_t token, mica_top *out, pick_shared &s)
{
    auto logit = [&](uint32_t i) { return clean(r.logits[i]); };
    uint64_t best = best_below(UINT64_MAX, r.vocab, s, logit), greater = 0;
    float highest = value_of(best), own = logit((uint32_t)token);
    double sum = 0, norm = 0;
    each_id(r.vocab, [&](uint32_t i) {
        sum += expf(logit(i) - highest);
        greater += r.logits[i] > own;
    });
    sum = over_block(sum, s.parts, add());
    greater = over_block(greater, s.sums, add());
    if (highest != -INFINITY) norm = highest + log(sum); /* else no token has a probability */
    if (threadIdx.x == 0) *out = {token, (float)(own - norm), (uint32_t)(1 + greater)};
    uint32_t rank = 1;
    float above = highest;
    for (int32_t n = 1; n <= r.pick->tops; n++) {
        if (value_of(best) != above) rank = (uint32_t)n; /* equals share the first one's */
        above = value_of(best);
        if (threadIdx.x == 0) out[n] = {(int32_t)id_of(best), (float)(above - norm), rank};
        if (n < r.pick->tops) best = best_below(best, r.vocab, s, logit);
    }
}

__global__ void __launch_bounds__(THREADS) pick_rows(rt_cuda_pick_run run)
{
    __shared__ pick_shared s;
    uint32_t row = blockIdx.x;
    const rt_cuda_pick *pick = (const rt_cuda_pick *)(run.words + run.at) + run.first + row;
    if (pick->kind == RT_CUDA_PICK_NONE) return;
    float *x = run.scratch + 2 * (size_t)row * run.vocab;
    pick_row r = {pick,      run.words + pick->lists_at, run.before, run.logits + row * run.logits_stride, x,
                  x + run.vocab, run.vocab};
    mica_top *out = run.picked + pick->picked_at;
    int32_t token = pick->kind == RT_CUDA_PICK_HOST ? -1 : pick->token;
    if (pick->kind == RT_CUDA_PICK_DRAW) token = draw(r, s);
    if (threadIdx.x == 0) run.drawn[run.first + row] = token;
    if (token >= 0 && pick->tops >= 0)
        tell(r, token, out, s);
    else if (threadIdx.x == 0)
        *out = {token, 0, 0};
}
KREGISTER(pick_rows);

cudaError_t rt_cuda_pick_rows(const rt_cuda_pick_run *r, cudaStream_t stream)
{
    return r->rows ? kl(pick_rows, dim3(r->rows), dim3(THREADS), 0, stream, *r) : cudaSuccess;
}
