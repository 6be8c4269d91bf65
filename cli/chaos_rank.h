/* chaos_rank.h - a rank's part in a chaotic replay: cancels in the middle, canaries in released blocks, times of calls. */
#ifndef KVFERRY_CLI_CHAOS_RANK_H
#define KVFERRY_CLI_CHAOS_RANK_H

#include "cli/chaos_shared.h"
#include "cli/chaos_spec.h"
#include "kvferry/kvferry.h"

struct replay_rank;

enum chaos_watch {
	CHAOS_NOT_WATCHED,
	CHAOS_FILLING,  /* the blocks get the canary */
	CHAOS_WATCHING, /* looked at now and then */
	CHAOS_CHECKING, /* being looked at */
	CHAOS_WATCHED
};

/* Of one session. */
struct chaos_session {
	uint64_t opened_ns;
	uint64_t cancel_due_ns; /* 0: not by itself */
	uint64_t cancel_ns;     /* the first kvf_cancel; 0: none */
	enum chaos_watch watch;
	uint64_t look_ns, watch_until_ns;
};

/* Of one rank. numbers NULL: no chaos; then nothing below is called. */
struct chaos_rank {
	struct chaos_rank_numbers *numbers;
	_Atomic uint32_t *stopped;
	uint64_t usual_ns; /* from open to outcome, smoothed */
	uint64_t health_due_ns;
	uint64_t ladder_before[4], recovered_before, losses_before; /* of the incarnations that were killed */
};

void chaos_rank_init(struct replay_rank *rank, const struct chaos_shared *shared, uint32_t index);
/* The session of a slot is open. */
void chaos_rank_opened(struct replay_rank *rank, uint32_t slot);
void chaos_rank_ended(struct replay_rank *rank, uint32_t slot);
/* kvf_cancel, timed. A slot without a session is fine. */
void chaos_rank_cancel(struct replay_rank *rank, uint32_t slot);
/* kvf_poll, timed. */
int chaos_rank_poll(struct replay_rank *rank, struct kvf_event *events, int n);
/* Released and checked: is something left to do before the blocks may go?  Begins it. */
bool chaos_rank_watches(struct replay_rank *rank, uint32_t slot);
/* The job for it is done. True: the watch is over. */
bool chaos_rank_watched(struct replay_rank *rank, uint32_t slot);
/* Does what is due. */
void chaos_rank_turn(struct replay_rank *rank);
/* When the next thing is due; UINT64_MAX: nothing. */
uint64_t chaos_rank_due_ns(const struct replay_rank *rank);
/* A prefill rank was lost, and is there again. */
void chaos_rank_recovered(struct replay_rank *rank);

#endif
