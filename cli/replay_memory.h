/* replay_memory.h - the KV memory of one rank as a replay sees it: filled with known content, checked byte
 * by byte.
 *
 * For every block it is known what it holds: the content of a request's block, the guard pattern (never
 * used), or nothing certain (a transfer runs or has failed). Before a decode block is used again it is
 * compared with what it was left with, and at the end the whole pool is, so that a byte written where none
 * was due is found.
 */
#ifndef KVFERRY_CLI_REPLAY_MEMORY_H
#define KVFERRY_CLI_REPLAY_MEMORY_H

#include "cli/replay_board.h"

#define REPLAY_PATTERN      0xa5u
#define REPLAY_CANARY_BYTES 4096u /* behind the pool; nobody's */

struct replay_owner {
	uint32_t request; /* or one of the two below */
	uint32_t block;   /* of the request */
};
#define REPLAY_OWNER_PATTERN REPLAY_NO_REQUEST
#define REPLAY_OWNER_UNKNOWN (REPLAY_NO_REQUEST - 1)

/* Zero-initialise; init, fini. */
struct replay_memory {
	const struct replay_setup *setup;
	const struct replay_board *board;
	const struct kvf_layout *layout; /* with real addresses */
	uint8_t *pool;
	uint64_t pool_bytes; /* canary included */
	uint32_t side, rank, dp, cp;
	struct replay_owner *owners[KVF_MAX_GROUPS]; /* per block */
};

/* Borrows layout and pool. Fills the pool with the guard pattern, unless nothing is to be verified. False:
 * out of memory. */
bool replay_memory_init(struct replay_memory *memory, const struct replay_setup *setup,
	const struct replay_board *board, uint32_t side, uint32_t rank);
void replay_memory_attach(
	struct replay_memory *memory, const struct kvf_layout *layout, uint8_t *pool, uint64_t pool_bytes);
void replay_memory_fini(struct replay_memory *memory);

enum replay_job_kind {
	REPLAY_JOB_FILL,   /* prefill: write the content of a slot's request */
	REPLAY_JOB_CLEAR,  /* decode: check what the new blocks were left with, and give them up */
	REPLAY_JOB_CHECK,  /* decode: compare what has arrived, and what is reused */
	REPLAY_JOB_CANARY, /* chaos, decode: released blocks get the guard pattern */
	REPLAY_JOB_WATCH,  /* and must keep it */
	REPLAY_JOB_SWEEP   /* at the end: compare everything */
};

/* A job is done in steps of some MiB, so that its thread can look after other things between them. */
struct replay_job {
	uint32_t kind, slot;
	uint32_t group; /* progress */
	uint64_t at;
	uint64_t bytes_verified;
	struct replay_fault fault; /* the first; where.bad_rows counts all */
};

void replay_job_init(struct replay_job *job, uint32_t kind, uint32_t slot);
/* True: the job is done. */
bool replay_job_step(struct replay_job *job, struct replay_memory *memory);

/* Damages one byte of a slot's request, to see the check find it. */
void replay_memory_damage(struct replay_memory *memory, uint32_t slot);

#endif
