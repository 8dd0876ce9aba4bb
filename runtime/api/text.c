#include <stdlib.h>
#include <string.h>

#include "runtime/api/mica_internal.h"

rc_code mica_tokenize(const mica *m, const char *text, size_t bytes, bool add_special, int32_t **ids,
                      size_t *count, rc_msg *err)
{
    rc_code code;
    if (!m->tokenizer)
        return rc_about(
            rc_fail(RC_INVALID_ARGUMENT, err, "prompt must be token ids: the model has no tokenizer"), err,
            "prompt");
    code =
        rt_tokenizer_encode(m->tokenizer, text, bytes, add_special, m->limits.max_model_len, ids, count, err);
    return code == RC_OK ? code : rc_about(code, err, "prompt");
}

rc_code mica_detokenize(const mica *m, const int32_t *ids, size_t count, bool skip_special, char **text,
                        size_t *bytes, size_t *offsets, rc_msg *err)
{
    size_t piece = m->limits.piece_max, max = (count + 1) * piece + 1, used = 0;
    char *out = malloc(max);
    rt_detok d;
    if (!out) return rc_fail(RC_RESOURCE_EXHAUSTED, err, "no memory for the text of %zu tokens", count);
    rt_detok_init(&d, skip_special);
    for (size_t i = 0; i < count; i++) {
        if (offsets) offsets[i] = used;
        if (m->tokenizer) used += rt_detok_push(&d, m->tokenizer, ids[i], out + used, max - used);
    }
    if (m->tokenizer) used += rt_detok_finish(&d, m->tokenizer, out + used, max - used);
    out[used] = 0;
    *text = out;
    *bytes = used;
    return RC_OK;
}

size_t mica_token_text(const mica *m, int32_t id, char *out, size_t out_max)
{
    char *text;
    size_t bytes;
    if (mica_detokenize(m, &id, 1, false, &text, &bytes, NULL, NULL) != RC_OK) return 0;
    memcpy(out, text, bytes < out_max ? bytes : out_max);
    free(text);
    return bytes;
}
