/* replay_rank.h - one rank of a replay: an agent, its memory, and the sessions of the requests in flight.
 *
 * Run by replay_host: alone in its process, or beside all others (loop). Every function returns at once but
 * open and close.
 */
#ifndef KVFERRY_CLI_REPLAY_RANK_H
#define KVFERRY_CLI_REPLAY_RANK_H

#include "cli/chaos_rank.h"
#include "cli/replay_memory.h"

struct replay_session {
	uint32_t request; /* REPLAY_NO_REQUEST: none */
	kvf_session handle;
	bool outcome, released, checked;
	enum kvf_status status;
	struct replay_flavour flavour;
	struct replay_slice slices[REPLAY_MAX_SLICES];
	uint32_t n_slices, n_sent;
	struct replay_report report; /* grows into DONE */
	struct chaos_session chaos;
};

struct replay_rank {
	const struct replay_setup *setup;
	const struct replay_board *board;
	uint32_t side, index;
	kvf_agent *agent;
	kvf_region region;
	struct kvf_layout *layout; /* with real addresses */
	uint8_t *mapped;           /* own memory; NULL: kvf_alloc's */
	uint64_t mapped_bytes;
	uint8_t *aux; /* aux slots, one per slot of the board */
	struct replay_memory memory;
	struct replay_session *sessions; /* per slot of the board */
	bool *peers_due;                 /* decode: prefill ranks that are paired and not up yet */
	bool *peers_paired;              /* decode: prefill ranks that are paired */
	uint32_t n_peers_due;
	bool connected;
	struct chaos_rank chaos;
	/* The host's: where reports go, and which job to do next. */
	void *host;
};

/* What a rank asks of its host. */
void replay_host_report(struct replay_rank *rank, const struct replay_report *report);
void replay_host_job(struct replay_rank *rank, uint32_t kind, uint32_t slot);
/* The rank cannot go on; says why. */
void replay_host_broken(struct replay_rank *rank, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

bool replay_rank_open(struct replay_rank *rank, const char *runtime_dir, struct reason *why);
void replay_rank_command(struct replay_rank *rank, const struct replay_command *command);
/* Takes the agent's events. */
void replay_rank_poll(struct replay_rank *rank);
/* A job that replay_host_job asked for is done. */
void replay_rank_job_done(struct replay_rank *rank, const struct replay_job *job);
void replay_rank_close(struct replay_rank *rank);

/* replay_transfer.c: opens the session of a slot, and goes on with it. False: the rank is broken, and has
 * said so. */
bool replay_transfer_start(struct replay_rank *rank, uint32_t slot);
bool replay_transfer_send_next(struct replay_rank *rank, uint32_t slot);
bool replay_transfer_ticket(struct replay_rank *rank, uint32_t slot);
/* Does the aux slot hold len bytes of the request's aux data, and the guard pattern behind them? */
void replay_transfer_check_aux(
	const struct replay_rank *rank, uint32_t slot, uint32_t len, struct replay_fault *fault);
/* The aux slot gets the guard pattern. */
void replay_transfer_clear_aux(const struct replay_rank *rank, uint32_t slot);

#endif
