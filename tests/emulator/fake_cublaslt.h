/* tests/emulator/fake_cublaslt.h - the algorithms of the emulated cuBLASLt: EMU_ALGOS of them for any
 * product. */
#ifndef TESTS_EMULATOR_FAKE_CUBLASLT_H
#define TESTS_EMULATOR_FAKE_CUBLASLT_H

#include <stdint.h>

enum { EMU_ALGO_FAILS = 1 }; /* the number of one that is proposed and then refuses */

/* What a cublasLtMatmulAlgo_t holds. */
typedef struct emu_algo {
    uint32_t alignments[4]; /* of A, B, C and D, that it counts on */
    uint32_t number;        /* in the order in which they are proposed */
} emu_algo;

/* By events, for a D of so many columns. Which one is the quickest changes with them; of many columns all
 * take about the same. */
static inline unsigned emu_algo_microseconds(uint32_t number, uint32_t algos, uint64_t columns)
{
    return (unsigned)(10 + 4 * columns + 3 * ((number + columns) % algos));
}

#endif
