/* runtime/load/record.h - what is noted of a request while it runs. */
#ifndef RUNTIME_LOAD_RECORD_H
#define RUNTIME_LOAD_RECORD_H

#include <stdint.h>

#include "runtime/base/bytes.h"
#include "runtime/load/slo.h"

enum { RT_LOAD_TEXT_MAX = 200 };

typedef enum rt_load_end {
    RT_LOAD_UNSENT = 0, /* its conversation failed before it */
    RT_LOAD_RUNNING,
    RT_LOAD_DONE,  /* a whole answer */
    RT_LOAD_FAILED /* a status other than OK, or an answer without an end */
} rt_load_end;

typedef struct rt_load_record {
    uint32_t lora, tenant;
    int64_t due_ns, sent_ns, first_ns, last_ns, ended_ns; /* since the start; of tokens: the first and last */
    uint32_t prompt_tokens, output_tokens, cached_tokens;
    rt_load_end end;
    uint32_t status;
    rt_bytes gaps; /* float, ms, before each token but the first; 0: it came in one message with the last */
} rt_load_record;

void rt_load_record_tokens(rt_load_record *r, uint32_t tokens, int64_t now_ns);
/* Of one that is done. */
void rt_load_record_metrics(const rt_load_record *r, double ms[RT_LOAD_METRICS]);
const float *rt_load_record_gaps(const rt_load_record *r, size_t *count);

#endif
