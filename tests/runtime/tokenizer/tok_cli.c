/* One tokenizer as a filter, for comparisons with the tokenizers library: JSON lines in, JSON lines out.
 *
 *     {"text": "..", "add_special": true}  ->  {"ids": [..]}  or  {"error": ".."}
 *     {"ids": [..], "skip_special": true}  ->  {"text": ".."}
 *
 * usage: tok_cli MODEL_DIRECTORY|FILE.gguf|FILE.json */
#include <jansson.h>
#include <string.h>

#include "runtime/tokenizer/tokenizer.h"

static rc_code open_any(const char *path, rt_tokenizer **t, rc_msg *msg)
{
    size_t length = strlen(path), count;
    if (length < 5 || strcmp(path + length - 5, ".json")) return rt_tokenizer_open(path, t, msg);
    FILE *f = fopen(path, "rb");
    char *bytes = malloc(64 << 20);
    if (!f || !bytes) return rc_fail(RC_NOT_FOUND, msg, "'%.300s' can't be read", path);
    count = fread(bytes, 1, 64 << 20, f);
    fclose(f);
    rc_code code = rt_tokenizer_open_json(bytes, count, path, t, msg);
    free(bytes);
    return code;
}

static json_t *encode(const rt_tokenizer *t, const json_t *text, bool add_special)
{
    int32_t *ids;
    size_t count;
    rc_msg msg;
    if (rt_tokenizer_encode(t, json_string_value(text), json_string_length(text), add_special, SIZE_MAX, &ids,
                            &count, &msg) != RC_OK)
        return json_pack("{s:s}", "error", msg.text);
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) json_array_append_new(list, json_integer(ids[i]));
    free(ids);
    return json_pack("{s:o}", "ids", list);
}

static json_t *decode(const rt_tokenizer *t, const json_t *ids, bool skip_special)
{
    size_t piece = rt_tokenizer_piece_max(t), length = 0;
    char *text = malloc((json_array_size(ids) + 1) * piece);
    rt_detok d;
    rt_detok_init(&d, skip_special);
    for (size_t i = 0; i < json_array_size(ids); i++)
        length +=
            rt_detok_push(&d, t, (int32_t)json_integer_value(json_array_get(ids, i)), text + length, piece);
    length += rt_detok_finish(&d, t, text + length, piece);
    json_t *out = json_pack("{s:s%}", "text", text, length);
    free(text);
    return out;
}

int main(int argc, char **argv)
{
    rt_tokenizer *t;
    rc_msg msg;
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL_DIRECTORY|FILE.gguf|FILE.json\n", argv[0]);
        return 2;
    }
    if (open_any(argv[1], &t, &msg) != RC_OK) {
        printf("{\"error\": \"%s\"}\n", msg.text);
        return 1;
    }
    while ((length = getline(&line, &room, stdin)) > 0) {
        json_t *in = json_loadb(line, (size_t)length, JSON_ALLOW_NUL, NULL);
        const json_t *ids = json_object_get(in, "ids");
        json_t *out =
            ids ? decode(t, ids, json_is_true(json_object_get(in, "skip_special")))
                : encode(t, json_object_get(in, "text"), json_is_true(json_object_get(in, "add_special")));
        json_dumpf(out, stdout, JSON_COMPACT);
        putchar('\n');
        fflush(stdout);
        json_decref(out);
        json_decref(in);
    }
    free(line);
    rt_tokenizer_close(t);
    return 0;
}
