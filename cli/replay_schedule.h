/* replay_schedule.h - the coordinator: admits requests, gives them blocks, tells the ranks, counts what
 * comes back. */
#ifndef KVFERRY_CLI_REPLAY_SCHEDULE_H
#define KVFERRY_CLI_REPLAY_SCHEDULE_H

#include "cli/replay_report.h"

/* replay_schedule_run - starts the ranks, replays every request, stops the ranks, whatever happens.
 * Returns 0 when the run came to its end (result says whether it was good), EXIT_WORK_FAILED when it did
 * not (why says so), 128 + signal when it was interrupted.
 */
int replay_schedule_run(
	struct replay_setup *setup, struct replay_result *result, bool progress, struct reason *why);

#endif
