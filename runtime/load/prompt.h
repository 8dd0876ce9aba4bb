/* runtime/load/prompt.h - random token ids that depend on their place alone, not on the order of sending. */
#ifndef RUNTIME_LOAD_PROMPT_H
#define RUNTIME_LOAD_PROMPT_H

#include <stdint.h>

#include "runtime/base/bytes.h"

typedef enum rt_load_text { RT_LOAD_PREFIX = 1, RT_LOAD_TURN } rt_load_text;

/* Appends `count` ids below `vocab` as uint32_t: of shared prefix `a`, or of conversation `a`'s turn `b`. */
void rt_load_prompt_add(rt_bytes *ids, uint64_t seed, rt_load_text kind, uint64_t a, uint64_t b,
                        uint32_t count, uint32_t vocab);

#endif
