/* A program that knows runtime/mica.h alone: asks base and an adapter the same, prints what came.
 * usage: client MODEL ADAPTER */
#include <runtime/mica.h>
#include <stdio.h>
#include <string.h>

static int fail(const char *what, const rc_msg *err)
{
    fprintf(stderr, "%s: %s\n", what, err->text);
    return 1;
}

int main(int argc, char **argv)
{
    static const int32_t prompt[] = { 1, 88, 86, 264, 2, 43, 44, 45 };
    mica_options options = MICA_OPTIONS_INIT;
    mica_adapter_ref adapter = { "adapter", argc == 3 ? argv[2] : "" };
    mica_event event;
    mica *m;
    rc_msg err;
    unsigned tokens = 0, ended = 0;
    if (argc != 3) return fprintf(stderr, "usage: %s MODEL ADAPTER\n", argv[0]), 1;
    options.model = argv[1];
    options.kv_cache_memory_bytes = 8 << 20;
    options.adapters = &adapter;
    options.adapters_count = 1;
    if (mica_open(&options, &m, &err) != RC_OK) return fail("open", &err);
    for (int i = 0; i < 2; i++) {
        mica_request request = MICA_REQUEST_INIT;
        uint64_t id;
        request.model = i ? "adapter" : NULL;
        request.prompt_ids = prompt;
        request.prompt_ids_count = sizeof prompt / sizeof *prompt;
        request.max_tokens = 8;
        request.temperature = 0;
        request.ignore_eos = true;
        if (mica_submit(m, &request, &id, &err) != RC_OK) return fail("submit", &err);
    }
    while (mica_poll(m, -1, &event)) {
        tokens += event.tokens_count;
        fwrite(event.text, 1, event.text_bytes, stdout);
        if (event.finish != MICA_RUNNING)
            printf(" <- %s\n", event.prompt->adapter ? event.prompt->adapter : "base"), ended++;
    }
    mica_close(m);
    printf("%u tokens, %u answers\n", tokens, ended);
    return !(tokens == 16 && ended == 2);
}
