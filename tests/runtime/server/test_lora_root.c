/* Which directories a client may name: those inside, whatever links and dots say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "runtime/server/lora_root.h"

static char top[64], root[128];
static rc_msg msg;

static const char *at(const char *name)
{
    static char path[4][512];
    static int next;
    char *out = path[next++ % 4];
    snprintf(out, sizeof path[0], "%s/%s", top, name);
    return out;
}

static void make_file(const char *path)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
}

static void make_adapter(const char *name)
{
    char path[600];
    assert_int_equal(mkdir(at(name), 0700), 0);
    snprintf(path, sizeof path, "%s/adapter_config.json", at(name));
    make_file(path);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", at(name));
    make_file(path);
}

static int make_tree(void **state)
{
    (void)state;
    snprintf(top, sizeof top, "/tmp/lora_root_XXXXXX");
    if (!mkdtemp(top)) return -1;
    snprintf(root, sizeof root, "%s/root", top);
    mkdir(root, 0700);
    make_adapter("root/a");
    make_adapter("outside");
    make_adapter("root2");
    mkdir(at("root/empty"), 0700);
    mkdir(at("root/half"), 0700);
    make_file(at("root/half/adapter_config.json"));
    return symlink(at("outside/adapter_config.json"), at("root/half/adapter_model.safetensors")) ||
           symlink("a", at("root/inside")) || symlink(at("outside"), at("root/leads_out")) ||
           symlink("loop", at("root/loop"));
}

static int remove_tree(void **state)
{
    (void)state;
    static const char *const names[] = {"root/half/adapter_config.json",
                                        "root/half/adapter_model.safetensors",
                                        "root/half",
                                        "root/empty",
                                        "root/inside",
                                        "root/leads_out",
                                        "root/loop",
                                        "root/a/adapter_config.json",
                                        "root/a/adapter_model.safetensors",
                                        "root/a",
                                        "root",
                                        "root2/adapter_config.json",
                                        "root2/adapter_model.safetensors",
                                        "root2",
                                        "outside/adapter_config.json",
                                        "outside/adapter_model.safetensors",
                                        "outside"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) remove(at(names[i]));
    return remove(top);
}

static void what_is_inside_is_found(void **state)
{
    (void)state;
    const char *paths[] = {"a",  "./a",       "inside",     "empty/../a",
                           "a/", "../root/a", at("root/a"), at("root/inside")};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        char *out = NULL, expected[256];
        snprintf(expected, sizeof expected, "%s/a", root);
        assert_int_equal(rt__lora_root_resolve(root, paths[i], &out, &msg), RC_OK);
        assert_string_equal(out, expected);
        free(out);
    }
}

static void what_is_not_is_refused_in_the_same_words(void **state)
{
    (void)state;
    const char *paths[] = {
        "",          ".",           "..",    "/",       "../outside",           "leads_out",
        "loop",      "half",        "empty", "missing", "a/../../outside",      "../root2",
        at("root2"), at("outside"), root,    "/etc",    "a/adapter_config.json"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        char *out = NULL, expected[RC_TEXT_BYTES];
        assert_int_equal(rt__lora_root_resolve(root, paths[i], &out, &msg), RC_INVALID_ARGUMENT);
        assert_null(out);
        snprintf(expected, sizeof expected, "source_path: '%s' is no adapter inside --lora-root", paths[i]);
        assert_memory_equal(msg.text, expected, strlen(expected));
    }
}

static void a_name_is_one_directory(void **state)
{
    (void)state;
    const char *bad[] = {"", "/", "a/", "/a", "./a", "a/../a", "..", ".a", "empty//a", "a b", "a\n",
                         "a*", "leads_out", "missing", "half", "\xc3\xa4"};
    char *out = NULL, expected[256];
    snprintf(expected, sizeof expected, "%s/a", root);
    assert_int_equal(rt__lora_root_find(root, "a", &out, &msg), RC_OK);
    assert_string_equal(out, expected);
    free(out);
    out = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(rt__lora_root_find(root, bad[i], &out, &msg), RC_NOT_FOUND);
        assert_null(out);
    }
    assert_string_equal(msg.text, "lora_name: no adapter '\xc3\xa4' is loaded");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_inside_is_found),
        cmocka_unit_test(what_is_not_is_refused_in_the_same_words),
        cmocka_unit_test(a_name_is_one_directory),
    };
    return cmocka_run_group_tests(tests, make_tree, remove_tree);
}
