/* replay_flight.h - the requests in flight, as the coordinator sees them. */
#ifndef KVFERRY_CLI_REPLAY_FLIGHT_H
#define KVFERRY_CLI_REPLAY_FLIGHT_H

#include "cli/replay_admit.h"
#include "cli/replay_process.h"
#include "cli/replay_report.h"
#include "cli/term.h"

struct chaos;

enum replay_phase {
	PHASE_FREE,
	PHASE_PREPARING,
	PHASE_OPENING_FIRST,
	PHASE_OPENING_SECOND,
	PHASE_RUNNING
};

/* How far a rank is with a request. In order; LOST, with its process, counts as past everything. */
enum replay_member {
	MEMBER_NONE, /* takes no part */
	MEMBER_PREPARING,
	MEMBER_PREPARED,
	MEMBER_STARTING,
	MEMBER_STARTED,
	MEMBER_RELEASED,
	MEMBER_DONE,
	MEMBER_LOST
};

/* One slot of the board. */
struct replay_flight {
	enum replay_phase phase;
	uint8_t *members; /* enum replay_member, per rank: prefill first */
	uint32_t first_side;
	bool failed, wrong;
	bool cancelled, timed_out; /* chaos: of the decode side, as failed is */
	bool harmed;               /* chaos: something was done to the request, or to one of its ranks */
	bool sender_failed;        /* chaos */
	bool lost_untold;          /* chaos: a decode rank was lost before its session was released */
	uint64_t bytes_expected, bytes_sent, bytes_received, tokens_reused;
	struct replay_timing timing;
};

/* The coordinator. */
struct replay_schedule {
	struct replay_setup *setup;
	struct replay_result *result;
	struct replay_board board;
	struct replay_admit admit;
	struct replay_processes processes;
	struct chaos *chaos;           /* NULL: none */
	struct chaos_shared shared;    /* chaos; else without memory */
	struct replay_flight *flights; /* per slot */
	uint8_t *members;              /* of all flights */
	uint32_t n_ranks;              /* of both sides */
	uint32_t next_request, n_flights, n_ended;
	bool blocked; /* the next request waits for blocks; only the end of another brings some */
	uint64_t start_ns;
	struct term_progress *progress; /* NULL: none */
	int exit_code;
	struct reason *why;
};

/* When a request is to be admitted, if there is room. */
uint64_t replay_flight_due_ns(const struct replay_schedule *schedule, uint32_t request);
/* Admits what is due and has room. */
void replay_flight_admit(struct replay_schedule *schedule);
/* Takes PREPARED, STARTED, RELEASED and DONE; other kinds are looked at for faults alone. */
void replay_flight_report(struct replay_schedule *schedule, const struct replay_report *report);
/* Counts what a rank found wrong. */
void replay_flight_fault(struct replay_schedule *schedule, const struct replay_fault *fault);
void replay_flight_send(
	struct replay_schedule *schedule, uint32_t kind, uint32_t side, uint32_t rank, uint32_t slot);
/* A rank's process is gone, and with it what it had open; or a stopped one goes on. Takes every flight as far as it can go. */
void replay_flight_lost(struct replay_schedule *schedule, uint32_t side, uint32_t rank);
void replay_flight_continued(struct replay_schedule *schedule);

/* Index of a rank among those of both sides. */
static inline uint32_t replay_flight_index(
	const struct replay_schedule *schedule, uint32_t side, uint32_t rank)
{
	return (side == REPLAY_PREFILL ? 0 : schedule->setup->sides[REPLAY_PREFILL].n_ranks) + rank;
}

/* A session is open that is not released. */
static inline bool replay_member_open(uint8_t member)
{
	return member == MEMBER_STARTING || member == MEMBER_STARTED;
}

#endif
