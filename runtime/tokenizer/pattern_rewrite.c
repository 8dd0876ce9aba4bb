/* Oniguruma's syntax, as the library uses it, in PCRE2's. Where both write the same thing and mean another,
 * the meaning is spelled out: \s, \d, \w and \p{..} become classes that hold what Oniguruma holds; ^ and $
 * are about lines; (?m) is PCRE2's (?s); {n,m}+ repeats a repetition; \v and \h are one character and hex
 * digits. */
#include <string.h>

#include "runtime/tokenizer/pattern.h"
#include "runtime/tokenizer/unicode.h"

enum { DEPTH_MAX = 100, PATTERN_MAX = 64 << 10, NEGATED_MAX = 8 };

typedef struct rewriter {
    const char *text;
    size_t bytes;
    size_t at;
    rt_bytes *out;
    rc_msg *msg;
    unsigned depth;
    bool is_caseless;
    char last_letter; /* the letter just written, for caseless pairs that fold together */
} rewriter;

static rc_code refuse(rewriter *w, const char *what)
{
    return rc_fail(RC_UNIMPLEMENTED, w->msg,
                   "regex '%.200s' of the tokenizer: %s at byte %zu is not supported", w->text, what, w->at);
}

static bool more(const rewriter *w)
{
    return w->at < w->bytes;
}
static char peek(const rewriter *w, size_t ahead)
{
    return w->at + ahead < w->bytes ? w->text[w->at + ahead] : 0;
}

static bool take(rewriter *w, const char *literal)
{
    size_t n = strlen(literal);
    if (w->bytes - w->at < n || memcmp(w->text + w->at, literal, n)) return false;
    w->at += n;
    return true;
}

static bool is_letter(uint32_t c)
{
    return (c | 32) >= 'a' && (c | 32) <= 'z';
}

static void put_character(rt_bytes *out, uint32_t c)
{
    if (is_letter(c) || (c >= '0' && c <= '9'))
        rt_bytes_add_byte(out, (char)c);
    else
        rt_bytes_print(out, "\\x{%x}", c);
}

/* Without regard to case, Oniguruma also matches one character for two letters that fold to the same (U+00DF
 * for ss), and PCRE2 does not. */
static bool folds_together(char a, char b)
{
    a |= 32;
    b |= 32;
    return (a == 's' && (b == 's' || b == 't')) || (a == 'f' && (b == 'f' || b == 'i' || b == 'l'));
}

static rc_code hex(rewriter *w, unsigned digits_max, uint32_t *c)
{
    unsigned digits = 0;
    *c = 0;
    for (; digits < digits_max && more(w) && strchr("0123456789abcdefABCDEF", w->text[w->at]);
         digits++, w->at++) {
        char d = w->text[w->at];
        *c = *c * 16 + (uint32_t)(d <= '9' ? d - '0' : (d | 32) - 'a' + 10);
    }
    if (!digits || *c > 0x10ffff || (*c >= 0xd800 && *c < 0xe000))
        return refuse(w, "the hexadecimal character");
    return RC_OK;
}

typedef enum escape_kind { ESCAPE_CHARACTER, ESCAPE_SET, ESCAPE_NEGATED_SET, ESCAPE_ANCHOR } escape_kind;

static rc_code property(rewriter *w, bool *is_negated, rt_bytes *items)
{
    if (!take(w, "{")) return refuse(w, "\\p without {");
    if (take(w, "^")) *is_negated = !*is_negated;
    const char *name = w->text + w->at;
    const char *end = memchr(name, '}', w->bytes - w->at);
    if (!end || !rt__tok_property_items(name, (size_t)(end - name), items)) return refuse(w, "the property");
    w->at += (size_t)(end - name) + 1;
    return RC_OK;
}

/* A set of \s \d \w \h \p and their opposites: its items without brackets. */
static rc_code set_escape(rewriter *w, char letter, bool in_class, escape_kind *kind, rt_bytes *items)
{
    bool is_negated = letter >= 'A' && letter <= 'Z';
    switch (letter | 32) {
    case 's':
        rt__tok_space_items(items);
        break;
    case 'd':
        (void)rt__tok_property_items("Nd", 2, items);
        break;
    case 'w':
        rt__tok_word_items(items, in_class);
        break;
    case 'h':
        rt_bytes_add_text(items, "0-9a-fA-F");
        break;
    default:
        RC_TRY(property(w, &is_negated, items));
        break;
    }
    *kind = is_negated ? ESCAPE_NEGATED_SET : ESCAPE_SET;
    if (w->is_caseless) return refuse(w, "a set under (?i)");
    return RC_OK;
}

/* What follows a backslash. */
static rc_code escape(rewriter *w, bool in_class, escape_kind *kind, uint32_t *c, rt_bytes *items)
{
    static const char controls[] = "t\tn\nr\rf\fv\va\ae\033";
    if (!more(w)) return refuse(w, "a backslash at the end");
    char letter = w->text[w->at];
    if ((unsigned char)letter >= 0x80) return refuse(w, "an escape");
    w->at++;
    *kind = ESCAPE_CHARACTER;
    for (size_t i = 0; i + 1 < sizeof controls; i += 2)
        if (controls[i] == letter) return *c = (uint32_t)controls[i + 1], RC_OK;
    if (strchr("sSdDwWhHpP", letter)) return set_escape(w, letter, in_class, kind, items);
    if (letter == 'u') return hex(w, 4, c);
    if (letter == 'x' && take(w, "{")) {
        RC_TRY(hex(w, 6, c));
        return take(w, "}") ? RC_OK : refuse(w, "the hexadecimal character");
    }
    if (letter == 'x') {
        RC_TRY(hex(w, 2, c));
        return *c < 0x80 ? RC_OK : refuse(w, "a byte that is no character");
    }
    if (!in_class && strchr("AzZ", letter)) {
        *kind = ESCAPE_ANCHOR;
        *c = (uint32_t)letter;
        return RC_OK;
    }
    if (is_letter((uint32_t)letter) || (letter >= '0' && letter <= '9')) return refuse(w, "an escape");
    *c = (uint32_t)(unsigned char)letter;
    return RC_OK;
}

/* A class while it is read: its positive items, and the sets that it holds the opposite of. */
typedef struct class_items {
    rt_bytes items;
    rt_bytes negated[NEGATED_MAX];
    unsigned negated_count;
} class_items;

static void class_deinit(class_items *k)
{
    rt_bytes_deinit(&k->items);
    for (unsigned i = 0; i < NEGATED_MAX; i++) rt_bytes_deinit(&k->negated[i]);
}

/* One character of a class, or a set (*is_set) that has gone into k. */
static rc_code class_item(rewriter *w, class_items *k, uint32_t *c, bool *is_set)
{
    rt_bytes items = {0};
    escape_kind kind = ESCAPE_CHARACTER;
    *is_set = false;
    if (take(w, "\\")) {
        rc_code code = escape(w, true, &kind, c, &items);
        if (code == RC_OK && kind == ESCAPE_SET)
            rt_bytes_add(&k->items, items.data, items.count);
        else if (code == RC_OK && kind == ESCAPE_NEGATED_SET && k->negated_count == NEGATED_MAX)
            code = refuse(w, "one more negated set in a class");
        if (code == RC_OK && items.failed) k->items.failed = true;
        if (code == RC_OK && kind == ESCAPE_NEGATED_SET)
            k->negated[k->negated_count++] = items;
        else
            rt_bytes_deinit(&items);
        *is_set = kind != ESCAPE_CHARACTER;
        return code;
    }
    if (peek(w, 0) == '[' || (peek(w, 0) == '&' && peek(w, 1) == '&')) return refuse(w, "a class in a class");
    size_t n;
    *c = rt__tok_char(w->text + w->at, &n);
    w->at += n;
    return RC_OK;
}

static rc_code class_body(rewriter *w, class_items *k)
{
    bool is_first = true, was_range = false, was_set = false;
    for (;; is_first = false) {
        uint32_t first, last;
        bool is_set;
        if (!more(w)) return refuse(w, "a class without end");
        if (!is_first && take(w, "]")) return RC_OK;
        if (is_first && peek(w, 0) == ']') return refuse(w, "] at the start of a class");
        bool is_dash = peek(w, 0) == '-';
        if (is_dash && (was_range || was_set) && peek(w, 1) != ']')
            return refuse(w, "- after a range or set");
        RC_TRY(class_item(w, k, &first, &is_set));
        was_range = false;
        was_set = is_set;
        if (is_set) continue;
        last = first;
        if (peek(w, 0) == '-' && peek(w, 1) != ']' && w->at + 1 < w->bytes) {
            w->at++;
            RC_TRY(class_item(w, k, &last, &is_set));
            if (is_set || last < first) return refuse(w, "the range");
            was_range = true;
        }
        if (w->is_caseless && last >= 0x80) return refuse(w, "a character outside of ASCII under (?i)");
        put_character(&k->items, first);
        if (last == first) continue;
        rt_bytes_add_byte(&k->items, '-');
        put_character(&k->items, last);
    }
}

static void put_class(rt_bytes *out, const char *open, const rt_bytes *items)
{
    rt_bytes_add_text(out, open);
    rt_bytes_add(out, items->data, items->count);
    rt_bytes_add_byte(out, ']');
    if (items->failed) out->failed = true;
}

/* What newer Unicode adds to a set can't be taken out of a negated item, so [a\S] is written as [a]|[^\s]
 * and [^a\S\D] as (?![a])(?=[\s])[\d]. */
static void class_write(const class_items *k, bool is_negated, rt_bytes *out)
{
    unsigned n = k->negated_count;
    if (!n) {
        put_class(out, is_negated ? "[^" : "[", &k->items);
        return;
    }
    rt_bytes_add_text(out, "(?:");
    if (k->items.count) put_class(out, is_negated ? "(?![" : "[", &k->items);
    if (k->items.count) rt_bytes_add_byte(out, is_negated ? ')' : '|');
    for (unsigned i = 0; i < n; i++) {
        bool is_last = i + 1 == n;
        put_class(out, !is_negated ? "[^" : is_last ? "[" : "(?=[", &k->negated[i]);
        if (!is_last) rt_bytes_add_byte(out, is_negated ? ')' : '|');
    }
    rt_bytes_add_byte(out, ')');
}

static rc_code class(rewriter *w)
{
    class_items k = {0};
    bool is_negated = take(w, "^");
    rc_code code = class_body(w, &k);
    if (code == RC_OK) class_write(&k, is_negated, w->out);
    class_deinit(&k);
    return code;
}

static rc_code character(rewriter *w, uint32_t c)
{
    if (w->is_caseless) {
        if (c >= 0x80) return refuse(w, "a character outside of ASCII under (?i)");
        if (w->last_letter && folds_together(w->last_letter, (char)c))
            return refuse(w, "a pair of letters that fold to one character under (?i)");
    }
    put_character(w->out, c);
    return RC_OK;
}

static rc_code escaped_atom(rewriter *w, char *letter)
{
    rt_bytes items = {0};
    escape_kind kind;
    uint32_t c = 0;
    rc_code code = escape(w, false, &kind, &c, &items);
    if (code == RC_OK && kind == ESCAPE_CHARACTER) {
        code = character(w, c);
        if (is_letter(c)) *letter = (char)c;
    } else if (code == RC_OK && kind == ESCAPE_ANCHOR) {
        rt_bytes_print(w->out, "\\%c", (char)c);
    } else if (code == RC_OK) {
        put_class(w->out, kind == ESCAPE_SET ? "[" : "[^", &items);
    }
    rt_bytes_deinit(&items);
    return code;
}

static rc_code alternatives(rewriter *w);

/* (?imx-imx: or (?imx-imx), after the question mark. Options in mid-branch reach the following alternatives
 * in PCRE2 and not in Oniguruma, so they must open a branch. */
static rc_code options(rewriter *w, bool opens_branch, bool *is_group)
{
    bool on = true, dot_all_on = false, dot_all_off = false;
    for (; more(w) && peek(w, 0) != ':' && peek(w, 0) != ')'; w->at++) {
        char option = peek(w, 0);
        if (option == '-')
            on = false;
        else if (option == 'i')
            w->is_caseless = on;
        else if (option == 'm')
            *(on ? &dot_all_on : &dot_all_off) = true;
        else
            return refuse(w, "the group");
    }
    *is_group = peek(w, 0) == ':';
    if (!more(w) || (!*is_group && !opens_branch)) return refuse(w, "the group option");
    w->at++;
    rt_bytes_print(w->out, "(?%s%s", w->is_caseless ? "i" : "", dot_all_on ? "s" : "");
    if (!w->is_caseless || dot_all_off)
        rt_bytes_print(w->out, "-%s%s", w->is_caseless ? "" : "i", dot_all_off ? "s" : "");
    rt_bytes_add_byte(w->out, *is_group ? ':' : ')');
    return RC_OK;
}

static rc_code named_group(rewriter *w)
{
    const char *end = memchr(w->text + w->at, '>', w->bytes - w->at);
    if (!end) return refuse(w, "the group name");
    w->at = (size_t)(end - w->text) + 1;
    rt_bytes_add_text(w->out, "(?:");
    return RC_OK;
}

/* After an opening parenthesis. *is_atom: something that can be repeated. */
static rc_code group(rewriter *w, bool opens_branch, bool *is_atom)
{
    static const char *const plain[] = {"?:", "?=", "?!", "?<=", "?<!", "?>"};
    bool was_caseless = w->is_caseless, is_group = true;
    const char *opened = NULL;
    if (take(w, "?#")) {
        const char *end = memchr(w->text + w->at, ')', w->bytes - w->at);
        if (!end) return refuse(w, "the comment");
        w->at = (size_t)(end - w->text) + 1;
        *is_atom = false;
        return RC_OK;
    }
    for (size_t i = 0; i < sizeof plain / sizeof plain[0] && !opened; i++)
        if (take(w, plain[i])) opened = plain[i];
    if (opened)
        rt_bytes_print(w->out, "(%s", opened);
    else if (take(w, "?<"))
        RC_TRY(named_group(w));
    else if (take(w, "?"))
        RC_TRY(options(w, opens_branch, &is_group));
    else if (peek(w, 0) == '*')
        return refuse(w, "a callout");
    else
        rt_bytes_add_text(w->out, "(?:");
    *is_atom = is_group;
    if (!is_group) return RC_OK;
    if (++w->depth > DEPTH_MAX) return refuse(w, "a group this deep");
    RC_TRY(alternatives(w));
    w->depth--;
    if (!take(w, ")")) return refuse(w, "a group without end");
    rt_bytes_add_byte(w->out, ')');
    w->is_caseless = was_caseless;
    return RC_OK;
}

/* {n}, {n,}, {,m}, {n,m}: true, with its bounds as PCRE2 writes them; otherwise { is a character. */
static bool interval(rewriter *w, char bounds[32], bool *is_exact)
{
    size_t at = w->at + 1, low = 0, high = 0;
    unsigned long from = 0, to = 0;
    for (; at < w->bytes && low < 6 && w->text[at] >= '0' && w->text[at] <= '9'; at++, low++)
        from = from * 10 + (unsigned long)(w->text[at] - '0');
    bool has_comma = at < w->bytes && w->text[at] == ',';
    if (has_comma) at++;
    for (; has_comma && at < w->bytes && high < 6 && w->text[at] >= '0' && w->text[at] <= '9'; at++, high++)
        to = to * 10 + (unsigned long)(w->text[at] - '0');
    if (at >= w->bytes || w->text[at] != '}' || (!low && !high)) return false;
    w->at = at + 1;
    *is_exact = !has_comma;
    if (!has_comma)
        snprintf(bounds, 32, "{%lu}", from);
    else if (high)
        snprintf(bounds, 32, "{%lu,%lu}", from, to);
    else
        snprintf(bounds, 32, "{%lu,}", from);
    return true;
}

/* One repetition after what stands at out[start..); *found false where there is none. */
static rc_code repetition(rewriter *w, size_t start, bool is_repeated, bool *found)
{
    char bounds[32];
    bool is_interval = false, is_exact = false;
    char c = peek(w, 0);
    *found = c && (strchr("*+?", c) || (c == '{' && (is_interval = interval(w, bounds, &is_exact))));
    if (!*found) return RC_OK;
    if (is_repeated) {
        if (!rt_bytes_reserve(w->out, 3)) return RC_OK;
        memmove(w->out->data + start + 3, w->out->data + start, w->out->count - start);
        memcpy(w->out->data + start, "(?:", 3);
        w->out->count += 3;
        rt_bytes_add_byte(w->out, ')');
    }
    if (is_interval) {
        if (is_exact && peek(w, 0) == '?') return refuse(w, "{n}?");
        rt_bytes_add_text(w->out, bounds);
        if (take(w, "?")) rt_bytes_add_byte(w->out, '?');
        return RC_OK;
    }
    w->at++;
    rt_bytes_add_byte(w->out, c);
    if (peek(w, 0) == '?' || peek(w, 0) == '+') {
        rt_bytes_add_byte(w->out, peek(w, 0));
        w->at++;
    }
    return RC_OK;
}

static rc_code atom(rewriter *w, bool opens_branch, bool *is_atom, char *letter)
{
    *is_atom = true;
    if (take(w, "(")) return group(w, opens_branch, is_atom);
    if (take(w, "[")) return class(w);
    if (take(w, "\\")) return escaped_atom(w, letter);
    if (take(w, ".")) return rt_bytes_add_byte(w->out, '.'), RC_OK;
    if (take(w, "^")) return rt_bytes_add_text(w->out, "(?m:^)"), RC_OK;
    if (take(w, "$")) return rt_bytes_add_text(w->out, "(?m:$)"), RC_OK;
    if (strchr("*+?", peek(w, 0)) && peek(w, 0)) return refuse(w, "a repetition of nothing");
    size_t n;
    uint32_t c = rt__tok_char(w->text + w->at, &n);
    w->at += n;
    if (is_letter(c)) *letter = (char)c;
    return character(w, c);
}

static rc_code alternatives(rewriter *w)
{
    bool opens_branch = true;
    w->last_letter = 0;
    while (more(w) && peek(w, 0) != ')') {
        bool is_atom, found, is_repeated = false;
        char letter = 0;
        size_t start = w->out->count;
        if (take(w, "|")) {
            rt_bytes_add_byte(w->out, '|');
            opens_branch = true;
            w->last_letter = 0;
            continue;
        }
        RC_TRY(atom(w, opens_branch, &is_atom, &letter));
        opens_branch = false;
        for (found = is_atom; found; is_repeated = true) RC_TRY(repetition(w, start, is_repeated, &found));
        w->last_letter = letter;
        if (w->out->failed) return RC_OK;
    }
    return RC_OK;
}

rc_code rt__tok_pattern_rewrite(const char *text, size_t bytes, rt_bytes *out, rc_msg *msg)
{
    if (bytes > PATTERN_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "a regex of the tokenizer has %zu bytes, more than %d",
                       bytes, PATTERN_MAX);
    rewriter w = {.text = text, .bytes = bytes, .out = out, .msg = msg};
    rc_code code = alternatives(&w);
    if (out->failed) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for a regular expression");
    if (code == RC_OK && more(&w)) return refuse(&w, "a closing parenthesis");
    return code;
}
