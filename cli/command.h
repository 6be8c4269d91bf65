/* command.h - the subcommands: one function, one file each. argv[0] is the subcommand's name; they return the
 * exit code. */
#ifndef KVFERRY_CLI_COMMAND_H
#define KVFERRY_CLI_COMMAND_H

int command_demo(int argc, char **argv);
int command_models(int argc, char **argv);
int command_plan(int argc, char **argv);
int command_replay(int argc, char **argv);
int command_sim(int argc, char **argv);
int command_trace(int argc, char **argv);

#endif
