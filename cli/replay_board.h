/* replay_board.h - what coordinator and ranks say to each other: a shared table of the requests in flight,
 * and small messages.
 *
 * The board is anonymous shared memory, mapped before the ranks are forked: one slot per request in flight,
 * with the block ids of every list. A slot is written by the coordinator while no rank works on it (the
 * first sending rank adds the ticket before it reports PREPARED); messages order the accesses.
 */
#ifndef KVFERRY_CLI_REPLAY_BOARD_H
#define KVFERRY_CLI_REPLAY_BOARD_H

#include <stddef.h>
#include "cli/content.h"
#include "cli/replay_setup.h"

/* Blocks first, first + step, ... of the prompt, step being the side's cp; ids[0 .. reused) are not sent:
 * on the decode side they hold an earlier request's prefix, on the prefill side they were never computed. */
struct replay_list {
	uint64_t first;
	uint32_t n, reused;
	uint64_t at; /* of its ids in the slot */
};

struct replay_slot {
	uint32_t request;
	uint32_t src_dp, dst_dp;
	uint32_t ticket_bytes;
	uint8_t ticket[KVF_TICKET_MAX_BYTES];
};

/* Constant after new. */
struct replay_board {
	uint8_t *memory;
	size_t len_bytes, slot_bytes, lists_at, ids_at;
	uint32_t n_groups;
};

bool replay_board_init(struct replay_board *board, const struct replay_setup *setup, struct reason *why);
void replay_board_fini(struct replay_board *board);
struct replay_slot *replay_board_slot(const struct replay_board *board, uint32_t slot);
/* cp: of a decode rank; 0 on prefill. */
struct replay_list *replay_board_list(
	const struct replay_board *board, uint32_t slot, uint32_t side, uint32_t cp, uint32_t group);
int32_t *replay_board_ids(const struct replay_board *board, uint32_t slot, const struct replay_list *list);
/* Ids that the longest list of this side and group may have. */
uint64_t replay_list_capacity(const struct replay_setup *setup, uint32_t side, uint32_t group);

/* Monotonic; the same clock for coordinator and ranks. */
uint64_t replay_now_ns(void);

enum replay_command_kind {
	REPLAY_CONNECT =
		1,      /* decode: reach the prefill instance; answered by PEER for each, then CONNECTED */
	REPLAY_PREPARE, /* fill, or check and clear, the blocks of a slot; answered by PREPARED */
	REPLAY_START,   /* open the session of a slot and hand over what there is; STARTED, later DONE */
	REPLAY_CANCEL,  /* chaos: cancel the session of a slot, if it has one; no answer */
	REPLAY_FINISH   /* check the whole pool, close the agent; FINISHED */
};

struct replay_command {
	uint32_t kind;
	uint32_t side, rank, slot;
};

enum replay_report_kind {
	REPLAY_UP = 1, /* agent open and declared */
	REPLAY_PEER,
	REPLAY_CONNECTED,
	REPLAY_PREPARED,
	REPLAY_STARTED,
	REPLAY_RELEASED, /* chaos, decode: session released; DONE follows when the canary has been watched */
	REPLAY_DONE,     /* session released, content checked */
	REPLAY_FINISHED, /* after it the process ends */
	REPLAY_BROKEN    /* this rank cannot go on: text says why */
};

enum replay_fault_kind {
	REPLAY_NO_FAULT = 0,
	REPLAY_FAULT_CONTENT, /* a moved or reused byte is not what it must be */
	REPLAY_FAULT_STRAY,   /* a byte changed that nobody was to touch */
	REPLAY_FAULT_AUX
};

/* The first wrong byte that a rank found in one step. */
struct replay_fault {
	uint32_t kind;
	uint32_t side, rank;
	uint32_t request; /* REPLAY_NO_REQUEST: none owns the block */
	struct content_mismatch where;
};

struct replay_report {
	uint32_t kind;
	uint32_t side, rank, slot;
	int32_t status;                                           /* enum kvf_status of the session */
	uint32_t peer;                                            /* PEER: prefill rank */
	uint64_t bytes, runs, plan_ns, first_byte_ns, outcome_ns; /* of the session */
	uint64_t released_ns;
	uint64_t cancel_ns; /* when this rank cancelled it; 0: never */
	uint32_t proofs[9]; /* peers by enum kvf_proof */
	uint64_t bytes_verified;
	struct replay_fault fault;
	char text[256]; /* PEER: transport; errors: why */
};

#endif
