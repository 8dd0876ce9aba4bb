#include "runtime/cli/commands.h"

int main(int argc, char **argv) { return rt_command(argc, argv); }
