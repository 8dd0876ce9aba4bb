#include "runtime/base/utf8.h"
#include "runtime/tokenizer/tokenizer_internal.h"
#include "runtime/tokenizer/unicode.h"

rc_code rt__tok_run_push(rt__tok_run *run, int32_t id)
{
    if (run->count == run->max)
        return rc_fail(RC_INVALID_ARGUMENT, run->msg, "the text has more than %zu tokens, which is the most",
                       run->max);
    if (run->count == run->room) {
        size_t room = run->room ? run->room * 2 : 64;
        int32_t *ids = realloc(run->ids, room * sizeof *ids);
        if (!ids) return rc_fail(RC_RESOURCE_EXHAUSTED, run->msg, "no memory for %zu tokens", room);
        run->ids = ids;
        run->room = room;
    }
    run->ids[run->count++] = id;
    return RC_OK;
}

static bool touches_word(const char *text, size_t bytes, size_t start, size_t end)
{
    size_t size;
    if (start && rt__tok_is_word(rt__tok_char(text + rt__tok_last(text, start), &size))) return true;
    return end < bytes && rt__tok_is_word(rt__tok_char(text + end, &size));
}

static size_t spaces_before(const char *text, size_t start)
{
    size_t size;
    while (start) {
        size_t last = rt__tok_last(text, start);
        if (!rt__tok_is_space(rt__tok_char(text + last, &size))) break;
        start = last;
    }
    return start;
}

static size_t spaces_after(const char *text, size_t bytes, size_t end)
{
    size_t size;
    while (end < bytes && rt__tok_is_space(rt__tok_char(text + end, &size))) end += size;
    return end;
}

typedef rc_code piece_function(rt__tok_run *run, const char *text, size_t bytes);

/* Ids of the added tokens in `text`, and `between` for what is between them. As in the library, a token that
 * strips the spaces to its right can end after the beginning of the next one. That counts all the same, so
 * that text may be covered twice, unless it strips to its left and nothing of it is left. */
static rc_code find_added(rt__tok_run *run, const rt__tok_finder *finder, const char *text, size_t bytes,
                          piece_function *between)
{
    size_t done = 0, from = 0, start = 0;
    for (;;) {
        const rt__tok_added *token = rt__tok_find(finder, text, bytes, from, &start);
        if (!token) break;
        size_t length = token->bytes;
        if (token->normalized) rt__tok_added_text(token, &length);
        size_t end = from = start + length;
        if (token->single_word && touches_word(text, bytes, start, end)) continue;
        if (token->lstrip) {
            start = spaces_before(text, start);
            if (start < done) start = done;
        }
        if (token->rstrip) end = spaces_after(text, bytes, end);
        if (done < start) RC_TRY(between(run, text + done, start - done));
        if (start < end) RC_TRY(rt__tok_run_push(run, token->id));
        done = end;
    }
    return done < bytes ? between(run, text + done, bytes - done) : RC_OK;
}

static rc_code pre_tokenize(rt__tok_run *run, const char *text, size_t bytes)
{
    return rt__tok_pre_tokenize(run, 0, text, bytes);
}

static rc_code normalize_piece(rt__tok_run *run, const char *text, size_t bytes)
{
    RC_TRY(rt__tok_normalize(&run->t->normals, &run->normal, text, bytes, &text, &bytes, run->msg));
    return find_added(run, &run->t->added.normalized, text, bytes, pre_tokenize);
}

/* Replaces the ids by what the template makes of them. */
static rc_code post_process(rt__tok_run *run, const rt__tok_post *post, bool add_special)
{
    rt__tok_run whole = {.max = run->max, .msg = run->msg};
    rc_code code = RC_OK;
    for (size_t i = 0; i < post->count && code == RC_OK; i++) {
        const rt__tok_post_piece *piece = &post->pieces[i];
        if (!piece->is_sequence) {
            if (add_special) code = rt__tok_run_push(&whole, piece->id);
            continue;
        }
        for (size_t k = 0; k < run->count && code == RC_OK; k++) code = rt__tok_run_push(&whole, run->ids[k]);
    }
    if (code != RC_OK) {
        free(whole.ids);
        return code;
    }
    free(run->ids);
    run->ids = whole.ids;
    run->count = whole.count;
    run->room = whole.room;
    return RC_OK;
}

static void run_deinit(rt__tok_run *run)
{
    rt__tok_bpe_work_deinit(&run->bpe);
    rt__tok_normal_work_deinit(&run->normal);
    for (size_t i = 0; i < RT__TOK_STEPS_MAX; i++) {
        rt__tok_search_free(run->searches[i]);
        rt_bytes_deinit(&run->prefixed[i]);
        rt_bytes_deinit(&run->mapped[i]);
    }
}

rc_code rt_tokenizer_encode(const rt_tokenizer *t, const char *text, size_t bytes, bool add_special,
                            size_t ids_max, int32_t **ids, size_t *count, rc_msg *msg)
{
    size_t valid = rt_utf8_valid(text, bytes);
    if (valid < bytes)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "the text is not UTF-8: byte 0x%02x at %zu",
                       (unsigned char)text[valid], valid);
    rt__tok_run run = {.t = t, .msg = msg, .max = ids_max};
    rc_code code = find_added(&run, &t->added.raw, text, bytes, normalize_piece);
    for (unsigned i = 0; i < t->posts_count && code == RC_OK; i++)
        code = post_process(&run, &t->posts[i], add_special);
    if (code == RC_OK && !run.ids && !(run.ids = malloc(sizeof *run.ids)))
        code = rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for no tokens");
    run_deinit(&run);
    if (code != RC_OK) {
        free(run.ids);
        return code;
    }
    *ids = run.ids;
    *count = run.count;
    return RC_OK;
}
