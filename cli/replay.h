/* replay.h - what kvferry replay and kvferry demo share. */
#ifndef KVFERRY_CLI_REPLAY_H
#define KVFERRY_CLI_REPLAY_H

#include "cli/replay_report.h"

/* replay_run - sets up, replays, prints what is wrong to stderr and hands a run that came to its end to
 * print (not called otherwise). Returns the exit code. command: for messages. */
typedef void replay_print(const struct replay_result *result, FILE *out);
int replay_run(const char *command, const struct replay_options *options, replay_print *print);

#endif
