/* runtime/tokenizer/unicode.h - what characters are to the tokenizers library.
 *
 * Its parts answer from Unicode versions of their own (Rust's standard library, regex, Oniguruma, old
 * crates), so the sets are tables of its answers (unicode_tables.c), not of one version. Text here is valid
 * UTF-8.
 */
#ifndef RUNTIME_TOKENIZER_UNICODE_H
#define RUNTIME_TOKENIZER_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct rt__tok_range {
    uint32_t first, last;
} rt__tok_range;

extern const rt__tok_range rt__tok_numeric[], rt__tok_punctuation[], rt__tok_word[], rt__tok_mark[];
extern const size_t rt__tok_numeric_count, rt__tok_punctuation_count, rt__tok_word_count, rt__tok_mark_count;

/* What Oniguruma's \p{name} holds beyond Unicode 14, as items of a PCRE2 class. */
typedef struct rt__tok_newer {
    const char *name;
    const char *items;
} rt__tok_newer;

extern const rt__tok_newer rt__tok_newer_than_14[];
extern const size_t rt__tok_newer_count;

bool rt__tok_is_space(uint32_t c);       /* White_Space */
bool rt__tok_is_numeric(uint32_t c);     /* char::is_numeric */
bool rt__tok_is_punctuation(uint32_t c); /* pre-tokenizer Punctuation */
bool rt__tok_is_word(uint32_t c);        /* \w of the regex crate */
bool rt__tok_is_mark(uint32_t c);        /* normalizer StripAccents */

/* Lower case of `c`; gives how many characters that is (1, or 2 for U+0130). */
unsigned rt__tok_lower(uint32_t c, uint32_t out[2]);

/* Character at text[0], and its bytes. */
static inline uint32_t rt__tok_char(const char *text, size_t *bytes)
{
    const unsigned char *s = (const unsigned char *)text;
    if (s[0] < 0x80) return *bytes = 1, s[0];
    if (s[0] < 0xe0) return *bytes = 2, (s[0] & 31u) << 6 | (s[1] & 63u);
    if (s[0] < 0xf0) return *bytes = 3, (s[0] & 15u) << 12 | (s[1] & 63u) << 6 | (s[2] & 63u);
    *bytes = 4;
    return (s[0] & 7u) << 18 | (s[1] & 63u) << 12 | (s[2] & 63u) << 6 | (s[3] & 63u);
}

/* Where the last character of text[0..bytes) begins; bytes > 0. */
static inline size_t rt__tok_last(const char *text, size_t bytes)
{
    size_t at = bytes - 1;
    while (at && ((unsigned char)text[at] & 0xc0) == 0x80) at--;
    return at;
}

/* Writes `c`, gives its bytes. */
static inline size_t rt__tok_put(uint32_t c, char *out)
{
    if (c < 0x80) return out[0] = (char)c, 1;
    if (c < 0x800) return out[0] = (char)(0xc0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), 2;
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 63));
        out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

#endif
