#include <ctype.h>
#include <string.h>

#include "runtime/tokenizer/pattern.h"
#include "runtime/tokenizer/unicode.h"

static const char *const long_names[][2] = {
    {"letter", "L"},
    {"uppercaseletter", "Lu"},
    {"lowercaseletter", "Ll"},
    {"titlecaseletter", "Lt"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"mark", "M"},
    {"nonspacingmark", "Mn"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"number", "N"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"punctuation", "P"},
    {"symbol", "S"},
    {"mathsymbol", "Sm"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"othersymbol", "So"},
    {"separator", "Z"},
    {"spaceseparator", "Zs"},
    {"control", "Cc"},
    {"format", "Cf"},
};

static const char *const categories[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",
                                         "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po",
                                         "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "Cc", "Cf"};

/* name, PCRE2's name, what Oniguruma's holds beyond Unicode 14 */
static const char *const scripts[][3] = {
    {"han", "Han", "\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"},
    {"hiragana", "Hiragana", "\\x{1b132}"},
    {"katakana", "Katakana", "\\x{1b155}"},
    {"hangul", "Hangul", ""},
    {"latin", "Latin", "\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{1df25}-\\x{1df2a}"},
    {"cyrillic", "Cyrillic", "\\x{1c89}-\\x{1c8a}\\x{1e030}-\\x{1e06d}\\x{1e08f}"},
    {"greek", "Greek", ""},
    {"arabic", "Arabic", "\\x{897}\\x{10ec2}-\\x{10ec4}\\x{10efc}-\\x{10eff}"},
    {"hebrew", "Hebrew", ""},
    {"thai", "Thai", ""},
    {"devanagari", "Devanagari", "\\x{11b00}-\\x{11b09}"},
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static void add_category(rt_bytes *out, const char *name)
{
    rt_bytes_print(out, "\\p{%s}", name);
    for (size_t i = 0; i < rt__tok_newer_count; i++)
        if (!strcmp(rt__tok_newer_than_14[i].name, name))
            rt_bytes_add_text(out, rt__tok_newer_than_14[i].items);
}

bool rt__tok_property_items(const char *name, size_t bytes, rt_bytes *out)
{
    char plain[24];
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (name[i] == ' ' || name[i] == '_' || name[i] == '-') continue;
        if (n + 1 >= sizeof plain) return false;
        plain[n++] = (char)tolower((unsigned char)name[i]);
    }
    plain[n] = 0;
    for (size_t i = 0; i < COUNT(categories); i++)
        if (!strcasecmp(categories[i], plain)) return add_category(out, categories[i]), true;
    for (size_t i = 0; i < COUNT(long_names); i++)
        if (!strcmp(long_names[i][0], plain)) return add_category(out, long_names[i][1]), true;
    for (size_t i = 0; i < COUNT(scripts); i++) {
        if (strcmp(scripts[i][0], plain)) continue;
        rt_bytes_print(out, "\\p{sc:%s}%s", scripts[i][1], scripts[i][2]);
        return true;
    }
    return false;
}

/* PCRE2's own \s also takes U+180E. */
void rt__tok_space_items(rt_bytes *out)
{
    rt_bytes_add_text(
        out, "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
             "\\x{205f}\\x{3000}");
}

void rt__tok_word_items(rt_bytes *out, bool in_class)
{
    add_category(out, "L");
    add_category(out, "M");
    add_category(out, "Nd");
    rt_bytes_add_text(out, "\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}"
                           "\\x{1f170}-\\x{1f189}");
    if (!in_class) rt_bytes_add_text(out, "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}");
}
