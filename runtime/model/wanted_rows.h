/* runtime/model/wanted_rows.h - the rows whose logits are wanted, as a step of their own.
 *
 * Once the last layer has written its K/V, the other rows serve nobody: attention, o and the mlp of that
 * layer run for the wanted rows alone, which move to the front of the activations in their order.
 *
 *     step     rows  0 1 2 3 4 5 6    spans [0 .. 3] [4] [5 6]    logit_rows  3 4 6
 *     wanted   rows  0 1 2            spans [0]      [1] [2]
 *
 * Memory   rt__wanted_rows_bytes(rows_max), taken by create; planning allocates nothing.
 */
#ifndef RUNTIME_MODEL_WANTED_ROWS_H
#define RUNTIME_MODEL_WANTED_ROWS_H

#include "runtime/model/model.h"

typedef struct rt_wanted_rows {
    rt_step step;              /* rows and plans; no tokens, no positions */
    uint32_t *place;           /* [rows_max] where a row of the whole step goes, or none */
    kv_span *spans;            /* [rows_max] */
    kv_group *groups;          /* [rows_max] */
    adapter_segment *segments; /* [rows_max] */
    uint32_t *row_index;       /* [rows_max] */
} rt_wanted_rows;

size_t rt__wanted_rows_bytes(uint32_t rows_max);
RC_MUST_CHECK rc_code rt__wanted_rows_create(uint32_t rows_max, rt_wanted_rows *w, rc_msg *msg);
void rt__wanted_rows_destroy(rt_wanted_rows *w); /* zeroed is allowed */

/* The plan of step's logit rows, which increase; valid until the next call. */
const rt_step *rt__wanted_rows_plan(rt_wanted_rows *w, const rt_step *step);

#endif
