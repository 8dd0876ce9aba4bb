#include "adapters/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* A sane pattern takes hundreds of steps on a path; one that backtracks without end is stopped. */
enum { REGEX_BYTES_MAX = 16384, STEPS_MAX = 20000, HEAP_KIB_MAX = 4096, PAIRS = 8 };

struct adapter_matcher {
    pcre2_match_context *limits;
    pcre2_match_data *scratch;
};

struct adapter_pattern {
    pcre2_code *code;
    uint32_t number_group; /* 0: none */
    char regex[80];        /* its beginning, for messages */
};

rc_code adapter_matcher_create(adapter_matcher **out, rc_msg *msg)
{
    adapter_matcher *m = calloc(1, sizeof *m);
    if (m) m->limits = pcre2_match_context_create(NULL);
    if (m) m->scratch = pcre2_match_data_create(PAIRS, NULL);
    if (!m || !m->limits || !m->scratch) {
        adapter_matcher_destroy(m);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory to match patterns");
    }
    pcre2_set_match_limit(m->limits, STEPS_MAX);
    pcre2_set_depth_limit(m->limits, STEPS_MAX);
    pcre2_set_heap_limit(m->limits, HEAP_KIB_MAX);
    *out = m;
    return RC_OK;
}

void adapter_matcher_destroy(adapter_matcher *m)
{
    if (!m) return;
    pcre2_match_context_free(m->limits);
    pcre2_match_data_free(m->scratch);
    free(m);
}

/* Length of ",n}" after a '{' that Python reads as "{0,n}"; 0: it is none. */
static size_t open_range(const char *after_brace)
{
    size_t digits = 0;
    if (after_brace[0] != ',') return 0;
    while (after_brace[1 + digits] >= '0' && after_brace[1 + digits] <= '9') digits++;
    return digits && after_brace[1 + digits] == '}' ? digits + 2 : 0;
}

/* Appends regex to out, which has room for twice its length; gives the end. */
static char *append_regex(char *out, const char *regex)
{
    bool in_class = false;
    for (const char *r = regex; *r; r++) {
        *out++ = *r;
        if (*r == '\\' && r[1]) {
            *out++ = *++r;
        } else if (in_class) {
            in_class = *r != ']';
        } else if (*r == '[') {
            in_class = true;
            /* a ']' that stands first is a member */
            if (r[1] == '^') *out++ = *++r;
            if (r[1] == ']') *out++ = *++r;
        } else if (*r == '{' && open_range(r + 1)) {
            *out++ = '0';
        }
    }
    return out;
}

/* The whole expression, as Python puts it together; the caller frees it. */
static char *compose(adapter_pattern_kind kind, const char *regex)
{
    static const char *const before[] = {"", "(.*\\.)?(", "(?:^|.*?\\.)"};
    static const char *const after[] = {"", ")$", "\\.(?P<idx>\\d+)\\."};
    char *text = malloc(2 * strlen(regex) + 64);
    if (!text) return NULL;
    char *end = append_regex(stpcpy(text, before[kind]), regex);
    stpcpy(end, after[kind]);
    return text;
}

static rc_code fail_compile(int error, size_t at, const char *regex, const char *what, const char *label,
                            rc_msg *msg)
{
    PCRE2_UCHAR why[128];
    if (error == PCRE2_ERROR_NOMEMORY || error == PCRE2_ERROR_HEAP_FAILED)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "'%.300s': no memory for a pattern of %s", label, what);
    pcre2_get_error_message(error, why, sizeof why);
    return rc_fail(RC_INVALID_ARGUMENT, msg,
                   "'%.200s': %s: the pattern '%.100s' is no regular expression: %s "
                   "(near byte %zu)",
                   label, what, regex, (const char *)why, at);
}

rc_code adapter_pattern_compile(adapter_pattern_kind kind, const char *regex, const char *what,
                                const char *label, adapter_pattern **out, rc_msg *msg)
{
    const uint32_t options = PCRE2_ANCHORED | PCRE2_NEVER_UTF | PCRE2_NEVER_UCP | PCRE2_NEVER_BACKSLASH_C |
                             (kind == ADAPTER_PATTERN_WHOLE ? PCRE2_ENDANCHORED : 0);
    int error = PCRE2_ERROR_NOMEMORY;
    size_t at = 0;
    if (strlen(regex) > REGEX_BYTES_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "'%.200s': %s: a pattern of %zu bytes, at most %d are read",
                       label, what, strlen(regex), REGEX_BYTES_MAX);
    adapter_pattern *p = calloc(1, sizeof *p);
    char *text = compose(kind, regex);
    if (p && text)
        p->code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, options, &error, &at, NULL);
    free(text);
    if (!p || !p->code) {
        adapter_pattern_free(p);
        return fail_compile(error, at, regex, what, label, msg);
    }
    snprintf(p->regex, sizeof p->regex, "%s", regex);
    if (kind == ADAPTER_PATTERN_LAYER) {
        int group = pcre2_substring_number_from_name(p->code, (PCRE2_SPTR) "idx");
        if (group < 1 || group >= PAIRS) {
            adapter_pattern_free(p);
            return rc_fail(RC_INVALID_ARGUMENT, msg, "'%.200s': %s: the pattern '%.100s' has too many groups",
                           label, what, regex);
        }
        p->number_group = (uint32_t)group;
    }
    *out = p;
    return RC_OK;
}

void adapter_pattern_free(adapter_pattern *p)
{
    if (!p) return;
    pcre2_code_free(p->code);
    free(p);
}

static uint64_t group_number(const adapter_pattern *p, const adapter_matcher *m, const char *path)
{
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(m->scratch) + 2 * p->number_group;
    uint64_t number = 0;
    if (p->number_group == 0 || at[0] == PCRE2_UNSET) return 0;
    for (PCRE2_SIZE i = at[0]; i < at[1]; i++) {
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(path[i] - '0'), &number))
            return UINT64_MAX;
    }
    return number;
}

rc_code adapter_pattern_match(const adapter_pattern *p, adapter_matcher *m, const char *path, bool *matched,
                              uint64_t *number, rc_msg *msg)
{
    int pairs = pcre2_match(p->code, (PCRE2_SPTR)path, PCRE2_ZERO_TERMINATED, 0, 0, m->scratch, m->limits);
    if (pairs == PCRE2_ERROR_NOMEMORY)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory to match the pattern '%s'", p->regex);
    if (pairs < 0 && pairs != PCRE2_ERROR_NOMATCH)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "the pattern '%s' takes too many steps on '%.200s'",
                       p->regex, path);
    *matched = pairs >= 0;
    *number = *matched ? group_number(p, m, path) : 0;
    return RC_OK;
}
