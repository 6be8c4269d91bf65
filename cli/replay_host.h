/* replay_host.h - the main function of a rank process. */
#ifndef KVFERRY_CLI_REPLAY_HOST_H
#define KVFERRY_CLI_REPLAY_HOST_H

#include "cli/replay_board.h"

struct replay_host_options {
	const struct replay_setup *setup;
	const struct replay_board *board;
	int fd; /* to the coordinator */
	const char *runtime_dir;
	bool all_ranks;      /* of both sides in this process (loop) */
	uint32_t side, rank; /* else this one */
};

/* Until FINISH or until the coordinator's socket ends. Returns the exit code of the process. */
int replay_host_run(const struct replay_host_options *options);

#endif
