/* replay_admit.h - blocks for requests: from which pools, how many, which of them reused. */
#ifndef KVFERRY_CLI_REPLAY_ADMIT_H
#define KVFERRY_CLI_REPLAY_ADMIT_H

#include "cli/replay_blocks.h"
#include "cli/replay_board.h"

/* The pools of all data-parallel groups of both sides. Zero-initialise; init, fini. Sized at init. */
struct replay_admit {
	const struct replay_setup *setup;
	const struct replay_board *board;
	struct replay_pool *pools[2]; /* [dp][cp][group] */
	uint64_t *keys;               /* of the leading blocks of the request at hand */
	uint32_t n_groups;
};

bool replay_admit_init(
	struct replay_admit *admit, const struct replay_setup *setup, const struct replay_board *board);
void replay_admit_fini(struct replay_admit *admit);

/* replay_admit_request - fills a slot of the board. False: no room now; nothing has changed. reused_out:
 * tokens that the decode side has already. */
bool replay_admit_request(struct replay_admit *admit, uint32_t slot, uint32_t request, uint64_t *reused_out);
/* Gives a slot's blocks back. good: the decode side has its content and its sessions are released, so that
 * later requests may reuse it. */
void replay_admit_release(struct replay_admit *admit, uint32_t slot, bool good);
/* Blocks that requests hold now. */
uint64_t replay_admit_taken(const struct replay_admit *admit);
/* Bytes that the slot's request must move. */
uint64_t replay_admit_expected(const struct replay_admit *admit, uint32_t slot);

#endif
