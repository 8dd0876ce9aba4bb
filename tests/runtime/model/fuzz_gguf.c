/* Any bytes: rt_gguf_open_memory refuses them with a line, or everything in them can be read. */
#include "runtime/model/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_key(const rt_gguf *g, const char *key)
{
    uint32_t u;
    float f;
    bool yes;
    int32_t n;
    const char *text;
    size_t bytes;
    uint64_t count = 0;
    volatile char last;
    rt_gguf_u32(g, key, &u);
    rt_gguf_f32(g, key, &f);
    rt_gguf_bool(g, key, &yes);
    if (rt_gguf_str(g, key, &text, &bytes) && bytes) last = text[bytes - 1];
    if (!rt_gguf_array(g, key, &count)) return;
    for (uint64_t i = 0; i <= count && i < 1000; i++) {
        rt_gguf_array_i32(g, key, i, &n);
        rt_gguf_array_f32(g, key, i, &f);
        if (rt_gguf_array_str(g, key, i, &text, &bytes) && bytes) last = text[bytes - 1];
    }
    (void)last;
}

static void read_tensor(const rt_gguf_tensor *t)
{
    enum { ELEMENTS_MAX = 4096 };
    float row[ELEMENTS_MAX];
    if (!rt_gguf_type_known(t->type) || t->bytes == 0 || t->shape[0] > ELEMENTS_MAX) return;
    size_t bytes = rt_gguf_row_bytes(t->type, t->shape[0]);
    RC_ASSERT(t->bytes % bytes == 0);
    for (size_t at = 0; at < t->bytes; at += bytes)
        rt_gguf_row(t->type, (const char *)t->data + at, t->shape[0], row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const keys[] = {
        "general.alignment", "general.architecture", "k", "t.strs", "t.ints", ""};
    rt_gguf *g = NULL;
    rc_msg msg = {{0}, {0}};
    if (rt_gguf_open_memory(data, size, "fuzz", &g, &msg) != RC_OK) {
        RC_ASSERT(g == NULL && msg.text[0]);
        return 0;
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) read_key(g, keys[i]);
    for (size_t i = 0; i < rt_gguf_count(g); i++) {
        RC_ASSERT(rt_gguf_find(g, rt_gguf_at(g, i)->name) == rt_gguf_at(g, i));
        read_tensor(rt_gguf_at(g, i));
    }
    rt_gguf_close(g);
    return 0;
}
