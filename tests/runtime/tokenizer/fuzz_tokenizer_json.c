/* Any bytes as a tokenizer.json: refused with a line, or a tokenizer that encodes some text and decodes its
 * ids. */
#include "runtime/tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char text[] =
    "Hello  W\xc3\xb6rld's 12\xc2\xbd <a>\xe2\x80\x83\xe6\x97\xa5 e\xcc\x81\n\n\xf0\x9f\x98\x80_x";

static void use(const rt_tokenizer *t)
{
    int32_t *ids;
    size_t count, piece = rt_tokenizer_piece_max(t);
    rc_msg msg = {{0}, {0}};
    rt_detok d;
    if (rt_tokenizer_encode(t, text, sizeof text - 1, true, 10000, &ids, &count, &msg) != RC_OK) {
        RC_ASSERT(msg.text[0]);
        return;
    }
    char *out = malloc(piece);
    RC_ASSERT(out);
    rt_detok_init(&d, true);
    for (size_t i = 0; i < count; i++) RC_ASSERT(rt_detok_push(&d, t, ids[i], out, piece) <= piece);
    RC_ASSERT(rt_detok_finish(&d, t, out, piece) <= piece);
    free(out);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    rt_tokenizer *t = NULL;
    rc_msg msg = {{0}, {0}};
    if (rt_tokenizer_open_json((const char *)data, size, "fuzz", &t, &msg) == RC_OK)
        use(t);
    else
        RC_ASSERT(t == NULL && msg.text[0]);
    rt_tokenizer_close(t);
    return 0;
}
