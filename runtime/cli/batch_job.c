#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/base/json_out.h"
#include "runtime/cli/batch_line.h"
#include "runtime/cli/batch_run.h"
#include "runtime/cli/completion_reply.h"

struct rt_batch_job {
    rt_batch_job *before, *after; /* among those not answered yet */
    char *custom_id;
    size_t custom_id_bytes;
    rt_completion_request *request; /* until all of it is submitted */
    rt_completion_reply *reply;
    uint64_t *submitted; /* engine's ids of the prompts */
    size_t submitted_count, prompts_count;
    size_t open;      /* submitted, and not ended */
    uint32_t choices; /* of a prompt */
    rc_code code;     /* not RC_OK: it is answered with `why`, and what runs of it is cancelled */
    rc_msg why;
};

static void destroy(rt_batch_job *job)
{
    if (!job) return;
    rt_completion_request_destroy(job->request);
    rt_completion_reply_destroy(job->reply);
    free(job->submitted);
    free(job->custom_id);
    free(job);
}

static void enter(rt_batch *b, rt_batch_job *job)
{
    job->after = b->first;
    if (b->first) b->first->before = job;
    b->first = job;
    b->next = job;
    b->jobs++;
}

void rt__batch_job_destroy(rt_batch *b, rt_batch_job *job)
{
    if (job->before)
        job->before->after = job->after;
    else
        b->first = job->after;
    if (job->after) job->after->before = job->before;
    if (b->next == job) b->next = NULL;
    b->jobs--;
    destroy(job);
}

/* Begins {"id", "custom_id", "response": {"status_code", "request_id", "body": */
static void begin_line(rt_batch *b, const char *custom_id, size_t custom_id_bytes, int status)
{
    rt_bytes *out = &b->line;
    char id[64];
    snprintf(id, sizeof id, "batch_req_%016llx%08llx", (unsigned long long)b->nonce,
             (unsigned long long)b->answers);
    rt_bytes_clear(out);
    rt_json_open(out, '{');
    rt_json_key(out, "id");
    rt_json_text(out, id);
    rt_json_key(out, "custom_id");
    if (custom_id)
        rt_json_string(out, custom_id, custom_id_bytes);
    else
        rt_json_null(out);
    rt_json_key(out, "response");
    rt_json_open(out, '{');
    rt_json_key(out, "status_code");
    rt_json_i64(out, status);
    rt_json_key(out, "request_id");
    rt_json_text(out, id + strlen("batch_"));
    rt_json_key(out, "body");
}

static rc_code end_line(rt_batch *b, bool is_success, rc_msg *msg)
{
    rt_bytes *out = &b->line;
    rt_json_close(out, '}');
    rt_json_key(out, "error");
    rt_json_null(out);
    rt_json_close(out, '}');
    rt_bytes_add_byte(out, '\n');
    if (out->failed)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for an answer of %zu bytes", out->count);
    RC_TRY(rt__batch_output_write(b->output, out->data, out->count, msg));
    b->answers++;
    if (is_success)
        b->succeeded++;
    else
        b->failed++;
    return RC_OK;
}

static rc_code write_refusal(rt_batch *b, const char *custom_id, size_t custom_id_bytes, rc_code code,
                             const rc_msg *why, rc_msg *msg)
{
    int status = rt_completion_status(code);
    begin_line(b, custom_id, custom_id_bytes, status);
    rt_completion_error_write(status, why, &b->line);
    return end_line(b, false, msg);
}

rc_code rt__batch_refuse_line(rt_batch *b, const rc_msg *why, rc_msg *msg)
{
    return write_refusal(b, NULL, 0, RC_INVALID_ARGUMENT, why, msg);
}

static rc_code write_answer(rt_batch *b, rt_batch_job *job, rc_msg *msg)
{
    char id[64];
    snprintf(id, sizeof id, "cmpl-%016llx%08llx", (unsigned long long)b->nonce,
             (unsigned long long)b->answers);
    if (job->code == RC_OK) {
        begin_line(b, job->custom_id, job->custom_id_bytes, 200);
        job->code = rt_completion_reply_write(job->reply, id, rt_unix_seconds(), &b->line, &job->why);
        if (job->code == RC_OK) return end_line(b, true, msg);
        rt_bytes_deinit(&b->line);
    }
    return write_refusal(b, job->custom_id, job->custom_id_bytes, job->code, &job->why, msg);
}

/* Answers a job of which nothing runs any more. */
static rc_code finish(rt_batch *b, rt_batch_job *job, rc_msg *msg)
{
    rc_code code = write_answer(b, job, msg);
    rt__batch_job_destroy(b, job);
    return code;
}

/* The rest of a job that failed is not submitted, and what runs of it is cancelled. */
static void fail_job(rt_batch *b, rt_batch_job *job, rc_code code)
{
    job->code = code;
    for (size_t i = 0; i < job->submitted_count; i++) mica_cancel(b->m, job->submitted[i]);
}

static rc_code make_job(rt_batch *b, const rt_batch_line *line, rt_batch_job **out, rc_msg *msg)
{
    rt_batch_job *job = calloc(1, sizeof *job);
    rc_code code = job ? RC_OK : rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the request");
    if (code == RC_OK) code = rt_completion_request_decode(line->body, b->info.vocab, &job->request, msg);
    if (code == RC_OK) code = rt_completion_reply_create(&job->reply, job->request, b->m, msg);
    if (code == RC_OK) {
        job->prompts_count = job->request->prompts_count;
        job->choices = job->request->common.n;
        job->custom_id_bytes = line->custom_id_bytes;
        job->custom_id = strdup(line->custom_id);
        job->submitted = calloc(job->prompts_count, sizeof *job->submitted);
        if (!job->custom_id || !job->submitted)
            code = rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the request");
    }
    if (code != RC_OK)
        destroy(job);
    else
        *out = job;
    return code;
}

/* What is wrong with a line before its body is looked at. */
static rc_code check_line(rt_batch *b, const rt_batch_line *line, rc_code decoded, bool *is_done, rc_msg *why)
{
    uint32_t before = 0;
    *is_done = false;
    if (!line->custom_id) return decoded;
    rc_msg no_memory;
    rc_code code =
        rt__id_set_mark(b->ids, line->custom_id, line->custom_id_bytes, RT_ID_SEEN, &before, &no_memory);
    if (code != RC_OK) {
        *why = no_memory;
        return code;
    }
    if (before & RT_ID_SEEN) {
        code = rc_fail(RC_INVALID_ARGUMENT, why,
                       "custom_id \"%.200s\" has been used before; expected each once", line->custom_id);
        return rc_about(code, why, "custom_id");
    }
    *is_done = before & RT_ID_DONE;
    return decoded == RC_OK && !*is_done ? rt__batch_line_check(line, why) : decoded;
}

rc_code rt__batch_take_line(rt_batch *b, const char *text, size_t bytes, rc_msg *msg)
{
    rt_batch_line line;
    rt_batch_job *job = NULL;
    rc_msg why = {0};
    bool is_done;
    RC_ASSERT(!b->next);
    rc_code code = rt__batch_line_decode(&line, text, bytes, b->input.number, &why);
    code = check_line(b, &line, code, &is_done, &why);
    if (is_done)
        b->skipped++;
    else if (code == RC_OK)
        code = make_job(b, &line, &job, &why);
    if (job) enter(b, job);
    rc_code result = RC_OK;
    if (code != RC_OK && !is_done)
        result = write_refusal(b, line.custom_id, line.custom_id_bytes, code, &why, msg);
    rt__batch_line_deinit(&line);
    return result;
}

/* Gives the engine the next prompt of the job. RC_RESOURCE_EXHAUSTED: it may have room later. */
static rc_code submit_prompt(rt_batch *b, rt_batch_job *job)
{
    mica_request r = rt_completion_request_of(job->request, job->submitted_count);
    r.user = job;
    r.key = job->custom_id;
    RC_TRY(mica_submit(b->m, &r, &job->submitted[job->submitted_count], &job->why));
    job->submitted_count++;
    job->open++;
    b->inside += job->choices;
    return RC_OK;
}

rc_code rt__batch_submit(rt_batch *b, bool *moved, rc_msg *msg)
{
    rt_batch_job *job = b->next;
    *moved = false;
    while (job->code == RC_OK && job->submitted_count < job->prompts_count) {
        bool has_room = !b->inside || b->inside + job->choices <= b->window;
        if (!has_room) return RC_OK;
        rc_code code = submit_prompt(b, job);
        if (code == RC_RESOURCE_EXHAUSTED && b->inside) return RC_OK;
        if (code == RC_UNAVAILABLE) RC_TRY(mica_status(b->m, msg));
        if (code != RC_OK) fail_job(b, job, code);
        *moved = true;
    }
    *moved = true;
    b->next = NULL;
    rt_completion_request_destroy(job->request);
    job->request = NULL;
    return job->open ? RC_OK : finish(b, job, msg);
}

/* An end that the request did not ask for. */
static void note_loss(rt_batch *b, rt_batch_job *job, const mica_event *e)
{
    if (e->finish == MICA_FAILED) b->is_engine_lost = true;
    if (e->finish == MICA_FAILED && e->error)
        job->why = *e->error;
    else
        rc_fail(RC_INTERNAL, &job->why, "the request was cancelled");
    fail_job(b, job, RC_INTERNAL);
}

rc_code rt__batch_on_event(rt_batch *b, const mica_event *e, rc_msg *msg)
{
    rt_batch_job *job = e->user;
    if (e->finish == MICA_FAILED) RC_TRY(mica_status(b->m, msg)); /* what is left has no answer: --resume */
    if (job->code == RC_OK && (e->finish == MICA_FAILED || e->finish == MICA_CANCELLED)) {
        note_loss(b, job, e);
    } else if (job->code == RC_OK) {
        rc_code code = rt_completion_reply_add(job->reply, e, &job->why);
        if (code != RC_OK) fail_job(b, job, code);
    }
    if (!e->request_done) return RC_OK;
    RC_ASSERT(job->open && b->inside >= job->choices);
    job->open--;
    b->inside -= job->choices;
    return job->open || b->next == job ? RC_OK : finish(b, job, msg);
}
