#include "runtime/tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "runtime/tokenizer/unicode.h"

enum {
    MATCH_STEPS_MAX = 50 * 1000 * 1000, /* a text that needs more is refused: nothing loops for minutes */
    HEAP_KIB_MAX = 256 * 1024,
    JIT_STACK_MAX = 16 << 20,
};

struct rt__tok_pattern {
    pcre2_code *code;
    bool has_jit;
};

struct rt__tok_search {
    const rt__tok_pattern *pattern;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack; /* NULL: the thread's own 32 KiB have been enough */
    const char *text;
    size_t bytes;
    size_t from;
    size_t last_end;
    bool has_last;
};

static rc_code no_memory(rc_msg *msg)
{
    return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a regular expression");
}

static rc_code compile(const char *text, size_t bytes, uint32_t options, const char *shown,
                       rt__tok_pattern *p, rc_msg *msg)
{
    int error;
    PCRE2_SIZE at;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) return no_memory(msg);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    p->code = pcre2_compile((PCRE2_SPTR)text, bytes, PCRE2_UTF | options, &error, &at, context);
    pcre2_compile_context_free(context);
    if (!p->code) {
        PCRE2_UCHAR why[160];
        if (error == PCRE2_ERROR_NOMEMORY || error == PCRE2_ERROR_HEAP_FAILED) return no_memory(msg);
        pcre2_get_error_message(error, why, sizeof why);
        return rc_fail(RC_INVALID_ARGUMENT, msg, "regex '%.200s' of the tokenizer: %s", shown,
                       (const char *)why);
    }
    p->has_jit = pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) == 0;
    return RC_OK;
}

rc_code rt__tok_pattern_new(const char *text, size_t bytes, bool is_regex, rt__tok_pattern **out, rc_msg *msg)
{
    rt__tok_pattern *p = calloc(1, sizeof *p);
    rt_bytes shown = {0}, rewritten = {0};
    rc_code code = p ? RC_OK : no_memory(msg);
    if (code == RC_OK) {
        rt_bytes_add(&shown, text, bytes);
        rt_bytes_add_byte(&shown, 0);
        if (is_regex) code = rt__tok_pattern_rewrite(text, bytes, &rewritten, msg);
        if (code == RC_OK && (shown.failed || rewritten.failed)) code = no_memory(msg);
    }
    if (code == RC_OK && is_regex)
        code = compile(rewritten.data ? rewritten.data : "", rewritten.count,
                       PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE, shown.data, p, msg);
    else if (code == RC_OK)
        code = compile(shown.data, bytes, PCRE2_LITERAL, shown.data, p, msg);
    rt_bytes_deinit(&shown);
    rt_bytes_deinit(&rewritten);
    if (code != RC_OK) {
        free(p);
        return code;
    }
    *out = p;
    return RC_OK;
}

void rt__tok_pattern_free(rt__tok_pattern *p)
{
    if (!p) return;
    pcre2_code_free(p->code);
    free(p);
}

rc_code rt__tok_search_new(const rt__tok_pattern *p, rt__tok_search **out, rc_msg *msg)
{
    rt__tok_search *s = calloc(1, sizeof *s);
    if (s) {
        s->pattern = p;
        s->match = pcre2_match_data_create(1, NULL);
        s->context = pcre2_match_context_create(NULL);
    }
    if (!s || !s->match || !s->context) {
        rt__tok_search_free(s);
        return no_memory(msg);
    }
    pcre2_set_match_limit(s->context, MATCH_STEPS_MAX);
    pcre2_set_heap_limit(s->context, HEAP_KIB_MAX);
    *out = s;
    return RC_OK;
}

void rt__tok_search_free(rt__tok_search *s)
{
    if (!s) return;
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    free(s);
}

void rt__tok_search_begin(rt__tok_search *s, const char *text, size_t bytes)
{
    s->text = text;
    s->bytes = bytes;
    s->from = 0;
    s->has_last = false;
}

static int match_once(rt__tok_search *s)
{
    const rt__tok_pattern *p = s->pattern;
    PCRE2_SPTR text = (PCRE2_SPTR)s->text;
    int rc = p->has_jit
                 ? pcre2_jit_match(p->code, text, s->bytes, s->from, PCRE2_NO_UTF_CHECK, s->match, s->context)
                 : PCRE2_ERROR_JIT_STACKLIMIT;
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && p->has_jit && !s->stack) {
        s->stack = pcre2_jit_stack_create(32 << 10, JIT_STACK_MAX, NULL);
        if (s->stack) {
            pcre2_jit_stack_assign(s->context, NULL, s->stack);
            rc = pcre2_jit_match(p->code, text, s->bytes, s->from, PCRE2_NO_UTF_CHECK, s->match, s->context);
        }
    }
    if (rc != PCRE2_ERROR_JIT_STACKLIMIT) return rc;
    return pcre2_match(p->code, text, s->bytes, s->from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->match,
                       s->context);
}

/* The loop of the library's Oniguruma binding: an empty match that touches the match before it is passed
 * over, together with the character that it stands before. */
rc_code rt__tok_search_next(rt__tok_search *s, bool *found, size_t *start, size_t *end, rc_msg *msg)
{
    *found = false;
    while (s->from <= s->bytes) {
        int rc = match_once(s);
        if (rc == PCRE2_ERROR_NOMATCH) {
            s->from = s->bytes + 1;
            return RC_OK;
        }
        if (rc < 0)
            return rc_fail(
                RC_RESOURCE_EXHAUSTED, msg,
                "a regex of the tokenizer needs too many steps or too much memory on %zu bytes of text "
                "(PCRE2 error %d)",
                s->bytes, rc);
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(s->match);
        if (at[0] == at[1] && s->has_last && s->last_end == at[1]) {
            size_t step = 1;
            if (s->from < s->bytes) rt__tok_char(s->text + s->from, &step);
            s->from += step;
            continue;
        }
        *found = true;
        *start = at[0];
        *end = s->from = s->last_end = at[1];
        s->has_last = true;
        return RC_OK;
    }
    return RC_OK;
}
