#include "runtime/tokenizer/added.h"

static rc_code no_memory(rc_msg *msg)
{
    return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for added tokens");
}

const rt__tok_added *rt__tok_added_by_id(const rt__tok_added_set *set, int32_t id)
{
    int32_t index = rt__tok_vocab_find(&set->by_id, (const char *)&id, sizeof id);
    return index < 0 ? NULL : &set->tokens[index];
}

bool rt__tok_added_is_special(const rt__tok_added_set *set, const char *text, size_t bytes)
{
    return rt__tok_vocab_find(&set->specials, text, bytes) >= 0;
}

const char *rt__tok_added_text(const rt__tok_added *token, size_t *bytes)
{
    *bytes = token->matched ? token->matched_bytes : token->bytes;
    return token->matched ? token->matched : token->content;
}

static char *copy(const char *text, size_t bytes)
{
    char *to = malloc(bytes + 1);
    if (!to) return NULL;
    memcpy(to, text, bytes);
    to[bytes] = 0;
    return to;
}

static bool is_same(const rt__tok_added *a, const rt__tok_added *b)
{
    return a->bytes == b->bytes && !memcmp(a->content, b->content, a->bytes) && a->special == b->special &&
           a->single_word == b->single_word && a->lstrip == b->lstrip && a->rstrip == b->rstrip &&
           a->normalized == b->normalized;
}

static rc_code place_for(rt__tok_added_set *set, int32_t id, rt__tok_added **place, rc_msg *msg)
{
    int32_t index = rt__tok_vocab_find(&set->by_id, (const char *)&id, sizeof id);
    if (index < 0) {
        if (set->count == set->room) {
            uint32_t room = set->room ? set->room * 2 : 32;
            rt__tok_added *tokens = realloc(set->tokens, room * sizeof *tokens);
            if (!tokens) return no_memory(msg);
            set->tokens = tokens;
            set->room = room;
        }
        RC_TRY(rt__tok_vocab_put(&set->by_id, (const char *)&id, sizeof id, (int32_t)set->count, msg));
        index = (int32_t)set->count++;
        set->tokens[index] = (rt__tok_added){.id = id};
    }
    *place = &set->tokens[index];
    return RC_OK;
}

static rc_code choose_id(rt__tok_added_set *set, const rt__tok_added *token, const rt__tok_vocab *vocab,
                         int32_t *id, rc_msg *msg)
{
    *id = rt__tok_vocab_find(&set->by_content, token->content, token->bytes);
    if (*id < 0) *id = rt__tok_vocab_find(vocab, token->content, token->bytes);
    if (*id >= 0) return RC_OK;
    if (set->next_id > RT__TOK_ID_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "more tokens than %d", RT__TOK_ID_MAX);
    *id = (int32_t)set->next_id++;
    return RC_OK;
}

/* Of two tokens that get one id the later one stays, but a normalized form that one of them had stays as
 * well: so it is in the library, which keeps the forms in a map of their own. */
rc_code rt__tok_added_put(rt__tok_added_set *set, const rt__tok_added *token, const rt__tok_vocab *vocab,
                          const rt__tok_normals *normals, rt__tok_normal_work *work, rc_msg *msg)
{
    int32_t id;
    rt__tok_added *place = NULL;
    const char *form = token->content;
    size_t form_bytes = token->bytes;
    if (!token->bytes) return RC_OK;
    if (!set->next_id) set->next_id = vocab->count;
    RC_TRY(choose_id(set, token, vocab, &id, msg));
    const rt__tok_added *old = rt__tok_added_by_id(set, id);
    if (old && is_same(old, token)) return RC_OK;
    if (token->normalized)
        RC_TRY(rt__tok_normalize(normals, work, token->content, token->bytes, &form, &form_bytes, msg));
    bool has_form = form_bytes != token->bytes || memcmp(form, token->content, form_bytes);
    RC_TRY(rt__tok_vocab_put(&set->by_content, token->content, token->bytes, id, msg));
    if (token->special) RC_TRY(rt__tok_vocab_put(&set->specials, token->content, token->bytes, 0, msg));
    RC_TRY(place_for(set, id, &place, msg));
    rt__tok_added next = *token;
    char *content = copy(token->content, token->bytes);
    next.content = content;
    next.matched = has_form ? copy(form, form_bytes) : place->matched;
    next.matched_bytes = has_form ? form_bytes : place->matched_bytes;
    next.id = id;
    if (!next.content || (has_form && !next.matched)) {
        free(content);
        if (has_form) free(next.matched);
        return no_memory(msg);
    }
    if (has_form) free(place->matched);
    free((char *)place->content);
    *place = next;
    return RC_OK;
}

static const char *searched(const rt__tok_added *token, size_t *bytes)
{
    if (token->normalized) return rt__tok_added_text(token, bytes);
    *bytes = token->bytes;
    return token->content;
}

static int compare_texts(const rt__tok_added *a, const rt__tok_added *b)
{
    size_t a_bytes, b_bytes;
    const char *x = searched(a, &a_bytes);
    const char *y = searched(b, &b_bytes);
    int order = memcmp(x, y, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static int compare(const void *a, const void *b)
{
    const rt__tok_added *x = *(const rt__tok_added *const *)a;
    const rt__tok_added *y = *(const rt__tok_added *const *)b;
    int order = compare_texts(x, y);
    return order ? order : (x->id > y->id) - (x->id < y->id);
}

/* Of tokens that are the same once normalized the lowest id counts; in the library any may. */
static rc_code make_finder(rt__tok_finder *f, const rt__tok_added_set *set, bool normalized, rc_msg *msg)
{
    uint32_t count = 0;
    f->tokens = calloc((size_t)set->count + 1, sizeof *f->tokens);
    if (!f->tokens) return no_memory(msg);
    for (uint32_t i = 0; i < set->count; i++)
        if (set->tokens[i].normalized == normalized) f->tokens[count++] = &set->tokens[i];
    qsort(f->tokens, count, sizeof *f->tokens, compare);
    for (uint32_t i = 0; i < count; i++) {
        size_t bytes;
        const char *text = searched(f->tokens[i], &bytes);
        if (!bytes)
            return rc_fail(RC_INVALID_ARGUMENT, msg, "added token '%.100s' is empty once it is normalized",
                           f->tokens[i]->content);
        if (f->count && !compare_texts(f->tokens[f->count - 1], f->tokens[i])) continue;
        f->tokens[f->count++] = f->tokens[i];
        f->first[(unsigned char)text[0] + 1] = f->count;
    }
    for (unsigned b = 1; b <= 256; b++)
        if (f->first[b] < f->first[b - 1]) f->first[b] = f->first[b - 1];
    return RC_OK;
}

rc_code rt__tok_added_finish(rt__tok_added_set *set, rc_msg *msg)
{
    RC_TRY(make_finder(&set->raw, set, false, msg));
    return make_finder(&set->normalized, set, true, msg);
}

void rt__tok_added_deinit(rt__tok_added_set *set)
{
    for (uint32_t i = 0; i < set->count; i++) {
        free((char *)set->tokens[i].content);
        free(set->tokens[i].matched);
    }
    free(set->tokens);
    free(set->raw.tokens);
    free(set->normalized.tokens);
    rt__tok_vocab_deinit(&set->by_content);
    rt__tok_vocab_deinit(&set->specials);
    rt__tok_vocab_deinit(&set->by_id);
}

/* The first of tokens[low..high), all equal up to `depth`, whose byte there is at least `byte`. */
static uint32_t narrow(const rt__tok_finder *f, uint32_t low, uint32_t high, size_t depth, unsigned byte)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        size_t bytes;
        const char *text = searched(f->tokens[middle], &bytes);
        if (bytes <= depth || (unsigned char)text[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static const rt__tok_added *longest_at(const rt__tok_finder *f, const char *text, size_t bytes)
{
    unsigned byte = (unsigned char)text[0];
    uint32_t low = f->first[byte], high = f->first[byte + 1];
    const rt__tok_added *longest = NULL;
    for (size_t depth = 1; low < high; depth++) {
        size_t length;
        searched(f->tokens[low], &length);
        if (length == depth) longest = f->tokens[low++];
        if (depth == bytes || low == high) break;
        byte = (unsigned char)text[depth];
        low = narrow(f, low, high, depth, byte);
        high = narrow(f, low, high, depth, byte + 1);
    }
    return longest;
}

const rt__tok_added *rt__tok_find(const rt__tok_finder *f, const char *text, size_t bytes, size_t from,
                                  size_t *start)
{
    if (!f->count) return NULL;
    for (size_t at = from; at < bytes; at++) {
        const unsigned char byte = (unsigned char)text[at];
        if (f->first[byte] == f->first[byte + 1]) continue;
        const rt__tok_added *token = longest_at(f, text + at, bytes - at);
        if (!token) continue;
        *start = at;
        return token;
    }
    return NULL;
}
