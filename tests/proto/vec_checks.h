/* tests/proto/vec_checks.h - checks of proto/vec.h, compiled for each family. */
#ifndef TESTS_PROTO_VEC_CHECKS_H
#define TESTS_PROTO_VEC_CHECKS_H

#include <stdint.h>

#define VEC_CHECKS_DECLARE(family)                                                                     \
    void vec_check_moves_##family(void);                                                               \
    double vec_check_exp_##family(uint64_t *digest);
VEC_CHECKS_DECLARE(portable)
VEC_CHECKS_DECLARE(avx2)
VEC_CHECKS_DECLARE(avx512)
VEC_CHECKS_DECLARE(avx512_bf16)

#endif
