/* runtime/engine/wire.h - what process 0 tells the others, as bytes: commands, with a step, and adapters.
 *
 * Everything is 32-bit words in the order of the machine (all processes run the same build on one kind of
 * machine). What comes is checked as if anyone had sent it: every index that a kernel will follow.
 */
#ifndef RUNTIME_ENGINE_WIRE_H
#define RUNTIME_ENGINE_WIRE_H

#include "runtime/engine/exec.h"

typedef enum rt_command_kind {
    RT_COMMAND_FORWARD = 1, /* a step */
    RT_COMMAND_LOGITS,      /* a, b: first, count, of the last step */
    RT_COMMAND_PICKED,      /* process 0 waits for the oldest step that is picked (rt_exec.picked) */
    RT_COMMAND_COPY,        /* a, b, c: from block, to block, rows */
    RT_COMMAND_END
} rt_command_kind;

typedef struct rt_command {
    rt_command_kind kind;
    uint32_t a, b, c;
    rt_step step; /* of FORWARD; points into the bytes; what shall be picked is process 0's alone */
} rt_command;

/* What bounds any command. */
typedef struct rt_wire_limits {
    uint32_t rows_max, seqs_max, slots_max, blocks_max, block_tokens, positions_max, vocab, logits_max;
} rt_wire_limits;

size_t rt_wire_command_max(const rt_wire_limits *l); /* bytes of the largest */

/* Both give the bytes written; out has room for the largest. */
size_t rt_wire_command(const rt_command *c, uint32_t *out);
size_t rt_wire_forward(const rt_step *step, uint32_t block_tokens, uint32_t *out);
/* Errors INVALID_ARGUMENT: no such command. */
RC_MUST_CHECK rc_code rt_wire_read_command(const uint32_t *words, size_t bytes, const rt_wire_limits *l,
                                           rt_command *out, rc_msg *msg);

/* An adapter for a slot, once `after` steps are done: malloc'ed, *bytes of it.
 * Errors RESOURCE_EXHAUSTED: no memory. */
RC_MUST_CHECK rc_code rt_wire_adapter(uint32_t slot, uint32_t after, const adapter_weights *w, void **out,
                                      size_t *bytes, rc_msg *msg);
/* Bytes of the largest. */
size_t rt_wire_adapter_max(const adapter_shape *shape);
/* *out: freed by adapter_weights_free. Errors INVALID_ARGUMENT: it is none, or none of this shape. */
RC_MUST_CHECK rc_code rt_wire_read_adapter(const void *data, size_t bytes, const adapter_shape *shape,
                                           uint32_t slots_max, uint32_t *slot, uint32_t *after,
                                           adapter_weights **out, rc_msg *msg);

#endif
