#include <string.h>
#include <unistd.h>

#include "runtime/base/flags.h"
#include "runtime/cli/commands.h"
#include "runtime/mica.h"

typedef struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} command;

static const command commands[] = {
    {"run-batch", rt_command_run_batch, "answer a file of OpenAI completion requests"},
    {"generate", rt_command_generate, "answer one prompt on stdout"},
    {"serve", rt_command_serve, "answer over gRPC"},
    {"bench", rt_command_bench, "measure latency or throughput"},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void print_help(FILE *out)
{
    fprintf(out, "usage: mica COMMAND [flags]\n\n"
                 "One model and many LoRA and Activated LoRA adapters on one paged K/V cache.\n\n");
    for (size_t i = 0; i < COMMANDS; i++) fprintf(out, "  %-12s %s\n", commands[i].name, commands[i].help);
    fprintf(out, "\n  mica COMMAND --help   the command's flags\n  mica --version\n");
}

static int fail_unknown(const char *name)
{
    const char *names[COMMANDS];
    for (size_t i = 0; i < COMMANDS; i++) names[i] = commands[i].name;
    fprintf(stderr, "mica: unknown command '%.60s'; the nearest is '%s'\n", name,
            rt_nearest(name, names, COMMANDS));
    return 1;
}

/* `mica --version`, or the same after a command's words. */
static bool asks_for_version(int argc, char **argv)
{
    int at = 1;
    while (at < argc && argv[at][0] != '-') at++;
    return at < argc && !strcmp(argv[at], "--version");
}

int rt_command(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) {
        print_help(stderr);
        return 1;
    }
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
        print_help(stdout);
        return 0;
    }
    if (asks_for_version(argc, argv)) {
        printf("mica %s\n", MICA_VERSION);
        return 0;
    }
    for (size_t i = 0; i < COMMANDS; i++)
        if (!strcmp(name, commands[i].name)) return commands[i].run(argc - 2, argv + 2);
    return fail_unknown(name);
}
