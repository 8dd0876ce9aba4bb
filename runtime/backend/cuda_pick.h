/* runtime/backend/cuda_pick.h - tokens and log probabilities from rows of logits on a CUDA device.
 *
 * The host lays the step's picks out in its descriptor, headers and lists; a launch takes a run of rows, a
 * thread block each. What is wanted and in which order, runtime/engine/sampler.h says.
 *
 * Exact  Weights are summed as integers (2^-42 is one), so no sum has an order, and a row's bits follow from
 *        that row alone. The host's sampler sums doubles, of weights whose last bit may differ: the two draw
 *        apart where a number falls within about 10^-7 of a boundary, and else alike. Sums for log
 *        probabilities are doubles in one order.
 * Limits A vocabulary of RT_CUDA_PICK_VOCAB_MAX.
 */
#ifndef RUNTIME_BACKEND_CUDA_PICK_H
#define RUNTIME_BACKEND_CUDA_PICK_H

#include <cuda_runtime_api.h>

#include "runtime/backend/pick.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { RT_CUDA_PICK_VOCAB_MAX = 1 << 22 }; /* whose weights' sum is an integer of 64 bits */

typedef enum rt_cuda_pick_kind {
    RT_CUDA_PICK_NONE, /* nobody's row */
    RT_CUDA_PICK_HOST, /* its lists have no room: the host shall do it */
    RT_CUDA_PICK_KNOWN,
    RT_CUDA_PICK_DRAW
} rt_cuda_pick_kind;

/* A row's header. */
typedef struct rt_cuda_pick {
    uint32_t kind;
    uint32_t picked_at;  /* where what was picked goes */
    int32_t token, tops; /* as in rt_pick */
    float temperature, top_p, min_p;
    uint32_t top_k;
    float frequency_penalty, presence_penalty, repetition_penalty;
    uint32_t uniform_low, uniform_high;         /* times 2^53 */
    uint32_t lists_at;                          /* in the descriptor's words */
    uint32_t biases, prompt, generated, banned; /* of the lists, in this order: (token, bias), tokens */
} rt_cuda_pick;

enum { RT_CUDA_PICK_WORDS = sizeof(rt_cuda_pick) / sizeof(uint32_t) };

/* Words that `count` picks fill at most where `draws` of them have lists of `lists_max` words. */
size_t rt_cuda_pick_words(size_t count, size_t draws, size_t lists_max);
/* Lays the picks out from words + at on, `rows` headers of which those behind `count` are nobody's, and their
 * lists from words + lists_at on; gives where these end. A pick whose lists are longer than lists_max is the
 * host's. What is picked lies `stride` apart. */
uint32_t rt_cuda_pick_pack(const rt_pick *picks, uint32_t count, uint32_t rows, uint32_t lists_max,
                           uint32_t stride, uint32_t *words, uint32_t at, uint32_t lists_at);

/* Pointers are the device's. */
typedef struct rt_cuda_pick_run {
    const uint32_t *words;
    uint32_t at;          /* of the first header */
    uint32_t first, rows; /* picks whose logits these are */
    const float *logits;  /* [rows][logits_stride] */
    size_t logits_stride;
    uint32_t vocab;
    float *scratch;        /* [rows][2][vocab] */
    mica_top *picked;      /* of each pick the token, -1 where it is the host's, then the best */
    const int32_t *before; /* the tokens of the step before, by pick */
    int32_t *drawn;        /* the same of this one */
} rt_cuda_pick_run;

cudaError_t rt_cuda_pick_rows(const rt_cuda_pick_run *r, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
