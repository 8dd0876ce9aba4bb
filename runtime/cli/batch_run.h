/* runtime/cli/batch_run.h - takes a batch file through the engine, line by line.
 *
 * A window of sequences is kept in the engine, large enough to keep it busy and small enough that memory
 * does not grow with the file. Requests enter in file order; each answer is written as its last choice ends.
 *
 *     read a line -> decode -> submit its prompts -> collect events -> write the answer
 *
 * Threads  the caller's only: it waits on the input, the engine and signals at once.
 */
#ifndef RUNTIME_CLI_BATCH_RUN_H
#define RUNTIME_CLI_BATCH_RUN_H

#include "runtime/base/lines.h"
#include "runtime/cli/batch_output.h"
#include "runtime/cli/console.h"

typedef struct rt_batch_job rt_batch_job;

typedef struct rt_batch {
    mica *m;
    mica_info info;
    rt_console *console;
    rt_batch_output *output;
    rt_id_set *ids;
    rt_lines input;
    uint64_t input_bytes;    /* 0: not known */
    bool is_input_regular;
    bool is_input_over;
    rc_code input_code;      /* why it could not be read to its end */
    rc_msg input_why;
    uint32_t window;         /* sequences that may be in the engine */
    uint32_t inside;         /* that are */
    rt_batch_job *first;     /* of all not answered yet */
    rt_batch_job *next;      /* decoded, but not all of it submitted */
    uint64_t jobs;           /* how many */
    uint64_t nonce, answers; /* make ids of answers */
    uint64_t succeeded, failed, skipped;
    rt_bytes line;           /* the answer being written */
    int64_t started_ns, told_ns;
    mica_stats told;         /* when the stats were told last */
    bool is_engine_lost;
} rt_batch;

/* Runs until all is answered or a signal came. Errors: the input can't be read on, the output not written;
 * what was answered before is in the output. */
RC_MUST_CHECK rc_code rt__batch_run(rt_batch *b, rc_msg *msg);
void rt__batch_deinit(rt_batch *b); /* after mica_close() of what it submitted to */

/* What a terminal shows meanwhile, and the one line at the end. */
void rt__batch_tell(rt_batch *b, int64_t now_ns);
void rt__batch_tell_end(rt_batch *b, int64_t now_ns);

/* batch_job.c: requests between their line and their answer. */
RC_MUST_CHECK rc_code rt__batch_take_line(rt_batch *b, const char *text, size_t bytes, rc_msg *msg);
RC_MUST_CHECK rc_code rt__batch_refuse_line(rt_batch *b, const rc_msg *why, rc_msg *msg);
/* Submits what fits of b->next; *moved: whether anything happened. */
RC_MUST_CHECK rc_code rt__batch_submit(rt_batch *b, bool *moved, rc_msg *msg);
RC_MUST_CHECK rc_code rt__batch_on_event(rt_batch *b, const mica_event *e, rc_msg *msg);
void rt__batch_job_destroy(rt_batch *b, rt_batch_job *job);

#endif
