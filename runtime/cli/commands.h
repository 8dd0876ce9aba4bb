/* runtime/cli/commands.h - the commands of `mica`; each gives the process's exit status.
 *
 * argv holds what follows the command's name. 0: done (also where single requests failed); 1: refused or
 * failed, with one line on stderr; 128 + n: ended by signal n.
 */
#ifndef RUNTIME_CLI_COMMANDS_H
#define RUNTIME_CLI_COMMANDS_H

int rt_command(int argc, char **argv); /* main()'s own */
int rt_command_run_batch(int argc, char **argv);
int rt_command_generate(int argc, char **argv);
int rt_command_serve(int argc, char **argv);
int rt_command_bench(int argc, char **argv);

#endif
