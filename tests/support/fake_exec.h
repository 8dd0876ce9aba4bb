/* tests/support/fake_exec.h - an rt_exec without a model, whose tokens show what its K/V really holds.
 *
 * The "K/V" of a position is one number: a hash of everything that the row reads through its block table
 * (all earlier rows, as they are in the blocks now), of its token, its position and the weights in its slot.
 * The logits are random numbers made from it. So one row read from a wrong place, not copied, overwritten,
 * or computed with other weights changes every later token. The plan of the step is checked, too.
 *
 * It can pick by itself, as a device does: then tokens of a step may be to come, what was picked is told when
 * it is asked for, and rows with long lists are left to the host.
 *
 * fake_row and fake_logits are the definition; a test replays a request with them alone.
 */
#ifndef TESTS_SUPPORT_FAKE_EXEC_H
#define TESTS_SUPPORT_FAKE_EXEC_H

#include "runtime/engine/exec.h"

typedef struct fake_exec {
    uint32_t blocks_max, block_tokens, slots_max, vocab, logits_max, lists_max, rows_max;
    uint64_t *rows;      /* [blocks_max * block_tokens] */
    uint64_t *slots;     /* [slots_max] what is attached; 0: nothing */
    uint64_t *step_rows; /* [rows_max] what the rows of the last step came to */
    float *logits;       /* [logits_max * vocab] */
    uint64_t steps;      /* run so far */
    uint64_t fails_at;   /* the device fails in this step, for good; 0: never */
    bool has_told;       /* that it has failed */
    /* where it picks */
    int32_t *drawn;      /* [rows_max] tokens of the last step that was picked */
    uint32_t drawn_count;
    mica_top *picked[RT_STEPS_AHEAD + 1]; /* [rows_max][1 + RT_TOPS_MAX] of the steps not asked for yet */
    uint64_t ended, asked; /* steps that were picked, and asked for */
    uint64_t ahead;        /* begun before the last was asked for */
} fake_exec;

void fake_exec_create(fake_exec *f, uint32_t blocks_max, uint32_t block_tokens, uint32_t slots_max,
                      uint32_t vocab, uint32_t rows_max, rt_exec *exec);
void fake_exec_pick(fake_exec *f, uint32_t lists_max, rt_exec *exec); /* from now on it picks */
void fake_exec_destroy(fake_exec *f);

/* Weights that stand for `id`; the fake reads w->bytes. Freed by adapter_weights_free. */
adapter_weights *fake_weights(uint64_t id, adapter_kind kind, const int32_t *invocation,
                              uint32_t invocation_count);

/* The K/V of a position: `before` holds those of positions 0 .. position - 1; weights 0: base. */
uint64_t fake_row(const uint64_t *before, uint32_t position, int32_t token, uint64_t weights);
void fake_logits(uint64_t row, uint32_t vocab, float *logits);

#endif
