/* replay_host.h - the main function of a rank process. */
#ifndef KVFERRY_CLI_REPLAY_HOST_H
#define KVFERRY_CLI_REPLAY_HOST_H

#include "cli/chaos_shared.h"
#include "cli/replay_board.h"

struct replay_host_options {
	const struct replay_setup *setup;
	const struct replay_board *board;
	int fd; /* to the coordinator */
	const char *runtime_dir;
	const struct chaos_shared *chaos; /* without memory: no chaos */
	bool all_ranks;                   /* of both sides in this process (loop) */
	uint32_t side, rank;              /* else this one */
};

/* What replay_host_run returns, and the exit code of the process. */
#define REPLAY_HOST_GOOD     0
#define REPLAY_HOST_BROKEN   1
#define REPLAY_HOST_ORPHANED 2 /* the coordinator has closed its socket, or is gone */

/* Until FINISH, until a rank breaks, or until the coordinator's socket ends. */
int replay_host_run(const struct replay_host_options *options);

#endif
